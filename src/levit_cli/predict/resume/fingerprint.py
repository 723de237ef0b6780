"""The fingerprint of a run: everything that its predictions depend on, stored with the output file.

The fingerprint is an extended attribute of the output file. Programs that read jsonl or csv therefore do not see it, it
moves with the file, and no second file can get lost. A copy may lack it, and some file systems do not support it; then
a spot check compares predictions instead (see ``verify``). The fingerprint includes a hash of the beginning of the
file, so that it is ignored if the file was overwritten.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from levit_cli.data.labels import Labels
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.atomic import read_at

ATTRIBUTE = "user.levit.run"
BEGINNING = "beginning"
BEGINNING_BYTES = 1 << 16
IGNORED = {"version", "threads"}  # predictions do not depend on them
IGNORED_OF_MODEL = {"name", "evaluation"}
MAX_VALUE_CHARS = 80  # longer values are cut in messages

Fingerprint = dict[str, Any]


def fingerprint_of(description: RunDescription, labels: Labels, format: str) -> Fingerprint:
    """Return the fingerprint of a run.

    Args:
        description: must include the hash of the weights.
    """
    meta = description.as_json()
    fingerprint = {"format": format, **{key: value for key, value in meta.items() if key not in IGNORED}}
    fingerprint["model"] = {key: value for key, value in meta["model"].items() if key not in IGNORED_OF_MODEL}
    fingerprint["labels"] = _digest(json.dumps([labels.names, labels.wnids]).encode())
    as_stored: Fingerprint = json.loads(json.dumps(fingerprint))  # tuples become lists, as in a stored fingerprint
    return as_stored


def store_fingerprint(descriptor: int, fingerprint: Fingerprint, end: int | None = None) -> None:
    """Store a fingerprint with an open file that has at least one record, if the file system supports it.

    Args:
        end: number of bytes that will stay unchanged; None if the file will only grow.
    """
    if not hasattr(os, "setxattr"):
        return
    with suppress(OSError):
        length = min(os.fstat(descriptor).st_size if end is None else end, BEGINNING_BYTES)
        content = {**fingerprint, BEGINNING: [length, _digest(read_at(descriptor, length, 0))]}
        os.setxattr(descriptor, ATTRIBUTE, json.dumps(content).encode())


def read_fingerprint(descriptor: int) -> Fingerprint | None:
    """Return the fingerprint of an open file; None if it has none or if it belongs to other contents."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        fingerprint: Fingerprint = json.loads(os.getxattr(descriptor, ATTRIBUTE))
        length, digest = fingerprint.pop(BEGINNING)
        is_current = digest == _digest(read_at(descriptor, length, 0))
    except (OSError, AttributeError, ValueError, LookupError, TypeError):
        return None
    return fingerprint if is_current else None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between two fingerprints, each as text: ``top-k was 5 and is 3``."""
    texts = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            texts += [f"{key}: {difference}" for difference in differences(old, new)]
        elif old != new:
            before_text, now_text = ("not set" if value is None else str(value) for value in (old, new))
            name = key.replace("_", "-")
            texts.append(f"{name} was {before_text[:MAX_VALUE_CHARS]} and is {now_text[:MAX_VALUE_CHARS]}")
    return texts


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
