"""What ``levit finetune`` does: settle, look through the images, build student and teacher, train, say how good."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from levit_cli.checkpoints import Checkpoint, Evaluation, load, save
from levit_cli.checkpoints.detect import StateDictConversion
from levit_cli.choices import Preset
from levit_cli.data.image_folder import ClassFolders
from levit_cli.data.labels import from_names
from levit_cli.engines import EngineSpec
from levit_cli.errors import ExitCode, RefusedError, UsageError
from levit_cli.eval import evaluate
from levit_cli.finetune.ddp import Processes, joined
from levit_cli.finetune.loop import train
from levit_cli.finetune.model_card import run_card
from levit_cli.finetune.run_folder import Metrics, RunFolder
from levit_cli.finetune.settings import Settings, settle
from levit_cli.finetune.split import Split, find_images, look_through, without
from levit_cli.finetune.state import Run
from levit_cli.finetune.student import adapted, freeze_backbone, fresh
from levit_cli.finetune.teachers import Teacher, make_teacher
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.model.levit import Levit
from levit_cli.system.progress import Log, silent


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Args:
        given: settings that were named, by field of ``Settings``; None for those that were not.
        workers: processes that read images.
    """

    data: Path
    output: Path
    preset: Preset
    config: Path | None
    given: Mapping[str, Any]
    resume: bool
    overwrite: bool
    workers: int
    offline: bool = False
    shows_progress: bool = False


def finetune(request: Request, log: Log) -> ExitCode:
    """Train a model on class folders.

    Raises:
        UsageError, RefusedError: before anything was trained.
        StoppedError: the loss is no number any more.
        OutputError: the disk does not take it.
    """
    folder = RunFolder(request.output)
    settings = _settle(request, folder)
    with joined(settings.device) as processes:
        log = log if processes.is_first else silent
        split = _images(settings, folder, processes, log)
        settings = replace(settings, precision=_precision(settings, processes.device))
        log(f"Training on {processes.device} in {settings.precision}{_shared_by(processes)}")
        torch.manual_seed(settings.seed)
        network, transform = _student(settings, split, request, log)
        run = Run(
            settings, split, transform, network, _teacher(settings, split, transform, processes, log), folder,
            processes, save_best=_saver(folder, split, transform, settings), log=log, workers=request.workers,
            shows_progress=request.shows_progress,
        )  # fmt: skip
        if state := folder.load_state() if request.resume else None:
            run.restore(state)
            log(f"Resumed at epoch {run.position.epoch + 1}, step {run.position.step + 1}")
        train(run)
        if processes.is_first:
            _conclude(run, log)
        processes.wait()
    return ExitCode.OK


def _settle(request: Request, folder: RunFolder) -> Settings:
    given = {**request.given, "data": str(request.data.resolve())}
    if request.resume:
        return folder.resume(given)
    settings = settle(request.preset, request.config, given)
    _require_apart(request)
    if Processes.named_rank() == 0:
        folder.begin(settings, overwrite=request.overwrite)
    return settings


def _require_apart(request: Request) -> None:
    if request.output.resolve() == request.data.resolve():
        raise UsageError(f"The run folder {request.output} is the folder of the images", hint="name another with -o")


def _images(settings: Settings, folder: RunFolder, processes: Processes, log: Log) -> Split:
    """The images, looked through by the first process, once in a run."""
    split = find_images(Path(settings.data), settings.val_split, settings.seed)
    if processes.is_first and folder.read_bad() is None:
        folder.write_bad(look_through(split, settings.max_unreadable).bad)
    processes.wait()
    split = without(split, folder.read_bad() or ())
    for path, problem in split.bad:
        log(f"Left out {path}: {problem}")
    log(
        f"{len(split.classes)} classes, {len(split.train):,} images to train on, {len(split.val):,} to validate on"
        + (f", {len(split.bad):,} left out" if split.bad else "")
    )
    return split


def _precision(settings: Settings, device: torch.device) -> Any:
    """bf16 where the device has instructions for it; on other GPUs fp16, on other CPUs fp32."""
    if settings.precision != "auto":
        return settings.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16") else "fp32"


def _shared_by(processes: Processes) -> str:
    share = f", {processes.world} processes" if processes.world > 1 else ""
    return share + (f", {torch.get_num_threads()} threads" if processes.device.type == "cpu" else "")


