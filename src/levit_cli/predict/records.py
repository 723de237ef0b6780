"""Encode and decode records: the bytes of one prediction in jsonl, csv or tsv.

The machine-readable formats are plain text in UTF-8. A file name is written exactly, whatever bytes it has, and parsing
returns the same bytes. Each decoded record is encoded again; if the bytes differ, levit did not write it.
"""

import base64
import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol, TypeVar, get_args

from levit_cli.choices import Format
from levit_cli.data.labels import Labels
from levit_cli.errors import InputError, InputErrorKind
from levit_cli.predict.pipeline import Prediction, Ranked, Result

PROB_DIGITS = 6
DELIMITERS = {"csv": ",", "tsv": "\t"}
RESUMABLE: tuple[Format, ...] = ("jsonl", *DELIMITERS)  # type: ignore[arg-type]
ROUNDING = 10.0**-PROB_DIGITS
CLASS_COLUMNS = ("index", "label", "prob")
ACCEPTED = {True: "true", False: "false", None: ""}
MAX_CELL_CHARS = 1 << 30


R = TypeVar("R", bound=Result)


class RecordFormat(Protocol[R]):
    """A format whose records are self-contained.

    Attributes:
        header: the bytes before the first record.
    """

    header: bytes

    def encode(self, result: R, /) -> bytes:
        """Return the record of a result, such as a prediction, with its line break."""

    def decode(self, record: bytes) -> R:
        """Return the result of a record.

        Raises:
            ValueError: ``encode`` did not write it.
        """

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the header and each complete record of a file, without an incomplete one at its end."""


def record_format(
    format: Format, labels: Labels, top_k: int, min_prob: float | None = None
) -> RecordFormat[Prediction] | None:
    """Return the format with this name; None for json and table, which do not have separate records.

    Parquet is made from records in jsonl, see ``parquet_output``.

    Args:
        min_prob: the threshold of the run; only with one, records say whether the prediction is accepted.
    """
    if format in ("jsonl", "parquet"):
        return JsonLines(labels, top_k, min_prob)
    return Delimited(labels, top_k, DELIMITERS[format], min_prob) if format in DELIMITERS else None


def json_record(prediction: Prediction, labels: Labels) -> dict[str, Any]:
    """Return a prediction as a JSON object; its keys are stable."""
    head = path_fields(prediction.path)
    if prediction.error is not None:
        error = {"kind": prediction.error.kind, "message": prediction.error.message}
        return {**head, "status": "error", "error": error}
    accepted = {} if prediction.accepted is None else {"accepted": prediction.accepted}
    top = [_ranked(index, prob, labels) for index, prob in prediction.top]
    return {**head, "status": "ok", "top": top, **accepted}


def path_fields(path: str) -> dict[str, str]:
    """Return the path as a JSON field. If it is not UTF-8, escape it and add its exact bytes in Base64."""
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path": raw.decode("utf-8", "backslashreplace"), "path_b64": base64.b64encode(raw).decode("ascii")}


def as_json(value: Any) -> bytes:
    """Return one line of JSON. A lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _ranked(index: int, prob: float, labels: Labels) -> dict[str, Any]:
    wnid = {"wnid": labels.wnids[index]} if labels.wnids else {}
    return {"index": index, **wnid, "label": labels.names[index], "prob": round(prob, PROB_DIGITS)}


class JsonLines:
    """jsonl: one JSON object per line."""

    header = b""

    def __init__(self, labels: Labels, top_k: int, min_prob: float | None = None) -> None:
        self._labels, self._top_k, self._min_prob = labels, min(top_k, len(labels)), min_prob

    def encode(self, prediction: Prediction) -> bytes:
        return as_json(json_record(prediction, self._labels)) + b"\n"

    def decode(self, record: bytes) -> Prediction:
        try:
            content = json.loads(record)
            prediction = from_json(content)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("it is not a jsonl record") from error
        _require_threshold(prediction, self._min_prob)
        return _require_round_trip(self, prediction, record, self._top_k)

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        return (line for line in file if line.endswith(b"\n"))


def from_json(content: Any) -> Prediction:
    """Return the prediction of a JSON object.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: ``json_record`` did not return it.
    """
    error, accepted = content.get("error"), content.get("accepted")
    if accepted is not None and not isinstance(accepted, bool):
        raise TypeError(f"accepted is {accepted!r}")
    return Prediction(
        os.fsdecode(_raw_path(content)),
        tuple(Ranked(int(entry["index"]), float(entry["prob"])) for entry in content.get("top", ())),
        InputError(_kind(error["kind"]), str(error["message"])) if error else None,
        accepted=accepted,
    )


def _raw_path(content: Any) -> bytes:
    return base64.b64decode(content["path_b64"]) if "path_b64" in content else content["path"].encode()


