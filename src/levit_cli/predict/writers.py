"""Write predictions in one of the output formats: jsonl, json, csv and tsv for programs, table for people.

A writer receives the predictions one by one and writes each immediately. The machine-readable formats are plain text
in UTF-8 and never pass through Rich. A file name is written exactly, and parsing returns the same bytes.
"""

from pathlib import Path
from typing import Generic, Protocol, TypeVar

from levit_cli.choices import FORMATS, Format
from levit_cli.data.labels import Labels
from levit_cli.predict.pipeline import Prediction
from levit_cli.predict.records import R, RecordFormat, as_json, json_record, record_format
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.output import Target, choose_format

SCHEMA_VERSION = 1
BY_SUFFIX: dict[str, Format] = {f".{format}": format for format in FORMATS}


R_contra = TypeVar("R_contra", contravariant=True)


class Writer(Protocol[R_contra]):
    """Writes results, such as predictions, to a target, which the caller opens and closes."""

    def write(self, result: R_contra, /) -> None: ...
    def finish(self) -> None:
        """Write what follows the last record."""


def make_writer(
    format: Format,
    target: Target,
    labels: Labels,
    top_k: int,
    description: RunDescription,
    *,
    color: bool = True,
    continues: bool = False,
) -> Writer[Prediction]:
    """Return the writer of a format.

    Args:
        description: written by json and table only; the other formats use its threshold.
        continues: the target already has a header and records.
    """
    if format == "json":
        return Json(target, labels, description)
    records = record_format(format, labels, top_k, description.min_prob)
    if records is not None:
        return Records(target, records, continues=continues)
    from levit_cli.predict.table import Table  # imported here because it needs Rich

    return Table(target, labels, description, color=color)


def format_for(format: Format | None, output: Path | None, *, is_terminal: bool) -> Format:
    """Return the format that ``--format`` or the suffix of ``-o`` names, else table on a terminal, else tsv."""
    default: Format = "table" if is_terminal else "tsv"
    return choose_format(format, output, BY_SUFFIX, default, hint="add --format, or use a suffix such as .jsonl")


class Records(Generic[R]):
    """Writes self-contained records, each immediately."""

    def __init__(self, target: Target, format: RecordFormat[R], *, continues: bool = False) -> None:
        self._target, self._format = target, format
        if format.header and not continues:
            target.write(format.header)

    def write(self, result: R) -> None:
        self._target.write(self._format.encode(result))

    def finish(self) -> None:
        pass


class Json:
    """Writes one JSON document with schema version, meta and results; it is complete after ``finish``."""

    def __init__(self, target: Target, labels: Labels, description: RunDescription) -> None:
        self._target, self._labels = target, labels
        self._separator = b"\n"
        head = as_json({"schema_version": SCHEMA_VERSION, "meta": description.as_json()})
        self._target.write(head[:-1] + b', "results": [')

    def write(self, prediction: Prediction) -> None:
        self._target.write(self._separator + as_json(json_record(prediction, self._labels)))
        self._separator = b",\n"

    def finish(self) -> None:
        self._target.write(b"\n]}\n")
