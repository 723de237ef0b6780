"""What a training run is made of, as one flat table: the presets, ``config.toml``, and what the command line says.

Later ones win: preset, then the file given with ``--config``, then the options. The run folder's own ``config.toml``
holds all that came of it, so that it repeats the run.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import sqrt
from pathlib import Path
from typing import Any, Literal, get_args

from levit_cli.choices import ClipMode, Device, Distillation, Frozen, Precision, Preset
from levit_cli.errors import RefusedError, UsageError

PAPER_BATCH, PAPER_RATE, PAPER_WARMUP = 512, 5e-4, 5.0


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run comes to. Sizes are pixels, rates are per step, shares lie in [0, 1].

    Args:
        model: where the weights to start from are; unused with ``from_scratch``.
        from_scratch: a variant's name, or a ``config.json`` of Hugging Face's layout, to start with random weights.
        image_size: ``N`` or ``HxW``; empty for the checkpoint's own.
        resize_to: shortest edge before the centre crop, in evaluation and in use; 0 for the usual margin.
        learning_rate: at its peak; 0 for the preset's rule, see ``peak_rate``.
        clip_grad: maximum gradient norm; ``clip_mode`` takes it of all gradients at once, or of each unit relative to
            its weights. 0 disables clipping.
        ema: decay a step of the moving average of the weights, which is what is validated and kept; 0 for none.
        rand_augment: magnitude of torchvision's ``RandAugment``; 0 for none.
        crop_scale: the smallest share of an image that a training crop keeps.
        repeated_augmentation: how often an epoch holds each image, differently augmented (Meta's ``RASampler``: 3).
        teacher_weights: a file for a torchvision teacher; without it torchvision's own, of ImageNet.
        teacher_size: pixels a side that a torchvision teacher sees; 0 for the student's, or 224 for its own weights.
        distill: how ``teacher`` speaks: by its best class, or by its softened probabilities.
        alpha: the teacher's share of the loss.
        distill_temperature: by which the logits are divided for ``soft``.
        val_split: share of each class that is kept for validation where there is no val folder.
        max_bad: share of unreadable images from which on the run is refused.
    """

    data: str = ""
    model: str = "levit-256"
    from_scratch: str = ""
    image_size: str = ""
    resize_to: int = 0
    epochs: int = 20
    batch_size: int = 64
    grad_accum_steps: int = 1
    learning_rate: float = 0.0
    min_lr: float = 1e-5
    warmup_epochs: float = 1.0
    weight_decay: float = 0.025
    clip_grad: float = 1.0
    clip_mode: ClipMode = "norm"
    ema: float = 0.998
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    rand_augment: int = 0
    crop_scale: float = 0.35
    flip: bool = True
    repeated_augmentation: int = 1
    drop_path: float = 0.0
    freeze: Frozen = "nothing"
    teacher: str = ""
    teacher_weights: str = ""
    teacher_size: int = 0
    distill: Distillation = "hard"
    alpha: float = 0.5
    distill_temperature: float = 1.0
    val_split: float = 0.1
    max_unreadable: float = 0.01
    seed: int = 0
    device: Device = "auto"
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name, low, high in RANGES:
            if not low <= getattr(self, name) <= high:
                option = f"--{name.replace('_', '-')} {getattr(self, name)}"
                raise UsageError(f"{option} is out of range", why=f"{low} to {high}")
        if self.batch_size % self.grad_accum_steps:
            raise UsageError(f"A batch of {self.batch_size} does not part into {self.grad_accum_steps} equal steps")

    def peak_rate(self) -> float:
        """The learning rate at its peak.

        The paper's 5e-4 is for a batch of 512, in proportion to it. With a warm-up shorter than the paper's these are
        runs on small sets, whose small batches bear more than that proportion: there the square root is the rule, four
        times as much for random weights, and ten times for linear layers on features that stand still.
        """
        if self.learning_rate:
            return self.learning_rate
        share = self.batch_size / PAPER_BATCH
        if self.warmup_epochs >= PAPER_WARMUP:
            return PAPER_RATE * share
        return PAPER_RATE * sqrt(share) * (10 if self.freeze == "backbone" else 4 if self.from_scratch else 1)


RANGES: tuple[tuple[str, float, float], ...] = (
    ("resize_to", 0, 65_535), ("epochs", 1, 100_000), ("batch_size", 1, 1 << 20), ("grad_accum_steps", 1, 1 << 20),
    ("learning_rate", 0, 10), ("min_lr", 0, 10), ("warmup_epochs", 0, 100_000), ("weight_decay", 0, 10),
    ("clip_grad", 0, 1e6), ("ema", 0, 0.9999999), ("label_smoothing", 0, 0.99), ("mixup", 0, 100), ("cutmix", 0, 100),
    ("erasing", 0, 1), ("rand_augment", 0, 30), ("crop_scale", 0.01, 1), ("repeated_augmentation", 1, 100),
    ("drop_path", 0, 0.99), ("alpha", 0, 1), ("distill_temperature", 1e-3, 1e3), ("teacher_size", 0, 65_535),
    ("val_split", 0.001, 0.9), ("max_unreadable", 0, 1),
)  # fmt: skip


PAPER: dict[str, Any] = {  # Meta's main.py and README; its batch is 256 on each of 32 GPUs
    "epochs": 1000, "batch_size": 8192, "warmup_epochs": 5.0, "weight_decay": 0.025, "clip_grad": 0.01,
    "clip_mode": "agc", "ema": 0.99996, "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "erasing": 0.25,
    "rand_augment": 9, "crop_scale": 0.08, "repeated_augmentation": 3, "teacher": "regnet_y_16gf", "distill": "hard",
    "alpha": 0.5,
}  # fmt: skip
PRESETS: dict[Preset, dict[str, Any]] = {"small": {}, "paper": PAPER}
WORDS = {"clip_mode": ClipMode, "distill": Distillation, "freeze": Frozen, "device": Device, "precision": Precision}


def settle(preset: Preset, config: Path | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a run.

    Args:
        given: what the command line says, by field; None for what it does not.

    Raises:
        UsageError: a value out of range.
        RefusedError: the file is no such table.
    """
    read = read_toml(config) if config else {}
    said = {name: value for name, value in given.items() if value is not None}
    return Settings(**{**PRESETS[preset], **read, **said})


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a ``config.toml``, checked against the fields of ``Settings``."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(f"Cannot read the settings {path}", why=str(error)) from error
    types = {field.name: type(field.default) for field in fields(Settings)}
    for name, value in table.items():
        if name not in types:
            raise RefusedError(f"{path} sets {name}, which is no setting", hint=f"settings are {', '.join(types)}")
        if isinstance(value, int) and types[name] is float:
            table[name] = value = float(value)
        if type(value) is not types[name] or (value not in get_args(WORDS.get(name, Literal[None])) and name in WORDS):
            raise RefusedError(f"{path} sets {name} to {value!r}", why=f"that is no {types[name].__name__} it can be")
    return table


def as_toml(settings: Settings) -> str:
    """The text of a ``config.toml``: a line a setting."""
    lines = ["# levit finetune --config THIS -o ANOTHER_FOLDER repeats the run"]
    for field in fields(settings):
        # a JSON string, number or truth value is one of TOML's as well, but for this one character
        value = json.dumps(getattr(settings, field.name)).replace("\x7f", "\\u007f")
        lines.append(f"{field.name} = {value}")
    return "\n".join(lines) + "\n"
