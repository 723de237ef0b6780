"""Predictions as text: jsonl, json, csv, tsv for machines, a table for people.

A writer takes predictions one by one and writes each at once. Machine formats are plain text in UTF-8 and never pass
through Rich; a file's name goes in as it is, whatever it holds, and comes out the same when parsed.
"""

import base64
import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, get_args

from levit_cli.choices import Format
from levit_cli.errors import UsageError
from levit_cli.labels import Labels
from levit_cli.output import Sink
from levit_cli.pipeline import Prediction

SCHEMA_VERSION = 1
PROB_DIGITS = 6
DELIMITERS = {"csv": ",", "tsv": "\t"}


class Writer(Protocol):
    """Writes to a sink that somebody else opened and closes."""

    def write(self, prediction: Prediction) -> None: ...
    def finish(self) -> None:
        """Whatever belongs behind the last record."""


def make_writer(
    format: Format, sink: Sink, labels: Labels, top_k: int, meta: Mapping[str, Any], *, color: bool = True
) -> Writer:
    """The writer of a format.

    Args:
        meta: what ``json`` says of the run; the other machine formats have no place for it.
    """
    if format == "jsonl":
        return JsonLines(sink, labels)
    if format == "json":
        return Json(sink, labels, meta)
    if format == "table":
        from levit_cli.table import Table  # only this one needs Rich

        return Table(sink, labels, meta, color=color)
    return Delimited(sink, labels, top_k, DELIMITERS[format])


def format_for(format: Format | None, output: Path | None, *, is_terminal: bool) -> Format:
    """``--format`` wins, then the suffix of ``-o``, then a table for a terminal and tsv for anything else."""
    if format is not None:
        return format
    if output is None:
        return "table" if is_terminal else "tsv"
    for known in get_args(Format):
        if output.suffix.lower() == f".{known}":
            return known  # type: ignore[no-any-return]
    raise UsageError(f"{output.name} does not say which format it is to have", hint="add --format, or end it in .jsonl")


def record(prediction: Prediction, labels: Labels) -> dict[str, Any]:
    """A prediction as the JSON object of the command line's contract."""
    head = _path_fields(prediction.path)
    if prediction.error is not None:
        error = {"kind": prediction.error.kind, "message": prediction.error.message}
        return {**head, "status": "error", "error": error}
    return {**head, "status": "ok", "top": [_ranked(index, prob, labels) for index, prob in prediction.top]}


def _ranked(index: int, prob: float, labels: Labels) -> dict[str, Any]:
    wnid = {"wnid": labels.wnids[index]} if labels.wnids else {}
    return {"index": index, **wnid, "label": labels.names[index], "prob": round(prob, PROB_DIGITS)}


def _path_fields(path: str) -> dict[str, str]:
    """The path; where its bytes are not UTF-8, an escaped form to read and the exact bytes in base 64."""
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path": raw.decode("utf-8", "backslashreplace"), "path_b64": base64.b64encode(raw).decode("ascii")}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")


class JsonLines:
    """One object a line."""

    def __init__(self, sink: Sink, labels: Labels) -> None:
        self._sink, self._labels = sink, labels

    def write(self, prediction: Prediction) -> None:
        self._sink.write(_json(record(prediction, self._labels)) + b"\n")
        self._sink.flush()

    def finish(self) -> None:
        pass


class Json:
    """One document: schema version, meta, results. It is whole once ``finish`` was called."""

    def __init__(self, sink: Sink, labels: Labels, meta: Mapping[str, Any]) -> None:
        self._sink, self._labels = sink, labels
        self._before = b"\n"
        head = _json({"schema_version": SCHEMA_VERSION, "meta": dict(meta)})
        self._sink.write(head[:-1] + b', "results": [')

    def write(self, prediction: Prediction) -> None:
        self._sink.write(self._before + _json(record(prediction, self._labels)))
        self._before = b",\n"

    def finish(self) -> None:
        self._sink.write(b"\n]}\n")
        self._sink.flush()


class Delimited:
    """csv or tsv with a header; cells are quoted where they must be. A name's bytes go in as they are."""

    def __init__(self, sink: Sink, labels: Labels, top_k: int, delimiter: str) -> None:
        self._sink, self._labels = sink, labels
        self._top_k = min(top_k, len(labels))
        self._delimiter = delimiter
        columns = [f"{name}{rank}" for rank in range(1, self._top_k + 1) for name in ("index", "label", "prob")]
        self._row(["path", "status", "error", *columns])

    def write(self, prediction: Prediction) -> None:
        if prediction.error is not None:
            error = prediction.error
            self._row([prediction.path, "error", f"{error.kind}: {error.message}", *[""] * (3 * self._top_k)])
            return
        cells = [
            cell
            for index, prob in prediction.top
            for cell in (str(index), self._labels.names[index], f"{prob:.{PROB_DIGITS}f}")
        ]
        self._row([prediction.path, "ok", "", *cells])

    def finish(self) -> None:
        pass

    def _row(self, cells: list[str]) -> None:
        text = io.StringIO()
        writer = csv.writer(
            text,
            delimiter=self._delimiter,
            lineterminator="\n",
            # Python before 3.13 leaves a lone carriage return unquoted, and readers take it for the end of the row
            quoting=csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL,
        )
        writer.writerow(cells)
        self._sink.write(text.getvalue().encode("utf-8", "surrogateescape"))
        self._sink.flush()
