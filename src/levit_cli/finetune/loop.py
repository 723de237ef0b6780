"""The training loop: epochs of steps, a validation after each, and all of it saved such that it can go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite

import torch
from torch.nn import functional as F

from levit_cli.errors import StoppedError
from levit_cli.finetune.data import EpochBatches, training_loader, validation_loader
from levit_cli.finetune.display import epoch_bar, epoch_line
from levit_cli.finetune.run_folder import Metrics
from levit_cli.finetune.signals import Interruption, interruptible
from levit_cli.finetune.state import Position, Run
from levit_cli.finetune.step import normalised, train_step

SAVE_EVERY_S = 600.0  # within an epoch


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
