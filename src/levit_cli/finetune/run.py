"""Run ``levit finetune``: scan the images, build student and teacher, train, and evaluate the best model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from levit_cli.checkpoints import Checkpoint, Evaluation, load, save
from levit_cli.checkpoints.detect import StateDictConversion
from levit_cli.choices import Precision
from levit_cli.data.image_folder import ClassFolders
from levit_cli.data.labels import from_names
from levit_cli.engines import EngineSpec
from levit_cli.errors import ExitCode, RefusedError, TrainingStoppedError, UsageError
from levit_cli.eval import evaluate
from levit_cli.finetune.data import Loaders, TrainingImages, ValidationImages, reason_line
from levit_cli.finetune.ddp import Processes, process_group
from levit_cli.finetune.images_file import path_of
from levit_cli.finetune.loop import Trainer, quiet_libraries
from levit_cli.finetune.losses import balanced_class_weights
from levit_cli.finetune.metrics import NAMES, Metrics, best_of, is_exhausted
from levit_cli.finetune.model_card import run_card
from levit_cli.finetune.plan import Plan, architecture, log_images, require_batches
from levit_cli.finetune.run_folder import RunFolder, load_curves
from levit_cli.finetune.settings import Runtime, Settings, parse_image_size
from levit_cli.finetune.split import Split, exclude, scan
from levit_cli.finetune.state import Position, Student, TrainState, checkpoint_extras, make_train_state, restore_student
from levit_cli.finetune.step import StepContext, make_mix
from levit_cli.finetune.student import adapt, random_init, source_indices
from levit_cli.finetune.teachers import Teacher, make_teacher, stored_teacher
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import LevitConfig
from levit_cli.model.levit import Levit
from levit_cli.system.extras import extra
from levit_cli.system.progress import Log, silent
from levit_cli.system.text import count_noun, printable


def finetune(plan: Plan, runtime: Runtime, log: Log) -> ExitCode:
    """Train a model on class folders.

    Raises:
        UsageError, RefusedError: before the training starts; then nothing is written.
        TrainingStoppedError: the training cannot continue; the best model is kept.
        OutputError: the run folder cannot be written.
    """
    folder = plan.folder
    with quiet_libraries(), process_group(plan.settings.device) as processes:
        log = log if processes.is_main else silent
        settings = replace(plan.settings, precision=choose_precision(plan.settings.precision, processes.device))
        saved = folder.load_state() if plan.resume else None
        student = restore_student(saved, folder) if saved else make_student(plan, offline=runtime.offline, log=log)
        teacher_settings = stored_teacher(settings, folder.teacher_folder) if saved else settings
        teacher = load_teacher(
            teacher_settings, plan.split.classes, student.transform, processes.device, log, offline=runtime.offline
        )
        state = make_train_state(student.network, settings, processes, log)
        split = plan.split if saved else write_run(plan, state, student, teacher, processes)
        log_images(split, log)
        log(f"Training on {processes.device} in {settings.precision}{_resources(processes)}")
        load_curves(log)
        trainer = make_trainer(settings, split, student, teacher, state, folder, processes, runtime, log)
        if saved:
            if plan.settings.data != folder.read_settings({}).data and processes.is_main:
                folder.write_settings(plan.settings)  # the images were moved
            trainer.restore(saved)
            log(resume_line(trainer.position, settings))
        trainer.train()
        if processes.is_main:
            with engine_errors_reported(folder.path):
                evaluate_best(folder, settings, split, trainer.history, log)
        processes.barrier()
    return ExitCode.OK


@contextmanager
def engine_errors_reported(folder: Path) -> Iterator[None]:
    """Report an error of the engine, which evaluates the best model, as one line."""
    try:
        yield
    except RuntimeError as error:
        what, hint = f"Cannot evaluate the best model in {folder}", "try levit eval with --engine torch"
        raise TrainingStoppedError(what, why=reason_line(error), hint=hint) from error


def resume_line(position: Position, settings: Settings) -> str:
    if position.epoch == settings.epochs:
        return f"The run is finished: all {count_noun(settings.epochs, 'epoch')} are trained"
    if is_exhausted(position.epochs_since_best, settings):
        return f"The run is finished after {count_noun(position.epoch, 'epoch')}"
    return f"Resumed at epoch {position.epoch + 1}, step {position.step + 1}"


def write_run(plan: Plan, state: TrainState, student: Student, teacher: Teacher | None, processes: Processes) -> Split:
    """Scan the images and create the run folder; return the split without the unreadable images.

    The main process does both. The other processes read the list of unreadable images from the folder.

    Raises:
        UsageError, RefusedError: the images cannot be trained with.
        OutputError: the run folder cannot be written.
    """
    settings = plan.settings
    if processes.is_main:
        split = scan(plan.split, settings.max_unreadable)
        require_batches(settings, len(split.train), processes.world_size)
        start = {"network": state.network.state_dict(), **checkpoint_extras(student, Position())}
        store_teacher = teacher.store if teacher else None
        plan.folder.create(settings, split, start, store_teacher=store_teacher, overwrite=plan.overwrite)
    processes.barrier()
    if not processes.is_main:
        unreadable = [(path_of(key, plan.split.root), problem) for key, problem in plan.folder.read_unreadable()]
        split = exclude(plan.split, unreadable)
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


def make_student(plan: Plan, *, offline: bool, log: Log) -> Student:
    """Return the network to train, and the preprocessing to use it with.

    Raises:
        RefusedError: the checkpoint or the architecture is unknown.
    """
    settings, classes = plan.settings, plan.split.classes
    torch.manual_seed(settings.seed)
    if settings.from_scratch:
        config = _new_config(architecture(settings.from_scratch), settings, len(classes), distilled=True)
        network, transform = random_init(config), transform_for("hf", (224, 224))
    else:
        checkpoint = load(settings.model, offline=offline, warn=lambda message: log(f"Warning: {message}"))
        distilled = checkpoint.config.distilled or bool(settings.teacher)
        config = _new_config(checkpoint.config, settings, len(classes), distilled=distilled)
        sources = source_indices(classes, checkpoint.labels)
        network, transform = adapt(checkpoint.state, checkpoint.config, config, sources), checkpoint.transform
        log(kept_heads_line(sources))
        if config.image_size != checkpoint.config.image_size:
            log(f"Attention biases interpolated from {checkpoint.config.grids} to {config.grids} tokens")
    return Student(network, _student_transform(transform, config.image_size, settings.resize_to))


def kept_heads_line(sources: Sequence[int | None]) -> str:
    kept = sum(source is not None for source in sources)
    rest = "" if kept == len(sources) else "; those of the others start at random"
    return f"The head weights of {kept} of {count_noun(len(sources), 'class')} are kept{rest}"


def _new_config(config: LevitConfig, settings: Settings, num_classes: int, *, distilled: bool) -> LevitConfig:
    return replace(
        config,
        num_classes=num_classes,
        image_size=parse_image_size(settings.image_size) or config.image_size,
        drop_path_rate=settings.drop_path,
        distilled=distilled,
    )


def _student_transform(transform: Transform, image_size: tuple[int, int], resize_to: int) -> Transform:
    """Return the checkpoint's preprocessing, or Hugging Face's for the new size if the image size changes.

    Raises:
        UsageError: the images would be smaller than the crop.
    """
    if transform.crop_size == image_size and not resize_to:
        return transform
    if resize_to and resize_to < max(image_size):
        why = f"images are cropped to {image_size[0]} x {image_size[1]} pixels after they are resized"
        raise UsageError(f"--resize-to {resize_to} is too small", why=why, hint=f"use {max(image_size)} or more")
    standard = transform_for("hf", image_size)
    new = replace(standard, mean=transform.mean, std=transform.std)
    if resize_to:
        new = replace(new, resize_to=(resize_to, resize_to))
    return new if new == standard else replace(new, name="custom")


def load_teacher(
    settings: Settings,
    classes: tuple[str, ...],
    student: Transform,
    device: torch.device,
    log: Log,
    offline: bool,
) -> Teacher | None:
    """Return the teacher, after a first call with empty images.

    Raises:
        RefusedError: there is no such teacher, it has other classes, or it cannot take the images.
    """
    if not settings.teacher:
        return None
    teacher = make_teacher(
        settings.teacher, settings.teacher_weights, classes, student,
        image_size=settings.teacher_size, device=device, log=log, offline=offline,
    )  # fmt: skip
    try:
        teacher(torch.zeros(2, 3, *student.crop_size, device=device))
    except (RuntimeError, ValueError) as error:
        what = (
            f"The teacher {settings.teacher} cannot take images of {teacher.image_size[0]} x {teacher.image_size[1]} px"
        )
        raise RefusedError(what, why=reason_line(error)) from error
    return teacher


def make_trainer(
    settings: Settings,
    split: Split,
    student: Student,
    teacher: Teacher | None,
    state: TrainState,
    folder: RunFolder,
    processes: Processes,
    runtime: Runtime,
    log: Log,
) -> Trainer:
    """Build the data loaders, and connect them with the networks."""
    transform, classes = student.transform, len(split.classes)
    loaders = Loaders(
        TrainingImages(split.train, settings, student.network.config.image_size),
        ValidationImages(split.val, transform),
        settings, runtime.workers, processes.rank, processes.world_size, processes.device.type == "cuda",
    )  # fmt: skip
    mix = make_mix(settings, classes)
    context = StepContext(
        settings, loaders.steps_per_epoch, transform, teacher, mix, processes.device, processes.rank,
        make_class_weights(settings, split, processes.device),
    )  # fmt: skip
    return Trainer(
        state, context, loaders, processes, folder, student, best_model_saver(folder, split, transform, settings), log,
        runtime.shows_progress, metrics_logger(settings, folder),
    )  # fmt: skip


def make_class_weights(settings: Settings, split: Split, device: torch.device) -> torch.Tensor | None:
    """Return the factors of the losses (classes,), or None if the classes have no weights."""
    if settings.class_weights == "none":
        return None
    counts = torch.bincount(torch.tensor([index for _, index in split.train]), minlength=len(split.classes))
    return balanced_class_weights(counts).to(device)


def metrics_logger(settings: Settings, folder: RunFolder) -> Callable[[Metrics], None]:
    """Return the function that logs the metrics of an epoch, in addition to ``metrics.jsonl``.

    Raises:
        RefusedError: the package that it needs is broken.
    """
    if settings.log == "none":
        return lambda _: None
    with extra("tensorboard", "--log tensorboard"):
        from levit_cli.finetune import tensorboard_log
    return tensorboard_log.metrics_logger(folder.tensorboard_folder)


def best_model_saver(
    folder: RunFolder, split: Split, transform: Transform, settings: Settings
) -> Callable[[Levit, Metrics], None]:
    """Return the function that saves a network with its metrics to the run folder."""

    def save_best(network: Levit, metrics: Metrics) -> None:
        evaluation = Evaluation(_dataset_name(settings), metrics["val_images"], metrics["val_top1"])
        checkpoint = make_checkpoint(network, split.classes, transform, evaluation)
        save(checkpoint, folder.path, "hf", card=run_card(checkpoint, settings, len(split.train), metrics))

    return save_best


def _dataset_name(settings: Settings) -> str:
    return f"the validation images of {printable(Path(settings.data).name)}"


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
    best = best_of(history, settings.best_metric)
    card = run_card(checkpoint, settings, len(split.train), best, num_epochs=len(history))
    save(checkpoint, folder.path, "hf", card=card)
    spec = results.engine.spec
    chosen = "" if settings.best_metric == "top1" else f" by {NAMES[settings.best_metric]}"
    log(
        f"Best epoch{chosen} {best['epoch']} of {len(history)}: top-1 {100 * evaluation.top1:.2f} % "
        f"({num_correct:,} of {count:,}) "
        f"with {spec.engine} in {spec.precision} · levit predict -m {folder.path} IMAGE"
    )
