"""The output of a run on many machines: part files, manifest.json, and _SUCCESS at the end.

The driver alone writes the folder, each file in one step. So each record is in one part, whatever happens to the
workers. What is complete is told by the parts: ``--resume`` reads their records, not the manifest.
"""

import io
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from levit_cli.distributed.done import Key, Progress, hash_of
from levit_cli.distributed.folders import Folder
from levit_cli.errors import OutputError, UsageError
from levit_cli.predict.records import path_of
from levit_cli.predict.resume.fingerprint import Fingerprint, differences

MANIFEST, SUCCESS = "manifest.json", "_SUCCESS"
PART = re.compile(r"part-(\d{5,})\.(jsonl|parquet)", re.ASCII)
LEFTOVER = re.compile(r"\.levit-.*\.part")  # of a run that was killed while it wrote a file
SCHEMA_VERSION = 1
RECORDS_PER_PART = 50_000
MAX_PART_AGE_S = 60.0  # a killed run loses at most the work of a minute
NOT_TOUCHED = "it was not touched; use --overwrite to replace it, or another folder"

Encode = Callable[[bytes], bytes]  # records in jsonl -> the content of a part
Decode = Callable[[bytes], Iterator[bytes]]  # the content of a part -> its records in jsonl


class Record(NamedTuple):
    """One record in jsonl, with its sort key.

    Args:
        path_hash: of the input's path, see ``hash_of``.
    """

    key: Key
    path_hash: int
    is_ok: bool
    line: bytes


def with_key(record: bytes, key: Key) -> bytes:
    """Return a record in jsonl with its sort key."""
    return b'%s, "source": %d, "item": %d}\n' % (record.removesuffix(b"}\n"), key.source, key.item)


def parse_record(line: bytes) -> Record:
    """Return the record that ``with_key`` returned.

    Raises:
        ValueError: it has no sort key or no path.
    """
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("it is not a jsonl record")
    source, item = (content.get(name) for name in Key._fields)
    if not (type(source) is int and type(item) is int and source >= 0 and item >= 0):
        raise ValueError("a record has no sort key")
    return Record(Key(source, item), hash_of(path_of(line, "jsonl")), content.get("status") == "ok", line)


@dataclass(frozen=True)
class PartFormat:
    """How the records of a part are written.

    Args:
        suffix: ``jsonl`` or ``parquet``.
        encode: converts records in jsonl to the content of a part.
        decode: converts them back.
    """

    suffix: str
    encode: Encode
    decode: Decode


def lines_of(content: bytes) -> Iterator[bytes]:
    return iter(io.BytesIO(content))


