"""``levit predict``: classify inputs and write one record for each.

Checks run from cheap to expensive: the options, the output file, the first input, the model, the engine. With
``--resume``, nothing is written before the existing records have passed the compatibility check.
"""

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import Format
from levit_cli.data.inputs import STDIN, SUFFIXES, Input, InputOptions, unused_columns
from levit_cli.data.remote.names import url_of, without_secrets
from levit_cli.data.shards import Selection
from levit_cli.data.skipped import Skipped
from levit_cli.engines import Engine, EngineSpec, LevitEngine, keep_until_exit
from levit_cli.errors import ExitCode, OutputError, RefusedError, Terminated, UnreachableError, UsageError, raise_faults
from levit_cli.predict.model import (
    ModelOptions,
    choose_threshold,
    conflicts,
    load_model,
    make_prediction_engine,
    threshold_faults,
)
from levit_cli.predict.pipeline import Prediction, Stats, predict
from levit_cli.predict.prefetch import DecodeOptions, Decoder, Prefetcher
from levit_cli.predict.reader import Reader
from levit_cli.predict.records import RESUMABLE, R, RecordFormat, record_format
from levit_cli.predict.run_description import RunDescription, describe_run
from levit_cli.predict.writers import Writer, format_for, make_writer
from levit_cli.system.extras import extra
from levit_cli.system.output import (
    Document,
    OutputFile,
    Sink,
    Target,
    is_also_an_input,
    is_terminal,
    open_output,
    require_free,
)
from levit_cli.system.progress import Log, progress, shows_progress, silent
from levit_cli.system.text import count_noun

if TYPE_CHECKING:
    from levit_cli.predict.resume.fingerprint import Fingerprint
    from levit_cli.predict.resume.plan import ExistingRecords

CAN_RESUME: tuple[Format, ...] = (*RESUMABLE, "parquet")

# What ends a run that --resume can continue.
INTERRUPTIONS = (KeyboardInterrupt, Terminated, UnreachableError)
LINK_HINT = "--follow-links includes them"

Prefetch = Callable[[Iterable[Input]], Prefetcher]


@dataclass(frozen=True)
class OutputOptions:
    """The file and format of the records, and what happens if the file exists.

    Args:
        format: the format; None selects it by the suffix of ``path``.
        path: the output file; None for standard output.
        overwrite: replace an existing file.
        resume: keep the records of an existing file and add what is missing.
    """

    format: Format | None = None
    path: Path | None = None
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True)
class DisplayOptions:
    """How the table is shown, and what is logged.

    Args:
        color: use colors in the table.
        stats: log the time that each stage took.
        quiet: show no progress bar and no summary line.
        verbose: log the details of the model and its engine.
    """

    color: bool = True
    stats: bool = False
    quiet: bool = False
    verbose: bool = False


def classify(
    inputs: InputOptions,
    model: ModelOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    display: DisplayOptions,
    log: Log,
    *,
    batch_size: int,
    top_k: int,
    min_prob: float | None = None,
) -> ExitCode:
    """Classify all inputs and write their records.

    Args:
        min_prob: the threshold; None for the one that the model's folder stores, if any, and 0 for none.

    Returns:
        ``OK``, or ``SOME_FAILED`` if at least one input has an error record.

    Raises:
        LevitError: the options, the output, the model or the engine were refused, or the output cannot be written.
    """
    faults = [*conflicts(model, spec, decode_options.resizer), *threshold_faults(min_prob)]
    format = _consistent_format(inputs, output, faults)
    kind = classification(format, top_k, min_prob, log if display.verbose else silent, color=display.color)
    return run_task(kind, inputs, model, spec, decode_options, output, display, log, batch_size=batch_size)


def classification(
    format: Format, top_k: int, min_prob: float | None, log: Log, *, color: bool = False
) -> "Kind[Prediction]":
    """Return what ``levit predict`` computes and writes."""

    def task(checkpoint: Checkpoint, engine: LevitEngine, reader: Reader, path: Path | None) -> _Classification:
        threshold = choose_threshold(checkpoint, min_prob, log)
        return _Classification(checkpoint, engine, reader, path, format, top_k, color, threshold)

    return Kind(
        task,
        is_replaced=format in ("json", "parquet"),
        can_resume=format in CAN_RESUME,
        has_journal=format == "parquet",
    )


