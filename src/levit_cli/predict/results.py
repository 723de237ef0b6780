"""Read the results of ``levit predict`` back: a file in jsonl, json, csv, tsv or Parquet as a stream of results.

The content decides which format a file has, not its name. ``records`` parses the records, so a path is the same bytes
that ``predict`` wrote. A program such as jq may have filtered or reordered the records in between. A record of another
program, or a damaged one, is an error that names the line.

The end of a file may be missing, because the run was killed. An incomplete last record is ignored and reported, as
``levit predict --resume`` removes it. A file that is still being written is refused.
"""

import csv
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from levit_cli.choices import Format
from levit_cli.data.archives import SEPARATOR
from levit_cli.data.input import STDIN, is_url
from levit_cli.data.labels import Labels
from levit_cli.data.remote.names import is_remote
from levit_cli.data.skipped import PARQUET_SUFFIX
from levit_cli.errors import InputError, UsageError, reason_of
from levit_cli.predict.records import CLASS_COLUMNS, DELIMITERS, Delimited, from_json, path_fields
from levit_cli.system import locking
from levit_cli.system.extras import extra
from levit_cli.system.files import open_regular
from levit_cli.system.progress import Log
from levit_cli.system.text import printable

BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
PARQUET_MAGIC = b"PAR1"
COLUMNS = ("path", "status", "error")
ACCEPTED = "accepted"
HINT = "name an output of levit predict (jsonl, json, csv, tsv or parquet)"


class RankedClass(NamedTuple):
    """A class of a result.

    Args:
        wnid: the WordNet id; empty if the file has none. csv, tsv and Parquet never have them.
        prob: the probability, from 0 to 1.
    """

    class_index: int
    label: str
    wnid: str
    prob: float


@dataclass(frozen=True)
class Result:
    """What ``levit predict`` recorded for one input.

    Args:
        path: the input, as ``os.fsdecode`` returns it: bytes that are not UTF-8 are surrogates.
        top: best class first; empty for an error.
        error: why the input could not be classified.
        accepted: whether the first probability reached the threshold of the run; None without a threshold.
    """

    path: str
    top: tuple[RankedClass, ...] = ()
    error: InputError | None = None
    accepted: bool | None = None

    @property
    def is_ok(self) -> bool:
        return self.error is None


def read_results(path: Path, log: Log) -> Iterator[Result]:
    """Yield the results in a file, in its order. A damaged record is found only when it is reached.

    Args:
        log: reports an incomplete record at the end.

    Raises:
        UsageError: the file is missing, empty, damaged, still being written, or not an output of ``levit predict``.
    """
    is_empty = True
    try:
        with open_regular(str(path)) as file:
            if locking.is_locked(path):
                raise _unusable(path, "levit predict is still writing it", "wait until it ends")
            for result in _results(path, file, log):
                is_empty = False
                yield result
    except InputError as error:
        raise _unusable(path, error.message) from error
    except OSError as error:
        raise _unusable(path, reason_of(error)) from error
    if is_empty:
        raise _unusable(path, "it has no complete record")


def not_a_local_file(path: str) -> str:
    """Return what a path in a result names, if it is not a file of its own; an empty text if it is a file's path.

    An existing file is one, whatever its name.
    """
    if path == STDIN:
        return "standard input"
    if is_url(path) or is_remote(path):
        return "a URL"
    if os.path.lexists(path):
        return ""
    if any(os.path.isfile(archive) for archive in _before_each(SEPARATOR, path)):
        return "an image in an archive"
    file, _, row = path.rpartition("#")
    return "a row of a Parquet file" if row.isdecimal() and file.lower().endswith(PARQUET_SUFFIX) else ""


def _before_each(separator: str, text: str) -> Iterator[str]:
    end = text.find(separator)
    while end >= 0:
        yield text[:end]
        end = text.find(separator, end + 1)


def _results(path: Path, file: BinaryIO, log: Log) -> Iterator[Result]:
    format = _format_of(path, file)
    if format == "parquet":
        return _parquet(path, file)
    if format == "json":
        return _json_document(path, file)
    if format == "jsonl":
        return _json_lines(path, file, log)
    return _delimited(path, file, DELIMITERS[format], log)


def _format_of(path: Path, file: BinaryIO) -> Format:
    """Return the format of a file by its content, and leave the file at the first byte to parse."""
    head = file.readline()
    if head.startswith(UTF_16):
        hint = "convert it to UTF-8, or let levit predict write the file with -o"
        raise _unusable(path, "it is encoded in UTF-16, as by the operator > of Windows PowerShell", hint)
    if not head:
        raise _unusable(path, "it is empty (0 bytes)", "run levit predict again")
    start = len(BOM) if head.startswith(BOM) else 0
    file.seek(start)
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    for format, delimiter in DELIMITERS.items():
        if head[start:].startswith(delimiter.join(COLUMNS).encode()):
            return format  # type: ignore[return-value]
    if not head[start:].lstrip().startswith(b"{"):
        raise _unusable(path, "it is not an output of levit predict", HINT)
    return "json" if _begins_document(head[start:]) else "jsonl"


