"""What a training run consists of, and what is saved of it so that it can go on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

from levit_cli.engines.torch_compile import compiled_for_training
from levit_cli.finetune.data import TrainingImages, ValidationImages, steps_of
from levit_cli.finetune.ddp import Processes
from levit_cli.finetune.optim import make_optimizer, moving_average
from levit_cli.finetune.run_folder import Metrics, RunFolder
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.split import Split
from levit_cli.finetune.student import Heads
from levit_cli.finetune.teachers import Teacher
from levit_cli.images.transforms import Transform
from levit_cli.model.levit import Levit
from levit_cli.system.progress import Log


@dataclass
class Position:
    """Where a run stands, and what the epoch under way has come to."""

    epoch: int = 0
    step: int = 0  # within the epoch
    seen: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    best: float = -1.0
    elapsed_s: float = 0.0


@dataclass
class Run:
    """All that takes part in a training.

    Args:
        save_best: called with the validated network and the metrics of its epoch.
        workers: processes that read images; 0 reads them in this one.
    """

    settings: Settings
    split: Split
    transform: Transform
    network: Levit
    teacher: Teacher | None
    folder: RunFolder
    processes: Processes
    save_best: Callable[[Levit, Metrics], None]
    log: Log
    workers: int = 0
    shows_progress: bool = False
    clock: Callable[[], float] = time.perf_counter
    position: Position = field(default_factory=Position)
    rows: list[Metrics] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = self.settings
        self.network.to(self.processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.together = self.processes.together(self._heads())
        self.optimizer = make_optimizer(self.network, settings.peak_rate(), settings.weight_decay)
        self.average = moving_average(self.network, settings.ema) if settings.ema else None
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=settings.precision == "fp16")
        self.batch_size, self.epoch_steps = steps_of(len(self.split.train), settings)
        self.mix = mixing(settings, len(self.split.classes))
        self.images = TrainingImages(self.split.train, settings, self.network.config.image_size)
        self.val_images = ValidationImages(self.split.val, self.transform)

    def _heads(self) -> nn.Module:
        heads = Heads(self.network)
        if not self.settings.compile:
            return heads
        self.log("Compiling the network, which takes a minute or two")
        return compiled_for_training(heads, self.processes.device.type)

    @property
    def validated(self) -> Levit:
        """The network whose accuracy is measured, and which is kept: the moving average, if there is one."""
        return self.network if self.average is None else self.average.module  # type: ignore[return-value]

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "scaler": self.scaler.state_dict(),
            "position": vars(self.position),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.position = Position(**state["position"])
        self.rows = self.folder.read_metrics(self.position.epoch)


def mixing(settings: Settings, classes: int) -> v2.Transform | None:
    """Mixup or cutmix, by turns at random where both are asked for; both turn classes into probabilities."""
    choices: list[v2.Transform] = []
    if settings.mixup:
        choices.append(v2.MixUp(alpha=settings.mixup, num_classes=classes))
    if settings.cutmix:
        choices.append(v2.CutMix(alpha=settings.cutmix, num_classes=classes))
    return v2.RandomChoice(choices) if choices else None
