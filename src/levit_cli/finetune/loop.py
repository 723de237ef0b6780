"""The training loop: train an epoch, validate, save, and repeat."""

import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from levit_cli.errors import TrainingStoppedError
from levit_cli.finetune.data import SHARED_MEMORY_HINT, Loader, Loaders, batches_of, full_memory, reason_line
from levit_cli.finetune.ddp import Processes
from levit_cli.finetune.metrics import Metrics, is_exhausted, reason_to_stop, score_of
from levit_cli.finetune.run_folder import RunFolder, refuse_damaged
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.state import Position, Student, TrainState, checkpoint_dict
from levit_cli.finetune.step import StepContext, normalize, train_step
from levit_cli.images.transforms import Transform
from levit_cli.model.levit import Levit
from levit_cli.system.progress import Log, progress
from levit_cli.system.signals import DeferredSignals, deferred_signals

SAVE_INTERVAL_S = 600.0  # within an epoch; the state is also saved after each epoch


@dataclass(frozen=True)
class Validation:
    """Results on the validation images of all processes.

    Args:
        loss: the mean cross entropy.
        correct_by_class, images_by_class: (classes,) numbers of images.
    """

    loss: float
    correct_by_class: Tensor
    images_by_class: Tensor

    @property
    def num_correct(self) -> int:
        return int(self.correct_by_class.sum())

    @property
    def num_images(self) -> int:
        return int(self.images_by_class.sum())

    @property
    def top1(self) -> float:
        return self.num_correct / self.num_images

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall over the classes that have validation images."""
        has_images = self.images_by_class > 0
        return float((self.correct_by_class[has_images] / self.images_by_class[has_images]).mean())


@dataclass
class Trainer:
    """Trains a network from its current position to its last epoch, or until it does not improve any more.

    Args:
        student: the network and the preprocessing; both are saved with the state.
        save_best: called with the validated network and its metrics when the best metric has improved.
        log_metrics: called with the metrics of each epoch.
        history: the metrics of the finished epochs.
    """

    state: TrainState
    context: StepContext
    loaders: Loaders
    processes: Processes
    folder: RunFolder
    student: Student
    save_best: Callable[[Levit, Metrics], None]
    log: Log
    shows_progress: bool = False
    log_metrics: Callable[[Metrics], None] = lambda _: None
    clock: Callable[[], float] = time.perf_counter
    position: Position = field(default_factory=Position)
    history: list[Metrics] = field(default_factory=list)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue from the content of ``state.pt``.

        Raises:
            RefusedError: the position or ``metrics.jsonl`` is damaged.
        """
        self.state.load_state_dict(saved)
        with refuse_damaged(self.folder.state_file):
            self.position = Position(**saved["position"])
        self.history = self.folder.read_metrics(self.position.epoch)

    def train(self) -> None:
        """Train the remaining epochs.

        Raises:
            TrainingStoppedError: the loss became NaN or infinite, or a data-loader worker was killed.
            KeyboardInterrupt, Terminated: a signal arrived; the state is saved.
        """
        with deferred_signals(second_ends=True) as signals, errors_reported(signals):
            settings = self.context.settings
            while self.position.epoch < settings.epochs:
                if is_exhausted(self.position.epochs_since_best, settings):
                    finished = f"epoch {self.position.epoch} of {settings.epochs}"
                    self.log(f"Stopped after {finished}: {reason_to_stop(settings)}")
                    break
                start = self.clock()
                self.train_epoch(signals)
                self.finish_epoch(self.clock() - start)

    def train_epoch(self, signals: DeferredSignals) -> None:
        """Train the remaining steps of the current epoch; save the state regularly and when a signal arrives."""
        position, batch_size = self.position, self.loaders.batch_size
        title = f"epoch {position.epoch + 1}/{self.context.settings.epochs}"
        total, last_save = batch_size * self.loaders.steps_per_epoch, self.clock()
        shown = self.shows_progress and self.processes.is_main
        with progress(shown=shown, total=total, title=title, done=position.num_images) as bar:
            for pixels, targets in batches_of(self.loaders.training(position.epoch, position.step)):
                step = position.epoch * self.loaders.steps_per_epoch + position.step
                results = train_step(self.state, self.context, step, pixels, targets)
                loss, num_correct, stop = reduce_results(self.processes, *results, signals.arrived)
                if not isfinite(loss):
                    raise diverged(position, self.folder.path, has_checkpoint=bool(self.history))
                position.add_step(loss, num_correct, batch_size)
                bar.advance(batch_size, f"loss {position.mean_loss:.3f}, accuracy {100 * position.accuracy:.1f} %")
                if stop or self.clock() - last_save > SAVE_INTERVAL_S:
                    self.save_state()
                    last_save = self.clock()
                if stop:
                    where = f"epoch {position.epoch + 1}, step {position.step}"
                    command = f"levit finetune -o {shlex.quote(str(self.folder.path))} --resume"
                    self.log(f"Saved the state at {where} · continue with: {command}")
                    self.processes.barrier()
                    signals.act()

    def finish_epoch(self, training_s: float) -> None:
        """Validate the network and save the metrics, the state and, if it is the best so far, the network."""
        start, network = self.clock(), self.state.eval_model
        validation = validate(network, self.loaders.validation(), self.context.transform, self.processes)
        epoch_s = training_s + self.clock() - start
        settings = self.context.settings
        step = (self.position.epoch + 1) * self.loaders.steps_per_epoch
        metrics = epoch_metrics(self.position, step, validation, self.state.lr, training_s, epoch_s)
        score = score_of(metrics, settings.best_metric)
        is_best = self.position.is_improved_by(score)
        self.position = self.position.next_epoch(score, epoch_s)
        self.history.append(metrics)
        if self.processes.is_main:
            if is_best:
                self.save_best(network, metrics)
            if problem := self.folder.write_metrics(self.history, settings.best_metric):
                self.log(problem)
            self.log_metrics(metrics)
        self.save_state()
        self.log(epoch_line(metrics, settings, is_best=is_best))

    def save_state(self) -> None:
        if self.processes.is_main:
            self.folder.save_state(checkpoint_dict(self.state, self.student, self.position))


