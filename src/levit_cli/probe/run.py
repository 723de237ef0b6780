"""One run of ``levit probe``: compute the features, fit a regression to them, and write a model with it as its head.

The strength of the regression and the temperature are chosen on the training images alone, in a cross-validation. The
accuracy is that of the regression on the training images, measured on the validation images. If these were split off at
random, the regression is fitted to all images afterwards.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from levit_cli.checkpoints import Checkpoint, Evaluation
from levit_cli.choices import ClassWeights
from levit_cli.data.remote.names import without_secrets
from levit_cli.errors import RefusedError, reason_of
from levit_cli.finetune.images_file import as_lines
from levit_cli.finetune.plan import log_images
from levit_cli.finetune.split import Split, without_unreadable
from levit_cli.predict.model import load_model
from levit_cli.predict.reader import Reader
from levit_cli.probe.feature_cache import FeatureCache
from levit_cli.probe.features import Computed, Features, compute_features
from levit_cli.probe.folder import write_run
from levit_cli.probe.head import with_head
from levit_cli.probe.plan import Plan
from levit_cli.probe.regression import Choice, Labeled, LinearProbe, choose, fit
from levit_cli.probe.results import Measured, Result, as_rows, measure
from levit_cli.system.progress import Log, progress, shows_progress, silent
from levit_cli.system.text import printable

UNEVEN = 5  # times as many images in the largest class as in the smallest one, from which a line is logged
BALANCED_HINT = "--class-weights balanced gives them the same weight"


def probe(plan: Plan, log: Log) -> str:
    """Write the run folder, and return a report.

    Raises:
        RefusedError: the model cannot be used, too many images cannot be read, or the images do not differ.
        UsageError: the run folder exists by now.
        OutputError: the run folder or the cache cannot be written.
    """
    request = plan.request
    log_unless_quiet = silent if request.quiet else log
    checkpoint = load_source(plan, log)
    computed = _compute(plan, checkpoint, log)
    split, views = _readable(plan, computed)
    log_images(split, log_unless_quiet)
    _log_uneven(split, request.class_weights, log_unless_quiet)
    with progress(shown=shows_progress(quiet=request.quiet), title="cross-validation", unit="") as bar:
        choice = choose(_training(split, views), request.class_weights, request.seed, bar.advance)
    final, measured = fit_and_measure(split, views, request.class_weights, choice)
    result = Result(split, choice, measured, computed.precision)
    _write(plan, checkpoint, final, result)
    rows = {**as_rows(result), "model": f"{request.output}; levit predict -m {request.output} IMAGE"}
    return "".join(f"{name:<13}{value}\n" for name, value in rows.items())


def load_source(plan: Plan, log: Log) -> Checkpoint:
    """Load the model whose features are used, without its int8 graph.

    Raises:
        RefusedError: it cannot be loaded, or its preprocessing needs torch.
    """
    checkpoint = load_model(plan.request.model, log, verbose=plan.request.verbose)
    if checkpoint.transform.resizer == "torch":
        raise RefusedError(
            f"levit probe cannot use the preprocessing {checkpoint.transform.name} of {checkpoint.origin}",
            why="it resizes images with torch",
            hint="use --preprocessing hf, which resizes with Pillow",
        )
    if checkpoint.int8 is not None and not plan.request.quiet:
        log(f"The int8 graph of {checkpoint.origin} is not used · run levit quantize on the result to get one for it")
    return replace(checkpoint, int8=None)


def _compute(plan: Plan, checkpoint: Checkpoint, log: Log) -> Computed:
    request, split = plan.request, plan.split
    reader = Reader(checkpoint.transform, request.decoding, request.resizer)
    if request.verbose:
        log(f"resizer {reader.resizer}")

    def open_cache(settings: str, width: int) -> FeatureCache | None:
        return FeatureCache(request.cache, settings, width, log) if request.cache else None

    images = [image for image, _ in (*split.train, *split.val)]
    with progress(shown=shows_progress(quiet=request.quiet), total=len(images), title="features") as bar:
        computed = compute_features(
            checkpoint, images, request.spec, reader, open_cache, log,
            workers=request.workers, verbose=request.verbose, on_image=bar.advance,
        )  # fmt: skip
    if not request.quiet:
        log(computed.summary() + computed.stats.decoding_hint(reader.large_jpeg_s))
    return computed


def _readable(plan: Plan, computed: Computed) -> tuple[Split, Features]:
    """Return the split without the unreadable images, and the features of the others in its order.

    Raises:
        RefusedError: too many images cannot be read, or a class has no image left.
    """
    images = [image for image, _ in (*plan.split.train, *plan.split.val)]
    problems = [(images[position].path, error) for position, error in computed.errors.items()]
    unreadable = [(path, f"{error.kind}: {error.message}") for path, error in problems]
    split = without_unreadable(plan.split, unreadable, plan.max_unreadable)
    left_out = {path for path, _ in unreadable}
    return split, computed.views[[image.path not in left_out for image in images]]


def _log_uneven(split: Split, class_weights: ClassWeights, log: Log) -> None:
    counts = np.bincount([index for _, index in split.train])
    if class_weights == "none" and counts.max() >= UNEVEN * counts.min():
        log(f"The classes have {counts.min():,} to {counts.max():,} training images · {BALANCED_HINT}")


def _training(split: Split, views: Features) -> Labeled:
    num_train = len(split.train)
    return Labeled(views[:num_train], np.array([index for _, index in split.train], np.int64), len(split.classes))


def fit_and_measure(
    split: Split, views: Features, class_weights: ClassWeights, choice: Choice
) -> tuple[LinearProbe, Measured]:
    """Measure the regression on the validation images, and return the final one.

    Args:
        views: (N, 2, C) the features of the training images, then of the validation images.
    """
    targets = np.array([index for _, index in (*split.train, *split.val)], np.int64)
    num_train = len(split.train)
    fitted = fit(_training(split, views), class_weights, choice.strength)
    measured = measure(fitted.logits(views[num_train:, 0]), targets[num_train:], choice.temperature)
    if split.has_val_folder:
        return fitted, measured
    return fit(Labeled(views, targets, len(split.classes)), class_weights, choice.strength), measured


def _write(plan: Plan, source: Checkpoint, final: LinearProbe, result: Result) -> None:
    """Write the run folder.

    Raises:
        RefusedError: an image disappeared during the run.
        UsageError, OutputError: see ``write_run``.
    """
    split, top1 = result.split, result.measured.top1
    evaluation = Evaluation(f"the validation images of {printable(split.root.name)}", top1.total, top1.value)
    checkpoint = with_head(source, final, split.classes, result.choice.temperature, evaluation)
    try:
        images = as_lines(split)
    except OSError as error:
        why = f"{error.filename}: {reason_of(error)}"
        raise RefusedError("An image disappeared during the run", why=why) from error
    name = plan.request.model.name
    start = printable(Path(name).name) if os.path.exists(name) else without_secrets(name)
    write_run(plan.request.output, checkpoint, result, _settings(plan, source), images, start)


def _settings(plan: Plan, source: Checkpoint) -> dict[str, Any]:
    """Return what the result depends on, for ``probe.json``."""
    request, split = plan.request, plan.split
    return {
        "data": str(split.root),
        "model": without_secrets(request.model.name),
        "model_sha256": source.sha256,
        "preprocessing": source.transform.name,
        "decode": request.decoding,
        "class_weights": request.class_weights,
        "val_split": None if split.has_val_folder else plan.val_split,
        "max_unreadable": plan.max_unreadable,
        "seed": request.seed,
    }
