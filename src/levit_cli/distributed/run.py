"""``levit predict --ray``: one run on Ray Data.

The checks are those of a local run: the options, the output, the first input, the model, the engine. The driver loads
the model once and gives it to the actors through Ray's object store. When Ray fails, for example because a machine was
lost, the run begins again with what has no record yet; it gives up when that repeatedly brings nothing.
"""

import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import Format
from levit_cli.data.input import STDIN
from levit_cli.data.inputs import InputOptions
from levit_cli.data.remote.names import url_of
from levit_cli.data.skipped import Skipped
from levit_cli.distributed.cluster import (
    LOCAL,
    cluster_resources,
    first_line,
    free_resources,
    is_failure_of_ray,
    joined,
    our_error,
    require_address,
)
from levit_cli.distributed.folders import Folder, open_folder
from levit_cli.distributed.parts import RECORDS_PER_PART, PartFormat, Parts, lines_of
from levit_cli.engines import EngineSpec, keep_until_exit
from levit_cli.errors import ExitCode, OutputError, UnreachableError, UsageError, raise_faults
from levit_cli.predict.model import (
    ModelOptions,
    choose_threshold,
    conflicts,
    load_model,
    make_prediction_engine,
    threshold_faults,
)
from levit_cli.predict.prefetch import DecodeOptions
from levit_cli.predict.reader import Reader
from levit_cli.predict.run import (
    INTERRUPTIONS,
    LINK_HINT,
    DisplayOptions,
    Kind,
    OutputOptions,
    classification,
    input_faults,
    output_faults,
    require_some,
)
from levit_cli.predict.run_description import RunDescription, describe_run
from levit_cli.predict.writers import BY_SUFFIX
from levit_cli.system.extras import extra, require_extra
from levit_cli.system.output import require_free
from levit_cli.system.progress import Log, Progress, progress, shows_progress, silent
from levit_cli.system.text import count_noun

if TYPE_CHECKING:
    from levit_cli.distributed.pipeline import Resources, Work
    from levit_cli.predict.resume.fingerprint import Fingerprint

FORMATS = ("jsonl", "parquet")
MakeFormat = Callable[["RunDescription", "Fingerprint"], PartFormat]
MAX_FAILURES = 3  # of Ray, one after the other, without a new record


@dataclass(frozen=True)
class RayOptions:
    """The cluster, and what the run requests from it.

    Args:
        address: ``local``, ``auto`` or HOST:PORT.
        actors: the number of actors; 0 for as many as the cluster has room for.
        cpus_per_actor: cores per actor, for its network and the decoding of its images.
        gpus_per_actor: GPUs per actor.
        records_per_part: the maximum number of records in a part.
    """

    address: str
    actors: int = 0
    cpus_per_actor: int = 1
    gpus_per_actor: float = 0.0
    records_per_part: int = RECORDS_PER_PART


def classify_on_ray(
    inputs: InputOptions,
    model: ModelOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    display: DisplayOptions,
    ray_options: RayOptions,
    log: Log,
    *,
    batch_size: int,
    top_k: int,
    min_prob: float | None = None,
    debug: bool = False,
) -> ExitCode:
    """Classify all inputs on Ray, and write their records to a folder.

    Returns:
        ``OK``, or ``SOME_FAILED`` if at least one input has an error record.

    Raises:
        LevitError: the options, the output, the model or the engine were refused, the output cannot be written, or the
            cluster is not there or failed.
    """
    others = [*conflicts(model, spec, decode_options.resizer), *threshold_faults(min_prob)]
    require_address(ray_options.address)
    require_consistent(inputs, spec, decode_options, output, display, others, "classify")
    format = part_format_of(output.format, output, BY_SUFFIX)
    kind = classification(format, top_k, min_prob, silent)
    return run_on_ray(
        kind, partial(_part_format, format), inputs, model, spec, decode_options, output, display, ray_options, log,
        batch_size=batch_size, top_k=top_k, min_prob=min_prob, debug=debug,
    )  # fmt: skip


