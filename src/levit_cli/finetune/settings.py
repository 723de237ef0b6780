"""The settings of a training run: one flat table from the preset, a ``config.toml`` and the command line.

The command line overrides the file given with ``--config``, which overrides environment variables, which override the
preset. The run folder's own ``config.toml`` holds every resolved setting, so that it repeats the run.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import sqrt
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote_to_bytes

from levit_cli.choices import (
    BestMetric,
    ClassWeights,
    ClipMode,
    Device,
    Distillation,
    Frozen,
    Precision,
    Preset,
    Sampler,
    TrainingLog,
)
from levit_cli.errors import RefusedError, UsageError, reason_of
from levit_cli.finetune.conflicts import conflicts, option
from levit_cli.model.config import PATCH_SIZE, VARIANTS
from levit_cli.system.text import is_utf8

MAX_SIDE = 4096  # of an image, in pixels
PATHS = ("model", "from_scratch", "teacher", "teacher_weights")
PAPER_BATCH_SIZE, PAPER_LR, PAPER_WARMUP_EPOCHS = 512, 5e-4, 5.0
ENVIRONMENT_VARIABLES = {"model": "LEVIT_MODEL", "device": "LEVIT_DEVICE"}


@dataclass(frozen=True)
class FinetuneRequest:
    """The run that the command line asks for.

    Args:
        data: the folder of images; None with ``resume`` for the one that the run used last.
        preset: None if the option was not given.
        output: the run folder.
        config: a ``config.toml`` with settings.
        options: settings from the command line, by field of ``Settings``; None for an option that was not given.
            ``max_unreadable`` may still be text, such as "1%".
    """

    data: Path | None
    output: Path
    preset: Preset | None
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
        sampler: ``random`` shuffles the images of each epoch; ``balanced`` draws the same number of each class.
        class_weights: ``balanced`` multiplies the loss of an image with a weight that is larger for rarer classes.
        best_metric: the metric on the validation images that decides which epoch is the best.
        patience: stop after this number of epochs without a better one; 0 trains all epochs.
        log: where the metrics are logged, in addition to ``metrics.jsonl``.
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
    sampler: Sampler = "random"
    class_weights: ClassWeights = "none"
    best_metric: BestMetric = "top1"
    patience: int = 0
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
    log: TrainingLog = "none"

    def __post_init__(self) -> None:
        refuse_faults(faults_of(vars(self)))

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


RANGES: dict[str, tuple[float, float]] = {
    "resize_to": (0, 65_535), "epochs": (1, 100_000), "batch_size": (1, 1 << 20), "grad_accum_steps": (1, 1 << 20),
    "learning_rate": (0, 10), "min_lr": (0, 10), "warmup_epochs": (0, 100_000), "weight_decay": (0, 10),
    "clip_grad": (0, 1e6), "ema": (0, 0.9999999), "label_smoothing": (0, 0.99), "mixup": (0, 100), "cutmix": (0, 100),
    "erasing": (0, 1), "rand_augment": (0, 30), "crop_scale": (0.01, 1), "repeated_augmentation": (1, 100),
    "drop_path": (0, 0.99), "alpha": (0, 1), "distill_temperature": (1e-3, 1e3), "teacher_size": (0, 65_535),
    "patience": (0, 100_000), "val_split": (0.001, 0.9), "max_unreadable": (0, 1), "seed": (-(1 << 63), (1 << 63) - 1),
}  # fmt: skip
CHOICES = {
    "clip_mode": ClipMode, "distill": Distillation, "freeze": Frozen, "device": Device, "precision": Precision,
    "sampler": Sampler, "class_weights": ClassWeights, "best_metric": BestMetric, "log": TrainingLog,
}  # fmt: skip
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Settings)}
TYPES: dict[str, type] = {field.name: type(field.default) for field in fields(Settings)}
TYPE_NAMES: dict[type, str] = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}


PAPER: dict[str, Any] = {  # Meta's main.py and README: a batch of 256 on each of 32 GPUs
    "epochs": 1000, "batch_size": 8192, "warmup_epochs": 5.0, "weight_decay": 0.025, "clip_grad": 0.01,
    "clip_mode": "agc", "ema": 0.99996, "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "erasing": 0.25,
    "rand_augment": 9, "crop_scale": 0.08, "repeated_augmentation": 3, "teacher": "regnet_y_16gf", "distill": "hard",
    "alpha": 0.5,
}  # fmt: skip
PRESETS: dict[Preset, dict[str, Any]] = {"small": {}, "paper": PAPER}


def resolve_settings(
    preset: Preset, config: Path | None, options: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Settings:
    """Combine the preset, environment variables, the ``config.toml`` and the options; later ones override earlier ones.

    Args:
        options: by field of ``Settings``; None for an option that was not given.

    Raises:
        UsageError: a setting is invalid, or the options contradict each other. The message names all of them.
        RefusedError: the file is not a table of settings.
    """
    table = read_toml(config) if config else {}
    given = given_options(options)
    values = {**PRESETS[preset], **environment_defaults(environment or {}), **table, **given}
    if "model" in given and "from_scratch" not in given:
        values["from_scratch"] = ""  # -m replaces the start that the file names
    refuse_faults([*faults_of(values), *conflicts(given, {**DEFAULTS, **values})])
    return Settings(**values)


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, with ``max_unreadable`` as a number if its text is one."""
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(text := given.get("max_unreadable"), str):
        given["max_unreadable"] = _fraction(text)
    return given


