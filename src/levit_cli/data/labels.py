"""What a class index is called: ImageNet-1k, a checkpoint's own names, or a file of the user's.

Several ImageNet classes share a name (two cranes, two maillots): the index and the WordNet id keep them apart.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from levit_cli.errors import RefusedError


@dataclass(frozen=True)
class Labels:
    """Names by class index, and WordNet ids where the set has them."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)


@cache
def imagenet1k() -> Labels:
    """The 1000 classes of ILSVRC 2012 in the order of their WordNet ids, each by its first WordNet lemma."""
    rows = _imagenet1k_rows()
    return Labels(tuple(name for _, _, name, _ in rows), tuple(wnid for _, wnid, _, _ in rows))


@cache
def _imagenet1k_rows() -> list[list[str]]:
    """Index, WordNet id, first lemma, other lemmas; names from WordNet 3.0, copyright 2006 by Princeton University."""
    text = resources.files("levit_cli").joinpath("assets/imagenet1k.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def synonyms(labels: Labels) -> tuple[tuple[str, ...], ...]:
    """All names of each class: what a label lists between commas ("tabby, tabby cat"), and WordNet's for ImageNet."""
    others = [row[3] for row in _imagenet1k_rows()] if labels.wnids == imagenet1k().wnids else [""] * len(labels)
    lists = (f"{name},{other}".split(",") for name, other in zip(labels.names, others, strict=True))
    return tuple(tuple(part.strip() for part in parts if part.strip()) for parts in lists)


def numbered(num_classes: int) -> Labels:
    """Names for classes that nobody named."""
    return Labels(tuple(f"class {index}" for index in range(num_classes)))


def from_names(names: Sequence[str]) -> Labels:
    """Labels by name; where they are ImageNet's, also its WordNet ids.

    Hugging Face's files give every synonym ("tabby, tabby cat"); the first is the name.
    """
    imagenet = imagenet1k() if len(names) == 1000 else None
    if imagenet and tuple(name.split(",")[0].strip() for name in names) == imagenet.names:
        return imagenet
    return Labels(tuple(names))


def from_id2label(id2label: Mapping[str, str]) -> Labels:
    """Labels of a Hugging Face config, whose keys are the indexes as strings.

    Raises:
        RefusedError: the keys are not 0 to n-1.
    """
    try:
        by_index = {int(index): str(name) for index, name in id2label.items()}
    except ValueError as error:
        raise RefusedError("The labels are not keyed by class index", why=str(error)) from error
    if sorted(by_index) != list(range(len(by_index))):
        raise RefusedError("The labels do not number the classes from 0 without a gap")
    return from_names([by_index[index] for index in range(len(by_index))])


def from_list(content: Any) -> Labels:
    """Labels of a list out of JSON.

    Raises:
        RefusedError: it is no list of names.
    """
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise RefusedError("Labels are a list of names, or an object of index to name")
    return from_names([name.strip() for name in content])


def read_labels(path: Path) -> Labels:
    """Labels from a file: JSON (a list, or an object of index to name), else one name a line.

    Raises:
        RefusedError: the file cannot be read as labels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else text.rstrip().split("\n")
        return from_id2label(content) if isinstance(content, dict) else from_list(content)
    except (OSError, ValueError, RecursionError, RefusedError) as error:
        raise RefusedError(f"Cannot read labels from {path}", why=str(error)) from error


def require_length(labels: Labels, num_classes: int, origin: str) -> Labels:
    """The labels, if there is one for each class.

    Raises:
        RefusedError: with both numbers.
    """
    if len(labels) != num_classes:
        raise RefusedError(
            f"{origin} has {len(labels)} labels, the model {num_classes} classes",
            hint="give a list of that length with --labels FILE",
        )
    return labels