def run_on_ray(
    kind: Kind[Any],
    make_format: MakeFormat,
    inputs: InputOptions,
    model: ModelOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    display: DisplayOptions,
    ray_options: RayOptions,
    log: Log,
    *,
    batch_size: int,
    top_k: int,
    min_prob: float | None = None,
    debug: bool = False,
) -> ExitCode:
    """Compute the results of all inputs on Ray. Arguments and errors as for ``classify_on_ray``.

    Args:
        kind: what is computed and how its records are written.
        make_format: returns the format of the parts.
    """
    with _readable_again(inputs) as inputs, _open_output(output, inputs) as folder:
        require_some(inputs, Skipped())
        checkpoint = load_model(model, log, verbose=display.verbose)
        reader = Reader(checkpoint.transform, decode_options.decoding, decode_options.resizer, offline=model.offline)
        spec = replace(spec, threads=ray_options.cpus_per_actor)
        engine = make_prediction_engine(
            checkpoint, spec.with_batching(batch_size, single=False), log, verbose=display.verbose,
            for_features=kind.for_features,
        )  # fmt: skip
        keep_until_exit(engine)
        _require_device(ray_options, engine.spec.device)
        fingerprint = kind.make_task(checkpoint, engine, reader, None).fingerprint()
        threshold = (
            None if kind.for_features else choose_threshold(checkpoint, min_prob, log if display.verbose else silent)
        )
        description = describe_run(checkpoint, engine.spec, reader, top_k, with_hash=True, min_prob=threshold)
        parts = Parts(
            folder, make_format(description, fingerprint), fingerprint, _summary(description),
            ray_options.records_per_part,
        )  # fmt: skip
        if output.resume:
            parts.resume()
        chosen = replace(spec, engine=engine.spec.engine, device=engine.spec.device, precision=engine.spec.precision)
        run = _Run(parts, ray_options, display, log)
        with joined(ray_options.address, debug=debug):
            _require_room(ray_options)
            if not display.quiet and _must_wait(_resources(ray_options)):
                log("The cluster has no room for an actor. The run waits until there is.")
            if not output.resume:
                parts.begin()  # not earlier, so that an output is not replaced if the cluster is unreachable
            run.complete(_work(kind, inputs, checkpoint, decode_options, chosen, batch_size))
        parts.finish()
        run.log_end()
        return ExitCode.SOME_FAILED if parts.progress.num_failed else ExitCode.OK


def _work(
    kind: Kind[Any],
    inputs: InputOptions,
    checkpoint: Checkpoint,
    decode_options: DecodeOptions,
    spec: EngineSpec,
    batch_size: int,
) -> "Work":
    """Return what the workers need, with the model in the object store."""
    import ray

    from levit_cli.distributed.pipeline import Work

    sources = replace(inputs, opens_archives=False)
    portable = replace(checkpoint, known=None, known_sha256=checkpoint.sha256)  # without what only this machine has
    return Work(
        sources, checkpoint.transform, decode_options, kind, ray.put(portable), spec, batch_size, os.getcwd()
    )  # fmt: skip


def require_consistent(
    inputs: InputOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    display: DisplayOptions,
    others: list[UsageError],
    verb: str,
) -> None:
    """Check the options, except for the format.

    Raises:
        UsageError: the extra is not installed, or options are missing, contradict each other or have no effect.
    """
    require_extra("ray", "--ray")
    faults = [*input_faults(inputs, verb), *output_faults(output), *others]
    if output.path is None:
        faults.append(UsageError("--ray needs an output folder", hint="add --output DIR"))
    if STDIN in inputs.arguments:
        why = "the workers cannot read the standard input of this process"
        faults.append(UsageError(f"--ray cannot {verb} an image on standard input", why=why, hint="name a file"))
    if inputs.shard is not None:
        faults.append(UsageError("--shard cannot be used with --ray", why="Ray divides the inputs itself"))
    unused = {"--threads": spec.threads, "--workers": decode_options.workers, "--stats": display.stats}
    for name in (name for name, value in unused.items() if value):
        hint = "leave it out" if name == "--stats" else "use --cpus-per-actor"
        faults.append(UsageError(f"{name} has no effect with --ray", hint=hint))
    raise_faults(faults)