def run_task(
    kind: "Kind[R]",
    inputs: InputOptions,
    model: ModelOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    display: DisplayOptions,
    log: Log,
    *,
    batch_size: int,
) -> ExitCode:
    """Compute the results of all inputs and write them. Arguments and errors as for ``classify``.

    Args:
        kind: what is computed and how it is written.
    """
    with (
        _local(output, inputs, kind, display, log) as (output, written),
        open_output(
            _file_of_records(output, kind),
            overwrite=output.overwrite,
            resume=output.resume,
            can_resume=kind.can_resume,
        ) as file,
    ):
        inputs = replace(inputs, outputs=written)
        skipped = Skipped(log if display.verbose and not display.quiet else None, LINK_HINT)
        selection = Selection(inputs.shard) if inputs.shard else None
        stream, is_single = require_some(inputs, skipped, selection)
        checkpoint = load_model(model, log, verbose=display.verbose, single=is_single)
        reader = Reader(
            checkpoint.transform, decode_options.decoding, decode_options.resizer, offline=model.offline
        )  # fmt: skip
        if display.verbose:
            log(f"resizer {reader.resizer}")
        # A run is often resumed because an image crashed it, and that image is usually the next one.
        with Decoder(reader, replace(decode_options, isolate=decode_options.isolate or output.resume)) as decoder:
            spec = spec.with_batching(batch_size, single=is_single)
            prefetch = partial(decoder.prefetch, batch_size=spec.batch_size)
            resumes = output.resume and isinstance(file, OutputFile)
            # Decode while the engine is created; a resumed run first checks the existing records.
            prefetcher = None if resumes else prefetch(stream)
            engine = make_prediction_engine(
                checkpoint, spec, log, verbose=display.verbose, for_features=kind.for_features
            )
            keep_until_exit(engine)
            task = kind.make_task(checkpoint, engine, reader, output.path)
            run = _Run(
                task, kind.can_resume, checkpoint, engine, prefetch, reader, output.path, display, log, skipped,
                selection,
            )  # fmt: skip
            if prefetcher is None:
                assert isinstance(file, OutputFile)
                return run.resume(stream, file, inputs)
            return run.start(prefetcher, file)


@contextmanager
def _local(
    output: OutputOptions, inputs: InputOptions, kind: "Kind[R]", display: DisplayOptions, log: Log
) -> Iterator[tuple[OutputOptions, frozenset[str]]]:
    """Yield the output as a file on this machine, after the checks, and the names of all that is written.

    An output in object storage is uploaded at the end.
    """
    named = [*inputs.arguments, inputs.files_from or ""]
    with _path_of(output, named, inputs, silent if display.quiet else log) as path:
        require_free(
            path, named, overwrite=output.overwrite, resume=output.resume if kind.can_resume else None,
            replaces=kind.is_replaced or inputs.shard is not None,
        )  # fmt: skip
        if inputs.shard is not None and path is not None and not output.overwrite:
            from levit_cli.predict.shard_meta import require_free_meta

            require_free_meta(path)
        if path is not None and output.overwrite and path.is_file() and inputs.include(str(path)):
            raise is_also_an_input(str(path))
        local = replace(output, path=path)
        files = (path, _file_of_records(local, kind))
        written = {os.path.realpath(file) for file in files if file is not None}
        yield local, frozenset(written | {url_of(output.path) or "" if output.path else ""})


def _path_of(
    output: OutputOptions, named: Sequence[str], inputs: InputOptions, log: Log
) -> AbstractContextManager[Path | None]:
    url = url_of(output.path) if output.path else None
    if url is None:
        return nullcontext(output.path)
    if inputs.offline:
        raise UsageError(f"Cannot write {without_secrets(url)}", why="--offline is set", hint="choose a local file")
    if output.overwrite and inputs.include(url):
        raise is_also_an_input(without_secrets(url))
    from levit_cli.predict.remote_output import local_copy  # imported here because few runs need it

    return local_copy(url, named, overwrite=output.overwrite, resume=output.resume, log=log)


