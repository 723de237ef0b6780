"""One run of ``levit predict``: inputs, model, engine and writer brought together.

The order matters: what can be refused for free is refused first (usage, output), then the first input is looked for,
and only then is a model loaded.
"""

import io
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint, load
from levit_cli.choices import Decoding, Format, RecipeName
from levit_cli.engines import Engine, EngineSpec, make_engine, usable_threads
from levit_cli.errors import ExitCode, UsageError
from levit_cli.graph_cache import GraphCache, cache_folder
from levit_cli.inputs import STDIN, SUFFIXES, Input, expand, named, read_list
from levit_cli.output import Sink, is_terminal, require_free
from levit_cli.pipeline import DecodeAhead, Stats, predict
from levit_cli.progress import progress
from levit_cli.reading import Reader
from levit_cli.writers import format_for, make_writer

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What was asked for; the options of ``levit predict``, see there."""

    inputs: tuple[str, ...]
    model: str
    files_from: str | None = None
    null: bool = False
    labels: Path | None = None
    recipe: RecipeName | None = None
    sha256: str | None = None
    offline: bool = False
    spec: EngineSpec = field(default_factory=EngineSpec)
    decoding: Decoding = "exact"
    batch_size: int = 16
    workers: int = 0
    top_k: int = 5
    format: Format | None = None
    output: Path | None = None
    overwrite: bool = False
    color: bool = True
    stats: bool = False
    quiet: bool = False
    verbose: bool = False


class Outcome(NamedTuple):
    """How a run ended. It holds on to the engine, as taking that down takes longer than leaving the process does."""

    exit_code: ExitCode
    engine: Engine


def classify(request: Request, say: Say) -> Outcome:
    """Classify everything and write it.

    Args:
        say: told what people should know; stderr.

    Returns:
        The exit code that says whether all inputs, or not all, could be classified.

    Raises:
        LevitError: nothing, or not everything, could be tried.
    """
    format = format_for(request.format, request.output, is_terminal=is_terminal())
    require_free(request.output, [*request.inputs, request.files_from or ""], overwrite=request.overwrite)
    inputs, alone = _require_some(_list(request), request)
    request = _sized(request, alone=alone)
    checkpoint = _load(request, say)
    reader = Reader(checkpoint.recipe, request.decoding, offline=request.offline)
    ahead = DecodeAhead(inputs, reader, batch_size=request.batch_size, workers=request.workers)
    engine = _engine(request, checkpoint, say)
    meta = describe_run(checkpoint, engine.spec, request, with_hash=format == "json")
    stats = Stats()
    predictions = predict(ahead, engine, top_k=request.top_k, streams=engine.spec.streams, stats=stats)
    with Sink(request.output) as sink, progress(shown=_shows_progress(request)) as advance:
        writer = make_writer(format, sink, checkpoint.labels, request.top_k, meta, color=request.color)
        for prediction in predictions:
            writer.write(prediction)
            advance()
        writer.finish()
    if not request.quiet:
        say(closing_line(stats))
    if request.stats:
        say(time_table(stats))
    engine.remember()
    return Outcome(ExitCode.SOME_FAILED if stats.failed else ExitCode.OK, engine)


def _list(request: Request) -> Iterator[Input]:
    if not request.inputs and request.files_from is None:
        raise UsageError("Nothing to classify", hint="name files, folders or addresses, or use --files-from")
    if request.files_from == STDIN and STDIN in request.inputs:
        raise UsageError("Standard input cannot be a picture and a list at once")
    return _stream(request)


def _stream(request: Request) -> Iterator[Input]:
    yield from expand(request.inputs)
    if request.files_from is not None:
        with _open_list(request.files_from) as file:
            yield from named(read_list(file, null=request.null))


def _open_list(path: str) -> BinaryIO:
    try:
        # without a buffer: its lock, held by a thread that waits for input, would abort the interpreter on its way out
        return io.FileIO(0, closefd=False) if path == STDIN else Path(path).open("rb")
    except OSError as error:
        raise UsageError(f"Cannot read the list {path}", why=error.strerror or str(error)) from error


def _require_some(listed: Iterator[Input], request: Request) -> tuple[Iterator[Input], bool]:
    """The same stream, once it is known not to be empty, and whether it holds one input only.

    A list is not asked for its second line, which may come only when the first is answered.
    """
    ahead = list(itertools.islice(listed, 2 if request.files_from is None else 1))
    if not ahead:
        where = ", ".join(request.inputs) or f"the list {request.files_from}"
        raise UsageError(f"No pictures in {where}", why=f"looked for {' '.join(SUFFIXES)}")
    return itertools.chain(ahead, listed), request.files_from is None and len(ahead) == 1


def _sized(request: Request, *, alone: bool) -> Request:
    """The request with its threads shared out: all on the one picture, or a stream each for a batch each."""
    threads = usable_threads(request.spec.threads)
    batch_size, streams = (1, 1) if alone else (request.batch_size, threads)
    spec = replace(request.spec, threads=threads, streams=streams, batch_size=batch_size)
    return replace(request, spec=spec, batch_size=batch_size, workers=request.workers or usable_threads())


def _load(request: Request, say: Say) -> Checkpoint:
    checkpoint = load(
        request.model,
        recipe=request.recipe,
        labels=request.labels,
        offline=request.offline,
        sha256=request.sha256,
        warn=lambda message: say(f"Warning: {message}"),
    )
    if request.verbose:
        say(f"model {checkpoint.origin}: {checkpoint.architecture}, {checkpoint.dialect} dialect, {checkpoint.dtype}")
        for note in checkpoint.notes:
            say(f"note: {note}")
        say(f"preprocessing {checkpoint.recipe}")
    return checkpoint


def _engine(request: Request, checkpoint: Checkpoint, say: Say) -> Engine:
    # kept for one picture only: over a folder, the time to compile is nothing
    cache = GraphCache(cache_folder() / "graphs") if request.spec.batch_size == 1 else None
    engine = make_engine(checkpoint, request.spec, cache)
    spec = engine.spec
    if checkpoint.recipe.resizer == "torch" and spec.engine != "torch":
        raise UsageError(f"The recipe {checkpoint.recipe.name} resizes with torch", hint="add --engine torch")
    if request.verbose:
        say(
            f"engine {spec.engine} on {spec.device} in {spec.precision}, {spec.threads} threads, {spec.streams} streams"
        )
    return engine


def describe_run(checkpoint: Checkpoint, spec: EngineSpec, request: Request, *, with_hash: bool) -> dict[str, Any]:
    """What the answers depend on; the ``meta`` of the json format, and of the table, which leaves out the hash."""
    evaluation = checkpoint.evaluation
    return {
        "version": __version__,
        "model": {
            "name": checkpoint.origin,
            "architecture": checkpoint.architecture,
            "classes": checkpoint.config.num_classes,
            **({"sha256": checkpoint.sha256} if with_hash else {}),
            **({"evaluation": asdict(evaluation)} if evaluation else {}),
        },
        "preprocessing": {**asdict(checkpoint.recipe), "decode": request.decoding},
        "engine": spec.engine,
        "device": spec.device,
        "precision": spec.precision,
        "threads": spec.threads,
        "top_k": request.top_k,
    }


def _shows_progress(request: Request) -> bool:
    """On a terminal, unless the results themselves are shown there."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    return on_terminal and not request.quiet and not (request.output is None and is_terminal())


def closing_line(stats: Stats) -> str:
    """How many, how fast, how many failed."""
    noun = "picture" if stats.pictures == 1 else "pictures"
    rate = stats.pictures / stats.elapsed_s if stats.elapsed_s else 0.0
    failed = f", {stats.failed:,} failed" if stats.failed else ""
    return f"{stats.pictures:,} {noun} in {stats.elapsed_s:.2f} s ({rate:.1f}/s){failed}"


def time_table(stats: Stats) -> str:
    """Where the time went, a line each."""
    good = max(stats.pictures - stats.failed, 1)
    rows = (
        ("elapsed", stats.elapsed_s, "from the first picture to the last record"),
        (
            "read + decode + resize",
            stats.prepare_s,
            f"summed over threads; {1000 * stats.prepare_s / good:.2f} ms each",
        ),
        ("network", stats.network_s, f"{stats.batches:,} batches; {1000 * stats.network_s / good:.2f} ms a picture"),
        ("waiting for pictures", stats.wait_s, "the network had nothing to do"),
    )
    return "\n".join(f"{name:<24}{seconds:9.3f} s  {remark}" for name, seconds, remark in rows)
