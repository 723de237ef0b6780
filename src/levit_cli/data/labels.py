"""Class names by index: those of ImageNet-1k, of a checkpoint, or of a label file.

Some ImageNet classes share a name (two are called crane, two maillot); the index and the WordNet id distinguish them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from levit_cli.errors import RefusedError, reason_of
from levit_cli.system.text import count_noun


@dataclass(frozen=True)
class Labels:
    """Names by class index, and WordNet ids for ImageNet's classes."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]


@cache
def imagenet1k() -> Labels:
    """Return the 1000 classes of ILSVRC 2012 in the order of their WordNet ids, named by their first WordNet lemma."""
    rows = _imagenet1k_rows()
    return Labels(tuple(name for _, _, name, _ in rows), tuple(wnid for _, wnid, _, _ in rows))


@cache
def _imagenet1k_rows() -> list[list[str]]:
    """Return rows of index, WordNet id, first lemma, other lemmas.

    The names come from WordNet 3.0, copyright 2006 by Princeton University.
    """
    text = resources.files("levit_cli").joinpath("assets/imagenet1k.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def synonyms(labels: Labels) -> tuple[tuple[str, ...], ...]:
    """Return all names of each class: the comma-separated parts of its label, and for ImageNet the WordNet synonyms."""
    others = [row[3] for row in _imagenet1k_rows()] if labels.wnids == imagenet1k().wnids else [""] * len(labels)
    lists = (f"{name},{other}".split(",") for name, other in zip(labels.names, others, strict=True))
    return tuple(tuple(part.strip() for part in parts if part.strip()) for parts in lists)


def numbered(num_classes: int) -> Labels:
    """Return placeholder names for classes that have none: ``class 0``, ``class 1`` and so on."""
    return Labels(tuple(f"class {index}" for index in range(num_classes)))


def from_names(names: Sequence[str]) -> Labels:
    """Return the labels with these names, and with WordNet ids if the names are those of ImageNet.

    Hugging Face's files list the synonyms of an ImageNet class ("tabby, tabby cat"); the first one is compared.
    """
    imagenet = imagenet1k() if len(names) == 1000 else None
    if imagenet and tuple(name.split(",")[0].strip() for name in names) == imagenet.names:
        return imagenet
    return Labels(tuple(names))


def from_id2label(id2label: Mapping[str, str]) -> Labels:
    """Return the labels of a Hugging Face config.

    Args:
        id2label: names by class index; the indices are strings.

    Raises:
        RefusedError: the indices are not 0 to n-1.
    """
    try:
        by_index = {int(index): str(name) for index, name in id2label.items()}
    except ValueError as error:
        raise RefusedError("The labels are not keyed by class index", why=reason_of(error)) from error
    if sorted(by_index) != list(range(len(by_index))):
        raise RefusedError("The class indices of the labels must be 0, 1, 2 and so on, without a gap")
    return from_names([by_index[index] for index in range(len(by_index))])


def from_list(content: Any) -> Labels:
    """Return the labels of a list from a JSON file.

    Raises:
        RefusedError: ``content`` is not a list of strings.
    """
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise RefusedError("Labels must be a list of names, or an object that maps class indices to names")
    return from_names([name.strip() for name in content])


def read_labels(path: Path) -> Labels:
    """Read a label file: JSON (a list, or an object that maps indices to names), else text with one name per line.

    Raises:
        RefusedError: the file cannot be read, or does not contain labels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else text.rstrip().split("\n")
        return from_id2label(content) if isinstance(content, dict) else from_list(content)
    except (OSError, ValueError, RecursionError, RefusedError) as error:
        raise RefusedError(f"Cannot read labels from {path}", why=reason_of(error)) from error


def require_length(labels: Labels, num_classes: int, origin: str) -> Labels:
    """Return the labels if there is one for each class.

    Raises:
        RefusedError: the number of labels differs from the number of classes.
    """
    if len(labels) != num_classes:
        raise RefusedError(
            f"{origin} has {count_noun(len(labels), 'label')}, but the model has {count_noun(num_classes, 'class')}",
            hint="use --labels FILE with one name per class",
        )
    return labels
