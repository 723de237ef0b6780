"""A prediction as the bytes of one record, and back, in the formats that are written a record at a time.

Machine formats are plain text in UTF-8. A file's name goes in as it is, whatever it holds, and comes out the same when
parsed. A record is read back by writing it again: what does not come out byte for byte was not written by us.
"""

import base64
import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol, get_args

from levit_cli.choices import Format
from levit_cli.data.labels import Labels
from levit_cli.errors import InputError, InputErrorKind
from levit_cli.predict.pipeline import Prediction, Ranked

PROB_DIGITS = 6
DELIMITERS = {"csv": ",", "tsv": "\t"}
RESUMABLE: tuple[Format, ...] = ("jsonl", *DELIMITERS)  # type: ignore[arg-type]
FIELDS_OF_A_CLASS = ("index", "label", "prob")
LONGEST_CELL = 1 << 30


class RecordFormat(Protocol):
    """How predictions become records, each whole by itself.

    Attributes:
        header: what stands before the first record.
    """

    header: bytes

    def encode(self, prediction: Prediction) -> bytes:
        """The record, with its end of line."""

    def decode(self, record: bytes) -> Prediction:
        """The prediction that ``encode`` made this of.

        Raises:
            ValueError: it did not.
        """

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """The header and each whole record of a file; not what is left of a torn one at its end."""


def record_format(format: Format, labels: Labels, top_k: int) -> RecordFormat | None:
    """The format, if it is one of single records."""
    if format == "jsonl":
        return JsonLines(labels, top_k)
    return Delimited(labels, top_k, DELIMITERS[format]) if format in DELIMITERS else None


def json_record(prediction: Prediction, labels: Labels) -> dict[str, Any]:
    """A prediction as the JSON object of the command line's contract."""
    head = path_fields(prediction.path)
    if prediction.error is not None:
        error = {"kind": prediction.error.kind, "message": prediction.error.message}
        return {**head, "status": "error", "error": error}
    return {**head, "status": "ok", "top": [_ranked(index, prob, labels) for index, prob in prediction.top]}


def path_fields(path: str) -> dict[str, str]:
    """The path; where its bytes are not UTF-8, an escaped form to read and the exact bytes in base 64."""
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path": raw.decode("utf-8", "backslashreplace"), "path_b64": base64.b64encode(raw).decode("ascii")}


def as_json(value: Any) -> bytes:
    """One line of JSON; half a surrogate pair, which a label may hold and UTF-8 may not, is a question mark."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _ranked(index: int, prob: float, labels: Labels) -> dict[str, Any]:
    wnid = {"wnid": labels.wnids[index]} if labels.wnids else {}
    return {"index": index, **wnid, "label": labels.names[index], "prob": round(prob, PROB_DIGITS)}


class JsonLines:
    """One object a line."""

    header = b""

    def __init__(self, labels: Labels, top_k: int) -> None:
        self._labels, self._top_k = labels, min(top_k, len(labels))

    def encode(self, prediction: Prediction) -> bytes:
        return as_json(json_record(prediction, self._labels)) + b"\n"

    def decode(self, record: bytes) -> Prediction:
        try:
            content = json.loads(record)
            prediction = _from_json(content)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("it is no record in jsonl") from error
        return _require_written_by(self, prediction, record, self._top_k)

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        return (line for line in file if line.endswith(b"\n"))


def _from_json(content: Any) -> Prediction:
    raw = base64.b64decode(content["path_b64"]) if "path_b64" in content else content["path"].encode()
    error = content.get("error")
    return Prediction(
        os.fsdecode(raw),
        tuple(Ranked(int(entry["index"]), float(entry["prob"])) for entry in content.get("top", ())),
        InputError(_kind(error["kind"]), str(error["message"])) if error else None,
    )


class Delimited:
    """csv or tsv with a header; cells are quoted where they must be. A name's bytes go in as they are."""

    def __init__(self, labels: Labels, top_k: int, delimiter: str) -> None:
        self._names = [name.encode("utf-8", "replace").decode("utf-8") for name in labels.names]
        self._top_k, self._delimiter = min(top_k, len(labels)), delimiter
        ranked = [f"{name}{rank}" for rank in range(1, self._top_k + 1) for name in FIELDS_OF_A_CLASS]
        self.header = self._row(["path", "status", "error", *ranked])

    def encode(self, prediction: Prediction) -> bytes:
        if prediction.error is not None:
            message = f"{prediction.error.kind}: {prediction.error.message}".encode("utf-8", "replace").decode("utf-8")
            return self._row([_as_utf8(prediction.path), "error", message, *[""] * (3 * self._top_k)])
        cells = [
            cell
            for index, prob in prediction.top
            for cell in (str(index), self._names[index], f"{prob:.{PROB_DIGITS}f}")
        ]
        return self._row([_as_utf8(prediction.path), "ok", "", *cells])

    def decode(self, record: bytes) -> Prediction:
        try:
            prediction = self._from_cells(self._cells(record))
        except (ValueError, LookupError, csv.Error) as error:
            raise ValueError("it is no record of this table") from error
        return _require_written_by(self, prediction, record, self._top_k)

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """A line ends a record unless it lies within quotes, which come in pairs."""
        lines: list[bytes] = []
        quotes = 0
        for line in file:
            lines.append(line)
            quotes += line.count(b'"')
            if not quotes % 2 and line.endswith(b"\n"):
                yield b"".join(lines)
                lines.clear()

    def _cells(self, record: bytes) -> list[str]:
        csv.field_size_limit(LONGEST_CELL)
        text = io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")
        (cells,) = csv.reader(text, delimiter=self._delimiter, strict=True)
        return cells

    def _from_cells(self, cells: list[str]) -> Prediction:
        cell, status, error, *ranked = cells
        path = os.fsdecode(cell.encode("utf-8", "surrogateescape"))
        if status == "error":
            kind, _, message = error.partition(": ")
            return Prediction(path, error=InputError(_kind(kind), message))
        indexes, probs = ranked[::3], ranked[2::3]
        return Prediction(path, tuple(Ranked(int(i), float(p)) for i, p in zip(indexes, probs, strict=True)))

    def _row(self, cells: list[str]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(
            text,
            delimiter=self._delimiter,
            lineterminator="\n",
            # Python before 3.13 leaves a lone carriage return unquoted, and readers take it for the end of the row
            quoting=csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL,
        )
        writer.writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")


def _as_utf8(path: str) -> str:
    """The path as if the file system's names were in UTF-8, whatever this locale takes them for."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def _kind(text: str) -> InputErrorKind:
    known: tuple[InputErrorKind, ...] = get_args(InputErrorKind)
    return known[known.index(text)]


def _require_written_by(format: RecordFormat, prediction: Prediction, record: bytes, top_k: int) -> Prediction:
    if prediction.error is None and len(prediction.top) != top_k:
        raise ValueError(f"top-k is {len(prediction.top)} there and {top_k} now")
    try:
        again = format.encode(prediction)
    except (LookupError, ValueError) as error:
        raise ValueError("it has a class that the model has not") from error
    if again != record:
        raise ValueError("it is not as this model and its labels would have it")
    return prediction