def _consistent_format(inputs: InputOptions, output: OutputOptions, others: Sequence[UsageError]) -> Format:
    """Return the output format.

    Args:
        others: the faults of the other options.

    Raises:
        UsageError: options are missing, contradict each other or have no effect. The message names all faults.
    """
    faults = [*input_faults(inputs, "classify"), *output_faults(output), *_shard_faults(inputs, output), *others]
    try:
        format = format_for(output.format, output.path, is_terminal=is_terminal())
    except UsageError as error:
        raise_faults([*faults, error])
        raise
    if format == "parquet" and output.path is None and is_terminal():
        hint = "add --output FILE.parquet, or redirect standard output to a file"
        faults.append(UsageError("Parquet is not text, so it is not written to a terminal", hint=hint))
    if output.resume and (output.path is None or format not in CAN_RESUME):
        why = "no --output is given" if output.path is None else f"{format} is one document, not separate records"
        hint = f"use --output FILE in one of the formats {', '.join(CAN_RESUME)}"
        faults.append(UsageError("Cannot use --resume", why=why, hint=hint))
    if inputs.shard is not None and output.path is not None and format not in CAN_RESUME:
        why = "levit merge does not read this format"
        hint = f"use one of the formats {', '.join(CAN_RESUME)}"
        faults.append(UsageError(f"Cannot use --shard with the format {format}", why=why, hint=hint))
    raise_faults(faults)
    return format


def _file_of_records(output: OutputOptions, kind: "Kind[R]") -> Path | None:
    """Return the file that the records are written to: the output, or the journal of a Parquet file.

    Raises:
        UsageError: the extra ``parquet`` is not installed.
    """
    if not kind.has_journal:
        return output.path
    with extra("parquet", "Writing Parquet"):
        from levit_cli.predict.parquet_output import journal_of
    is_file = output.path is not None and (output.path.is_file() or not output.path.exists())
    return journal_of(output.path) if output.path is not None and is_file else output.path


def input_faults(inputs: InputOptions, verb: str) -> Iterator[UsageError]:
    """Yield the faults of the inputs that are known before they are listed.

    Args:
        verb: what the command does with them.
    """
    if not inputs.arguments and inputs.files_from is None:
        yield UsageError(f"Nothing to {verb}", hint="name files, folders or URLs, or use --files-from")
    if inputs.files_from == STDIN and STDIN in inputs.arguments:
        yield UsageError(
            "Standard input cannot be both an image and a list of paths",
            hint="name the list or the image as a file instead of -",
        )
    if inputs.null and inputs.files_from is None:
        yield UsageError(
            "-0 (--null) has no effect without --files-from",
            why="it tells how the paths in that list are separated",
            hint="add --files-from FILE, or leave it out",
        )
    if not inputs.may_name_parquet:
        yield from unused_columns(inputs.columns)


def output_faults(output: OutputOptions) -> Iterator[UsageError]:
    """Yield the faults of the output options that do not depend on the format."""
    if output.resume and output.overwrite:
        yield UsageError("--resume keeps existing records, --overwrite replaces them", hint="use only one of them")
    elif output.overwrite and output.path is None:
        yield UsageError("--overwrite has no effect without --output", hint="add --output FILE, or leave it out")


def _shard_faults(inputs: InputOptions, output: OutputOptions) -> Iterator[UsageError]:
    if inputs.shard is None:
        return
    is_pipe = output.path is not None and output.path.exists() and not (output.path.is_file() or output.path.is_dir())
    if output.path is None or is_pipe:
        why = "a second file beside the output describes the shard"
        yield UsageError("--shard needs an output file", why=why, hint="add --output FILE, one file per shard")


def require_some(
    inputs: InputOptions, skipped: Skipped, selection: Selection | None = None
) -> tuple[Iterator[Input], bool]:
    """Return the stream of inputs, which must not be empty, and whether it has exactly one input.

    Only one line of a list is read here, because a program may write its second line after it has read our first
    record. A shard may have no inputs, but not all shards.
    """
    stream = inputs.stream(skipped, selection)
    first = list(itertools.islice(stream, 2 if inputs.files_from is None else 1))
    if not first and not (selection is not None and selection.all.num_paths):
        where = ", ".join(inputs.arguments) or f"the list {inputs.files_from}"
        why = f"looked for {' '.join(SUFFIXES)}" + (f"; skipped {skipped.summary()}" if skipped.counts else "")
        raise UsageError(f"No images in {where}", why=why)
    return itertools.chain(first, stream), inputs.files_from is None and len(first) == 1


class Task(Protocol[R]):
    """What a run computes for each input, and how it is written.

    Attributes:
        records: the format of records that can be read again; None if the output has no separate records.
    """

    @property
    def records(self) -> RecordFormat[R] | None: ...
    def results(self, prefetcher: Prefetcher, stats: Stats) -> Generator[R, None, None]: ...
    def fingerprint(self) -> "Fingerprint":
        """Return what the results depend on."""

    def target(self, target: Target, output: Sink | OutputFile) -> Target:
        """Return the target of the records: ``target`` itself, or one that converts them at the end."""

    def writer(self, target: Target, *, continues: bool) -> Writer[R]: ...
    def restore_journal(self, journal: OutputFile) -> bool:
        """Write the records of a finished output into its empty journal. Return whether that was done."""