@dataclass
class Parts:
    """The parts of an output.

    Args:
        settings: everything that the records depend on.
        description: what the manifest says about the run besides.
        records_per_part: the number of records after which a part is written.
        clock: returns seconds.
    """

    folder: Folder
    format: PartFormat
    settings: Fingerprint
    description: dict[str, Any]
    records_per_part: int = RECORDS_PER_PART
    clock: Callable[[], float] = time.monotonic
    progress: Progress = field(default_factory=Progress)
    _written: dict[str, dict[str, Any]] = field(default_factory=dict)
    _lines: list[bytes] = field(default_factory=list)
    _num_failed: int = 0
    _began_at: float = 0.0
    _number: int = 0

    def begin(self) -> None:
        """Begin a new output: remove the files of an earlier one, and write the manifest, which says what runs."""
        for name in self._own_names():
            self.folder.remove(name)
        self._write_manifest("running")

    def _own_names(self) -> list[str]:
        """Return the files of an earlier output. ``_SUCCESS`` is first, because the others make it wrong."""
        own = (SUCCESS, MANIFEST)
        names = [
            name for name in self.folder.names() if name in own or PART.fullmatch(name) or LEFTOVER.fullmatch(name)
        ]
        return sorted(names, key=lambda name: (name != SUCCESS, name))

    def resume(self) -> None:
        """Keep the records of an earlier run, without its error records, which are tried again.

        Raises:
            UsageError: the folder is not the output of a run with these settings, or a part is damaged.
        """
        names = self.folder.names()
        parts = [name for name in names if PART.fullmatch(name)]
        if MANIFEST in names:
            self._require_same_settings()
        elif parts:
            raise UsageError(f"Cannot resume {self.folder.name}", why="it has no manifest.json", hint=NOT_TOUCHED)
        for name in parts:  # all are checked before one is changed, and only one is in memory
            self._read(name)
        for name in names:
            if name == SUCCESS or LEFTOVER.fullmatch(name):
                self.folder.remove(name)
        for name in parts:
            self._keep(name, self._read(name))
        self._write_manifest("running")

    def _require_same_settings(self) -> None:
        try:
            stored = json.loads(self.folder.read(MANIFEST))["settings"]
        except (ValueError, LookupError, TypeError) as error:
            why = f"its manifest is damaged: {error}"[:200]
            raise UsageError(f"Cannot resume {self.folder.name}", why=why, hint=NOT_TOUCHED) from error
        if differing := differences(stored, self.settings):
            why = ", ".join(differing)
            raise UsageError(f"{self.folder.name} was written with other settings", why=why, hint=NOT_TOUCHED)

    def _read(self, name: str) -> list[Record]:
        match = PART.fullmatch(name)
        assert match is not None
        self._number = max(self._number, int(match[1]) + 1)
        try:
            if match[2] != self.format.suffix:
                raise ValueError(f"it is not {self.format.suffix}")
            return [parse_record(line) for line in self.format.decode(self.folder.read(name))]
        except ValueError as error:
            why = f"{name} is damaged: {error}"[:300]
            raise UsageError(f"Cannot resume {self.folder.name}", why=why, hint=NOT_TOUCHED) from error

    def _keep(self, name: str, records: list[Record]) -> None:
        """Keep the predictions of a part, each input's once, and drop its other records."""
        kept = [record for record in records if record.is_ok and self.progress.add(record.key, record.path_hash)]
        if len(kept) == len(records):
            self._written[name] = _entry(self.folder.read(name), len(kept), 0)
        elif kept:
            self._store(name, [record.line for record in kept], 0)
        else:
            self.folder.remove(name)

    def add(self, records: Iterable[Record]) -> int:
        """Add records, and write a part when it is full or old. Return how many were new."""
        num_new = 0
        for record in records:
            if self.progress.add(record.key, record.path_hash):
                self._began_at = self._began_at if self._lines else self.clock()
                self._lines.append(record.line)
                self._num_failed += not record.is_ok
                num_new += 1
                if len(self._lines) >= self.records_per_part:
                    self.flush()
        if self._lines and self.clock() - self._began_at >= MAX_PART_AGE_S:
            self.flush()
        return num_new

    def flush(self) -> None:
        """Write the records that were added since the last part."""
        if self._lines:
            self._store(f"part-{self._number:05}.{self.format.suffix}", self._lines, self._num_failed)
            self.progress.num_failed += self._num_failed
            self._number += 1
            self._lines, self._num_failed = [], 0

    def _store(self, name: str, lines: list[bytes], num_failed: int) -> None:
        content = self.format.encode(b"".join(lines))
        self.folder.write(name, content)
        self._written[name] = _entry(content, len(lines), num_failed)

    def finish(self) -> None:
        """Complete the output.

        Raises:
            OutputError: records are missing, which would be a bug.
        """
        self.flush()
        if (expected := self.progress.num_inputs) != len(self.progress):
            why = f"there are {expected} inputs, but {len(self.progress)} records"
            raise OutputError(f"{self.folder.name} is incomplete", why=why, hint="run the same command with --resume")
        self._write_manifest("complete")
        self.folder.write(SUCCESS, b"")

    def _write_manifest(self, status: str) -> None:
        counts = {"inputs": len(self.progress), "failed": self.progress.num_failed} if status == "complete" else {}
        manifest = {
            "schema_version": SCHEMA_VERSION, "status": status, **counts, **self.description,
            "parts": [{"name": name, **self._written[name]} for name in sorted(self._written)],
            "settings": self.settings,
        }  # fmt: skip
        self.folder.write(MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")


def _entry(content: bytes, num_records: int, num_failed: int) -> dict[str, Any]:
    return {"records": num_records, "failed": num_failed, "sha256": sha256(content).hexdigest()}
