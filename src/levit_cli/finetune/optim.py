"""The optimiser's parts: who decays, how the rate runs, how gradients are cut, the moving average of the weights."""

from collections.abc import Iterable
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]
FIRST_RATE = 1e-6  # from which the warm-up starts
SMALLEST_NORM = 1e-3  # of a unit's weights, in adaptive clipping: a unit at zero may still move


def make_optimizer(network: nn.Module, rate: float, weight_decay: float) -> AdamW:
    """AdamW without decay for vectors, biases and attention biases (Meta's ``no_weight_decay`` and timm's rule)."""
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or name.endswith("biases") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=rate, fused=True)


def rate_at(step: int, steps: int, warmup_steps: int, peak: float, lowest: float) -> float:
    """The learning rate of a step: straight up, then down a half cosine to ``lowest`` at the last."""
    if step < warmup_steps:
        return FIRST_RATE + (peak - FIRST_RATE) * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return lowest + (peak - lowest) * (1 + cos(pi * done)) / 2


def clip_adaptively(parameters: Iterable[Tensor], factor: float) -> None:
    """Cut each unit's gradient to ``factor`` times the norm of its weights (Brock et al. 2021, AGC)."""
    for parameter in parameters:
        if parameter.grad is None:
            continue
        weight_norm, gradient_norm = (_unit_norms(side) for side in (parameter.detach(), parameter.grad))
        longest = weight_norm.clamp(min=SMALLEST_NORM) * factor
        parameter.grad.mul_((longest / gradient_norm.clamp(min=1e-6)).clamp(max=1.0))


def _unit_norms(tensor: Tensor) -> Tensor:
    """Of each output unit; of the whole where the tensor is a vector."""
    axes = tuple(range(1, tensor.ndim)) if tensor.ndim > 1 else tuple(range(tensor.ndim))
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=axes, keepdim=True)
    return norms


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """The moving average of weights and batch-norm statistics, with a shorter memory at the start of the run."""

    def average(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        memory = min(decay, (1 + int(steps)) / (10 + int(steps)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - memory)
        else:
            torch._foreach_copy_(averaged, current)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
