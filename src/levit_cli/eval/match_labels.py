"""Which class of a model a folder's name means.

Four ways are tried, the strictest first, and the first that knows the name decides: the label to the letter, its
WordNet id (``n02123045``, also with words behind it as in ``n02123045-tabby``), the label without regard to case,
underscores and spaces, and any of its synonyms. A name that means two classes is refused, and not guessed.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from levit_cli.data.labels import Labels, synonyms
from levit_cli.errors import RefusedError
from levit_cli.system.text import printable

WORDNET_ID = re.compile(r"n\d{8}(?!\d)")
SHOWN = 20
SHOWN_LABELS = 5


class _Way(NamedTuple):
    """What of a name counts, and the classes by that."""

    key: Callable[[str], str]
    classes: Mapping[str, Sequence[int]]


def match(folders: Sequence[str], labels: Labels) -> tuple[int, ...]:
    """The class index of each folder.

    Raises:
        RefusedError: some folders have no label, or could have two, or two have the same.
    """
    ways = _ways(labels)
    found = [_meant(folder, ways) for folder in folders]
    _require_known([folder for folder, classes in zip(folders, found, strict=True) if not classes], labels)
    for folder, classes in zip(folders, found, strict=True):
        _require_one(folder, classes, labels)
    indexes = tuple(classes[0] for classes in found)
    _require_apart(folders, indexes, labels)
    return indexes


def _ways(labels: Labels) -> tuple[_Way, ...]:
    """The ways in the order in which they are tried."""
    alike = [{_loose(name) for name in (*names, ", ".join(names))} for names in synonyms(labels)]
    return (
        _Way(str, _classes_by([name] for name in labels.names)),
        _Way(_wordnet_id, _classes_by([wnid] for wnid in labels.wnids or ())),
        _Way(_loose, _classes_by([_loose(name)] for name in labels.names)),
        _Way(_loose, _classes_by(alike)),
    )


def _classes_by(keys: Iterable[Iterable[str]]) -> Mapping[str, Sequence[int]]:
    """The indexes of the classes that have a key, by key."""
    classes: dict[str, list[int]] = defaultdict(list)
    for index, of_class in enumerate(keys):
        for key in of_class:
            classes[key].append(index)
    return classes


def _wordnet_id(name: str) -> str:
    found = WORDNET_ID.match(name)
    return found[0] if found else ""


def _loose(name: str) -> str:
    """Without case, underscores and superfluous spaces; an accent is one letter, as some systems take it apart."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


def _meant(folder: str, ways: Sequence[_Way]) -> Sequence[int]:
    """The classes that a name means by the first way that knows it."""
    found = (way.classes.get(way.key(folder), ()) for way in ways)
    return next((classes for classes in found if classes), ())


def _require_known(unknown: Sequence[str], labels: Labels) -> None:
    if not unknown:
        return
    noun = "folder has" if len(unknown) == 1 else "folders have"
    raise RefusedError(
        f"{len(unknown)} {noun} no label in the model: {_listed(unknown, SHOWN)}",
        why=f"it knows {len(labels)} classes: {_listed(labels.names, SHOWN_LABELS)}",
        hint="rename the folders as the labels, move away what is no class, or name the classes with --labels FILE",
    )


def _require_one(folder: str, classes: Sequence[int], labels: Labels) -> None:
    if len(classes) == 1:
        return
    meant = [
        f"{labels.wnids[index]} ({labels.names[index]})" if labels.wnids else labels.names[index] for index in classes
    ]
    raise RefusedError(
        f"The folder {printable(folder)} could mean {len(classes)} classes: {_listed(meant, SHOWN)}",
        hint="give it the WordNet id as its name" if labels.wnids else "give it the exact label as its name",
    )


def _require_apart(folders: Sequence[str], indexes: Sequence[int], labels: Labels) -> None:
    first: dict[int, str] = {}
    for folder, index in zip(folders, indexes, strict=True):
        other = first.setdefault(index, folder)
        if other != folder:
            raise RefusedError(
                f"The folders {printable(other)} and {printable(folder)} mean the same class, {labels.names[index]}",
                hint="put their images into one folder",
            )


def _listed(names: Sequence[str], shown: int) -> str:
    more = f", … ({len(names) - shown} more)" if len(names) > shown else ""
    return ", ".join(map(printable, names[:shown])) + more