def _begins_document(line: bytes) -> bool:
    """Whether the first line belongs to one document, whose records are in a list, and not to jsonl."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return not line.startswith(b'{"path"')
    return isinstance(content, dict) and "results" in content


def _parquet(path: Path, file: BinaryIO) -> Iterator[Result]:
    with extra("parquet", f"Reading {path}"):
        from levit_cli.predict.parquet_output import read_records
    for number, record in enumerate(read_records(path, file), start=1):
        yield _parsed(path, f"row {number}", record)


def _json_document(path: Path, file: BinaryIO) -> Iterator[Result]:
    try:
        content = json.load(file)
    except (ValueError, RecursionError) as error:
        if "Extra data" in str(error):
            raise _unusable(path, "its records take several lines", "with jq, add the option -c") from error
        raise _unusable(path, f"it is not complete JSON: {error}", HINT) from error
    records = content.get("results") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise _unusable(path, "it is JSON without a list of results", HINT)
    for number, record in enumerate(records, start=1):
        yield _parsed(path, f"result {number}", record)


def _json_lines(path: Path, file: BinaryIO, log: Log) -> Iterator[Result]:
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n") and not _is_json(line):
            _report_incomplete(path, number, log)
        elif line.strip():
            yield _parsed(path, f"line {number}", line)


def _is_json(line: bytes) -> bool:
    """Whether a line without its end is complete: programs other than predict may leave out the last line break."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(path: Path, where: str, record: Any) -> Result:
    """Return the result of a JSON object or its text."""
    try:
        return _from_json(json.loads(record) if isinstance(record, bytes) else record)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, where, error) from error


def _from_json(content: Any) -> Result:
    prediction = from_json(content)
    fields = path_fields(prediction.path)
    if any(content.get(name) != value for name, value in fields.items()):
        raise ValueError("path and path_b64 differ")
    if content["status"] != ("error" if prediction.error else "ok"):
        raise ValueError(f"the status is {content['status']!r}")
    entries = content.get("top", ())
    ranked = [RankedClass(int(e["index"]), str(e["label"]), str(e.get("wnid", "")), float(e["prob"])) for e in entries]
    return _checked(Result(prediction.path, tuple(ranked), prediction.error, content.get(ACCEPTED)))


def _delimited(path: Path, file: BinaryIO, delimiter: str, log: Log) -> Iterator[Result]:
    format = Delimited(Labels(()), 0, delimiter)
    start = file.tell()
    line = 1
    has_accepted: bool | None = None  # until the header is read
    for record in format.split(file):
        try:
            cells = format.cells(record)
            if has_accepted is None:
                has_accepted = _has_accepted(cells)
            else:
                yield _from_cells(format, cells, has_accepted=has_accepted)
        except (ValueError, LookupError, csv.Error) as error:
            raise _damaged(path, f"line {line}", error) from error
        line += record.count(b"\n")
        start += len(record)
    file.seek(start)
    _require_one_record(path, file, format, line, log)


def _has_accepted(columns: list[str]) -> bool:
    """Check the columns, and return whether the last one says which results are accepted."""
    ranked = columns[len(COLUMNS) :]
    has_accepted = ranked[-1:] == [ACCEPTED]
    top_k = (len(ranked) - has_accepted) // len(CLASS_COLUMNS)
    expected = [f"{name}{rank}" for rank in range(1, top_k + 1) for name in CLASS_COLUMNS]
    if ranked != [*expected, *[ACCEPTED] * has_accepted] or not top_k:
        raise ValueError(f"the columns are {', '.join(columns)}"[:200])
    return has_accepted


def _from_cells(format: Delimited, cells: list[str], *, has_accepted: bool) -> Result:
    if cells[1] not in ("ok", "error"):
        raise ValueError(f"the status is {cells[1]!r}")
    accepted = {"true": True, "false": False, "": None}[cells.pop()] if has_accepted else None
    prediction = format.from_cells(cells)
    labels = cells[len(COLUMNS) + 1 :: len(CLASS_COLUMNS)]
    ranked = [RankedClass(index, label, "", prob) for (index, prob), label in zip(prediction.top, labels, strict=False)]
    return _checked(Result(prediction.path, tuple(ranked), prediction.error, accepted))


def _require_one_record(path: Path, file: BinaryIO, format: Delimited, line: int, log: Log) -> None:
    """Report what follows the last complete record. It must be one cut record and not many after an open quote."""
    rest = file.readlines()
    if any(_is_record(format, text) for text in rest[1:]):
        raise _damaged(path, f"line {line}", ValueError("a quote is not closed"))
    if rest:
        _report_incomplete(path, line, log)


def _is_record(format: Delimited, line: bytes) -> bool:
    if not line.endswith(b"\n") or line.count(b'"') % 2:
        return False
    try:
        return len(format.cells(line)) > len(COLUMNS)
    except (ValueError, csv.Error):
        return False


def _checked(result: Result) -> Result:
    if not result.path or "\0" in result.path:
        raise ValueError("the path is empty or contains NUL")
    if result.is_ok and not result.top:
        raise ValueError("it has no classes, as a record of another command than predict")
    if not all(math.isfinite(entry.prob) and 0 <= entry.prob <= 1 for entry in result.top):
        raise ValueError("a probability is not between 0 and 1")
    if result.accepted not in (None, True, False):
        raise ValueError(f"accepted is {result.accepted!r}")
    return result


def _report_incomplete(path: Path, line: int, log: Log) -> None:
    log(f"{path} ends within the record in line {line}, which is ignored. levit predict --resume completes the file")


def _damaged(path: Path, where: str, error: Exception) -> UsageError:
    why = f"missing {error}" if isinstance(error, KeyError) else printable(str(error))
    return _unusable(path, f"{where} is not a record of levit predict: {why}", HINT)


def _unusable(path: Path, why: str, hint: str = "") -> UsageError:
    return UsageError(f"Cannot read the results in {path}", why=why, hint=hint)