def _fraction(text: str) -> float | str:
    """Parse ``0.01`` or ``1%``; return other texts unchanged."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return text


def refuse_faults(faults: Sequence[str]) -> None:
    """Raise one ``UsageError`` that names all faults, if there are any."""
    if len(faults) > 1:
        raise UsageError(f"{len(faults)} settings are invalid", why="; ".join(faults))
    if faults:
        raise UsageError(faults[0])


def faults_of(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each invalid value, and for values that cannot work together.

    Args:
        values: by field of ``Settings``; fields that are missing have their default.
    """
    faults = [fault for name, value in values.items() if (fault := _fault(name, value))]
    batch_size, parts = (values.get(name, getattr(Settings, name)) for name in ("batch_size", "grad_accum_steps"))
    both_valid = not _fault("batch_size", batch_size) and not _fault("grad_accum_steps", parts)
    if both_valid and batch_size % parts:
        faults.append(f"--batch-size {batch_size} is not divisible by --grad-accum-steps {parts}")
    return faults


def _fault(name: str, value: Any) -> str:
    """Return why a value is invalid, as a sentence that names the option; an empty text if it is valid."""
    given = f"{option(name)} {value}"
    choices, kind = get_args(CHOICES.get(name)), TYPES[name]
    if choices:
        return "" if value in choices else f"{given} is not one of {', '.join(choices)}"
    if name == "max_unreadable" and isinstance(value, str):
        return f"{given} is not a fraction: write 0.01 or 1%"
    given_kind = type(value)  # in a variable, because mypy would narrow the value otherwise
    if given_kind is not kind and (kind, given_kind) != (float, int):
        return f"{given} is not {TYPE_NAMES[kind]}"
    if name == "image_size":
        return _image_size_fault(value)
    low, high = RANGES.get(name, (0, 0))
    if name in RANGES and not low <= value <= high:
        return f"{given} is out of range: it must be from {low} to {high}"
    return ""


def parse_image_size(text: str) -> tuple[int, int] | None:
    """Parse ``N`` or ``HxW``; return None for an empty text.

    Raises:
        ValueError: it is neither.
    """
    if not text:
        return None
    sizes = [int(size) for size in text.lower().split("x")]
    height, width = sizes if len(sizes) == 2 else sizes * 2
    return height, width


def _image_size_fault(text: str) -> str:
    try:
        sides = parse_image_size(text) or ()
    except ValueError:
        return f"--image-size {text} is invalid: write 224, or 192x256 for height and width"
    if any(side % PATCH_SIZE or not PATCH_SIZE <= side <= MAX_SIDE for side in sides):
        return f"--image-size {text} is invalid: both sides must be multiples of {PATCH_SIZE}, up to {MAX_SIDE}"
    return ""


def environment_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that environment variables give."""
    values = {name: environment.get(variable, "") for name, variable in ENVIRONMENT_VARIABLES.items()}
    return {name: value for name, value in values.items() if value}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a ``config.toml`` and check its names and values.

    Raises:
        UsageError: there is no such file.
        RefusedError: the file cannot be read, or it has unknown settings or invalid values; the message names all.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"Cannot read the settings in {path}", why=reason_of(error)) from error
    except (OSError, ValueError) as error:
        raise RefusedError(f"Cannot read the settings in {path}", why=reason_of(error)) from error
    if unknown := sorted(table.keys() - TYPES.keys()):
        what = f"Unknown settings in {path}: {', '.join(unknown)}"
        raise RefusedError(what, hint=f"the settings are {', '.join(TYPES)}")
    if faults := faults_of(table):
        raise RefusedError(f"Invalid settings in {path}", why="; ".join(faults))
    return {name: float(value) if TYPES[name] is float else _from_utf8(value) for name, value in table.items()}


def _as_utf8(value: Any) -> Any:
    """Return a path with bytes that are not UTF-8 as a URL, because TOML cannot hold it; other values unchanged."""
    return Path(value).as_uri() if isinstance(value, str) and not is_utf8(value) else value


def _from_utf8(value: Any) -> Any:
    is_url = isinstance(value, str) and value.startswith("file:///")
    return os.fsdecode(unquote_to_bytes(value.removeprefix("file://"))) if is_url else value


def same_setting(given: Any, stored: Any) -> bool:
    """Return whether an option agrees with a setting of a run. A path may be given relative to this folder."""
    return given == stored or (isinstance(given, str) and os.path.abspath(given) == stored)


def with_absolute_paths(settings: Settings) -> Settings:
    """Return the settings with the absolute paths of local files and folders, for any later working directory."""
    paths: dict[str, Any] = {name: _absolute(getattr(settings, name)) for name in PATHS}
    return replace(settings, **paths)


def _absolute(source: str) -> str:
    is_name = source.lower() in (name.lower() for name in VARIANTS) or source == "demo"
    path = os.path.expanduser(source)
    has_weights = os.path.isdir(path) and any(name.endswith(".safetensors") for name in os.listdir(path))
    return os.path.abspath(path) if source and os.path.exists(path) and (not is_name or has_weights) else source


def as_toml(settings: Settings) -> str:
    """Return the settings as the text of a ``config.toml``, one per line."""
    lines = ["# Repeat this run with: levit finetune FOLDER -o NEW_RUN --config THIS_FILE"]
    for field in fields(settings):
        # JSON strings, numbers and booleans are also valid TOML, except for this character
        value = json.dumps(_as_utf8(getattr(settings, field.name))).replace("\x7f", "\\u007f")
        lines.append(f"{field.name} = {value}")
    return "\n".join(lines) + "\n"
