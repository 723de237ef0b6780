"""The state of a training run: what an optimizer step changes, and the position in the run. Both are saved."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from levit_cli.engines.torch_compile import compiled_for_training
from levit_cli.errors import RefusedError
from levit_cli.finetune.ddp import Processes
from levit_cli.finetune.optim import make_ema_model, make_optimizer
from levit_cli.finetune.run_folder import RunFolder
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.student import Heads, freeze_backbone
from levit_cli.images.transforms import Transform
from levit_cli.model.config import LevitConfig
from levit_cli.model.levit import Levit
from levit_cli.system.progress import Log


@dataclass
class Position:
    """The position in a run, and the sums over the current epoch.

    Args:
        epoch: number of finished epochs.
        step: number of finished steps in the current epoch.
        num_images, loss_sum, num_correct: over the training images of the current epoch.
        best_score: best validation score so far, see ``metrics.score_of``.
        epochs_since_best: number of finished epochs after the best one.
    """

    epoch: int = 0
    step: int = 0
    num_images: int = 0
    loss_sum: float = 0.0
    num_correct: int = 0
    best_score: float = -math.inf
    epochs_since_best: int = 0
    elapsed_s: float = 0.0

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / self.num_images

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_images

    def add_step(self, loss: float, num_correct: int, batch_size: int) -> None:
        self.step += 1
        self.num_images += batch_size
        self.loss_sum += loss * batch_size
        self.num_correct += num_correct

    def is_improved_by(self, score: float) -> bool:
        """Whether an epoch with this score is the best so far; the first one is."""
        return self.epoch == 0 or score > self.best_score

    def next_epoch(self, score: float, epoch_s: float) -> "Position":
        """Return the start of the next epoch."""
        is_best = self.is_improved_by(score)
        return Position(
            epoch=self.epoch + 1,
            best_score=score if is_best else self.best_score,
            epochs_since_best=0 if is_best else self.epochs_since_best + 1,
            elapsed_s=self.elapsed_s + epoch_s,
        )


@dataclass(frozen=True)
class Student:
    """The network to train, and the preprocessing of its images."""

    network: Levit
    transform: Transform


@dataclass(frozen=True)
class TrainState:
    """The network, its optimizer, and everything else that an optimizer step changes.

    Args:
        ddp_model: computes the heads' logits (B, classes); shares its weights with ``network``.
        ema_model: the moving average of ``network``; None if it is disabled.
    """

    network: Levit
    ddp_model: nn.Module
    optimizer: AdamW
    scaler: torch.amp.GradScaler
    ema_model: AveragedModel | None

    @property
    def eval_model(self) -> Levit:
        """The network that is validated and saved: the moving average, if there is one."""
        return self.network if self.ema_model is None else self.ema_model.module  # type: ignore[return-value]

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema_model": self.ema_model.state_dict() if self.ema_model else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state; without an optimizer's state, that of a run that took no step."""
        self.network.load_state_dict(state["network"])
        if "optimizer" not in state:
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema_model:
            self.ema_model.load_state_dict(state["ema_model"])


def make_train_state(network: Levit, settings: Settings, processes: Processes, log: Log) -> TrainState:
    """Move the network to the device and set up its optimizer.

    Raises:
        RefusedError: the network cannot be compiled.
    """
    device = processes.device
    if settings.freeze == "backbone":
        freeze_backbone(network)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    heads: nn.Module = Heads(network)
    if settings.compile:
        log("Compiling the network; this takes a minute or two")
        heads = compiled_for_training(heads, device.type)
    return TrainState(
        network,
        processes.ddp_model(heads),
        make_optimizer(network, settings.peak_lr(), settings.weight_decay),
        torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16"),
        make_ema_model(network, settings.ema) if settings.ema else None,
    )


def checkpoint_dict(state: TrainState, student: Student, position: Position) -> dict[str, Any]:
    """Return the content of ``state.pt``."""
    return {**state.state_dict(), **checkpoint_extras(student, position)}


def checkpoint_extras(student: Student, position: Position) -> dict[str, Any]:
    """Return the part of ``state.pt`` that no step changes, and the position."""
    return {
        "config": asdict(student.network.config),
        "transform": asdict(student.transform),
        "position": asdict(position),
    }


def restore_student(saved: Mapping[str, Any], folder: RunFolder) -> Student:
    """Return the network of a run with its saved weights, without the checkpoint that it started from.

    Raises:
        RefusedError: the state is damaged.
    """
    try:
        network = Levit(LevitConfig(**saved["config"]))
        network.load_state_dict(saved["network"])
        return Student(network, Transform(**saved["transform"]))
    except (KeyError, TypeError, RuntimeError) as error:
        why = (str(error).strip().splitlines() or [""])[0]
        raise RefusedError(f"{folder.state_file} is damaged", why=why) from error
