"""Write Parquet: keep the records in a journal while the run lasts, and convert the journal when it ends.

A Parquet file is valid only with its footer, so it cannot grow record by record. The journal is a jsonl file next to
the output. It has everything that a jsonl output has: it ends with a complete record, it is locked, and ``--resume``
continues it. The output itself is written to a temporary file and renamed, so it is complete or absent. Equal records
give equal bytes, whether the run was interrupted or not.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from levit_cli.errors import OutputError, UsageError, reason_of
from levit_cli.predict.pipeline import Prediction
from levit_cli.predict.records import RecordFormat, from_json
from levit_cli.predict.resume.fingerprint import Fingerprint, differences
from levit_cli.predict.resume.verify import NOT_TOUCHED
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.atomic import Replacement, writing
from levit_cli.system.output import OutputFile, Target, TargetFile
from levit_cli.system.signals import deferred_signals

JOURNAL_SUFFIX = ".partial.jsonl"
ROWS_PER_GROUP = 10_000
CLASSES_PER_GROUP = 500_000  # with a large top-k, a row group has fewer rows, so that memory is bounded
BYTES_COLUMN = "path_b64"
ACCEPTED_COLUMN = "accepted"
COLUMNS = (
    ("path", pa.string()),
    ("status", pa.string()),
    ("error_kind", pa.string()),
    ("error_message", pa.string()),
    ("indices", pa.list_(pa.int32())),
    ("labels", pa.list_(pa.string())),
    ("probs", pa.list_(pa.float64())),
)
# The sort key of the records of many machines, which come in any order.
ORDER_COLUMNS = (("source", pa.int64()), ("item", pa.int64()))
ORDER_NAMES = tuple(name for name, _ in ORDER_COLUMNS)
SCHEMA_VERSION, MODEL_SHA256 = b"levit.schema_version", b"levit.model_sha256"
META, FINGERPRINT = b"levit.meta", b"levit.fingerprint"

Metadata = dict[bytes, bytes]
Row = dict[str, Any]


def journal_of(output: Path) -> Path:
    """Return the path of the journal of an output."""
    return Path(os.path.realpath(output) + JOURNAL_SUFFIX)


def metadata_of(description: RunDescription, fingerprint: Fingerprint) -> Metadata:
    """Return the metadata of the file: the model's hash, the run as JSON, and what the records depend on.

    Args:
        description: must include the hash of the weights. The number of threads is left out, because a resumed run may
            have another one.
    """
    meta = description.as_json()
    sha256 = meta["model"]["sha256"]
    meta.pop("threads")
    return {
        SCHEMA_VERSION: b"1",
        MODEL_SHA256: sha256.encode(),
        META: json.dumps(meta, sort_keys=True).encode(),
        FINGERPRINT: json.dumps(fingerprint, sort_keys=True).encode(),
    }


@dataclass
class Journal:
    """The target of a run whose output is a Parquet file.

    Args:
        records: what the records are written to: the journal itself, or the merger of a resumed run.
        journal: the journal, which is locked.
        output: the Parquet file.
    """

    records: Target
    journal: OutputFile
    output: Path
    metadata: Metadata

    def write(self, data: bytes) -> None:
        self.records.write(data)

    def finish(self) -> None:
        """Replace the output by the converted journal, and remove the journal."""
        self.records.finish()
        replacement = Replacement(Path(os.path.realpath(self.output)))
        try:
            with writing(self.journal.name), os.fdopen(os.dup(self.journal.descriptor), "rb") as file:
                convert(file, replacement.write, self.metadata)
            with deferred_signals():
                replacement.sync()
                replacement.close()
                replacement.commit()
                self.journal.remove()
        except BaseException:
            replacement.discard()
            raise

    def stop(self) -> None:
        self.records.stop()

    def discard(self) -> None:
        self.records.discard()


class Spool:
    """The target of a run whose Parquet output is a pipe, a device or standard output, which are written at the end."""

    def __init__(self, sink: Target, metadata: Metadata) -> None:
        self._sink, self._metadata = sink, metadata
        with _writing_temporary():
            self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def write(self, data: bytes) -> None:
        with _writing_temporary():
            self._file.write(data)

    def finish(self) -> None:
        with closing(self._file):
            with _writing_temporary():
                self._file.flush()
            convert(self._file, self._sink.write, self._metadata)
        self._sink.finish()

    def stop(self) -> None:
        self.finish()

    def discard(self) -> None:
        with suppress(OSError):  # closing flushes, and the disk may be full
            self._file.close()
        self._sink.discard()


@contextmanager
def _writing_temporary() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what, hint = f"Cannot write a temporary file in {tempfile.gettempdir()}", "name a file with --output"
        raise OutputError(what, why=reason_of(error), hint=hint) from error


def convert(
    journal: IO[bytes], write: Callable[[bytes], object], metadata: Metadata, *, has_order: bool = False
) -> None:
    """Write the records of a journal as Parquet, one row group at a time.

    Paths that are not UTF-8 are escaped, as in jsonl. Only then a last column holds their exact bytes in Base64. A run
    with a threshold has the column ``accepted`` before it; it is null for an error.

    Args:
        has_order: the records have a sort key, see ``ORDER_COLUMNS``.
    """
    journal.seek(0)
    has_threshold = "min_prob" in json.loads(metadata.get(META, b"{}"))
    columns = (
        COLUMNS
        + ORDER_COLUMNS * has_order
        + ((ACCEPTED_COLUMN, pa.bool_()),) * has_threshold
        + ((BYTES_COLUMN, pa.string()),) * any(b'"path_b64"' in line for line in journal)
    )
    journal.seek(0)
    schema = pa.schema(columns, metadata)
    file = TargetFile(write)
    with closing(pq.ParquetWriter(file, schema, compression="zstd")) as writer:
        for rows in _groups(json.loads(line) for line in journal):
            writer.write_table(pa.Table.from_pylist(rows, schema))
    file.write_rest()


def _groups(records: Iterator[Any]) -> Iterator[list[Row]]:
    rows: list[Row] = []
    num_classes = 0
    for record in records:
        rows.append(_row(record))
        num_classes += len(record.get("top", ()))
        if len(rows) == ROWS_PER_GROUP or num_classes >= CLASSES_PER_GROUP:
            yield rows
            rows, num_classes = [], 0
    if rows:
        yield rows


def _row(record: dict[str, Any]) -> Row:
    row = {name: record.get(name) for name in ("path", "status", ACCEPTED_COLUMN, BYTES_COLUMN, *ORDER_NAMES)}
    if error := record.get("error"):
        return {**row, "error_kind": error["kind"], "error_message": error["message"]}
    top = record["top"]
    lists = (("indices", "index"), ("labels", "label"), ("probs", "prob"))
    return {**row, **{name: [entry[key] for entry in top] for name, key in lists}}


def restore_journal(
    output: Path, journal: OutputFile, records: RecordFormat[Prediction], fingerprint: Fingerprint,
    before_commit: Callable[[int], None],
) -> None:  # fmt: skip
    """Write the records of a finished output into an empty journal, so that a run can continue it.

    Args:
        fingerprint: that of this run.
        before_commit: called with the descriptor of the file that is about to replace the journal.

    Raises:
        UsageError: the output is not a Parquet file of ``levit predict``, or was written with other settings.
    """
    try:
        with output.open("rb") as file, pq.ParquetFile(file) as parquet:
            _require_same_run(output, parquet.schema_arrow.metadata or {}, fingerprint)
            _write_records(parquet, Replacement(journal.path), journal, records, before_commit)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _cannot_resume(output, f"it cannot be read as Parquet: {first_line(error)}") from error


def read_records(path: Path, file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of the rows in an output, without WordNet ids.

    Raises:
        UsageError: it is damaged, or not a Parquet file of ``levit predict``.
    """
    try:
        with pq.ParquetFile(file) as parquet:
            if missing := {name for name, _ in COLUMNS}.difference(parquet.schema_arrow.names):
                raise ValueError(f"it has no column {min(missing)}, so levit predict did not write it")
            for batch in parquet.iter_batches(1000, use_threads=False):
                yield from map(_record, batch.to_pylist())
    except (pa.ArrowException, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"Cannot read the results in {path}", why=first_line(error)) from error


