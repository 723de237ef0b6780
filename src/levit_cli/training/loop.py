"""The training loop: epochs of steps, a validation after each, and all of it saved such that it can go on.

Random numbers are drawn anew for each step from the seed and the step's number, so that a run that was broken off and
resumed is the run that was not.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from levit_cli.engines.torch_compile import compiled_for_training
from levit_cli.errors import StoppedError
from levit_cli.model import Levit
from levit_cli.recipes import Recipe
from levit_cli.training.data import (
    EpochBatches,
    Split,
    TrainingPictures,
    ValidationPictures,
    steps_of,
    training_loader,
    validation_loader,
)
from levit_cli.training.display import epoch_bar, epoch_line
from levit_cli.training.interruption import Interruption, interruptible
from levit_cli.training.losses import total_loss
from levit_cli.training.optimising import clip_adaptively, make_optimizer, moving_average, rate_at
from levit_cli.training.processes import Processes
from levit_cli.training.run_folder import Metrics, RunFolder
from levit_cli.training.settings import Settings
from levit_cli.training.student import Heads, train_mode
from levit_cli.training.teachers import Teacher

Say = Callable[[str], None]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SAVE_EVERY_S = 600.0  # within an epoch


@dataclass
class Position:
    """Where a run stands, and what the epoch under way has come to."""

    epoch: int = 0
    step: int = 0  # within the epoch
    seen: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    best: float = -1.0
    elapsed_s: float = 0.0


@dataclass
class Run:
    """All that takes part in a training.

    Args:
        save_best: called with the validated network and the metrics of its epoch.
        workers: processes that read pictures; 0 reads them in this one.
    """

    settings: Settings
    split: Split
    recipe: Recipe
    network: Levit
    teacher: Teacher | None
    folder: RunFolder
    processes: Processes
    save_best: Callable[[Levit, Metrics], None]
    say: Say
    workers: int = 0
    shows_progress: bool = False
    clock: Callable[[], float] = time.perf_counter
    position: Position = field(default_factory=Position)
    rows: list[Metrics] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = self.settings
        self.network.to(self.processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.together = self.processes.together(self._heads())
        self.optimizer = make_optimizer(self.network, settings.peak_rate(), settings.weight_decay)
        self.average = moving_average(self.network, settings.ema) if settings.ema else None
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=settings.precision == "fp16")
        self.batch_size, self.epoch_steps = steps_of(len(self.split.train), settings)
        self.mix = mixing(settings, len(self.split.classes))
        self.pictures = TrainingPictures(self.split.train, settings, self.network.config.image_size)
        self.val_pictures = ValidationPictures(self.split.val, self.recipe)

    def _heads(self) -> nn.Module:
        heads = Heads(self.network)
        if not self.settings.compile:
            return heads
        self.say("Compiling the network, which takes a minute or two")
        return compiled_for_training(heads, self.processes.device.type)

    @property
    def validated(self) -> Levit:
        """The network whose accuracy is measured, and which is kept: the moving average, if there is one."""
        return self.network if self.average is None else self.average.module  # type: ignore[return-value]

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "scaler": self.scaler.state_dict(),
            "position": vars(self.position),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.position = Position(**state["position"])
        self.rows = self.folder.read_metrics(self.position.epoch)


def mixing(settings: Settings, classes: int) -> v2.Transform | None:
    """Mixup or cutmix, by turns at random where both are asked for; both turn classes into probabilities."""
    choices: list[v2.Transform] = []
    if settings.mixup:
        choices.append(v2.MixUp(alpha=settings.mixup, num_classes=classes))
    if settings.cutmix:
        choices.append(v2.CutMix(alpha=settings.cutmix, num_classes=classes))
    return v2.RandomChoice(choices) if choices else None


def train(run: Run) -> None:
    """From where the run stands to its last epoch.

    Raises:
        StoppedError: the loss is no number any more.
        KeyboardInterrupt, Terminated: as asked for; the state is saved.
    """
    with interruptible() as interruption, readers_watched(interruption):
        while run.position.epoch < run.settings.epochs:
            began = run.clock()
            train_epoch(run, interruption)
            finish_epoch(run, run.clock() - began)


@contextmanager
def readers_watched(interruption: Interruption) -> Iterator[None]:
    """The end of a process that reads pictures, which torch tells by an exception amid any line, so that none is saved.

    Raises:
        StoppedError: the system ended it.
        KeyboardInterrupt, Terminated: the signal that ended it came to this process too.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if interruption.signum:
            interruption.act()
        raise StoppedError(
            "A process that reads pictures was ended by the system",
            why=str(error).strip(),
            hint="--resume goes on from the last save; --workers 0 needs less memory",
        ) from error


def train_epoch(run: Run, interruption: Interruption) -> None:
    """The rest of an epoch."""
    position, settings, processes = run.position, run.settings, run.processes
    batches = EpochBatches(
        len(run.split.train), settings, position.epoch, position.step, processes.rank, processes.world
    )
    title, pictures = f"epoch {position.epoch + 1}/{settings.epochs}", run.epoch_steps * run.batch_size
    saved = run.clock()
    shown = run.shows_progress and processes.is_first
    with epoch_bar(title, pictures, position.seen, shown=shown) as advance:
        for pixels, targets in training_loader(run.pictures, batches, run.workers):
            loss, correct = train_step(run, pixels, targets)
            loss, correct, stop = processes.total(
                torch.tensor([loss / processes.world, correct, interruption.signum], dtype=torch.float64)
            ).tolist()
            if not isfinite(loss):
                raise diverged(run)
            position.step += 1
            position.seen += run.batch_size
            position.loss_sum += loss * run.batch_size
            position.correct += int(correct)
            advance(position.seen, position.loss_sum / position.seen, position.correct / position.seen)
            if stop or run.clock() - saved > SAVE_EVERY_S:
                save_state(run)
                saved = run.clock()
            if stop:
                run.say(f"Saved in epoch {position.epoch + 1} at step {position.step} · the same with --resume goes on")
                processes.wait()
                interruption.act()


