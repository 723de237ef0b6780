"""One optimizer step.

The random generator is seeded for each step from the run's seed, the step's number and the rank. A run that was
interrupted and resumed therefore takes the same steps as a run that was not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from levit_cli.finetune.losses import total_loss
from levit_cli.finetune.optim import clip_adaptively, lr_at
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.state import TrainState
from levit_cli.finetune.student import train_mode
from levit_cli.finetune.teachers import Teacher
from levit_cli.images.transforms import Transform

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepContext:
    """What a step reads and never changes.

    Args:
        transform: its mean and standard deviation normalize the images.
        mix: mixup and CutMix; None if both are disabled.
    """

    settings: Settings
    steps_per_epoch: int
    transform: Transform
    teacher: Teacher | None
    mix: v2.Transform | None
    device: torch.device
    rank: int = 0

    def lr_at(self, step: int) -> float:
        settings, steps = self.settings, self.steps_per_epoch
        warmup_steps = round(settings.warmup_epochs * steps)
        return lr_at(step, settings.epochs * steps, warmup_steps, settings.peak_lr(), settings.min_lr)


def train_step(
    state: TrainState, context: StepContext, step: int, pixels: Tensor, targets: Tensor
) -> tuple[float, int]:
    """Take one optimizer step.

    Args:
        step: its number in the whole run.
        pixels: this process's images (B, 3, H, W) uint8.
        targets: class indices (B,).

    Returns:
        The mean loss and the number of correct predictions.
    """
    settings = context.settings
    torch.manual_seed(hash((settings.seed, step, context.rank)))
    for group in state.optimizer.param_groups:
        group["lr"] = context.lr_at(step)
    train_mode(state.network, frozen=settings.freeze == "backbone")
    x, targets = normalize(pixels.to(context.device), context.transform), targets.to(context.device)
    if context.mix is not None:
        x, targets = context.mix(x, targets)
    loss_sum, num_correct = 0.0, 0
    num_parts = settings.grad_accum_steps  # as equal as possible, so that no part is left with one image
    parts = zip(x.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True)
    for part, part_targets in parts:
        loss, heads = forward(state.ddp_model, context, part, part_targets)
        state.scaler.scale(loss * (len(part) / len(x))).backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.item() * len(part)
        num_correct += count_correct(heads, part_targets)
    update(state, settings)
    return loss_sum / len(x), num_correct


def forward(model: nn.Module, context: StepContext, x: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the loss of normalized images (B, 3, H, W), and the logits (B, classes) of each head."""
    settings = context.settings
    teacher_logits = context.teacher(x) if context.teacher else None
    dtype = AUTOCAST_DTYPES.get(settings.precision)
    with torch.autocast(context.device.type, dtype, enabled=dtype is not None):
        heads = model(x)
    heads = tuple(head.float() for head in heads)
    loss = total_loss(
        heads, targets, teacher_logits, smoothing=settings.label_smoothing, distill=settings.distill,
        alpha=settings.alpha, temperature=settings.distill_temperature,
    )  # fmt: skip
    return loss, heads


def update(state: TrainState, settings: Settings) -> None:
    """Clip the gradients, update the weights and their moving average, and clear the gradients."""
    state.scaler.unscale_(state.optimizer)
    parameters = [parameter for parameter in state.network.parameters() if parameter.requires_grad]
    if settings.clip_grad and settings.clip_mode == "norm":
        nn.utils.clip_grad_norm_(parameters, settings.clip_grad)
    elif settings.clip_grad:
        clip_adaptively(parameters, settings.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema_model:
        state.ema_model.update_parameters(state.network)


def make_mix(settings: Settings, num_classes: int) -> v2.Transform | None:
    """Return mixup, CutMix, or a random choice of both for each batch; both turn class indices into probabilities."""
    transforms: list[v2.Transform] = []
    if settings.mixup:
        transforms.append(v2.MixUp(alpha=settings.mixup, num_classes=num_classes))
    if settings.cutmix:
        transforms.append(v2.CutMix(alpha=settings.cutmix, num_classes=num_classes))
    return v2.RandomChoice(transforms) if transforms else None


def normalize(pixels: Tensor, transform: Transform) -> Tensor:
    """Normalize images with the mean and standard deviation of the preprocessing.

    (B, 3, H, W) uint8 -> (B, 3, H, W) float32, channels last.
    """
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (transform.mean, transform.std))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def count_correct(heads: tuple[Tensor, ...], targets: Tensor) -> int:
    """Count the correct predictions of the heads' mean; the target of a mixed image is its most probable class."""
    classes = targets.argmax(dim=1) if targets.ndim == 2 else targets
    return int((torch.stack(heads).mean(dim=0).argmax(dim=1) == classes).sum())