def _require_same_run(output: Path, metadata: Metadata, fingerprint: Fingerprint) -> None:
    if FINGERPRINT not in metadata:
        raise _cannot_resume(output, "levit predict did not write it")
    if differing := differences(json.loads(metadata[FINGERPRINT]), fingerprint):
        raise UsageError(f"{output} was written with other settings", why=", ".join(differing), hint=NOT_TOUCHED)


def _cannot_resume(output: Path, why: str) -> UsageError:
    return UsageError(f"Cannot resume {output}", why=why, hint=NOT_TOUCHED)


def _write_records(
    parquet: Any, replacement: Replacement, journal: OutputFile, records: RecordFormat[Prediction],
    before_commit: Callable[[int], None],
) -> None:  # fmt: skip
    try:
        for batch in parquet.iter_batches(1000, use_threads=False):
            for row in batch.to_pylist():
                replacement.write(records.encode(from_json(_record(row))))
        with deferred_signals():
            before_commit(replacement.descriptor)
            journal.take_over(replacement)
    except BaseException:
        replacement.discard()
        raise


def metadata_in(path: Path) -> Metadata:
    """Return the metadata of an output."""
    with path.open("rb") as file, pq.ParquetFile(file) as parquet:
        return dict(parquet.schema_arrow.metadata or {})


def records_in(path: Path) -> Iterator[bytes]:
    """Yield the records of an output as ``convert`` takes them. The file is open only while a row group is read.

    Raises:
        ValueError: it is damaged.
    """
    group, num_groups = 0, 1
    while group < num_groups:
        try:
            with path.open("rb") as file, pq.ParquetFile(file) as parquet:
                num_groups = parquet.num_row_groups
                table = parquet.read_row_group(group, use_threads=False) if num_groups else None
        except (pa.ArrowException, OSError) as error:
            raise ValueError(first_line(error)) from error
        for batch in table.to_batches(1000) if table is not None else ():
            for row in batch.to_pylist():
                yield json.dumps(_labeled_record(row), ensure_ascii=False).encode() + b"\n"
        group += 1


def _labeled_record(row: Row) -> dict[str, Any]:
    order = {name: row[name] for name in ORDER_NAMES if name in row}
    record = {**_record(row), "status": row["status"], **order}
    for entry, label in zip(record.get("top", ()), row["labels"] or (), strict=True):
        entry["label"] = label
    return record


def _record(row: Row) -> dict[str, Any]:
    """Return the JSON object of a row."""
    record = {
        name: row[name] for name in ("path", ACCEPTED_COLUMN, BYTES_COLUMN, "status") if row.get(name) is not None
    }
    if row["status"] == "error":
        return {**record, "error": {"kind": row["error_kind"], "message": row["error_message"]}}
    entries = zip(row["indices"], row["labels"], row["probs"], strict=True)
    return {**record, "top": [{"index": index, "label": label, "prob": prob} for index, label, prob in entries]}


def first_line(error: BaseException) -> str:
    """Return the first line of an error of pyarrow, whose further lines name places in its source."""
    return (reason_of(error).strip().splitlines() or [type(error).__name__])[0][:200]
