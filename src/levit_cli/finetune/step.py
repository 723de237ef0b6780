"""One update of the weights.

Random numbers are drawn anew for each step from the seed and the step's number, so that a run that was broken off and
resumed is the run that was not.
"""

import torch
from torch import Tensor, nn

from levit_cli.finetune.losses import total_loss
from levit_cli.finetune.optim import clip_adaptively, rate_at
from levit_cli.finetune.state import Run
from levit_cli.finetune.student import train_mode
from levit_cli.images.transforms import Transform

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train_step(run: Run, pixels: Tensor, targets: Tensor) -> tuple[float, int]:
    """One update of the weights. Returns the mean loss of this process's images and how many it got right."""
    settings, device = run.settings, run.processes.device
    number = run.position.epoch * run.epoch_steps + run.position.step
    torch.manual_seed(hash((settings.seed, number, run.processes.rank)))
    warmup_steps = round(settings.warmup_epochs * run.epoch_steps)
    rate = rate_at(number, settings.epochs * run.epoch_steps, warmup_steps, settings.peak_rate(), settings.min_lr)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    train_mode(run.network, frozen=settings.freeze == "backbone")
    x, targets = normalised(pixels.to(device), run.transform), targets.to(device)
    if run.mix is not None:
        x, targets = run.mix(x, targets)
    loss_sum, correct = 0.0, 0
    for part, part_targets in zip(
        x.chunk(settings.grad_accum_steps), targets.chunk(settings.grad_accum_steps), strict=True
    ):
        loss, heads = forward(run, part, part_targets)
        run.scaler.scale(loss * (len(part) / len(x))).backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.item() * len(part)
        correct += count_correct(heads, part_targets)
    update(run)
    return loss_sum / len(x), correct


def forward(run: Run, x: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss of some images, and the logits of each head."""
    settings = run.settings
    lesson = run.teacher(x) if run.teacher else None
    with autocast(run):
        heads = run.together(x)
    heads = tuple(head.float() for head in heads)
    loss = total_loss(
        heads, targets, lesson, smoothing=settings.label_smoothing, distill=settings.distill,
        alpha=settings.alpha, temperature=settings.distill_temperature,
    )  # fmt: skip
    return loss, heads


def update(run: Run) -> None:
    settings = run.settings
    run.scaler.unscale_(run.optimizer)
    parameters = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
    if settings.clip_grad and settings.clip_mode == "norm":
        nn.utils.clip_grad_norm_(parameters, settings.clip_grad)
    elif settings.clip_grad:
        clip_adaptively(parameters, settings.clip_grad)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if run.average:
        run.average.update_parameters(run.network)


def autocast(run: Run) -> torch.autocast:
    dtype = DTYPES.get(run.settings.precision)
    return torch.autocast(run.processes.device.type, dtype, enabled=dtype is not None)


def normalised(pixels: Tensor, transform: Transform) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 as the preprocessing normalises it, channels last."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (transform.mean, transform.std))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def count_correct(heads: tuple[Tensor, ...], targets: Tensor) -> int:
    """How often the mean of the heads is right; for mixed images, about the class of the larger share."""
    wanted = targets.argmax(dim=1) if targets.ndim == 2 else targets
    return int((torch.stack(heads).mean(dim=0).argmax(dim=1) == wanted).sum())
