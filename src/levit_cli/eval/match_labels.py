"""Match folder names to the classes of a model.

The rules are tried from the strictest to the loosest, and the first with a match decides: the exact label; the label
after Unicode normalization; its WordNet id (``n02123045``, also followed by words as in ``n02123045-tabby``); the label
without regard to case, underscores and repeated spaces; any synonym of the label; and, if the model has no names,
``LABEL_0`` and so on, as transformers calls such classes. A name that matches two classes is an error.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from levit_cli.data.labels import Labels, composed, placeholders, synonyms
from levit_cli.errors import RefusedError
from levit_cli.system.text import count_noun, printable

WORDNET_ID = re.compile(r"n\d{8}(?!\d)")
MAX_LISTED = 20  # names in a message
MAX_LISTED_LABELS = 5


class _Rule(NamedTuple):
    """A function that converts a folder's name to a key, and the class indices by key."""

    key: Callable[[str], str]
    classes: Mapping[str, Sequence[int]]


def match(folders: Sequence[str], labels: Labels) -> tuple[int, ...]:
    """Return the class index of each folder.

    Raises:
        RefusedError: a folder matches no class or several classes, or two folders match the same class.
    """
    rules = _rules(labels)
    matches = [_matching_classes(folder, rules) for folder in folders]
    _require_known([folder for folder, classes in zip(folders, matches, strict=True) if not classes], labels)
    for folder, classes in zip(folders, matches, strict=True):
        _require_unambiguous(folder, classes, labels)
    indexes = tuple(classes[0] for classes in matches)
    _require_distinct(folders, indexes, labels)
    return indexes


def _rules(labels: Labels) -> tuple[_Rule, ...]:
    """Return the rules in the order in which they are tried."""
    all_names = [{_normalized(name) for name in (*names, ", ".join(names))} for names in synonyms(labels)]
    return (
        _Rule(str, _group_by_key([name] for name in labels.names)),
        _Rule(composed, _group_by_key([composed(name)] for name in labels.names)),
        _Rule(_wordnet_id, _group_by_key([wnid] for wnid in labels.wnids or ())),
        _Rule(_normalized, _group_by_key([_normalized(name)] for name in labels.names)),
        _Rule(_normalized, _group_by_key(all_names)),
        _Rule(str, _group_by_key([name] for name in (placeholders(len(labels)) if labels.generated else ()))),
    )


def _group_by_key(keys: Iterable[Iterable[str]]) -> Mapping[str, Sequence[int]]:
    """Return the class indices by key.

    Args:
        keys: the keys of each class.
    """
    classes: dict[str, list[int]] = defaultdict(list)
    for index, class_keys in enumerate(keys):
        for key in class_keys:
            classes[key].append(index)
    return classes


def _wordnet_id(name: str) -> str:
    wordnet_id = WORDNET_ID.match(name)
    return wordnet_id[0] if wordnet_id else ""


def _normalized(name: str) -> str:
    """Fold case, underscores and spaces, and compose accents."""
    return " ".join(composed(name).casefold().replace("_", " ").split())


def _matching_classes(folder: str, rules: Sequence[_Rule]) -> Sequence[int]:
    """Return the classes that the first rule with a match gives."""
    matches = (rule.classes.get(rule.key(folder), ()) for rule in rules)
    return next((classes for classes in matches if classes), ())


def _require_known(unknown: Sequence[str], labels: Labels) -> None:
    if not unknown:
        return
    verb = "matches" if len(unknown) == 1 else "match"
    raise RefusedError(
        f"{count_noun(len(unknown), 'folder')} {verb} no label of the model: {_listed(unknown, MAX_LISTED)}",
        why=f"the model has {count_noun(len(labels), 'class')}: {_listed(labels.names, MAX_LISTED_LABELS)}",
        hint="name the folders like the labels, move other folders away, or give the class names with --labels FILE",
    )


def _require_unambiguous(folder: str, classes: Sequence[int], labels: Labels) -> None:
    if len(classes) == 1:
        return
    candidates = [
        f"{labels.wnids[index]} ({labels.names[index]})" if labels.wnids else labels.names[index] for index in classes
    ]
    listed = _listed(candidates, MAX_LISTED)
    raise RefusedError(
        f"The folder {printable(folder)} matches {count_noun(len(classes), 'class')}: {listed}",
        hint=f"rename it to the {'WordNet id' if labels.wnids else 'exact label'}",
    )


def _require_distinct(folders: Sequence[str], indexes: Sequence[int], labels: Labels) -> None:
    first: dict[int, str] = {}
    for folder, index in zip(folders, indexes, strict=True):
        other = first.setdefault(index, folder)
        if other != folder:
            raise RefusedError(
                f"The folders {printable(other)} and {printable(folder)} match the same class, "
                f"{printable(labels.names[index])}",
                hint="move their images into one folder",
            )


def _listed(names: Sequence[str], limit: int) -> str:
    more = f", … ({len(names) - limit} more)" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more