F = TypeVar("F", bound=str)


def part_format_of(format: F | None, output: OutputOptions, by_suffix: Mapping[str, F]) -> F:
    """Return the format of the parts: that of ``--format`` if given, otherwise that of the suffix of ``-o``, or jsonl.

    Args:
        by_suffix: formats by suffix, in lower case and with its dot.

    Raises:
        UsageError: the format is not written in parts.
    """
    assert output.path is not None
    chosen = format or by_suffix.get(output.path.suffix.lower(), by_suffix[".jsonl"])
    if chosen not in FORMATS:
        why = "the output is a folder of parts"
        hint = f"use --format {' or '.join(FORMATS)}" + ("" if format else ", and name a folder")
        raise UsageError(f"--ray does not write the format {chosen}", why=why, hint=hint)
    return chosen


@contextmanager
def _readable_again(inputs: InputOptions) -> Iterator[InputOptions]:
    """Yield the inputs with a list that any process of this machine can read, as a file, if it is on standard input."""
    if inputs.files_from != STDIN:
        yield inputs
        return
    with tempfile.NamedTemporaryFile(prefix="levit-") as file:
        shutil.copyfileobj(io.FileIO(0, closefd=False), file)
        file.flush()
        yield replace(inputs, files_from=file.name)


@contextmanager
def _open_output(output: OutputOptions, inputs: InputOptions) -> Iterator[Folder]:
    """Yield the folder of the output, after the check that it may be written."""
    assert output.path is not None
    may_exist = output.overwrite or output.resume
    if url_of(output.path) is None:
        require_free(output.path, inputs.arguments, overwrite=output.overwrite, resume=output.resume, folder=True)
    elif inputs.offline:
        raise UsageError(f"Cannot write {output.path}", why="--offline is set", hint="choose a local folder")
    with open_folder(output.path) as folder:
        if url_of(output.path) is not None and not may_exist and folder.names():
            hint = "--resume continues it, --overwrite replaces it"
            raise UsageError(f"{folder.name} exists", why="it was not touched", hint=hint)
        yield folder


def _part_format(format: Format, description: RunDescription, fingerprint: "Fingerprint") -> PartFormat:
    if format == "jsonl":
        return PartFormat("jsonl", bytes, lines_of)
    with extra("parquet", "Writing Parquet"):
        from levit_cli.predict.parquet_output import convert, metadata_of, records_in

    metadata = metadata_of(description, fingerprint)

    def encode(lines: bytes) -> bytes:
        content = bytearray()
        convert(io.BytesIO(lines), content.extend, metadata, has_order=True)
        return bytes(content)

    def decode(content: bytes) -> Iterator[bytes]:
        with tempfile.NamedTemporaryFile(prefix="levit-") as file:
            file.write(content)
            file.flush()
            yield from records_in(Path(file.name))

    return PartFormat("parquet", encode, decode)


def _summary(description: RunDescription) -> dict[str, Any]:
    """Return what the manifest says about the model and its preprocessing."""
    meta = description.as_json()
    return {"version": meta["version"], "model": meta["model"], "preprocessing": meta["preprocessing"]}


def _require_device(options: RayOptions, device: str) -> None:
    """Check that GPUs are requested if, and only if, the engines use one.

    Raises:
        UsageError: it is not so.
    """
    if options.gpus_per_actor and device == "cpu":
        raise UsageError("--gpus-per-actor has no effect on a CPU", hint="add --device cuda, or leave it out")
    if device != "cpu" and not options.gpus_per_actor:
        why = "all actors of a machine would use the same GPU"
        raise UsageError(f"--ray with the device {device} needs --gpus-per-actor", why=why, hint="add it, such as 1")


