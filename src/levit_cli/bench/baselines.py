"""Other people's networks as yardsticks: torchvision's EfficientNets and ResNet-50, and DeiTs of the paper's sizes.

Weights are random, as speed does not care. Batch norms are given the scale of a random batch, so that activations
neither vanish nor overflow, and are then folded into the convolutions before them; what comes behind a batch norm, its
activation above all, stays. DeiT is torchvision's ``VisionTransformer`` of its widths: it lacks the distillation token,
one of 198.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.ops.misc import SqueezeExcitation

from levit_cli.choices import Baseline
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from levit_cli.model.config import Grid

CALIBRATION_SHAPE = (2, 3, 160, 160)
IMAGE_MEAN, IMAGE_STD = 0.45, 0.225  # ImageNet's, about, over all colours
GATE_DAMPING = 0.1  # as initialised, EfficientNet's gates let activations grow thousandfold from layer to layer
HEAD_STD = 0.02  # torchvision starts a transformer's head as zeros, which a compiler might take away


@dataclass(frozen=True)
class Design:
    """How a baseline is built.

    Args:
        side: of its images, in pixels, as the paper measured it.
        build: a fresh network, (B, 3, side, side) -> (B, 1000).
    """

    side: int
    build: Callable[[], nn.Module]


def _deit(width: int, heads: int) -> nn.Module:
    """12 layers on patches of 16 pixels (Touvron et al. 2021, table 1)."""
    network = models.VisionTransformer(224, 16, num_layers=12, num_heads=heads, hidden_dim=width, mlp_dim=4 * width)
    nn.init.normal_(network.heads.head.weight, std=HEAD_STD)
    return network  # type: ignore[no-any-return]


DESIGNS: dict[Baseline, Design] = {
    "efficientnet_b0": Design(224, models.efficientnet_b0),
    "efficientnet_b1": Design(240, models.efficientnet_b1),
    "efficientnet_b2": Design(260, models.efficientnet_b2),
    "efficientnet_b3": Design(300, models.efficientnet_b3),
    "efficientnet_b4": Design(380, models.efficientnet_b4),
    "resnet50": Design(224, models.resnet50),
    "deit_tiny": Design(224, partial(_deit, 192, 3)),
    "deit_small": Design(224, partial(_deit, 384, 6)),
}


class Yardstick(nn.Module):
    """A baseline that takes bytes, as LeViT's engines do, and normalises them itself."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.image_size: Grid = (side, side)
        self.dtype = torch.float32
        mean, std = (255 * torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) bytes -> (B, classes) logits."""
        x = (pixels.to(torch.float32) - self.mean) * self.scale
        return self.network(x.to(self.dtype).permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    def to_dtype(self, dtype: torch.dtype) -> "Yardstick":
        """The network in another precision; the normalisation of the pixels stays in float32."""
        self.network.to(dtype)
        self.dtype = dtype
        return self


def build(name: Baseline) -> nn.Module:
    """A baseline of random weights in evaluation mode, its batch norms calibrated and folded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DESIGNS[name].build()
        calibrate(network)
    return fold_norms(network)


def yardstick(name: Baseline) -> Yardstick:
    """A baseline from bytes to logits."""
    return Yardstick(build(name), DESIGNS[name].side)


@torch.no_grad()
def calibrate(network: nn.Module) -> None:
    """Let each batch norm divide by the root mean square of what a random batch brings; ends in evaluation mode."""
    for gate in (module for module in network.modules() if isinstance(module, SqueezeExcitation)):
        gate.fc1.weight.mul_(GATE_DAMPING)
    norms = [module for module in network.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(_measure) for norm in norms]
    if hooks:
        network((torch.rand(CALIBRATION_SHAPE) - IMAGE_MEAN) / IMAGE_STD)
    for hook in hooks:
        hook.remove()


def _measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    # one scale for all channels: a scale of its own would blow up those that happen to be small, layer after layer
    norm.get_buffer("running_var").fill_(inputs[0].square().mean())


def fold_norms(network: nn.Module) -> nn.Module:
    """Put each batch norm into the convolution before it, and nothing in its own place.

    Raises:
        ValueError: a batch norm does not come right behind a convolution.
    """
    for parent in [*network.modules()]:
        before: tuple[str, nn.Module] | None = None
        for name, child in [*parent.named_children()]:
            if isinstance(child, nn.BatchNorm2d):
                if before is None or not isinstance(before[1], nn.Conv2d):
                    raise ValueError(f"{name} of {type(parent).__name__} has no convolution before it")
                setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(parent, name, nn.Identity())
            before = name, child
    return network


def count(name: Baseline) -> tuple[int, int]:
    """Parameters, and multiply-accumulates for one image: of convolutions, linear layers and attention products."""
    with torch.device("meta"):  # shapes only, nothing is computed
        network = DESIGNS[name].build().eval()
        image = torch.empty(1, 3, DESIGNS[name].side, DESIGNS[name].side)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2
