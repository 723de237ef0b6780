"""A run beside an earlier one, row by row. Rows are the same if model, engine, precision, batch and threads are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from levit_cli.bench.results import SCHEMA_VERSION, Row, printable_name, rounded
from levit_cli.bench.runners import Contestant
from levit_cli.errors import UsageError

MAX_BYTES = 16 << 20


class Key(NamedTuple):
    """What makes two rows comparable."""

    model: str
    engine: str
    precision: str
    batch_size: int
    threads: int

    def __str__(self) -> str:
        noun = "thread" if self.threads == 1 else "threads"
        return f"{self.model} ({self.engine}, {self.precision}, batch {self.batch_size}, {self.threads} {noun})"


@dataclass(frozen=True)
class Earlier:
    """A document of ``levit bench --format json``.

    Args:
        speeds: images per second.
        meta: what it says of the machine and the protocol; may be empty.
    """

    path: Path
    speeds: dict[Key, float]
    meta: dict[str, Any]


class Compared(NamedTuple):
    """A net that both runs measured. ``ratio`` is above one where it is faster now."""

    key: Key
    before: float
    now: float

    @property
    def ratio(self) -> float:
        return self.now / self.before


def read_earlier(path: Path) -> Earlier:
    """The speeds of an earlier run.

    Raises:
        UsageError: the file cannot be read, or is not what ``levit bench --format json`` writes.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(MAX_BYTES))
    except OSError as error:
        raise UsageError(f"Cannot read {path}", why=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # not JSON, not text, or nested without end
        raise UsageError(f"{path} is not JSON", why=str(error)[:200], hint=_HINT) from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"{path} is no measurement", why=f"it has no schema_version {SCHEMA_VERSION}", hint=_HINT)
    rows, meta = document.get("results"), document.get("meta")
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"{path} is no measurement", why="it has no results", hint=_HINT)
    return Earlier(path, dict(_speed(row, path) for row in rows), meta if isinstance(meta, dict) else {})


_HINT = "--compare takes what levit bench --format json wrote"


def _speed(row: Any, path: Path) -> tuple[Key, float]:
    values = {} if not isinstance(row, dict) else row
    key = Key(*(values.get(field) for field in Key._fields))  # type: ignore[arg-type]  # checked below
    speed = values.get("images_per_s")
    right = [isinstance(value, kind) for value, kind in zip(key, (str, str, str, int, int), strict=True)]
    if not all(right) or not isinstance(speed, (int, float)) or not 0 < speed < float("inf"):
        raise UsageError(
            f"{path} is no measurement",
            why=f"a result lacks one of {', '.join(Key._fields)} and a positive images_per_s",
            hint=_HINT,
        )
    return key, float(speed)


def compare(rows: Sequence[Row], earlier: Earlier) -> list[Compared]:
    """The rows that both runs have, in the order of this one."""
    now = {key_of(row.contestant): row.images_per_s for row in rows}
    return [Compared(key, earlier.speeds[key], speed) for key, speed in now.items() if key in earlier.speeds]


def key_of(contestant: Contestant) -> Key:
    spec = contestant.spec
    return Key(printable_name(contestant.net.name), spec.engine, spec.precision, contestant.batch_size, spec.threads)


def records(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """For the document."""
    return [
        {**each.key._asdict(), "before_images_per_s": each.before, "ratio": rounded(each.ratio)} for each in compared
    ]
