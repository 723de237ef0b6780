"""Predictions as text: jsonl, json, csv, tsv for machines, a table for people.

A writer takes predictions one by one and writes each at once. Machine formats are plain text in UTF-8 and never pass
through Rich; a file's name goes in as it is, whatever it holds, and comes out the same when parsed.
"""

from pathlib import Path
from typing import Protocol

from levit_cli.choices import FORMATS, Format
from levit_cli.data.labels import Labels
from levit_cli.predict.pipeline import Prediction
from levit_cli.predict.records import RecordFormat, as_json, json_record, path_fields, record_format
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.output import Target, choose_format

__all__ = ["Writer", "format_for", "make_writer", "path_fields", "record"]

SCHEMA_VERSION = 1
BY_SUFFIX: dict[str, Format] = {f".{format}": format for format in FORMATS}

record = json_record


class Writer(Protocol):
    """Writes to a target that somebody else opened and closes."""

    def write(self, prediction: Prediction) -> None: ...
    def finish(self) -> None:
        """Whatever belongs behind the last record."""


def make_writer(
    format: Format,
    target: Target,
    labels: Labels,
    top_k: int,
    description: RunDescription,
    *,
    color: bool = True,
    continues: bool = False,
) -> Writer:
    """The writer of a format.

    Args:
        description: for json and the table; the other formats have no place for it.
        continues: records stand there already, and what comes before them.
    """
    if format == "json":
        return Json(target, labels, description)
    records = record_format(format, labels, top_k)
    if records is not None:
        return Records(target, records, continues=continues)
    from levit_cli.predict.table import Table  # only this one needs Rich

    return Table(target, labels, description, color=color)


def format_for(format: Format | None, output: Path | None, *, is_terminal: bool) -> Format:
    """``--format`` wins, then the suffix of ``-o``, then a table for a terminal and tsv for anything else."""
    default: Format = "table" if is_terminal else "tsv"
    return choose_format(format, output, BY_SUFFIX, default, hint="add --format, or end it in .jsonl")


class Records:
    """One record after another, each written at once."""

    def __init__(self, target: Target, format: RecordFormat, *, continues: bool = False) -> None:
        self._target, self._format = target, format
        if format.header and not continues:
            target.write(format.header)

    def write(self, prediction: Prediction) -> None:
        self._target.write(self._format.encode(prediction))

    def finish(self) -> None:
        pass


class Json:
    """One document: schema version, meta, results. It is whole once ``finish`` was called."""

    def __init__(self, target: Target, labels: Labels, description: RunDescription) -> None:
        self._target, self._labels = target, labels
        self._before = b"\n"
        head = as_json({"schema_version": SCHEMA_VERSION, "meta": description.as_json()})
        self._target.write(head[:-1] + b', "results": [')

    def write(self, prediction: Prediction) -> None:
        self._target.write(self._before + as_json(json_record(prediction, self._labels)))
        self._before = b",\n"

    def finish(self) -> None:
        self._target.write(b"\n]}\n")
