"""Load a model and create its inference engine, for ``levit predict`` and ``levit eval``."""

from dataclasses import dataclass
from pathlib import Path

from levit_cli.checkpoints import Checkpoint, load, unused_hash
from levit_cli.choices import PreprocessingName, Resizer
from levit_cli.engines import EngineSpec, LevitEngine, make_engine, require_int8_graph, wrong_device, wrong_precision
from levit_cli.errors import UsageError
from levit_cli.images.resizers import resizer_faults
from levit_cli.system.cache import FolderCache, cache_folder
from levit_cli.system.progress import Log, silent
from levit_cli.system.text import count_noun


@dataclass(frozen=True)
class ModelOptions:
    """The options that select a model and how it is loaded.

    Args:
        name: a variant, ``demo``, a hub id, a path, or a URL.
        labels: file of class names that replace the checkpoint's own.
        preprocessing: published preprocessing to use instead of the checkpoint's own.
        sha256: expected hash of a model that is loaded from a URL.
        offline: do not use the network.
    """

    name: str
    labels: Path | None = None
    preprocessing: PreprocessingName | None = None
    sha256: str | None = None
    offline: bool = False


def conflicts(model: ModelOptions, spec: EngineSpec, resizer: Resizer = "auto") -> list[UsageError]:
    """Return the faults of these options that are known without loading the model."""
    uses_openvino = spec.engine == "openvino" or (spec.engine == "auto" and spec.device in ("auto", "cpu"))
    needs_torch = model.preprocessing == "hf-tensor" and uses_openvino
    return [
        *unused_hash(model.name, model.sha256),
        *wrong_device(spec),
        *wrong_precision(spec),
        *([_needs_torch("hf-tensor", "openvino")] if needs_torch else []),
        *resizer_faults(model.preprocessing, resizer),
    ]


def threshold_faults(min_prob: float | None, name: str = "--min-prob") -> list[UsageError]:
    """Return the fault of a threshold that is no probability."""
    if min_prob is None or 0 <= min_prob <= 1:  # not true for NaN
        return []
    return [UsageError(f"{name} must be from 0 to 1, not {min_prob}", why="it is compared with a probability")]


def choose_threshold(checkpoint: Checkpoint, min_prob: float | None, log: Log = silent) -> float | None:
    """Return the threshold of a run, or None if it has none.

    Args:
        min_prob: the threshold that the user chose; None for the stored one, and 0 for none.
    """
    stored = checkpoint.threshold
    if min_prob is None and stored is not None:
        log(f"threshold {stored.min_prob:g}, stored by levit eval; --min-prob 0 turns it off")
        return stored.min_prob
    return min_prob or None


def _needs_torch(preprocessing: str, engine: str) -> UsageError:
    return UsageError(
        f"The preprocessing {preprocessing} needs the torch engine",
        why=f"it resizes images with torch, but the engine is {engine}",
        hint="add --engine torch",
    )


def load_model(options: ModelOptions, log: Log, *, verbose: bool, single: bool = False) -> Checkpoint:
    """Load a model; with ``verbose``, log its architecture, format and preprocessing.

    Args:
        single: there is one image, so that it pays not to read the weights of a known file.
    """
    checkpoint = load(
        options.name,
        preprocessing=options.preprocessing,
        labels=options.labels,
        offline=options.offline,
        sha256=options.sha256,
        cache=FolderCache(cache_folder() / "weights") if single else None,
        warn=lambda message: log(f"Warning: {message}"),
    )
    if verbose:
        log(f"model {checkpoint.origin}: {checkpoint.architecture}, {checkpoint.format} format, {checkpoint.dtype}")
        for note in checkpoint.notes:
            log(f"note: {note}")
        log(f"preprocessing {checkpoint.transform}")
    return checkpoint


def make_prediction_engine(
    checkpoint: Checkpoint,
    spec: EngineSpec,
    log: Log,
    *,
    verbose: bool,
    owns_process: bool = True,
    for_features: bool = False,
) -> LevitEngine:
    """Create the inference engine for a model; with ``verbose``, log its device, precision and threads.

    Args:
        owns_process: see ``make_engine``, as for ``for_features``.

    Raises:
        UsageError: the model's preprocessing resizes with torch, and the engine is not torch.
        RefusedError: int8 is requested, and the model has no int8 graph.
    """
    require_int8_graph(checkpoint, spec, checkpoint.origin)
    # Cache the compiled graph only for a single image: for many images, the time to compile it does not matter.
    cache = FolderCache(cache_folder() / "graphs") if spec.batch_size == 1 else None
    engine = make_engine(checkpoint, spec, cache, owns_process=owns_process, for_features=for_features)
    chosen = engine.spec
    if checkpoint.transform.resizer == "torch" and chosen.engine != "torch":
        raise _needs_torch(checkpoint.transform.name, chosen.engine)
    if verbose:
        threads, streams = count_noun(chosen.threads, "thread"), count_noun(chosen.streams, "stream")
        log(f"engine {chosen.engine} on {chosen.device} in {chosen.precision}, {threads}, {streams}")
        if checkpoint.int8 is not None and chosen.precision != "int8":
            log(f"int8 graph not used: {_reason_against_int8(checkpoint, spec, chosen)}")
    return engine


def _reason_against_int8(checkpoint: Checkpoint, requested: EngineSpec, chosen: EngineSpec) -> str:
    if chosen.engine != "openvino":
        return f"the {chosen.engine} engine runs the original weights"
    if requested.precision != "auto":
        return f"--precision {requested.precision} was requested"
    if checkpoint.int8 and not checkpoint.int8.matches(checkpoint.config, checkpoint.transform):
        return "it was made for another preprocessing"
    return "this CPU has no instructions for int8 (VNNI or AMX), so it would not be faster; --precision int8 uses it"