def _student(settings: Settings, split: Split, request: Request, log: Log) -> tuple[Levit, Transform]:
    """The network to train, and the preprocessing that it will be used with."""
    if settings.from_scratch:
        shape, origin = _shape(settings.from_scratch), transform_for("hf", (224, 224))
        config = _wanted(shape, settings, split, distilled=True)
        network = fresh(config)
    else:
        checkpoint = load(settings.model, offline=request.offline, warn=lambda message: log(f"Warning: {message}"))
        config = _wanted(
            checkpoint.config, settings, split, distilled=checkpoint.config.distilled or bool(settings.teacher)
        )
        network, origin = adapted(checkpoint.state, checkpoint.config, config), checkpoint.transform
        if config.image_size != checkpoint.config.image_size:
            log(f"Attention biases interpolated from {checkpoint.config.grids} to {config.grids} tokens")
    if settings.freeze == "backbone":
        freeze_backbone(network)
    return network, _transform(origin, config, settings)


def _shape(name: str) -> LevitConfig:
    """Widths by a variant's name, or out of a Hugging Face ``config.json``."""
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
            f"No LeViT to begin with: {name}", why=str(error), hint=f"names are {', '.join(VARIANTS)}; or a config.json"
        ) from error


def _wanted(shape: LevitConfig, settings: Settings, split: Split, *, distilled: bool) -> LevitConfig:
    return replace(
        shape,
        num_classes=len(split.classes),
        image_size=_image_size(settings.image_size) or shape.image_size,
        drop_path_rate=settings.drop_path,
        distilled=distilled,
    )


def _image_size(text: str) -> tuple[int, int] | None:
    """``N`` or ``HxW`` in pixels; None for nothing."""
    if not text:
        return None
    try:
        sides = [int(side) for side in text.lower().split("x")]
        height, width = sides if len(sides) == 2 else sides * 2
    except ValueError as error:
        raise UsageError(f"No image size {text}", hint="write 224, or 192x256 for height and width") from error
    return height, width


def _transform(origin: Transform, config: LevitConfig, settings: Settings) -> Transform:
    """The checkpoint's own preprocessing where the size stays, else Hugging Face's for the new size."""
    edge = settings.resize_to
    if origin.crop_size == config.image_size and not edge:
        return origin
    transform = replace(transform_for("hf", config.image_size), mean=origin.mean, std=origin.std)
    if edge:
        transform = replace(transform, resize_to=(edge, edge))
    return transform if transform == transform_for("hf", config.image_size) else replace(transform, name="custom")


def _teacher(settings: Settings, split: Split, transform: Transform, processes: Processes, log: Log) -> Teacher | None:
    if not settings.teacher:
        return None
    return make_teacher(
        settings.teacher, settings.teacher_weights, split.classes, transform,
        image_size=settings.teacher_size, device=processes.device, log=log,
    )  # fmt: skip


def _saver(
    folder: RunFolder, split: Split, transform: Transform, settings: Settings
) -> Callable[[Levit, Metrics], None]:
    def save_best(network: Levit, row: Metrics) -> None:
        measured = Evaluation(_name_of_val(settings), row["val_images"], row["val_top1"])
        checkpoint = as_checkpoint(network, split.classes, transform, measured)
        save(checkpoint, folder.path, "hf", card=run_card(checkpoint, settings, len(split.train), row["epoch"]))

    return save_best


def _name_of_val(settings: Settings) -> str:
    return f"the validation images of {Path(settings.data).name}"


def as_checkpoint(
    network: Levit, classes: tuple[str, ...], transform: Transform, measured: Evaluation | None
) -> Checkpoint:
    """A network in training as a checkpoint that can be saved."""
    state = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in network.state_dict().items()}
    return Checkpoint(
        config=network.config, labels=from_names(classes), transform=transform, state=state, format="hf",
        dtype="float32", origin="a run of levit finetune", files=(),
        conversion=StateDictConversion(state, network.config, "hf", len(state)), evaluation=measured,
    )  # fmt: skip


def _conclude(run: Run, log: Log) -> None:
    """Measure the best once more, as ``levit eval`` does and on the engine that will run it; that is what is stated."""
    checkpoint = load(run.folder.path)
    images = ClassFolders(Path(run.settings.data), run.split.classes, run.split.val)
    answers = evaluate(checkpoint, images, EngineSpec())
    correct, count = int((answers.ranked[:, 0] == answers.targets).sum()), len(answers.targets)
    measured = Evaluation(_name_of_val(run.settings), count, correct / count)
    best = max(run.rows, key=lambda row: float(row["val_top1"]))
    checkpoint = replace(checkpoint, evaluation=measured)
    card = run_card(checkpoint, run.settings, len(run.split.train), best["epoch"])
    save(checkpoint, run.folder.path, "hf", card=card)
    spec = answers.engine.spec
    log(
        f"The best of {len(run.rows)} epochs: top-1 {measured.top1:.2%}, {correct:,} of {count:,}, by {spec.engine} in "
        f"{spec.precision} · levit predict -m {run.folder.path} IMAGE"
    )
