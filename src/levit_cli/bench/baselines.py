"""Baselines with random weights: torchvision's EfficientNets and ResNet-50, and DeiTs of the paper's sizes.

Speed does not depend on the weights. Batch norms are calibrated on a random batch, so that activations neither vanish
nor overflow, and are then folded into the convolutions before them; the activations after them stay. DeiT is
torchvision's ``VisionTransformer`` with DeiT's widths: it has 197 tokens, as it lacks the distillation token.
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

from levit_cli.choices import BaselineName
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from levit_cli.model.config import Grid

CALIBRATION_SHAPE = (2, 3, 160, 160)
IMAGE_MEAN, IMAGE_STD = 0.45, 0.225  # ImageNet's, averaged over the color channels and rounded
GATE_DAMPING = 0.1  # with torchvision's initialization, EfficientNet's activations grow a thousandfold per layer
HEAD_STD = 0.02  # torchvision initializes a transformer's head with zeros, which a compiler might optimize away


@dataclass(frozen=True)
class Design:
    """The architecture of a baseline.

    Args:
        side: height and width of its images in pixels, as in the paper.
        make: builds the network with torchvision's initialization, (B, 3, side, side) -> (B, 1000).
    """

    side: int
    make: Callable[[], nn.Module]


def _deit(width: int, heads: int) -> nn.Module:
    """Build a DeiT: 12 layers on patches of 16 x 16 pixels (Touvron et al. 2021, table 1)."""
    network = models.VisionTransformer(224, 16, num_layers=12, num_heads=heads, hidden_dim=width, mlp_dim=4 * width)
    nn.init.normal_(network.heads.head.weight, std=HEAD_STD)
    return network  # type: ignore[no-any-return]


DESIGNS: dict[BaselineName, Design] = {
    "efficientnet_b0": Design(224, models.efficientnet_b0),
    "efficientnet_b1": Design(240, models.efficientnet_b1),
    "efficientnet_b2": Design(260, models.efficientnet_b2),
    "efficientnet_b3": Design(300, models.efficientnet_b3),
    "efficientnet_b4": Design(380, models.efficientnet_b4),
    "resnet50": Design(224, models.resnet50),
    "deit_tiny": Design(224, partial(_deit, 192, 3)),
    "deit_small": Design(224, partial(_deit, 384, 6)),
}


class Baseline(nn.Module):
    """A baseline that takes uint8 pixels, as LeViT's engines do, and normalizes them."""

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
        """(B, H, W, 3) uint8 -> (B, classes) logits."""
        x = (pixels.to(torch.float32) - self.mean) * self.scale
        return self.network(x.to(self.dtype).permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    def to_dtype(self, dtype: torch.dtype) -> "Baseline":
        """Convert the network to another precision; pixels are still normalized in float32."""
        self.network.to(dtype)
        self.dtype = dtype
        return self


def build_network(name: BaselineName) -> nn.Module:
    """Build a baseline with random weights in evaluation mode, its batch norms calibrated and folded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DESIGNS[name].make()
        calibrate(network)
    return fold_norms(network)


def make_baseline(name: BaselineName) -> Baseline:
    """Build a baseline from uint8 pixels to logits."""
    return Baseline(build_network(name), DESIGNS[name].side)


@torch.no_grad()
def calibrate(network: nn.Module) -> None:
    """Set the variance of each batch norm to the mean square of its input for a random batch.

    The network is in evaluation mode afterwards.
    """
    for gate in (module for module in network.modules() if isinstance(module, SqueezeExcitation)):
        gate.fc1.weight.mul_(GATE_DAMPING)
    norms = [module for module in network.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(_set_variance) for norm in norms]
    if hooks:
        network((torch.rand(CALIBRATION_SHAPE) - IMAGE_MEAN) / IMAGE_STD)
    for hook in hooks:
        hook.remove()


def _set_variance(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    # One variance for all channels: with one each, channels that happen to be small would grow from layer to layer.
    norm.get_buffer("running_var").fill_(inputs[0].square().mean())


def fold_norms(network: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it and replace the batch norm by an identity.

    Raises:
        ValueError: a batch norm does not directly follow a convolution.
    """
    for parent in [*network.modules()]:
        previous: tuple[str, nn.Module] | None = None
        for name, child in [*parent.named_children()]:
            if isinstance(child, nn.BatchNorm2d):
                if previous is None or not isinstance(previous[1], nn.Conv2d):
                    raise ValueError(f"{name} of {type(parent).__name__} has no convolution before it")
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = name, child
    return network


def count_parameters_and_macs(name: BaselineName) -> tuple[int, int]:
    """Count the parameters, and the MACs of convolutions, linear layers and attention for one image."""
    with torch.device("meta"):  # computes shapes only
        network = DESIGNS[name].make().eval()
        image = torch.empty(1, 3, DESIGNS[name].side, DESIGNS[name].side)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2