@dataclass(frozen=True)
class Kind(Generic[R]):
    """What distinguishes the runs of two commands.

    Args:
        make_task: returns the task for the model, its engine and reader, and the path of the output.
        is_replaced: an existing output is replaced by a new file, so its folder must be writable.
        can_resume: ``--resume`` can continue the output.
        has_journal: the records are written to a journal, see ``parquet_output``.
        for_features: the network computes features, not logits.
    """

    make_task: Callable[[Checkpoint, LevitEngine, Reader, Path | None], Task[R]]
    is_replaced: bool
    can_resume: bool = False
    has_journal: bool = False
    for_features: bool = False


@dataclass(frozen=True)
class _Classification:
    """The task of ``levit predict``."""

    checkpoint: Checkpoint
    engine: Engine
    reader: Reader
    path: Path | None
    format: Format
    top_k: int
    color: bool
    min_prob: float | None = None

    @property
    def records(self) -> RecordFormat[Prediction] | None:
        return record_format(self.format, self.checkpoint.labels, self.top_k, self.min_prob)

    def results(self, prefetcher: Prefetcher, stats: Stats) -> Generator[Prediction, None, None]:
        return predict(
            prefetcher,
            self.engine,
            top_k=self.top_k,
            streams=self.engine.spec.streams,
            stats=stats,
            temperature=self.checkpoint.temperature,
            min_prob=self.min_prob,
        )

    def fingerprint(self) -> "Fingerprint":
        from levit_cli.predict.resume.fingerprint import fingerprint_of

        return fingerprint_of(self._description(with_hash=True), self.checkpoint.labels, self.format)

    def _description(self, *, with_hash: bool) -> RunDescription:
        return describe_run(
            self.checkpoint, self.engine.spec, self.reader, self.top_k, with_hash=with_hash, min_prob=self.min_prob
        )

    def target(self, target: Target, output: Sink | OutputFile) -> Target:
        if self.format == "json" and isinstance(output, OutputFile):
            return Document(output)
        if self.format != "parquet":
            return target
        from levit_cli.predict.parquet_output import Journal, Spool, metadata_of

        metadata = metadata_of(self._description(with_hash=True), self.fingerprint())
        if not isinstance(output, OutputFile):
            return Spool(output, metadata)
        assert self.path is not None
        return Journal(target, output, self.path, metadata)

    def writer(self, target: Target, *, continues: bool) -> Writer[Prediction]:
        return make_writer(
            self.format, target, self.checkpoint.labels, self.top_k,
            self._description(with_hash=self.format == "json"), color=self.color, continues=continues,
        )  # fmt: skip

    def restore_journal(self, journal: OutputFile) -> bool:
        if self.format != "parquet" or journal.has_content or self.path is None or not self.path.exists():
            return False
        from levit_cli.predict.parquet_output import restore_journal

        records, fingerprint = self.records, self.fingerprint()
        assert records is not None
        restore_journal(self.path, journal, records, fingerprint, partial(_store, fingerprint))
        return True