def _room(options: RayOptions) -> int:
    """Return the number of actors that the cluster has room for."""
    cpus, gpus = cluster_resources()
    room = cpus // options.cpus_per_actor
    return int(min(room, gpus // options.gpus_per_actor) if options.gpus_per_actor else room)


def _require_room(options: RayOptions) -> None:
    """Check that this machine has room for the actors. A cluster may grow.

    Raises:
        UsageError: it does not have that many cores or GPUs.
    """
    actors = max(1, options.actors)
    if options.address == LOCAL and actors > _room(options):
        cpus, gpus = cluster_resources()
        has = count_noun(int(cpus), "core") + (f" and {count_noun(int(gpus), 'GPU')}" if options.gpus_per_actor else "")
        raise UsageError(f"There is no room for {count_noun(actors, 'actor')}", why=f"this machine has {has}")


def _must_wait(resources: "Resources") -> bool:
    """Whether not even one actor can start now."""
    cpus, gpus = free_resources()
    return cpus < resources.cpus_of_actor or gpus < resources.gpus_per_actor


def _resources(options: RayOptions) -> "Resources":
    """Return what the run requests from the cluster."""
    from levit_cli.distributed.pipeline import Resources

    return Resources(options.actors or max(1, _room(options)), options.cpus_per_actor, options.gpus_per_actor)


@dataclass
class _Run:
    """A run whose model and output are checked."""

    parts: Parts
    options: RayOptions
    display: DisplayOptions
    log: Log
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self) -> None:
        self._num_kept, self._started = len(self.parts.progress), time.perf_counter()

    def complete(self, work: "Work") -> None:
        """Compute all results that are missing. Begin again if Ray fails, unless that brings nothing."""
        failures = 0
        with progress(shown=shows_progress(quiet=self.display.quiet)) as bar:
            while True:
                before = len(self.parts.progress)
                try:
                    return self._compute_missing(work, bar)
                except OutputError:
                    raise
                except INTERRUPTIONS as error:
                    self._keep_what_is_finished()
                    raise our_error(error) or error from None  # the object storage may be unreachable for a worker
                except Exception as error:
                    self.parts.flush()
                    failures = failures + 1 if len(self.parts.progress) == before else 1
                    self._require_hope(error, failures)
                    work = replace(work, decode=replace(work.decode, isolate=True))

    def _compute_missing(self, work: "Work", bar: Progress) -> None:
        from levit_cli.distributed.pipeline import dataset, results_of

        # the cluster may be another one after a failure
        data = dataset(work, self.parts.progress.snapshot(), _resources(self.options))
        self.skipped = Skipped(link_hint=LINK_HINT)
        with closing(results_of(data)) as results:
            for records, ends in results:
                bar.advance(self.parts.add(records))
                for end in ends:
                    self.skipped.merge(end.skipped)
                    if end.source is None:
                        self.parts.progress.end_list(end.num_items, end.containers)
                    else:
                        self.parts.progress.end_source(end.source, end.num_items)

    def log_end(self) -> None:
        """Log what was skipped, and the numbers of images and failures."""
        if self.display.quiet:
            return
        if sentence := self.skipped.sentence():
            self.log(sentence)
        seconds = time.perf_counter() - self._started
        num_new, failed = len(self.parts.progress) - self._num_kept, self.parts.progress.num_failed
        rate = f"{count_noun(num_new, 'image')} in {seconds:.2f} s ({num_new / seconds:.1f}/s)"
        kept = f"; {count_noun(self._num_kept, 'existing record')} kept" if self._num_kept else ""
        self.log(f"{rate}{f', {failed:,} failed' if failed else ''}{kept}")

    def _keep_what_is_finished(self) -> None:
        self.parts.flush()
        if not self.display.quiet:
            self.log("To continue, run the same command with --resume.")

    def _require_hope(self, error: Exception, failures: int) -> None:
        """Raise the error of a worker, or one that says that Ray failed too often."""
        if (ours := our_error(error)) is not None:
            raise ours from None
        if not is_failure_of_ray(error):
            raise error
        if failures >= MAX_FAILURES:
            hint = "check the cluster, then run the same command with --resume"
            raise UnreachableError("The Ray cluster failed repeatedly", why=first_line(error), hint=hint) from error
        if self.display.verbose:
            self.log(f"Ray failed, the run begins again with what is missing: {first_line(error)}")
