"""``levit embed``: compute the feature vectors of images. It is the run of ``levit predict`` with another task."""

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import VectorFormat, VectorType
from levit_cli.data.inputs import InputOptions
from levit_cli.embed.npz import write_npz
from levit_cli.embed.records import EmbeddingLines
from levit_cli.embed.spool import Spool, SpoolWriter
from levit_cli.engines import EngineSpec, LevitEngine
from levit_cli.errors import ExitCode, UsageError, raise_faults
from levit_cli.predict.model import ModelOptions, conflicts
from levit_cli.predict.pipeline import Embedding, Stats, embed
from levit_cli.predict.prefetch import DecodeOptions, Prefetcher
from levit_cli.predict.reader import Reader
from levit_cli.predict.records import RecordFormat
from levit_cli.predict.run import (
    INTERRUPTIONS,
    DisplayOptions,
    Kind,
    OutputOptions,
    input_faults,
    output_faults,
    run_task,
)
from levit_cli.predict.run_description import describe_run
from levit_cli.predict.writers import Records, Writer
from levit_cli.system.extras import extra
from levit_cli.system.output import Document, OutputFile, Sink, Target, choose_format, is_terminal
from levit_cli.system.progress import Log

if TYPE_CHECKING:
    from levit_cli.predict.resume.fingerprint import Fingerprint

BY_SUFFIX: dict[str, VectorFormat] = {f".{format}": format for format in get_args(VectorFormat)}


@dataclass(frozen=True)
class VectorOptions:
    """What the vectors look like.

    Args:
        format: the format of the output; None selects it by the suffix of the output.
        dtype: the type of the numbers.
        normalize: divide each vector by its Euclidean norm.
    """

    format: VectorFormat | None = None
    dtype: VectorType = "float32"
    normalize: bool = False


def embed_inputs(
    inputs: InputOptions,
    model: ModelOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    vectors: VectorOptions,
    display: DisplayOptions,
    log: Log,
    *,
    batch_size: int,
) -> ExitCode:
    """Compute the vectors of all inputs and write them.

    Returns:
        ``OK``, or ``SOME_FAILED`` if at least one input has an error.

    Raises:
        LevitError: as for ``levit_cli.predict.run.classify``.
    """
    format = _consistent_format(inputs, output, vectors, conflicts(model, spec, decode_options.resizer))
    kind = embedding(format, vectors)
    try:
        return run_task(kind, inputs, model, spec, decode_options, output, display, log, batch_size=batch_size)
    except INTERRUPTIONS:
        if format != "jsonl" and not display.quiet:
            log(f"Nothing was written: {format} is valid only as a whole. A jsonl output can be continued.")
        raise


def embedding(format: VectorFormat, vectors: VectorOptions) -> Kind[Embedding]:
    """Return what ``levit embed`` computes and writes."""

    def task(checkpoint: Checkpoint, engine: LevitEngine, reader: Reader, path: Path | None) -> _Embedding:
        return _Embedding(checkpoint, engine, reader, path, format, vectors)

    return Kind(task, is_replaced=format != "jsonl", can_resume=format == "jsonl", for_features=True)


def _consistent_format(
    inputs: InputOptions, output: OutputOptions, vectors: VectorOptions, others: list[UsageError]
) -> VectorFormat:
    faults = [*input_faults(inputs, "embed"), *output_faults(output), *others]
    try:
        hint = "add --format, or use .npz, .parquet or .jsonl"
        format = choose_format(vectors.format, output.path, BY_SUFFIX, "jsonl", hint)
    except UsageError as error:
        raise_faults([*faults, error])
        raise
    raise_faults([*faults, *_format_faults(format, output)])
    if format == "parquet":
        with extra("parquet", "Writing Parquet"):
            import levit_cli.embed.parquet  # noqa: F401
    return format


def _format_faults(format: VectorFormat, output: OutputOptions) -> Iterator[UsageError]:
    if format != "jsonl" and output.path is None and is_terminal():
        hint = f"add --output FILE.{format}, or redirect standard output to a file"
        yield UsageError(f"{format} is not text, so it is not written to a terminal", hint=hint)
    if output.resume and (output.path is None or format != "jsonl"):
        why = "no --output is given" if output.path is None else f"{format} is valid only as a whole"
        yield UsageError("Cannot use --resume", why=why, hint="use --output FILE.jsonl")


@dataclass(frozen=True)
class _Embedding:
    """The task of ``levit embed``."""

    checkpoint: Checkpoint
    engine: LevitEngine
    reader: Reader
    path: Path | None
    format: VectorFormat
    vectors: VectorOptions

    @property
    def records(self) -> RecordFormat[Embedding]:
        return EmbeddingLines(self._size, self.vectors.dtype)

    @property
    def _size(self) -> int:
        return self.checkpoint.config.hidden_sizes[-1]

    def results(self, prefetcher: Prefetcher, stats: Stats) -> Generator[Embedding, None, None]:
        return embed(
            prefetcher,
            self.engine.features,
            normalize=self.vectors.normalize,
            dtype=np.dtype(self.vectors.dtype).type,
            streams=self.engine.spec.streams,
            stats=stats,
        )

    def fingerprint(self) -> "Fingerprint":
        meta = self._meta()
        meta.pop("version")
        meta["model"].pop("name")
        fingerprint: Fingerprint = json.loads(json.dumps({"command": "embed", "format": self.format, **meta}))
        return fingerprint  # with lists instead of tuples, as in a stored fingerprint

    def _meta(self) -> dict[str, Any]:
        return describe_vectors(self.checkpoint, self.engine.spec, self.reader, self.vectors)

    def target(self, target: Target, output: Sink | OutputFile) -> Target:
        if self.format != "jsonl" and isinstance(output, OutputFile):
            return Document(output, keeps_partial=False)
        return target

    def writer(self, target: Target, *, continues: bool) -> Writer[Embedding]:
        if self.format == "jsonl":
            return Records(target, self.records, continues=continues)
        spool = Spool(self.path.parent if self.path else None, self._size, self.vectors.dtype)
        if self.format == "npz":
            return SpoolWriter(spool, target, partial(write_npz, meta=self._meta()))
        from levit_cli.embed.parquet import write_parquet

        return SpoolWriter(spool, target, partial(write_parquet, meta=self._meta()))

    def restore_journal(self, journal: OutputFile) -> bool:
        del journal  # only records in jsonl are continued, which need none
        return False


def describe_vectors(
    checkpoint: Checkpoint, spec: EngineSpec, reader: Reader, vectors: VectorOptions
) -> dict[str, Any]:
    """Return the metadata of vectors: all that they depend on, and the versions and names that people look for.

    Raises:
        RefusedError: the weights can no longer be read.
    """
    meta = describe_run(checkpoint, spec, reader, 0, with_hash=True).as_json()
    model = meta["model"]
    for name in ("classes", "temperature", "evaluation"):  # which the features before the heads do not depend on
        model.pop(name, None)
    kept = ("version", "preprocessing", "engine", "device", "precision")
    size = checkpoint.config.hidden_sizes[-1]
    return {
        **{name: meta[name] for name in kept},
        "model": model,
        "size": size,
        "dtype": vectors.dtype,
        "normalized": vectors.normalize,
    }
