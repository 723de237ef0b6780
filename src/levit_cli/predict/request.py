"""What is asked of a run that classifies images, and its parts: the model, the engine, and the words about both."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from levit_cli.checkpoints import Checkpoint, load
from levit_cli.choices import Decoding, Format, PreprocessingName
from levit_cli.engines import Engine, EngineSpec, make_engine, usable_threads
from levit_cli.errors import UsageError
from levit_cli.predict.pipeline import Stats
from levit_cli.system.cache import GraphCache, cache_folder
from levit_cli.system.progress import Log

DECODE_LIMIT_S = 30.0  # the largest image that is allowed takes some 5 s of one core


@dataclass(frozen=True)
class Request:
    """What was asked for; the options of ``levit predict``, see there."""

    inputs: tuple[str, ...]
    model: str
    files_from: str | None = None
    null: bool = False
    labels: Path | None = None
    preprocessing: PreprocessingName | None = None
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
    resume: bool = False
    isolate: bool = False
    timeout_s: float = DECODE_LIMIT_S
    color: bool = True
    stats: bool = False
    quiet: bool = False
    verbose: bool = False


def sized(request: Request, *, alone: bool) -> Request:
    """The request with its threads shared out: all on the one image, or a stream each for a batch each."""
    threads = usable_threads(request.spec.threads)
    batch_size, streams = (1, 1) if alone else (request.batch_size, threads)
    spec = replace(request.spec, threads=threads, streams=streams, batch_size=batch_size)
    return replace(request, spec=spec, batch_size=batch_size, workers=request.workers or usable_threads())


def load_model(request: Request, log: Log) -> Checkpoint:
    checkpoint = load(
        request.model,
        preprocessing=request.preprocessing,
        labels=request.labels,
        offline=request.offline,
        sha256=request.sha256,
        warn=lambda message: log(f"Warning: {message}"),
    )
    if request.verbose:
        log(f"model {checkpoint.origin}: {checkpoint.architecture}, {checkpoint.format} format, {checkpoint.dtype}")
        for note in checkpoint.notes:
            log(f"note: {note}")
        log(f"preprocessing {checkpoint.transform}")
    return checkpoint


def engine_for(request: Request, checkpoint: Checkpoint, log: Log) -> Engine:
    # kept for one image only: over a folder, the time to compile is nothing
    cache = GraphCache(cache_folder() / "graphs") if request.spec.batch_size == 1 else None
    engine = make_engine(checkpoint, request.spec, cache)
    spec = engine.spec
    if checkpoint.transform.resizer == "torch" and spec.engine != "torch":
        raise UsageError(f"The preprocessing {checkpoint.transform.name} resizes with torch", hint="add --engine torch")
    if request.verbose:
        log(
            f"engine {spec.engine} on {spec.device} in {spec.precision}, {spec.threads} threads, {spec.streams} streams"
        )
    return engine


def closing_line(stats: Stats) -> str:
    """How many, how fast, how many failed."""
    noun = "image" if stats.images == 1 else "images"
    rate = stats.images / stats.elapsed_s if stats.elapsed_s else 0.0
    failed = f", {stats.failed:,} failed" if stats.failed else ""
    return f"{stats.images:,} {noun} in {stats.elapsed_s:.2f} s ({rate:.1f}/s){failed}"


def time_table(stats: Stats) -> str:
    """Where the time went, a line each."""
    good = max(stats.images - stats.failed, 1)
    rows = (
        ("elapsed", stats.elapsed_s, "from the first image to the last record"),
        (
            "read + decode + resize",
            stats.prepare_s,
            f"summed over threads; {1000 * stats.prepare_s / good:.2f} ms each",
        ),
        ("network", stats.network_s, f"{stats.batches:,} batches; {1000 * stats.network_s / good:.2f} ms an image"),
        ("waiting for images", stats.wait_s, "the network had nothing to do"),
    )
    return "\n".join(f"{name:<24}{seconds:9.3f} s  {remark}" for name, seconds, remark in rows)