@dataclass
class _Run(Generic[R]):
    """A run whose model and engine are loaded."""

    task: Task[R]
    can_resume: bool
    checkpoint: Checkpoint
    engine: Engine
    prefetch: Prefetch
    reader: Reader
    path: Path | None
    display: DisplayOptions
    log: Log
    skipped: Skipped
    selection: Selection | None = None
    stats: Stats = field(default_factory=Stats)

    def start(self, prefetcher: Prefetcher, output: Sink | OutputFile) -> ExitCode:
        """Write a new output."""
        store = None
        if isinstance(output, OutputFile) and self._is_resumable:
            store = partial(self._store_fingerprint, output.descriptor)
        self._write(prefetcher, self.task.target(output, output), on_first=store)
        if self.selection is not None and isinstance(output, OutputFile) and not output.is_removed:
            output.write(b"")  # a shard without inputs has an output too
        return self._finish()

    def resume(self, stream: Iterable[Input], output: OutputFile, inputs: InputOptions) -> ExitCode:
        """Add the missing records to an output, and try its error records again."""
        # imported here because most runs do not resume
        from levit_cli.predict.resume.merge import Merger
        from levit_cli.predict.resume.plan import Plan

        existing = self._existing_records(output, inputs)
        if existing is None:
            return self.start(self.prefetch(stream), output)
        self._store_fingerprint(output.descriptor, existing.end)
        plan = Plan(existing, stream)
        merger = Merger(output, plan, self._store_fingerprint)
        self._write(self.prefetch(plan), self.task.target(merger, output), continues=True)
        exit_code = self._finish(f"; {count_noun(plan.num_kept, 'existing record')} kept")
        if merger.num_removed:
            self.log(f"Removed {count_noun(merger.num_removed, 'record')} of inputs that are no longer listed.")
        if merger.num_moved_to_end:
            moved = count_noun(merger.num_moved_to_end, "record")
            self.log(f"Moved {moved} of unlisted inputs to the end of the file.")
        return exit_code

    def _existing_records(self, output: OutputFile, inputs: InputOptions) -> "ExistingRecords | None":
        """Return the complete records of an output that this run would have written; None if there are none."""
        from levit_cli.predict.resume.verify import compatible_records, require_shared_inputs

        records = self.task.records
        assert records is not None
        restored = self.task.restore_journal(output)
        list_again = inputs.stream if inputs.can_be_read_again else tuple
        try:
            existing = compatible_records(
                output, records, self.task.fingerprint(), self._compute_again, list_again, is_verified=restored
            )
            if existing is not None and inputs.can_be_read_again:
                require_shared_inputs(output, existing, inputs.stream())
        except UsageError:
            if restored:
                output.remove()
            raise
        return existing

    def _compute_again(self, inputs: Iterable[Input]) -> Iterator[R]:
        return self.task.results(self.prefetch(inputs), Stats())

    def _store_fingerprint(self, descriptor: int, end: int | None = None) -> None:
        with suppress(RefusedError):  # do not stop if the weights can no longer be read
            _store(self.task.fingerprint(), descriptor, end)

    def _write(
        self,
        prefetcher: Prefetcher,
        target: Target,
        *,
        on_first: Callable[[], None] | None = None,
        continues: bool = False,
    ) -> None:
        self.stats = Stats()
        if self.selection is not None and self.path is not None:
            from levit_cli.predict.shard_meta import remove_meta

            remove_meta(self.path)
        with closing(self.task.results(prefetcher, self.stats)) as results:
            writer = self.task.writer(target, continues=continues)
            with self._completing(writer, target), progress(shown=self._shows_progress) as bar:
                for result in results:
                    writer.write(result)
                    if on_first is not None:
                        on_first()
                        on_first = None
                    bar.advance()

    @contextmanager
    def _completing(self, writer: Writer[R], target: Target) -> Iterator[None]:
        """Complete the output at the end of the block; after an exception, keep the finished records in it."""
        try:
            yield
        except (OutputError, BrokenPipeError):
            target.discard()
            raise
        except BaseException as error:
            if isinstance(target, Document) and target.keeps_partial:
                writer.finish()
            target.stop()
            self._log_how_to_continue(error)
            raise
        try:
            writer.finish()
            target.finish()
        except BaseException as error:
            self._log_how_to_continue(error)
            raise

    def _log_how_to_continue(self, error: BaseException) -> None:
        if isinstance(error, INTERRUPTIONS) and self._is_resumable and not self.display.quiet:
            self.log("To continue, run the same command with --resume.")

    @property
    def _is_resumable(self) -> bool:
        return self.path is not None and self.can_resume

    @property
    def _shows_progress(self) -> bool:
        """Whether to show a progress bar: only on a terminal, and not if the records are shown there."""
        return shows_progress(quiet=self.display.quiet) and not (self.path is None and is_terminal())

    def _finish(self, remark: str = "") -> ExitCode:
        if self.selection is not None and self.path is not None:
            from levit_cli.predict.shard_meta import store_meta

            store_meta(self.path, self.selection, self.task.fingerprint())
        if not self.display.quiet:
            if sentence := self.skipped.sentence():
                self.log(sentence)
            self.log(self.stats.summary() + remark + self.stats.decoding_hint(self.reader.large_jpeg_s))
        if self.display.stats:
            self.log(self.stats.timings())
        self.engine.save_cache()
        with suppress(RefusedError):  # the weights can no longer be read
            self.checkpoint.remember()
        return ExitCode.SOME_FAILED if self.stats.failed else ExitCode.OK


def _store(fingerprint: "Fingerprint", descriptor: int, end: int | None = None) -> None:
    from levit_cli.predict.resume.fingerprint import store_fingerprint

    store_fingerprint(descriptor, fingerprint, end)
