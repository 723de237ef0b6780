"""Check a request before any work: settings, images and output. Nothing is written and torch is not imported."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from levit_cli.data.image_folder import describe_skipped
from levit_cli.errors import UsageError
from levit_cli.finetune.faults import Faults
from levit_cli.finetune.images_file import restore_split
from levit_cli.finetune.run_folder import RunFolder
from levit_cli.finetune.settings import FinetuneRequest, Settings, resolve_settings, with_absolute_paths
from levit_cli.finetune.split import Split, find_images
from levit_cli.system.progress import Log
from levit_cli.system.text import count_noun


@dataclass(frozen=True)
class Plan:
    """A run that can start, as far as can be known without torch.

    Args:
        split: the images; for a new run, unreadable ones are not excluded yet.
    """

    settings: Settings
    split: Split
    folder: RunFolder
    resume: bool = False
    overwrite: bool = False


def make_plan(request: FinetuneRequest, folder: RunFolder, environment: Mapping[str, str], world_size: int = 1) -> Plan:
    """Return the plan of a new run, or of the rest of a run.

    Args:
        world_size: number of processes.

    Raises:
        UsageError: the request cannot be executed. The message names all faults.
        RefusedError: a file with settings, or of the run, is damaged.
        OutputError: the run folder cannot be written.
    """
    if request.resume:
        return _plan_rest(request, folder)
    return _plan_new(request, folder, environment, world_size)


def _plan_rest(request: FinetuneRequest, folder: RunFolder) -> Plan:
    """Compare the run with the options and the images that are there now; store where the images are."""
    settings = folder.read_settings(request.options)
    root = request.data.resolve() if request.data else Path(settings.data)
    split = restore_split(folder.read_images(), folder.read_unreadable(), root)
    return Plan(replace(settings, data=str(root)), split, folder, resume=True)


def _plan_new(request: FinetuneRequest, folder: RunFolder, environment: Mapping[str, str], world_size: int) -> Plan:
    if request.data is None:
        raise UsageError("FOLDER is missing", why="only --resume works without it")
    root, faults = request.data.resolve(), Faults()
    settings = split = None
    with faults.collect():
        options = {**request.options, "data": str(root)}
        settings = resolve_settings(request.preset or "small", request.config, options, environment)
    with faults.collect():
        usual = settings or Settings()
        split = find_images(root, usual.val_split, usual.seed)
        if split.has_val_folder and request.options.get("val_split") is not None:
            raise UsageError("--val-split has no effect", why=f"{root} has a folder of validation images")
    if settings and split:
        with faults.collect():
            require_batches(settings, len(split.train), world_size)
    with faults.collect():
        folder.require_free(root, overwrite=request.overwrite)
    faults.refuse()
    assert settings is not None
    assert split is not None
    return Plan(with_absolute_paths(settings), split, folder, overwrite=request.overwrite)


def require_batches(settings: Settings, num_images: int, world_size: int) -> None:
    """Check that each part of a batch has enough images: two for batch norms, one with a frozen backbone.

    Raises:
        UsageError: the parts are too small.
    """
    batch_size = min(settings.batch_size, num_images)
    smallest = batch_size // world_size // settings.grad_accum_steps
    if smallest >= (needed := 1 if settings.freeze == "backbone" else 2):
        return
    options = [f"--batch-size {settings.batch_size}"]
    options += [f"--grad-accum-steps {settings.grad_accum_steps}"] if settings.grad_accum_steps > 1 else []
    options += [count_noun(world_size, "process")] if world_size > 1 else []
    options += [count_noun(num_images, "training image")] if num_images < settings.batch_size else []
    raise UsageError(
        f"The batches are too small: with {' and '.join(options)}, a part has {count_noun(smallest, 'image')}",
        why=f"at least {needed} are needed" + (" for the statistics of the batch norms" if needed > 1 else ""),
        hint="raise --batch-size or lower --grad-accum-steps",
    )


def log_images(split: Split, log: Log) -> None:
    """Log the numbers of images, and what was left out."""
    if text := describe_skipped(split.skipped):
        log(text)
    for path, problem in split.unreadable:
        log(f"Skipped {path}: {problem}")
    classes = count_noun(len(split.classes), "class")
    counts = f"{classes}, {len(split.train):,} training and {len(split.val):,} validation images"
    log(counts + (f", {len(split.unreadable):,} unreadable" if split.unreadable else ""))