def reduce_results(processes: Processes, loss: float, num_correct: int, signal: int) -> tuple[float, int, bool]:
    """Combine the results of a step over all processes.

    Returns:
        The mean loss, the number of correct predictions, and whether any process received a signal.
    """
    sums = torch.tensor([loss / processes.world_size, num_correct, signal], dtype=torch.float64)
    mean_loss, total_correct, signals = processes.all_reduce(sums).tolist()
    return mean_loss, int(total_correct), bool(signals)


@torch.inference_mode()
def validate(network: Levit, loader: Loader, transform: Transform, processes: Processes) -> Validation:
    """Measure the network on the validation images of all processes, in float32."""
    processes.broadcast(network)
    network.eval()
    loss_sum = torch.zeros(1, dtype=torch.float64)
    counts = torch.zeros(2, network.config.num_classes, dtype=torch.float64)  # correct images, images
    for pixels, targets in batches_of(loader):
        logits = network(normalize(pixels.to(processes.device, non_blocking=True), transform)).cpu()
        loss_sum += F.cross_entropy(logits, targets, reduction="sum").item()
        correct = targets[logits.argmax(dim=1) == targets]
        counts += torch.stack([torch.bincount(classes, minlength=counts.shape[1]) for classes in (correct, targets)])
    reduced = processes.all_reduce(torch.cat([loss_sum, counts.flatten()])).cpu()
    correct_by_class, images_by_class = reduced[1:].reshape(counts.shape)
    return Validation(float(reduced[0] / images_by_class.sum()), correct_by_class, images_by_class)


