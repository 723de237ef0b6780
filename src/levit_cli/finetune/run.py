"""Run ``levit finetune``: scan the images, build student and teacher, train, and evaluate the best model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from levit_cli.checkpoints import Checkpoint, Evaluation, load, save
from levit_cli.checkpoints.detect import StateDictConversion
from levit_cli.choices import Precision
from levit_cli.data.image_folder import ClassFolders
from levit_cli.data.labels import from_names
from levit_cli.engines import EngineSpec
from levit_cli.errors import ExitCode, RefusedError, UsageError, reason_of
from levit_cli.eval import evaluate
from levit_cli.finetune.data import Loaders, TrainingImages, ValidationImages
from levit_cli.finetune.ddp import Processes, process_group, rank_from_environment
from levit_cli.finetune.loop import Trainer
from levit_cli.finetune.model_card import run_card
from levit_cli.finetune.run_folder import Metrics, RunFolder, load_curves
from levit_cli.finetune.settings import FinetuneRequest, Runtime, Settings, resolve_settings
from levit_cli.finetune.split import Split, exclude, find_images, scan
from levit_cli.finetune.state import make_train_state
from levit_cli.finetune.step import StepContext, make_mix
from levit_cli.finetune.student import adapt, freeze_backbone, random_init
from levit_cli.finetune.teachers import Teacher, make_teacher
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.model.levit import Levit
from levit_cli.system.progress import Log, silent
from levit_cli.system.text import count_noun


def finetune(request: FinetuneRequest, runtime: Runtime, log: Log) -> ExitCode:
    """Train a model on class folders.

    Raises:
        UsageError, RefusedError: before the training starts.
        TrainingStoppedError: the training cannot continue; the best model is kept.
        OutputError: the run folder cannot be written.
    """
    folder = RunFolder(request.output)
    settings = open_run(request, folder)
    with process_group(settings.device) as processes:
        log = log if processes.is_main else silent
        split = load_split(settings, folder, processes, log)
        settings = replace(settings, precision=choose_precision(settings.precision, processes.device))
        log(f"Training on {processes.device} in {settings.precision}{_resources(processes)}")
        load_curves(log)
        trainer = make_trainer(settings, split, folder, processes, runtime, log)
        if saved := folder.load_state() if request.resume else None:
            trainer.restore(saved)
            log(f"Resumed at epoch {trainer.position.epoch + 1}, step {trainer.position.step + 1}")
        trainer.train()
        if processes.is_main:
            evaluate_best(folder, settings, split, trainer.history, log)
        processes.barrier()
    return ExitCode.OK


def open_run(request: FinetuneRequest, folder: RunFolder) -> Settings:
    """Create the run folder, or open it with ``--resume``, and return the run's settings.

    Raises:
        UsageError: the folder is not empty, is also the image folder, or has no run to resume.
    """
    options = {**request.options, "data": str(request.data.resolve())}
    if request.resume:
        return folder.read_settings(options)
    settings = resolve_settings(request.preset, request.config, options)
    if request.output.resolve() == request.data.resolve():
        raise UsageError(
            f"The run folder {request.output} is also the image folder", hint="choose another folder with -o"
        )
    if rank_from_environment() == 0:
        folder.create(settings, overwrite=request.overwrite)
    return settings


def load_split(settings: Settings, folder: RunFolder, processes: Processes, log: Log) -> Split:
    """Return the readable images. The main process scans them, once per run."""
    split = find_images(Path(settings.data), settings.val_split, settings.seed)
    if processes.is_main and folder.read_unreadable() is None:
        folder.write_unreadable(scan(split, settings.max_unreadable).unreadable)
    processes.barrier()
    split = exclude(split, folder.read_unreadable() or ())
    for path, problem in split.unreadable:
        log(f"Skipped {path}: {problem}")
    classes = count_noun(len(split.classes), "class")
    counts = f"{classes}, {len(split.train):,} training and {len(split.val):,} validation images"
    log(counts + (f", {len(split.unreadable):,} unreadable" if split.unreadable else ""))
    return split


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve ``auto``: bf16 if the device has instructions for it, else fp16 on a GPU and fp32 on a CPU."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16") else "fp32"


def _resources(processes: Processes) -> str:
    parts = [count_noun(processes.world_size, "process")] if processes.world_size > 1 else []
    if processes.device.type == "cpu":
        parts.append(count_noun(torch.get_num_threads(), "thread"))
    return "".join(f", {part}" for part in parts)


def make_student(settings: Settings, num_classes: int, *, offline: bool, log: Log) -> tuple[Levit, Transform]:
    """Return the network to train, and the preprocessing to use it with.

    Raises:
        RefusedError: the checkpoint or the architecture is unknown.
        UsageError: the image size is invalid.
    """
    if settings.from_scratch:
        config = _new_config(_architecture(settings.from_scratch), settings, num_classes, distilled=True)
        network, transform = random_init(config), transform_for("hf", (224, 224))
    else:
        checkpoint = load(settings.model, offline=offline, warn=lambda message: log(f"Warning: {message}"))
        distilled = checkpoint.config.distilled or bool(settings.teacher)
        config = _new_config(checkpoint.config, settings, num_classes, distilled=distilled)
        network, transform = adapt(checkpoint.state, checkpoint.config, config), checkpoint.transform
        if config.image_size != checkpoint.config.image_size:
            log(f"Attention biases interpolated from {checkpoint.config.grids} to {config.grids} tokens")
    if settings.freeze == "backbone":
        freeze_backbone(network)
    return network, _student_transform(transform, config.image_size, settings.resize_to)


def _architecture(name: str) -> LevitConfig:
    """Return the architecture of a variant, or of a Hugging Face ``config.json``."""
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


def _new_config(config: LevitConfig, settings: Settings, num_classes: int, *, distilled: bool) -> LevitConfig:
    return replace(
        config,
        num_classes=num_classes,
        image_size=_parse_image_size(settings.image_size) or config.image_size,
        drop_path_rate=settings.drop_path,
        distilled=distilled,
    )


def _parse_image_size(text: str) -> tuple[int, int] | None:
    """Parse ``N`` or ``HxW``; return None for an empty text."""
    if not text:
        return None
    try:
        sizes = [int(size) for size in text.lower().split("x")]
        height, width = sizes if len(sizes) == 2 else sizes * 2
    except ValueError as error:
        raise UsageError(f"Invalid image size {text}", hint="write 224, or 192x256 for height and width") from error
    return height, width


def _student_transform(transform: Transform, image_size: tuple[int, int], resize_to: int) -> Transform:
    """Return the checkpoint's preprocessing, or Hugging Face's for the new size if the image size changes."""
    if transform.crop_size == image_size and not resize_to:
        return transform
    standard = transform_for("hf", image_size)
    new = replace(standard, mean=transform.mean, std=transform.std)
    if resize_to:
        new = replace(new, resize_to=(resize_to, resize_to))
    return new if new == standard else replace(new, name="custom")


def load_teacher(
    settings: Settings, classes: tuple[str, ...], student: Transform, device: torch.device, log: Log
) -> Teacher | None:
    if not settings.teacher:
        return None
    return make_teacher(
        settings.teacher, settings.teacher_weights, classes, student,
        image_size=settings.teacher_size, device=device, log=log,
    )  # fmt: skip


def make_trainer(
    settings: Settings, split: Split, folder: RunFolder, processes: Processes, runtime: Runtime, log: Log
) -> Trainer:
    """Build the student, the teacher and the data loaders, and connect them."""
    torch.manual_seed(settings.seed)
    network, transform = make_student(settings, len(split.classes), offline=runtime.offline, log=log)
    teacher = load_teacher(settings, split.classes, transform, processes.device, log)
    loaders = Loaders(
        TrainingImages(split.train, settings, network.config.image_size),
        ValidationImages(split.val, transform),
        settings, runtime.workers, processes.rank, processes.world_size,
    )  # fmt: skip
    mix = make_mix(settings, len(split.classes))
    return Trainer(
        make_train_state(network, settings, processes, log),
        StepContext(settings, loaders.steps_per_epoch, transform, teacher, mix, processes.device, processes.rank),
        loaders, processes, folder, best_model_saver(folder, split, transform, settings), log, runtime.shows_progress,
    )  # fmt: skip


def best_model_saver(
    folder: RunFolder, split: Split, transform: Transform, settings: Settings
) -> Callable[[Levit, Metrics], None]:
    """Return the function that saves a network with its metrics to the run folder."""

    def save_best(network: Levit, metrics: Metrics) -> None:
        evaluation = Evaluation(_dataset_name(settings), metrics["val_images"], metrics["val_top1"])
        checkpoint = make_checkpoint(network, split.classes, transform, evaluation)
        save(checkpoint, folder.path, "hf", card=run_card(checkpoint, settings, len(split.train), metrics["epoch"]))

    return save_best


def _dataset_name(settings: Settings) -> str:
    return f"the validation images of {Path(settings.data).name}"


def make_checkpoint(
    network: Levit, classes: tuple[str, ...], transform: Transform, evaluation: Evaluation | None
) -> Checkpoint:
    """Return the network as a checkpoint that can be saved."""
    state = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in network.state_dict().items()}
    return Checkpoint(
        config=network.config, labels=from_names(classes), transform=transform, state=state, format="hf",
        dtype="float32", origin="a run of levit finetune", files=(),
        conversion=StateDictConversion(state, network.config, "hf", len(state)), evaluation=evaluation,
    )  # fmt: skip


def evaluate_best(folder: RunFolder, settings: Settings, split: Split, history: list[Metrics], log: Log) -> None:
    """Evaluate the saved model with the default engine, as ``levit eval`` does, and store this accuracy in the model.

    The accuracy measured during training can differ slightly, because the training form runs in float32.
    """
    checkpoint = load(folder.path)
    results = evaluate(checkpoint, ClassFolders(Path(settings.data), split.classes, split.val), EngineSpec())
    num_correct, count = int((results.ranked[:, 0] == results.targets).sum()), len(results.targets)
    evaluation = Evaluation(_dataset_name(settings), count, num_correct / count)
    checkpoint = replace(checkpoint, evaluation=evaluation)
    best = max(history, key=lambda metrics: float(metrics["val_top1"]))
    save(checkpoint, folder.path, "hf", card=run_card(checkpoint, settings, len(split.train), best["epoch"]))
    spec = results.engine.spec
    log(
        f"Best epoch {best['epoch']} of {len(history)}: top-1 {100 * evaluation.top1:.2f} % "
        f"({num_correct:,} of {count:,}) "
        f"with {spec.engine} in {spec.precision} · levit predict -m {folder.path} IMAGE"
    )
