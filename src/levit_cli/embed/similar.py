"""``levit similar``: find the images of an index that are most similar to the queries."""

import csv
import io
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import TableFormat
from levit_cli.data.inputs import InputOptions
from levit_cli.embed.index import Index, open_index, require_not_written, require_same_model
from levit_cli.embed.run import VectorOptions, describe_vectors
from levit_cli.embed.search import DIGITS, Neighbour, search
from levit_cli.engines import EngineSpec, LevitEngine
from levit_cli.errors import ExitCode, InputError, UsageError, raise_faults
from levit_cli.predict.model import ModelOptions, conflicts
from levit_cli.predict.pipeline import Embedding, Stats, embed
from levit_cli.predict.prefetch import DecodeOptions, Prefetcher
from levit_cli.predict.reader import Reader
from levit_cli.predict.records import RecordFormat, as_json, path_fields
from levit_cli.predict.run import (
    DisplayOptions,
    Kind,
    OutputOptions,
    input_faults,
    output_faults,
    run_task,
)
from levit_cli.predict.writers import Writer
from levit_cli.system.output import OutputFile, Sink, Target, choose_format, is_terminal
from levit_cli.system.progress import Log
from levit_cli.system.text import printable

if TYPE_CHECKING:
    from levit_cli.predict.resume.fingerprint import Fingerprint

QUERIES_AT_ONCE = 256  # one pass over the index answers so many
BY_SUFFIX: dict[str, TableFormat] = {".jsonl": "jsonl", ".csv": "csv", ".txt": "table"}
CSV_HEADER = ("query", "rank", "path", "similarity", "error")
VECTORS = VectorOptions(normalize=True)


@dataclass(frozen=True)
class Neighbours:
    """The most similar images of one query, or its error."""

    path: str
    neighbours: tuple[Neighbour, ...] = ()
    error: InputError | None = None


def find_similar(
    inputs: InputOptions,
    index_path: Path,
    model: ModelOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    format: TableFormat | None,
    display: DisplayOptions,
    log: Log,
    *,
    batch_size: int,
    count: int,
) -> ExitCode:
    """Write the ``count`` most similar images of the index for each query.

    Raises:
        LevitError: as for ``levit_cli.predict.run.classify``; also if the index cannot be read, or is of another model.
    """
    faults = [*input_faults(inputs, "search"), *output_faults(output), *conflicts(model, spec, decode_options.resizer)]
    try:
        default: TableFormat = "table" if is_terminal() else "jsonl"
        chosen = choose_format(format, output.path, BY_SUFFIX, default)
    except UsageError as error:
        raise_faults([*faults, error])
        raise
    raise_faults(faults)
    index = open_index(index_path)
    require_not_written(index_path, output.path)

    def task(checkpoint: Checkpoint, engine: LevitEngine, reader: Reader, path: Path | None) -> _Search:
        del path
        require_same_model(index, describe_vectors(checkpoint, engine.spec, reader, VECTORS), log)
        return _Search(engine, index, count, chosen)

    kind = Kind(task, is_replaced=False, for_features=True)
    return run_task(kind, inputs, model, spec, decode_options, output, display, log, batch_size=batch_size)


@dataclass(frozen=True)
class _Search:
    """The task of ``levit similar``."""

    engine: LevitEngine
    index: Index
    count: int
    format: TableFormat

    records: RecordFormat[Neighbours] | None = None

    def results(self, prefetcher: Prefetcher, stats: Stats) -> Generator[Neighbours, None, None]:
        streams = self.engine.spec.streams
        with closing(embed(prefetcher, self.engine.features, normalize=True, streams=streams, stats=stats)) as queries:
            while chunk := [*islice(queries, QUERIES_AT_ONCE)]:
                yield from self._search(chunk)

    def _search(self, queries: list[Embedding]) -> Iterator[Neighbours]:
        vectors = [query.vector for query in queries if query.vector is not None]
        found = iter(search(self.index, np.stack(vectors).astype(np.float32), self.count) if vectors else [])
        for query in queries:
            if query.error is not None:
                yield Neighbours(query.path, error=query.error)
            else:
                yield Neighbours(query.path, tuple(next(found)))

    def fingerprint(self) -> "Fingerprint":
        raise NotImplementedError("the output cannot be resumed")

    def target(self, target: Target, output: Sink | OutputFile) -> Target:
        del output
        return target

    def writer(self, target: Target, *, continues: bool) -> Writer[Neighbours]:
        del continues
        return _Writer(target, self.format)

    def restore_journal(self, journal: OutputFile) -> bool:
        del journal
        return False


class _Writer:
    """Writes the neighbours of each query immediately."""

    def __init__(self, target: Target, format: TableFormat) -> None:
        self._target = target
        self._encode = {"jsonl": _as_jsonl, "csv": _as_csv, "table": _as_table}[format]
        if format == "csv":
            target.write(_csv_lines([CSV_HEADER]))

    def write(self, result: Neighbours) -> None:
        self._target.write(self._encode(result))

    def finish(self) -> None:
        pass


def _as_jsonl(result: Neighbours) -> bytes:
    head = {f"query{name.removeprefix('path')}": text for name, text in path_fields(result.path).items()}
    if result.error is not None:
        return as_json({**head, "error": {"kind": result.error.kind, "message": result.error.message}}) + b"\n"
    neighbours = [{**path_fields(path), "similarity": similarity} for path, similarity in result.neighbours]
    return as_json({**head, "neighbours": neighbours}) + b"\n"


def _as_csv(result: Neighbours) -> bytes:
    if result.error is not None:
        return _csv_lines([(result.path, "", "", "", f"{result.error.kind}: {result.error.message}")])
    return _csv_lines(
        (result.path, rank, path, f"{similarity:.{DIGITS}f}", "")
        for rank, (path, similarity) in enumerate(result.neighbours, start=1)
    )


def _csv_lines(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _as_table(result: Neighbours) -> bytes:
    if result.error is not None:
        lines = [f"  {result.error.kind}: {printable(result.error.message)}"]
    else:
        lines = [f"  {similarity:8.4f}  {printable(path)}" for path, similarity in result.neighbours]
    return "".join(f"{line}\n" for line in [printable(result.path), *lines]).encode("utf-8", "backslashreplace")
