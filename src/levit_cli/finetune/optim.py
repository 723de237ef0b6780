"""The optimizer: weight decay, learning-rate schedule, gradient clipping, moving average of the weights."""

from collections.abc import Iterable
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]
WARMUP_START_LR = 1e-6
MIN_WEIGHT_NORM = 1e-3  # of a unit, in adaptive clipping: without it a unit with zero weights could never change


def make_optimizer(network: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """Return AdamW without weight decay for vectors and attention biases (Meta's ``no_weight_decay``, timm's rule)."""
    decay: list[Tensor] = []
    no_decay: list[Tensor] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (no_decay if parameter.ndim < 2 or name.endswith("biases") else decay).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=lr, fused=True)


def lr_at(step: int, total_steps: int, warmup_steps: int, peak_lr: float, min_lr: float) -> float:
    """Return the learning rate of a step: a linear warm-up, then half a cosine down to ``min_lr``."""
    if step < warmup_steps:
        return WARMUP_START_LR + (peak_lr - WARMUP_START_LR) * (step + 1) / warmup_steps
    fraction = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return min_lr + (peak_lr - min_lr) * (1 + cos(pi * fraction)) / 2


def clip_adaptively(parameters: Iterable[Tensor], factor: float) -> None:
    """Limit the gradient norm of each unit to ``factor`` times the norm of its weights (AGC, Brock et al. 2021)."""
    for parameter in parameters:
        if parameter.grad is None:
            continue
        weight_norm, gradient_norm = (_unit_norms(side) for side in (parameter.detach(), parameter.grad))
        max_norm = weight_norm.clamp(min=MIN_WEIGHT_NORM) * factor
        parameter.grad.mul_((max_norm / gradient_norm.clamp(min=1e-6)).clamp(max=1.0))


def _unit_norms(tensor: Tensor) -> Tensor:
    """Return the norm of each output unit; a vector counts as one unit."""
    axes = tuple(range(1, tensor.ndim)) if tensor.ndim > 1 else tuple(range(tensor.ndim))
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=axes, keepdim=True)
    return norms


def make_ema_model(network: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of the weights and batch-norm statistics.

    The decay is lower in the first steps, so that the average forgets the initial weights quickly.
    """

    def average(averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        steps = int(model.n_averaged)  # the argument is a copy on the device, and reading it would wait for the device
        step_decay = min(decay, (1 + steps) / (10 + steps))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - step_decay)
        else:
            torch._foreach_copy_(averaged, current)

    model = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
    return model
