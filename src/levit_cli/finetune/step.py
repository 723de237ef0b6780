"""One optimizer step.

The random generator is seeded for each step from the run's seed, the step's number and the rank. A run that was
interrupted and resumed therefore takes the same steps as a run that was not.

On a GPU the host must not wait for the device, or the device runs out of work. The parts of a step leave their results
on the device; they are read once, after the update. The processes exchange gradients once, in the last part.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.transforms import v2

from levit_cli.finetune.losses import image_weights, total_loss
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
        class_weights: (classes,) factors of the losses of a class's images; None for 1.
    """

    settings: Settings
    steps_per_epoch: int
    transform: Transform
    teacher: Teacher | None
    mix: v2.Transform | None
    device: torch.device
    rank: int = 0
    class_weights: Tensor | None = None

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
    x = normalize(pixels.to(context.device, non_blocking=True), context.transform)
    targets = targets.to(context.device, non_blocking=True)
    if context.mix is not None:
        x, targets = context.mix(x, targets)
    results: list[Tensor] = []  # of each part: the mean loss and the number of correct predictions
    num_parts = settings.grad_accum_steps  # as equal as possible, so that no part is left with one image
    parts = zip(x.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True)
    for number, (part, part_targets) in enumerate(parts, start=1):
        with nullcontext() if number == num_parts else unsynchronized(state.ddp_model):
            loss, heads = forward(state.ddp_model, context, part, part_targets)
            state.scaler.scale(loss * (len(part) / len(x))).backward()  # type: ignore[no-untyped-call]
        results.append(torch.stack([loss.detach(), count_correct(heads, part_targets).to(loss.dtype)]))
    update(state, settings)
    values = torch.stack(results).tolist()
    loss_sum = sum(loss * len(part) for (loss, _), part in zip(values, x.tensor_split(num_parts), strict=True))
    return loss_sum / len(x), int(sum(num_correct for _, num_correct in values))


def unsynchronized(model: nn.Module) -> AbstractContextManager[None]:
    """Keep the gradients of a backward pass in this process, instead of averaging them over all processes."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def forward(model: nn.Module, context: StepContext, x: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the loss of normalized images (B, 3, H, W), and the logits (B, classes) of each head."""
    settings = context.settings
    teacher_logits = context.teacher(x) if context.teacher else None
    dtype = AUTOCAST_DTYPES.get(settings.precision)
    with torch.autocast(context.device.type, dtype, enabled=dtype is not None):
        heads = model(x)
    heads = tuple(head.float() for head in heads)
    weights = None if context.class_weights is None else image_weights(context.class_weights, targets)
    loss = total_loss(
        heads, targets, teacher_logits, smoothing=settings.label_smoothing, distill=settings.distill,
        alpha=settings.alpha, temperature=settings.distill_temperature, weights=weights,
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


def count_correct(heads: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Count the correct predictions of the heads' mean; the target of a mixed image is its most probable class.

    The count stays on the device of the heads.
    """
    classes = targets.argmax(dim=1) if targets.ndim == 2 else targets
    return (torch.stack(heads).mean(dim=0).argmax(dim=1) == classes).sum()