def train_step(run: Run, pixels: Tensor, targets: Tensor) -> tuple[float, int]:
    """One update of the weights. Returns the mean loss of this process's pictures and how many it got right."""
    settings, device = run.settings, run.processes.device
    number = run.position.epoch * run.epoch_steps + run.position.step
    torch.manual_seed(hash((settings.seed, number, run.processes.rank)))
    warmup_steps = round(settings.warmup_epochs * run.epoch_steps)
    rate = rate_at(number, settings.epochs * run.epoch_steps, warmup_steps, settings.peak_rate(), settings.min_rate)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    train_mode(run.network, frozen=settings.freeze == "backbone")
    x, targets = normalised(pixels.to(device), run.recipe), targets.to(device)
    if run.mix is not None:
        x, targets = run.mix(x, targets)
    loss_sum, correct = 0.0, 0
    for part, part_targets in zip(x.chunk(settings.accumulate), targets.chunk(settings.accumulate), strict=True):
        loss, heads = forward(run, part, part_targets)
        run.scaler.scale(loss * (len(part) / len(x))).backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.item() * len(part)
        correct += count_correct(heads, part_targets)
    update(run)
    return loss_sum / len(x), correct


def forward(run: Run, x: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss of some pictures, and the logits of each head."""
    settings = run.settings
    lesson = run.teacher(x) if run.teacher else None
    with autocast(run):
        heads = run.together(x)
    heads = tuple(head.float() for head in heads)
    loss = total_loss(
        heads, targets, lesson, smoothing=settings.label_smoothing, distill=settings.distill,
        alpha=settings.alpha, temperature=settings.distill_temperature,
    )  # fmt: skip
    return loss, heads


def update(run: Run) -> None:
    settings = run.settings
    run.scaler.unscale_(run.optimizer)
    parameters = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
    if settings.clip and settings.clip_mode == "norm":
        nn.utils.clip_grad_norm_(parameters, settings.clip)
    elif settings.clip:
        clip_adaptively(parameters, settings.clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if run.average:
        run.average.update_parameters(run.network)


def autocast(run: Run) -> torch.autocast:
    dtype = DTYPES.get(run.settings.precision)
    return torch.autocast(run.processes.device.type, dtype, enabled=dtype is not None)


def normalised(pixels: Tensor, recipe: Recipe) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 as the recipe normalises it, channels last."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def count_correct(heads: tuple[Tensor, ...], targets: Tensor) -> int:
    """How often the mean of the heads is right; for mixed pictures, about the class of the larger share."""
    wanted = targets.argmax(dim=1) if targets.ndim == 2 else targets
    return int((torch.stack(heads).mean(dim=0).argmax(dim=1) == wanted).sum())


@torch.inference_mode()
def validate(run: Run) -> tuple[float, int, int]:
    """(mean cross entropy, right, all) over the validation pictures of all processes, in float32."""
    network, processes = run.validated, run.processes
    processes.share(network)
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    loader = validation_loader(run.val_pictures, run.batch_size, run.workers, processes.rank, processes.world)
    for pixels, targets in loader:
        logits = network(normalised(pixels.to(processes.device), run.recipe)).cpu()
        loss = F.cross_entropy(logits, targets, reduction="sum")
        sums += torch.tensor([loss.item(), int((logits.argmax(dim=1) == targets).sum()), len(targets)])
    loss_sum, correct, count = processes.total(sums).tolist()
    return loss_sum / count, int(correct), int(count)


def finish_epoch(run: Run, trained_s: float) -> None:
    """Validate, and write all that the epoch has come to."""
    position = run.position
    began = run.clock()
    val_loss, val_correct, val_count = validate(run)
    epoch_s = trained_s + run.clock() - began
    position.elapsed_s += epoch_s
    row: Metrics = {
        "epoch": position.epoch + 1,
        "step": (position.epoch + 1) * run.epoch_steps,
        "train_loss": position.loss_sum / position.seen,
        "train_top1": position.correct / position.seen,
        "val_loss": val_loss,
        "val_top1": val_correct / val_count,
        "val_correct": val_correct,
        "val_pictures": val_count,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "images_per_s": position.seen / trained_s,
        "epoch_s": epoch_s,
        "elapsed_s": position.elapsed_s,
    }
    is_best = row["val_top1"] > position.best
    run.rows.append(row)
    run.position = Position(
        epoch=position.epoch + 1, best=max(position.best, row["val_top1"]), elapsed_s=position.elapsed_s
    )
    if run.processes.is_first:
        if is_best:
            run.save_best(run.validated, row)
        run.folder.write_metrics(run.rows)
    save_state(run)
    run.say(epoch_line(row, run.settings.epochs, best=is_best))


def save_state(run: Run) -> None:
    if run.processes.is_first:
        run.folder.save_state(run.state())


def diverged(run: Run) -> StoppedError:
    kept = f"the best so far is kept in {run.folder.path}" if run.rows else "there is no checkpoint yet"
    return StoppedError(
        f"The loss is no number any more, in epoch {run.position.epoch + 1} at step {run.position.step + 1}",
        why="the learning rate is too high, or a picture or the teacher gives no numbers",
        hint=f"{kept}; try a smaller --learning-rate",
    )
