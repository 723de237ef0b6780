"""Class names by index: those of ImageNet-1k or of a checkpoint. ``label_files`` reads those of a file.

Some ImageNet classes share a name (two are called crane, two maillot); the index and the WordNet id distinguish them.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import pairwise
from operator import itemgetter
from typing import Any

from levit_cli.errors import RefusedError
from levit_cli.system.text import count_noun

INDEX = re.compile(r"0|[1-9][0-9]*")
WORDNET_ID = re.compile(r"n[0-9]{8}")
UNDERSTOOD = "a list of names, an object that maps class indices to names, or one that maps names to class indices"


@dataclass(frozen=True)
class Labels:
    """Names by class index, and WordNet ids for ImageNet's classes.

    Args:
        generated: the names are placeholders, because none are known.
    """

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None = None
    generated: bool = field(default=False, compare=False)

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
    """Return generated names for classes that have none: ``class 0``, ``class 1`` and so on."""
    return Labels(tuple(f"class {index}" for index in range(num_classes)), generated=True)


def placeholders(num_classes: int) -> tuple[str, ...]:
    """Return Hugging Face's names of classes that have none: ``LABEL_0``, ``LABEL_1`` and so on."""
    return tuple(f"LABEL_{index}" for index in range(num_classes))


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC). Some file systems store an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


def from_names(names: Sequence[str]) -> Labels:
    """Return the labels with these names, and with WordNet ids if the names are those of ImageNet.

    Hugging Face's files list the synonyms of an ImageNet class ("tabby, tabby cat"); the first one is compared.
    """
    imagenet = imagenet1k() if len(names) == 1000 else None
    if imagenet and tuple(name.split(",")[0].strip() for name in names) == imagenet.names:
        return imagenet
    return Labels(tuple(names))


def from_id2label(id2label: Mapping[str, Any]) -> Labels:
    """Return the labels of an object that maps class indices to names.

    Args:
        id2label: names by class index; the indices are strings. ImageNet's index file has pairs of WordNet id and name.

    Raises:
        RefusedError: the indices are not 0 to n-1, or a value is not a name.
    """
    return from_list(in_order([(class_index(key), value) for key, value in id2label.items()]))


def from_label2id(label2id: Mapping[str, Any]) -> Labels:
    """Return the labels of an object that maps names to class indices, such as torchvision's ``class_to_idx``.

    Raises:
        RefusedError: the indices are not 0 to n-1, or two names have the same one.
    """
    return from_list(in_order([(class_index(index), name) for name, index in label2id.items()]))


def from_config(config: Mapping[str, Any], *, named: bool = False) -> Labels | None:
    """Return the labels of a Hugging Face config, or None if it has only placeholders (``LABEL_0``, ``LABEL_1`` …).

    Args:
        named: such names are those of the classes.

    Raises:
        RefusedError: ``id2label`` or ``label2id`` is invalid, or they contradict each other.
    """
    id2label, label2id = config.get("id2label") or {}, config.get("label2id") or {}
    if not isinstance(id2label, dict) or not isinstance(label2id, dict):
        raise TypeError("id2label and label2id must be JSON objects")
    has_names = named or any(name != f"LABEL_{index}" for index, name in id2label.items())
    has_indices = named or any(name != f"LABEL_{index}" for name, index in label2id.items())
    if not (id2label and has_names):
        return from_label2id(label2id) if label2id and has_indices else None
    labels = from_id2label(id2label)
    if has_indices:
        _require_agreement(labels, label2id)
    return labels


def from_list(content: Any) -> Labels:
    """Return the labels of a list of names, or of pairs of WordNet id and name.

    Raises:
        RefusedError: ``content`` is not such a list, or it is empty.
    """
    if not isinstance(content, list):
        raise RefusedError(f"Labels must be {UNDERSTOOD}", why=f"found {_shown(content)}")
    if not content:
        raise RefusedError("There are no labels")
    if wrong := [entry for entry in content if not isinstance(entry, str) and not _is_pair(entry)]:
        raise RefusedError(f"Labels must be {UNDERSTOOD}", why=f"found {_shown(wrong[0])}")
    pairs = [entry for entry in content if _is_pair(entry)]
    if not pairs:
        return from_names(content)
    if len(pairs) < len(content):
        raise RefusedError("Some labels have a WordNet id and others do not")
    return Labels(tuple(name for _, name in pairs), tuple(wnid for wnid, _ in pairs))


def class_index(value: Any) -> int:
    """Parse a class index, which is a number in JSON's values and text in its keys.

    Raises:
        RefusedError: it is not a whole number from 0, without leading zeros or spaces.
    """
    if is_integer(value) or (isinstance(value, str) and INDEX.fullmatch(value)):
        return int(value)
    raise RefusedError("The labels are not keyed by class index", why=f"found {_shown(value)}")


def is_integer(value: Any) -> bool:
    """Whether this is an integer and not a truth value, which Python counts as one."""
    return isinstance(value, int) and not isinstance(value, bool)


def in_order(entries: Sequence[tuple[int, Any]]) -> list[Any]:
    """Return entries in the order of their class indices.

    Raises:
        RefusedError: the indices are not 0 to n-1.
    """
    ordered = sorted(entries, key=itemgetter(0))  # a dict would be slow for indices whose hashes collide
    if any(index == following for (index, _), (following, _) in pairwise(ordered)):
        raise RefusedError("Two labels have the same class index")
    indices = [index for index, _ in ordered if index >= 0]
    missing = next((position for position, index in enumerate(indices) if index != position), len(indices))
    if missing < len(entries):
        raise RefusedError(
            "The class indices of the labels must be 0, 1, 2 and so on, without a gap",
            why=f"{missing} is missing among {count_noun(len(entries), 'label')}",
        )
    return [entry for _, entry in ordered]


def _is_pair(entry: Any) -> bool:
    """Whether this is a pair of WordNet id and name, as in ImageNet's index file."""
    if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
        return False
    return bool(WORDNET_ID.fullmatch(entry[0]))


def _require_agreement(labels: Labels, label2id: Mapping[str, Any]) -> None:
    for name, index in label2id.items():
        number = class_index(index)
        other = labels.names[number] if 0 <= number < len(labels) else "missing"
        if composed(other) != composed(name):
            what = "id2label and label2id contradict each other"
            raise RefusedError(what, why=f"class {number} is {other} in one and {name} in the other")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]


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
