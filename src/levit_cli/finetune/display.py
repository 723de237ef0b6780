"""How a training run reports an epoch: one line with loss, accuracy and pace."""

from collections.abc import Mapping
from typing import Any


def epoch_line(row: Mapping[str, Any], epochs: int, *, best: bool) -> str:
    """An epoch in one line."""
    left = (epochs - row["epoch"]) * row["epoch_s"]
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.3f}, validation loss {row['val_loss']:.3f}, "
        f"top-1 {row['val_top1']:.2%}{' (best)' if best else ''}, {row['images_per_s']:.0f} images/s, "
        f"{_duration(left)} left"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min"
        if minutes
        else f"{seconds:.0f} s"
    )
