"""The settings of a training run: one flat table from the preset, a ``config.toml`` and the command line.

The command line overrides the file given with ``--config``, and the file overrides the preset. The run folder's own
``config.toml`` holds every resolved setting, so that it repeats the run.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import sqrt
from pathlib import Path
from typing import Any, get_args

from levit_cli.choices import ClipMode, Device, Distillation, Frozen, Precision, Preset
from levit_cli.errors import RefusedError, UsageError, reason_of

PAPER_BATCH_SIZE, PAPER_LR, PAPER_WARMUP_EPOCHS = 512, 5e-4, 5.0
ENVIRONMENT_VARIABLES = {"model": "LEVIT_MODEL", "device": "LEVIT_DEVICE"}


@dataclass(frozen=True)
class FinetuneRequest:
    """The run that the command line asks for.

    Args:
        data: the folder of images.
        output: the run folder.
        config: a ``config.toml`` with settings.
        options: settings from the command line, by field of ``Settings``; None for an option that was not given.
            ``max_unreadable`` may still be text, such as "1%".
    """

    data: Path
    output: Path
    preset: Preset
    config: Path | None
    options: Mapping[str, Any]
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Runtime:
    """How to run the training on this machine; it does not change the result and is not stored.

    Args:
        workers: number of data-loader worker processes; 0 loads the images in the training process.
        threads: number of threads of the training process; 0 for all that it may use.
    """

    workers: int = 0
    threads: int = 0
    offline: bool = False
    shows_progress: bool = False


@dataclass(frozen=True)
class Settings:
    """Every setting that affects the result. Sizes are in pixels, fractions lie in [0, 1].

    Args:
        model: the checkpoint to start from; unused with ``from_scratch``.
        from_scratch: start from random weights; a variant's name, or a ``config.json`` in Hugging Face's layout.
        image_size: ``N`` or ``HxW``; empty for the checkpoint's image size.
        resize_to: shortest edge before the center crop, in validation and prediction; 0 for the usual 256/224.
        learning_rate: peak learning rate; 0 for the preset's rule, see ``peak_lr``.
        clip_grad: maximum gradient norm; 0 disables clipping. ``clip_mode`` applies it to all gradients together
            (``norm``), or to each unit relative to its weights (``agc``).
        ema: decay per step of the moving average of the weights; 0 disables it. The average is validated and saved.
        rand_augment: magnitude of torchvision's ``RandAugment``; 0 disables it.
        crop_scale: smallest fraction of an image's area in a training crop.
        repeated_augmentation: number of augmented copies of an image in an epoch (Meta's ``RASampler``: 3).
        teacher_weights: a weights file for a torchvision teacher; empty for torchvision's ImageNet weights.
        teacher_size: image size of a torchvision teacher; 0 for the student's, or 224 with ImageNet weights.
        distill: ``hard`` trains with the class that the teacher predicts, ``soft`` with its probabilities.
        alpha: weight of the distillation loss.
        distill_temperature: softmax temperature of ``soft``.
        val_split: fraction of each class used for validation if the data has no validation folder.
        max_unreadable: largest accepted fraction of unreadable images.
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
                raise UsageError(f"{option} is out of range", why=f"it must be from {low} to {high}")
        if self.batch_size % self.grad_accum_steps:
            raise UsageError(
                f"--batch-size {self.batch_size} is not divisible by --grad-accum-steps {self.grad_accum_steps}"
            )

    def peak_lr(self) -> float:
        """Return the peak learning rate.

        The paper uses 5e-4 for a batch of 512 and scales it linearly with the batch size. A warm-up shorter than the
        paper's indicates a small data set with small batches, where linear scaling gives too low a rate: it is scaled
        with the square root instead, times 4 for random weights and times 10 for heads on a frozen backbone.
        """
        if self.learning_rate:
            return self.learning_rate
        scale = self.batch_size / PAPER_BATCH_SIZE
        if self.warmup_epochs >= PAPER_WARMUP_EPOCHS:
            return PAPER_LR * scale
        return PAPER_LR * sqrt(scale) * (10 if self.freeze == "backbone" else 4 if self.from_scratch else 1)


RANGES: tuple[tuple[str, float, float], ...] = (
    ("resize_to", 0, 65_535), ("epochs", 1, 100_000), ("batch_size", 1, 1 << 20), ("grad_accum_steps", 1, 1 << 20),
    ("learning_rate", 0, 10), ("min_lr", 0, 10), ("warmup_epochs", 0, 100_000), ("weight_decay", 0, 10),
    ("clip_grad", 0, 1e6), ("ema", 0, 0.9999999), ("label_smoothing", 0, 0.99), ("mixup", 0, 100), ("cutmix", 0, 100),
    ("erasing", 0, 1), ("rand_augment", 0, 30), ("crop_scale", 0.01, 1), ("repeated_augmentation", 1, 100),
    ("drop_path", 0, 0.99), ("alpha", 0, 1), ("distill_temperature", 1e-3, 1e3), ("teacher_size", 0, 65_535),
    ("val_split", 0.001, 0.9), ("max_unreadable", 0, 1),
)  # fmt: skip


PAPER: dict[str, Any] = {  # Meta's main.py and README: a batch of 256 on each of 32 GPUs
    "epochs": 1000, "batch_size": 8192, "warmup_epochs": 5.0, "weight_decay": 0.025, "clip_grad": 0.01,
    "clip_mode": "agc", "ema": 0.99996, "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "erasing": 0.25,
    "rand_augment": 9, "crop_scale": 0.08, "repeated_augmentation": 3, "teacher": "regnet_y_16gf", "distill": "hard",
    "alpha": 0.5,
}  # fmt: skip
PRESETS: dict[Preset, dict[str, Any]] = {"small": {}, "paper": PAPER}
CHOICES = {"clip_mode": ClipMode, "distill": Distillation, "freeze": Frozen, "device": Device, "precision": Precision}


def resolve_settings(preset: Preset, config: Path | None, options: Mapping[str, Any]) -> Settings:
    """Combine the preset, the ``config.toml`` and the options of the command line.

    Args:
        options: by field of ``Settings``; None for an option that was not given.

    Raises:
        UsageError: a value is out of range.
        RefusedError: the file is not a table of settings.
    """
    table = read_toml(config) if config else {}
    return Settings(**{**PRESETS[preset], **table, **given_options(options)})


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, with ``max_unreadable`` as a number.

    Raises:
        UsageError: ``max_unreadable`` is not a number.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(text := given.get("max_unreadable"), str):
        given["max_unreadable"] = _fraction(text)
    return given


def _fraction(text: str) -> float:
    """Parse ``0.01`` or ``1%``."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise UsageError(f"--max-unreadable {text} is not a fraction", hint="write 0.01 or 1%") from error


def environment_defaults(options: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options, with environment variables for the model and the device if these were not given."""
    defaults = {name: environment.get(variable) or None for name, variable in ENVIRONMENT_VARIABLES.items()}
    return {**options, **{name: options.get(name) or default for name, default in defaults.items()}}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a ``config.toml`` and check its names, types and choices against ``Settings``.

    Raises:
        RefusedError: the file cannot be read, or a setting is unknown or has an invalid value.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(f"Cannot read the settings in {path}", why=reason_of(error)) from error
    types = {field.name: type(field.default) for field in fields(Settings)}
    for name, value in table.items():
        if name not in types:
            raise RefusedError(f"Unknown setting {name} in {path}", hint=f"the settings are {', '.join(types)}")
        if isinstance(value, int) and types[name] is float:
            table[name] = value = float(value)
        choices = get_args(CHOICES.get(name))
        if type(value) is not types[name] or (choices and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else f"a value of type {types[name].__name__}"
            raise RefusedError(f"Invalid value {value!r} of {name} in {path}", why=f"expected {expected}")
    return table


def as_toml(settings: Settings) -> str:
    """Return the settings as the text of a ``config.toml``, one per line."""
    lines = ["# Repeat this run with: levit finetune FOLDER -o NEW_RUN --config THIS_FILE"]
    for field in fields(settings):
        # JSON strings, numbers and booleans are also valid TOML, except for this character
        value = json.dumps(getattr(settings, field.name)).replace("\x7f", "\\u007f")
        lines.append(f"{field.name} = {value}")
    return "\n".join(lines) + "\n"
