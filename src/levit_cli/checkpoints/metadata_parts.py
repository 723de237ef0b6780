"""Parse the values that both metadata formats share, and the section ``levit_cli`` in their files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from levit_cli.choices import PreprocessingName
from levit_cli.data.labels import Labels
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import Grid

OURS = "levit_cli"
CHOOSE_PREPROCESSING = "choose a published preprocessing with --preprocessing"


@dataclass(frozen=True)
class Evaluation:
    """Measured accuracy of a checkpoint: top-1 in [0, 1] on a number of images of a dataset."""

    dataset: str
    images: int
    top1: float


@dataclass(frozen=True)
class Threshold:
    """The probability from which on predictions are accepted, as ``levit eval --store-threshold`` chose it.

    Args:
        min_prob: the smallest probability of the best class of an accepted prediction.
        temperature: that of the probabilities. With another one, the threshold is not valid.
        target_accuracy: the accuracy on accepted images that it was chosen for.
        images, accepted, correct: numbers of images that it was chosen with: all, those that it accepts, and those of
            them that are classified correctly.
    """

    min_prob: float
    temperature: float
    target_accuracy: float
    images: int
    accepted: int
    correct: int


@dataclass(frozen=True)
class Metadata:
    """The contents of a model's metadata files. A value is None if the files do not state it.

    Args:
        temperature: the logits are divided by it before the softmax (Guo et al. 2017). ``levit eval --calibrate`` fits
            it.
        threshold: the stored threshold, if it belongs to this temperature.
    """

    image_size: Grid | None = None
    labels: Labels | None = None
    transform: Transform | None = None
    drop_path_rate: float = 0.0
    evaluation: Evaluation | None = None
    temperature: float = 1.0
    threshold: Threshold | None = None


def parse_size(value: Any) -> Grid:
    """Parse a size as (height, width) from one number, a pair, or a mapping."""
    if isinstance(value, Mapping):
        value = [value["height"], value["width"]]
    height, width = value if isinstance(value, (list, tuple)) else (value, value)
    return parse_side(height), parse_side(width)


def parse_side(value: Any) -> int:
    """Parse a length in pixels.

    Raises:
        ValueError: it is not a whole number above 0.
    """
    number = parse_number(value)
    if number < 1 or number != int(number):
        raise ValueError(f"{value!r} is not a number of pixels")
    return int(number)


def parse_number(value: Any) -> float:
    """Return a number as it is; text that looks like one is an error.

    Raises:
        TypeError: it is not a number.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return value


def square_or_pair(size: Grid) -> int | list[int]:
    """Return a size as one number if it is square, otherwise as [height, width]."""
    return size[0] if size[0] == size[1] else list(size)


def parse_evaluation(ours: Mapping[str, Any]) -> Evaluation | None:
    """Parse the accuracy in our section, if it states one."""
    if "evaluation" not in ours:
        return None
    evaluation = ours["evaluation"]
    return Evaluation(str(evaluation["dataset"]), int(evaluation["images"]), float(evaluation["top1"]))


def parse_threshold(ours: Mapping[str, Any]) -> Threshold | None:
    """Parse the threshold in our section; None if there is none, or if it was chosen for another temperature.

    Raises:
        RefusedError: it is not a probability.
    """
    if "threshold" not in ours:
        return None
    stored = ours["threshold"]
    min_prob, temperature, target = (
        float(parse_number(stored[name])) for name in ("min_prob", "temperature", "target_accuracy")
    )
    if not 0 < min_prob <= 1:
        raise RefusedError(f"the threshold is {min_prob}", why="it must be above 0 and at most 1")
    images, accepted, correct = (int(stored[name]) for name in ("images", "accepted", "correct"))
    if temperature != float(ours.get("temperature", 1.0)):
        return None
    return Threshold(min_prob, temperature, target, images, accepted, correct)


def require_temperature(value: float) -> float:
    """Check a temperature and return it.

    Raises:
        RefusedError: it is not a finite number above 0.
    """
    if not (isfinite(value) and value > 0):
        raise RefusedError(f"the temperature is {value}", why="it must be a finite number above 0")
    return value


def with_wnids(labels: Labels | None, ours: Mapping[str, Any]) -> Labels | None:
    """Return the labels with the WordNet ids in our section, which neither library's format has a key for."""
    wnids = ours.get("wnids")
    return replace(labels, wnids=tuple(map(str, wnids))) if labels and wnids and len(wnids) == len(labels) else labels


def parse_transform(section: Mapping[str, Any]) -> Transform:
    """Parse the exact preprocessing in our section."""
    pairs = {key: parse_size(section[key]) for key in ("resize_to", "crop_size")}
    triples = {key: parse_triple(section[key]) for key in ("mean", "std")}
    return Transform(**{**section, **pairs, **triples})


def parse_triple(values: Any) -> tuple[float, float, float]:
    """Parse one number per channel."""
    first, second, third = (float(parse_number(value)) for value in values)
    return first, second, third


def published_or_same(transform: Transform, name: PreprocessingName) -> Transform:
    """Return the published preprocessing ``name`` if ``transform`` equals it, otherwise ``transform``."""
    published = transform_for(name, transform.crop_size)
    return published if asdict(published) | {"name": "custom"} == asdict(transform) else transform
