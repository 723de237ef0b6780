"""What a run's answers depend on, noted with its output, so that nobody continues it with something else.

The note is an extended attribute of the output file: no reader of jsonl or csv stumbles over it, it moves and is
replaced together with the file, and no second file can get lost. Copying may drop it and some file systems keep none;
that is noticed, and then the answers themselves are compared (``earlier``). The note holds a hash of the file's
beginning: one that is left from earlier contents does not count.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from levit_cli.data.labels import Labels
from levit_cli.predict.run_description import RunDescription

ATTRIBUTE = "user.levit.run"
BEGINNING = "beginning"
BEGINNING_BYTES = 1 << 16
INDIFFERENT = {"version", "threads"}  # nothing in an answer depends on them
INDIFFERENT_OF_MODEL = {"name", "evaluation"}
SHOWN = 80  # characters of a value

Note = dict[str, Any]


def note_of(description: RunDescription, labels: Labels, format: str) -> Note:
    """What must stay the same.

    Args:
        description: with the hash of the weights.
    """
    meta = description.as_json()
    note = {"format": format, **{key: value for key, value in meta.items() if key not in INDIFFERENT}}
    note["model"] = {key: value for key, value in meta["model"].items() if key not in INDIFFERENT_OF_MODEL}
    note["labels"] = _digest(json.dumps([labels.names, labels.wnids]).encode())
    as_read: Note = json.loads(json.dumps(note))
    return as_read


def attach(descriptor: int, note: Note, end: int | None = None) -> None:
    """Note it with an open file that has its first record, where that is possible.

    Args:
        end: of what will stay as it is; the whole file, if it will only grow.
    """
    with suppress(OSError, AttributeError):  # AttributeError: a system on which Python has no extended attributes
        length = min(os.fstat(descriptor).st_size if end is None else end, BEGINNING_BYTES)
        content = {**note, BEGINNING: [length, _digest(os.pread(descriptor, length, 0))]}
        os.setxattr(descriptor, ATTRIBUTE, json.dumps(content).encode())


def read_note(descriptor: int) -> Note | None:
    """The note of an open file; None if it has none that belongs to what it holds."""
    try:
        note: Note = json.loads(os.getxattr(descriptor, ATTRIBUTE))
        length, digest = note.pop(BEGINNING)
        belongs = digest == _digest(os.pread(descriptor, length, 0))
    except (OSError, AttributeError, ValueError, LookupError, TypeError):
        return None
    return note if belongs else None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, what was otherwise: ``top-k was 5 and is 3``."""
    found = []
    for key in sorted({*then, *now}):
        before, after = then.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [f"{key}: {difference}" for difference in differences(before, after)]
        elif before != after:
            found.append(f"{key.replace('_', '-')} was {str(before)[:SHOWN]} and is {str(after)[:SHOWN]}")
    return found


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