def path_of(record: bytes, format: Format) -> bytes:
    """Return the bytes of the path in a record of jsonl, csv or tsv. The rest of the record is not checked.

    Raises:
        ValueError: there is none.
    """
    try:
        if format == "jsonl":
            return _raw_path(json.loads(record))
        return _cells(record, DELIMITERS[format])[0].encode("utf-8", "surrogateescape")
    except (LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise ValueError("it has no path") from error


def split_delimited(file: BinaryIO) -> Iterator[bytes]:
    """Yield the header and each complete record of csv or tsv.

    A line break ends a record unless it is inside quotes, that is, after an odd number of quotes.
    """
    lines: list[bytes] = []
    quotes = 0
    for line in file:
        lines.append(line)
        quotes += line.count(b'"')
        if not quotes % 2 and line.endswith(b"\n"):
            yield b"".join(lines)
            lines.clear()


def _cells(record: bytes, delimiter: str) -> list[str]:
    csv.field_size_limit(MAX_CELL_CHARS)
    text = io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")
    (cells,) = csv.reader(text, delimiter=delimiter, strict=True)
    return cells


class Delimited:
    """csv or tsv: a header, then one record per prediction. Cells are quoted only where the format requires it.

    With a threshold, the last column says whether a prediction is accepted. It is empty for an error.
    """

    def __init__(self, labels: Labels, top_k: int, delimiter: str, min_prob: float | None = None) -> None:
        self._names = [name.encode("utf-8", "replace").decode("utf-8") for name in labels.names]
        self._top_k, self._delimiter, self._min_prob = min(top_k, len(labels)), delimiter, min_prob
        ranked = [f"{name}{rank}" for rank in range(1, self._top_k + 1) for name in CLASS_COLUMNS]
        self.header = self._line(["path", "status", "error", *ranked, *self._last("accepted")])

    def encode(self, prediction: Prediction) -> bytes:
        if prediction.error is not None:
            message = f"{prediction.error.kind}: {prediction.error.message}".encode("utf-8", "replace").decode("utf-8")
            return self._line([_as_utf8(prediction.path), "error", message, *[""] * (3 * self._top_k), *self._last("")])
        cells = [
            cell
            for index, prob in prediction.top
            for cell in (str(index), self._names[index], f"{prob:.{PROB_DIGITS}f}")
        ]
        accepted = ACCEPTED[prediction.accepted]
        return self._line([_as_utf8(prediction.path), "ok", "", *cells, *self._last(accepted)])

    def _last(self, cell: str) -> list[str]:
        """Return the cell of the last column, which exists only with a threshold."""
        return [] if self._min_prob is None else [cell]

    def decode(self, record: bytes) -> Prediction:
        try:
            prediction = self.from_cells(self.cells(record))
        except (ValueError, LookupError, csv.Error) as error:
            raise ValueError("it is not a record of this format") from error
        _require_threshold(prediction, self._min_prob)
        return _require_round_trip(self, prediction, record, self._top_k)

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        return split_delimited(file)

    def cells(self, record: bytes) -> list[str]:
        """Return the cells of a record or header.

        Raises:
            ValueError, csv.Error: it is not one line of this format.
        """
        return _cells(record, self._delimiter)

    def from_cells(self, cells: list[str]) -> Prediction:
        """Return the prediction of a record's cells. The labels are not compared.

        Raises:
            ValueError: ``encode`` did not write them.
        """
        (cell, status, error, *ranked), accepted = self._split_last(cells)
        path = os.fsdecode(cell.encode("utf-8", "surrogateescape"))
        if status == "error":
            kind, _, message = error.partition(": ")
            return Prediction(path, error=InputError(_kind(kind), message))
        indices, probs = ranked[::3], ranked[2::3]
        top = tuple(Ranked(int(i), float(p)) for i, p in zip(indices, probs, strict=True))
        return Prediction(path, top, accepted=accepted)

    def _split_last(self, cells: list[str]) -> tuple[list[str], bool | None]:
        """Return the other cells, and the value of the last column."""
        if self._min_prob is None:
            return cells, None
        return cells[:-1], {cell: value for value, cell in ACCEPTED.items()}[cells[-1]]

    def _line(self, cells: list[str]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(
            text,
            delimiter=self._delimiter,
            lineterminator="\n",
            # Python before 3.13 does not quote a lone carriage return, which readers interpret as the end of the record
            quoting=csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL,
        )
        writer.writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")


def _as_utf8(path: str) -> str:
    """Return the path decoded as UTF-8, independent of the locale's file system encoding."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def _kind(text: str) -> InputErrorKind:
    known: tuple[InputErrorKind, ...] = get_args(InputErrorKind)
    if text not in known:
        raise ValueError(f"{text!r} is not a kind of error")
    return known[known.index(text)]


def _require_threshold(prediction: Prediction, min_prob: float | None) -> None:
    """Check that a record agrees with the run's threshold, as far as its rounded probability tells.

    Raises:
        ValueError: it was written with another threshold, or without one.
    """
    if prediction.error is not None:
        return
    if (prediction.accepted is None) != (min_prob is None):
        has = "says nothing" if prediction.accepted is None else "says"
        raise ValueError(f"it {has} whether the prediction is accepted, and this run's --min-prob is {min_prob}")
    if min_prob is None or not prediction.top:
        return
    prob = prediction.top[0].prob
    if abs(prob - min_prob) > ROUNDING and prediction.accepted != (prob >= min_prob):
        raise ValueError(f"it was written with another threshold than {min_prob:g}")


def _require_round_trip(
    format: RecordFormat[Prediction], prediction: Prediction, record: bytes, top_k: int
) -> Prediction:
    if prediction.error is None and len(prediction.top) != top_k:
        raise ValueError(f"its top-k is {len(prediction.top)}, this run's is {top_k}")
    try:
        encoded = format.encode(prediction)
    except (LookupError, ValueError) as error:
        raise ValueError("it contains a class that the model does not have") from error
    if encoded != record:
        raise ValueError("this model and its labels would write it differently")
    return prediction
