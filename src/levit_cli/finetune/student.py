"""Build the network to train: from a checkpoint with other classes or another image size, or from random weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from levit_cli.data.labels import Labels, composed
from levit_cli.model.config import Grid, LevitConfig
from levit_cli.model.levit import Levit, to_tensor

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def random_init(config: LevitConfig) -> Levit:
    """Return a network with random weights and both heads."""
    return Levit(replace(config, distilled=True))


def source_indices(classes: Sequence[str], labels: Labels) -> list[int | None]:
    """Return the checkpoint's class with the same name, or WordNet id, for each class; None if there is none.

    A name that two of the checkpoint's classes share is not used, nor are generated names. Names are compared in their
    composed form.
    """
    if labels.generated:
        return [None] * len(classes)
    known: dict[str, list[int]] = {}
    for names in (labels.names, labels.wnids or ()):
        for index, name in enumerate(names):
            known.setdefault(composed(name), []).append(index)
    return [indices[0] if len(indices := known.get(name, [])) == 1 else None for name in classes]


def adapt(
    state: Mapping[str, NDArray[Any]],
    config: LevitConfig,
    new_config: LevitConfig,
    sources: Sequence[int | None] | None = None,
) -> Levit:
    """Return a network of ``new_config`` with the weights of a checkpoint.

    The attention biases are interpolated to the new image size. The heads' linear layers keep the weights of known
    classes and get random weights for new ones; their batch norms are kept, because they fit the backbone's features.
    A distillation head that the checkpoint lacks starts as a copy of the other head.

    Args:
        config: the checkpoint's.
        new_config: may differ from ``config`` in classes, image size, drop path and number of heads.
        sources: for each class the index of the same class in the checkpoint, None for a new one. Without it, the
            classes are the checkpoint's, or all are new if their number differs.
    """
    network = Levit(new_config)
    if sources is None and new_config.num_classes != config.num_classes:
        sources = [None] * new_config.num_classes
    weights = _matching_heads({name: to_tensor(array) for name, array in state.items()}, config, new_config)
    initial = network.state_dict()
    for name, value in weights.items():
        if name.endswith(".biases"):
            weights[name] = resample_biases(value, *_key_grids(config, new_config, name))
        elif ".linear." in name and name.startswith("head") and sources is not None:
            weights[name] = _rows_by_class(value, initial[name], sources)
    network.load_state_dict({**initial, **weights})
    return network


def _rows_by_class(weights: Tensor, initial: Tensor, sources: Sequence[int | None]) -> Tensor:
    """Return the rows of known classes from ``weights`` (old classes, ...), and the others from ``initial``."""
    rows = [initial[index] if source is None else weights[source] for index, source in enumerate(sources)]
    return torch.stack(rows)


def _matching_heads(weights: dict[str, Tensor], config: LevitConfig, new_config: LevitConfig) -> dict[str, Tensor]:
    """Add or remove the distillation head's weights."""
    if not new_config.distilled:
        return {name: value for name, value in weights.items() if not name.startswith("head_dist.")}
    if config.distilled:
        return weights
    head = {name: value for name, value in weights.items() if name.startswith("head.")}
    return weights | {name.replace("head.", "head_dist.", 1): value for name, value in head.items()}


def resample_biases(biases: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """Interpolate attention biases: (heads, distances in ``grid``) -> (heads, distances in ``new_grid``).

    A bias belongs to a distance (dy, dx) between two tokens. Distances are matched as fractions of the image's height
    and width, dy / (rows - 1) and dx / (columns - 1).
    """
    if grid == new_grid:
        return biases
    table = biases.reshape(1, len(biases), *grid)
    resampled = F.interpolate(table, size=new_grid, mode="bilinear", align_corners=True)
    return resampled.reshape(len(biases), -1)


def _key_grids(config: LevitConfig, new_config: LevitConfig, name: str) -> tuple[Grid, Grid]:
    """Return both key grids of a bias table. The keys of a shrink block are the tokens of the stage before it."""
    stage = int(name.split(".")[1]) - (".shrink." in name)
    return config.grids[stage], new_config.grids[stage]


def freeze_backbone(network: Levit) -> None:
    """Train only the linear layers of the heads."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("head") and ".linear." in name)


def train_mode(network: nn.Module, *, frozen: bool) -> None:
    """Switch to training mode; with a frozen backbone, batch norms keep using their running statistics."""
    network.train()
    if frozen:
        for module in network.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()


class Heads(nn.Module):
    """Return the logits of each head separately: (B, 3, H, W) -> one tensor (B, classes) per head."""

    def __init__(self, network: Levit) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.network.forward_heads(x) if self.network.config.distilled else (self.network(x),)
