"""The training loop: epochs of steps, a validation after each, and all of it saved such that it can go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite

import torch
from torch.nn import functional as F

from levit_cli.errors import TrainingStoppedError
from levit_cli.finetune.data import EpochBatches, training_loader, validation_loader
from levit_cli.finetune.display import epoch_line
from levit_cli.finetune.run_folder import Metrics
from levit_cli.finetune.state import Position, Run
from levit_cli.finetune.step import normalised, train_step
from levit_cli.system.progress import progress
from levit_cli.system.signals import DeferredSignals, deferred_signals

SAVE_EVERY_S = 600.0  # within an epoch


def train(run: Run) -> None:
    """From where the run stands to its last epoch.

    Raises:
        StoppedError: the loss is no number any more.
        KeyboardInterrupt, Terminated: as asked for; the state is saved.
    """
    with deferred_signals(second_ends=True) as signals, readers_watched(signals):
        while run.position.epoch < run.settings.epochs:
            began = run.clock()
            train_epoch(run, signals)
            finish_epoch(run, run.clock() - began)


@contextmanager
def readers_watched(signals: DeferredSignals) -> Iterator[None]:
    """The end of a process that reads images, which torch tells by an exception amid any line, so that none is saved.

    Raises:
        StoppedError: the system ended it.
        KeyboardInterrupt, Terminated: the signal that ended it came to this process too.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if signals.arrived:
            signals.act()
        raise TrainingStoppedError(
            "A process that reads images was ended by the system",
            why=str(error).strip(),
            hint="--resume goes on from the last save; --workers 0 needs less memory",
        ) from error


def train_epoch(run: Run, signals: DeferredSignals) -> None:
    """The rest of an epoch."""
    position, settings, processes = run.position, run.settings, run.processes
    batches = EpochBatches(
        len(run.split.train), settings, position.epoch, position.step, processes.rank, processes.world
    )
    title, images = f"epoch {position.epoch + 1}/{settings.epochs}", run.epoch_steps * run.batch_size
    saved = run.clock()
    shown = run.shows_progress and processes.is_first
    with progress(shown=shown, total=images, title=title, done=position.seen) as bar:
        for pixels, targets in training_loader(run.images, batches, run.workers):
            loss, correct = train_step(run, pixels, targets)
            loss, correct, stop = processes.total(
                torch.tensor([loss / processes.world, correct, signals.arrived], dtype=torch.float64)
            ).tolist()
            if not isfinite(loss):
                raise diverged(run)
            position.step += 1
            position.seen += run.batch_size
            position.loss_sum += loss * run.batch_size
            position.correct += int(correct)
            loss_so_far, accuracy = position.loss_sum / position.seen, position.correct / position.seen
            bar.advance(run.batch_size, f"loss {loss_so_far:.3f}, accuracy {accuracy:.1%}")
            if stop or run.clock() - saved > SAVE_EVERY_S:
                save_state(run)
                saved = run.clock()
            if stop:
                run.log(f"Saved in epoch {position.epoch + 1} at step {position.step} · the same with --resume goes on")
                processes.wait()
                signals.act()


@torch.inference_mode()
def validate(run: Run) -> tuple[float, int, int]:
    """(mean cross entropy, right, all) over the validation images of all processes, in float32."""
    network, processes = run.validated, run.processes
    processes.share(network)
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    loader = validation_loader(run.val_images, run.batch_size, run.workers, processes.rank, processes.world)
    for pixels, targets in loader:
        logits = network(normalised(pixels.to(processes.device), run.transform)).cpu()
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
        "val_images": val_count,
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
    run.log(epoch_line(row, run.settings.epochs, best=is_best))


def save_state(run: Run) -> None:
    if run.processes.is_first:
        run.folder.save_state(run.state())


def diverged(run: Run) -> TrainingStoppedError:
    kept = f"the best so far is kept in {run.folder.path}" if run.rows else "there is no checkpoint yet"
    return TrainingStoppedError(
        f"The loss is no number any more, in epoch {run.position.epoch + 1} at step {run.position.step + 1}",
        why="the learning rate is too high, or an image or the teacher gives no numbers",
        hint=f"{kept}; try a smaller --learning-rate",
    )
