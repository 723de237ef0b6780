"""The network that learns: a checkpoint's, made ready for other classes and another image size, or a fresh one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from levit_cli.model.config import Grid, LevitConfig
from levit_cli.model.levit import Levit, to_tensor

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fresh(config: LevitConfig) -> Levit:
    """Random weights, with both heads."""
    return Levit(replace(config, distilled=True))


def adapted(state: Mapping[str, NDArray[Any]], config: LevitConfig, wanted: LevitConfig) -> Levit:
    """A checkpoint's network for ``wanted``: attention biases resampled, the heads' linear layers made anew.

    Args:
        wanted: ``config`` with other classes, image size, drop path or number of heads. The heads keep their batch
            norms, which fit the features; a distillation head that is new gets those of the other.
    """
    network = Levit(wanted)
    arrays = {name: to_tensor(array) for name, array in state.items()}
    if wanted.distilled and not config.distilled:
        arrays |= {
            name.replace("head.", "head_dist.", 1): value for name, value in arrays.items() if name.startswith("head.")
        }
    if not wanted.distilled:
        arrays = {name: value for name, value in arrays.items() if not name.startswith("head_dist.")}
    own = network.state_dict()
    for name, value in arrays.items():
        if name.endswith(".biases"):
            arrays[name] = resample_biases(value, *_key_grids(config, wanted, name))
        elif ".linear." in name and name.startswith("head") and wanted.num_classes != config.num_classes:
            arrays[name] = own[name]
    network.load_state_dict({**own, **arrays})
    return network


def resample_biases(biases: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """(heads, distances of ``grid``) -> (heads, distances of ``wanted``), such that equal shares of the image match.

    Entry (dy, dx) belongs to a distance of dy / (rows - 1) of the image's height, and so for dx.
    """
    if grid == wanted:
        return biases
    table = biases.reshape(1, len(biases), *grid)
    resampled = F.interpolate(table, size=wanted, mode="bilinear", align_corners=True)
    return resampled.reshape(len(biases), -1)


def _key_grids(config: LevitConfig, wanted: LevitConfig, name: str) -> tuple[Grid, Grid]:
    """The grids whose distances a bias table has; a shrink block's keys are those of the stage before."""
    stage = int(name.split(".")[1]) - (".shrink." in name)
    return config.grids[stage], wanted.grids[stage]


def freeze_backbone(network: Levit) -> None:
    """Only the heads' linear layers learn."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("head") and ".linear." in name)


def train_mode(network: nn.Module, *, frozen: bool) -> None:
    """Training mode; with a frozen backbone, batch norms stay as they are in use."""
    network.train()
    if frozen:
        for module in network.modules():
            if isinstance(module, NORMS):
                module.eval()


class Heads(nn.Module):
    """All heads of a LeViT, each by itself: (B, 3, H, W) -> one (B, classes) a head."""

    def __init__(self, network: Levit) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.network.forward_heads(x) if self.network.config.distilled else (self.network(x),)
