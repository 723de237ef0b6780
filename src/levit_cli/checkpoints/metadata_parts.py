"""What the formats' configuration files have in common: what they may say, and the section in them that is ours."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from levit_cli.choices import PreprocessingName
from levit_cli.data.labels import Labels
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import Grid

OURS = "levit_cli"
NAME_ONE = "name a preprocessing with --preprocessing"


@dataclass(frozen=True)
class Evaluation:
    """How good somebody measured a checkpoint to be: top-1 in [0, 1] on so many images."""

    dataset: str
    images: int
    top1: float


@dataclass(frozen=True)
class Metadata:
    """What the files beside some weights say; None where they do not.

    Args:
        temperature: what the logits are divided by before the softmax (Guo et al. 2017), as ``levit eval --calibrate``
            found it.
    """

    image_size: Grid | None = None
    labels: Labels | None = None
    transform: Transform | None = None
    drop_path_rate: float = 0.0
    evaluation: Evaluation | None = None
    temperature: float = 1.0


def pair_of(value: Any) -> Grid:
    """Height and width, given as one number, two, or a mapping."""
    if isinstance(value, Mapping):
        return int(value["height"]), int(value["width"])
    return (int(value[0]), int(value[1])) if isinstance(value, (list, tuple)) else (int(value), int(value))


def square_or_pair(size: Grid) -> int | list[int]:
    """The shortest way to write a size: one number where it is square."""
    return size[0] if size[0] == size[1] else list(size)


def evaluation_in(ours: Mapping[str, Any]) -> Evaluation | None:
    """The accuracy that our section states."""
    if "evaluation" not in ours:
        return None
    measured = ours["evaluation"]
    return Evaluation(str(measured["dataset"]), int(measured["images"]), float(measured["top1"]))


def require_temperature(value: float) -> float:
    """The temperature, if logits can be divided by it.

    Raises:
        RefusedError: it is not a finite number above zero.
    """
    if not (isfinite(value) and value > 0):
        raise RefusedError(f"its temperature is {value}", why="no logits can be divided by that")
    return value


def transform_in(section: Mapping[str, Any]) -> Transform:
    """The exact preprocessing that our section holds."""
    pairs = {key: pair_of(section[key]) for key in ("resize_to", "crop_size")}
    triples = {key: triple_of(section[key]) for key in ("mean", "std")}
    return Transform(**{**section, **pairs, **triples})


def triple_of(values: Any) -> tuple[float, float, float]:
    """A number for each channel."""
    first, second, third = (float(value) for value in values)
    return first, second, third


def published_or_same(transform: Transform, name: PreprocessingName) -> Transform:
    """The published preprocessing, if this is it."""
    published = transform_for(name, transform.crop_size)
    return published if asdict(published) | {"name": "custom"} == asdict(transform) else transform
