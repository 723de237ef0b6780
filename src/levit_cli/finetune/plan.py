"""Check a request before any work: settings, images and output. Nothing is written and torch is not imported."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from levit_cli.data.image_folder import require_local
from levit_cli.errors import RefusedError, UsageError, reason_of
from levit_cli.finetune.conflicts import NETWORK_SUFFIXES, option
from levit_cli.finetune.faults import Faults
from levit_cli.finetune.images_file import restore_split
from levit_cli.finetune.run_folder import RunFolder
from levit_cli.finetune.settings import (
    FinetuneRequest,
    Settings,
    resolve_settings,
    with_absolute_paths,
)
from levit_cli.finetune.split import Split, find_images
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.system.extras import require_extra
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


def make_plan(request: FinetuneRequest, folder: RunFolder, environment: Mapping[str, str]) -> Plan:
    """Return the plan of a new run, or of the rest of a run.

    Args:
        environment: the environment variables, also those of ``torchrun``.

    Raises:
        UsageError: the request cannot be executed. The message names all faults.
        RefusedError: a file with settings, or of the run, is damaged.
        OutputError: the run folder cannot be written.
    """
    if request.resume:
        return _plan_rest(request, folder)
    return _plan_new(request, folder, environment)


def _plan_rest(request: FinetuneRequest, folder: RunFolder) -> Plan:
    """Compare the run with the options and with the images that are there now."""
    settings, images, unreadable = folder.read_settings({}), folder.read_images(), folder.read_unreadable()
    root = request.data.resolve() if request.data else Path(settings.data)
    faults, split = Faults(), None
    for check in extra_checks(settings):
        with faults.collect():
            check()
    with faults.collect():
        folder.read_settings(request.options)
    with faults.collect():
        split = restore_split(images, unreadable, root)
    faults.refuse()
    assert split is not None
    return Plan(replace(settings, data=str(root)), split, folder, resume=True)


def _plan_new(request: FinetuneRequest, folder: RunFolder, environment: Mapping[str, str]) -> Plan:
    if request.data is None:
        raise UsageError("FOLDER is missing", why="only --resume works without it")
    require_local(request.data)
    root, faults = request.data.resolve(), Faults()
    settings = split = None
    with faults.collect():
        options = {**request.options, "data": str(root)}
        settings = resolve_settings(request.preset or "small", request.config, options, environment)
    with faults.collect():
        usual = settings or Settings()
        split = find_images(root, usual.val_split, usual.seed, request.output)
        if split.has_val_folder and request.options.get("val_split") is not None:
            raise UsageError("--val-split has no effect", why=f"{root} has a folder of validation images")
    if settings and split:
        with faults.collect():
            require_batches(settings, len(split.train), int(environment.get("WORLD_SIZE", 1)))
    for check in (*start_checks(settings), *extra_checks(settings)) if settings else ():
        with faults.collect():
            check()
    with faults.collect():
        if environment.get("RANK", "0") == "0":  # the main process may have created the folder already
            folder.require_free(root, overwrite=request.overwrite)
    faults.refuse()
    assert settings is not None
    assert split is not None
    return Plan(with_absolute_paths(settings), split, folder, overwrite=request.overwrite)


def start_checks(settings: Settings) -> Iterator[Callable[[], object]]:
    """Yield the checks of the files that the run starts from, except of a model, which may have to be downloaded."""
    if settings.from_scratch:
        yield lambda: architecture(settings.from_scratch)
    for name in ("teacher", "teacher_weights"):
        path = getattr(settings, name)
        if path and (name == "teacher_weights" or path.endswith(NETWORK_SUFFIXES)):
            yield partial(_require_file, name, path)


def extra_checks(settings: Settings) -> Iterator[Callable[[], object]]:
    """Yield the check of the package that the log of the metrics needs."""
    if settings.log == "tensorboard":
        yield lambda: require_extra("tensorboard", "--log tensorboard")


def _require_file(name: str, path: str) -> None:
    if not Path(path).is_file():
        raise UsageError(f"No file {path}", why=f"{option(name)} names it")


def architecture(name: str) -> LevitConfig:
    """Return the architecture of a variant, or of a Hugging Face ``config.json``.

    Raises:
        RefusedError: it is neither.
    """
    by_name = {variant.lower(): config for variant, config in VARIANTS.items()}
    if name.lower() in by_name:
        return by_name[name.lower()]
    try:
        table = json.loads(Path(name).read_text(encoding="utf-8"))
        keys = ("hidden_sizes", "key_dim", "num_attention_heads", "depths")
        widths, key_dims, heads, depths = (tuple(int(value) for value in table[key]) for key in keys)
        return LevitConfig(widths, key_dims, heads, depths)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RefusedError(
            f"Unknown architecture {name}", why=reason_of(error), hint=f"use {', '.join(VARIANTS)} or a config.json"
        ) from error


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
    if text := split.skipped.sentence():
        log(text)
    for path, problem in split.unreadable:
        log(f"Skipped {path}: {problem}")
    classes = count_noun(len(split.classes), "class")
    counts = f"{classes}, {len(split.train):,} training and {len(split.val):,} validation images"
    log(counts + (f", {len(split.unreadable):,} unreadable" if split.unreadable else ""))
