"""The head of a probe's model: the batch norm standardizes the features, and the linear layer holds the regression."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import Checkpoint, Evaluation
from levit_cli.data.labels import from_names
from levit_cli.probe.regression import LinearProbe


def with_head(
    checkpoint: Checkpoint, probe: LinearProbe, classes: tuple[str, ...], temperature: float, evaluation: Evaluation
) -> Checkpoint:
    """Return the checkpoint with its heads replaced by one, for the classes of the regression.

    The arrays of the backbone are those of ``checkpoint``. They are saved in float32, which represents each value of
    the other types exactly.
    """
    backbone = {name: array for name, array in checkpoint.state.items() if not name.startswith(("head.", "head_dist."))}
    width = len(probe.standardization.mean)
    head: dict[str, NDArray[Any]] = {
        "head.norm.weight": np.ones(width, np.float32),
        "head.norm.bias": np.zeros(width, np.float32),
        "head.norm.running_mean": probe.standardization.mean,
        "head.norm.running_var": probe.standardization.variance,
        "head.norm.num_batches_tracked": np.array(1, np.int64),
        "head.linear.weight": probe.weight,
        "head.linear.bias": probe.bias,
    }
    return replace(
        checkpoint,
        config=replace(checkpoint.config, num_classes=len(classes), distilled=False),
        labels=from_names(classes),
        state={**backbone, **head},
        dtype="float32",
        temperature=temperature,
        threshold=None,
        evaluation=evaluation,
        int8=None,
    )
