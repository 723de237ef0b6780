"""Log the metrics of a run for TensorBoard, one value per epoch.

A process of a run writes a file of its own, so that a resumed run appends to the events of the first one. A run that
was killed between its writes may have logged an epoch that is trained again: the new file begins with an event that
makes TensorBoard discard all later steps of the older files.
"""

from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from levit_cli.finetune.metrics import Metrics
from levit_cli.system.atomic import writing

TAGS = {
    "train_loss": "loss/training", "val_loss": "loss/validation", "train_top1": "top1/training",
    "val_top1": "top1/validation", "val_balanced_accuracy": "balanced_accuracy/validation",
    "learning_rate": "learning_rate", "images_per_s": "images_per_s",
}  # fmt: skip


def metrics_logger(folder: Path) -> Callable[[Metrics], None]:
    """Return the function that logs the metrics of an epoch to event files in a folder.

    The file is created with the first epoch that is logged, so that a finished run gets none.

    Raises:
        OutputError: raised by that function if the folder cannot be written.
    """
    writers: list[SummaryWriter] = []

    def log_metrics(metrics: Metrics) -> None:
        epoch = int(metrics["epoch"])
        with writing(folder):
            if not writers:
                purge_step = epoch if folder.exists() else None
                writers.append(SummaryWriter(str(folder), purge_step=purge_step))
            for name, tag in TAGS.items():
                writers[0].add_scalar(tag, metrics[name], epoch)
            writers[0].flush()

    return log_metrics