def epoch_metrics(
    position: Position, step: int, validation: Validation, lr: float, training_s: float, epoch_s: float
) -> Metrics:
    """Return the line of ``metrics.jsonl`` for the epoch that ends at ``position``."""
    return {
        "epoch": position.epoch + 1,
        "step": step,
        "train_loss": position.mean_loss,
        "train_top1": position.accuracy,
        "val_loss": validation.loss,
        "val_top1": validation.top1,
        "val_correct": validation.num_correct,
        "val_images": validation.num_images,
        "val_balanced_accuracy": validation.balanced_accuracy,
        "learning_rate": lr,
        "images_per_s": position.num_images / training_s,
        "epoch_s": epoch_s,
        "elapsed_s": position.elapsed_s + epoch_s,
    }


def epoch_line(metrics: Metrics, settings: Settings, *, is_best: bool) -> str:
    """Return the log line of an epoch."""
    epochs, metric = settings.epochs, settings.best_metric
    left_s = (epochs - metrics["epoch"]) * metrics["epoch_s"]
    values = {
        "loss": f"validation loss {metrics['val_loss']:.3f}",
        "top1": f"top-1 {100 * metrics['val_top1']:.2f} %",
        "balanced_accuracy": f"balanced accuracy {100 * metrics['val_balanced_accuracy']:.2f} %",
    }
    if is_best:
        values[metric] += " (best)"
    shown = [value for name, value in values.items() if name in ("loss", "top1", metric)]
    return (
        f"epoch {metrics['epoch']}/{epochs}: loss {metrics['train_loss']:.3f}, {', '.join(shown)}, "
        f"{metrics['images_per_s']:.1f} images/s, {_duration(left_s)} left"
    )


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


@contextmanager
def errors_reported(signals: DeferredSignals) -> Iterator[None]:
    """Report errors of torch as one line with the cause.

    For a data-loader worker that was killed, torch raises a ``RuntimeError`` at an arbitrary line. The state is not
    saved then, because a step may be half done.

    Raises:
        TrainingStoppedError: the system killed a worker, or torch cannot continue.
        KeyboardInterrupt, Terminated: the signal that ended a worker also arrived in this process.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (RuntimeError, MemoryError, OSError) as error:
        if signals.arrived and "DataLoader worker" in str(error):
            signals.act()
        raise stopped(error) from error


def stopped(error: BaseException) -> TrainingStoppedError:
    """Return the error that explains an error of torch."""
    text, why = str(error), reason_line(error)
    if "Bus error" in text or "shared memory" in text or "/torch_" in text:
        return TrainingStoppedError("A data-loader worker was killed", why=full_memory(), hint=SHARED_MEMORY_HINT)
    if "DataLoader worker" in text:
        hint = "--resume continues from the last saved state; --workers 0 needs less memory"
        return TrainingStoppedError("A data-loader worker was killed", why=why, hint=hint)
    if "out of memory" in text or "allocate memory" in text or isinstance(error, MemoryError):
        hint = "start another run with a smaller --batch-size or --image-size, or with --grad-accum-steps"
        return TrainingStoppedError("The memory is too small for this training", why=why, hint=hint)
    if isinstance(error, OSError):
        return TrainingStoppedError("The data loader failed", why=why, hint="--resume continues; try --workers 0")
    hint = "--resume continues from the last saved state; --debug prints a traceback"
    return TrainingStoppedError("A step of the training failed", why=why, hint=hint)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard the warnings of torch and torchvision. They go to standard error, and concern no choice of the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch(vision)?\b")
        yield


def diverged(position: Position, folder: Path, *, has_checkpoint: bool) -> TrainingStoppedError:
    kept = f"the best model so far is in {folder}" if has_checkpoint else "no model was saved yet"
    return TrainingStoppedError(
        f"The loss became NaN or infinite in epoch {position.epoch + 1} at step {position.step + 1}",
        why="the learning rate is too high, or the teacher's logits are NaN or infinite",
        hint=f"{kept}; try a smaller --learning-rate",
    )
