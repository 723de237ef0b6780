"""The metrics of an epoch: which epoch is the best, and whether the training stops early."""

import math
from collections.abc import Sequence
from typing import Any

from levit_cli.choices import BestMetric
from levit_cli.finetune.settings import Settings
from levit_cli.system.text import count_noun

Metrics = dict[str, Any]  # of one epoch: a line of metrics.jsonl

KEYS: dict[BestMetric, str] = {"top1": "val_top1", "balanced_accuracy": "val_balanced_accuracy", "loss": "val_loss"}
NAMES: dict[BestMetric, str] = {
    "top1": "validation top-1", "balanced_accuracy": "validation balanced accuracy", "loss": "validation loss",
}  # fmt: skip


def score_of(metrics: Metrics, metric: BestMetric) -> float:
    """Return the value of the metric in an epoch, so that higher is better; a value that is no number is the worst."""
    value = float(metrics[KEYS[metric]])
    return -math.inf if math.isnan(value) else -value if metric == "loss" else value


def best_of(history: Sequence[Metrics], metric: BestMetric) -> Metrics:
    """Return the best epoch, which is the first of equal ones."""
    return max(history, key=lambda metrics: score_of(metrics, metric))


def is_exhausted(epochs_since_best: int, settings: Settings) -> bool:
    """Whether the training stops, because no epoch was better for as long as ``--patience`` says."""
    return 0 < settings.patience <= epochs_since_best


def reason_to_stop(settings: Settings) -> str:
    """Return why a training stopped early."""
    epochs = count_noun(settings.patience, "epoch")
    return f"{NAMES[settings.best_metric]} did not improve in {epochs} (--patience {settings.patience})"
