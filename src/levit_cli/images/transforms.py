"""How an image becomes what a checkpoint was evaluated on: the three published preprocessing, as data.

All three resize with Pillow's bicubic filter so that the image covers a box, then cut the middle out of it. They
differ in the box and in how half a pixel of offset is rounded.
"""

from dataclasses import dataclass
from math import floor, isfinite
from typing import Literal, get_args

from levit_cli.choices import PreprocessingName, Resizer
from levit_cli.errors import RefusedError

Rounding = Literal["half_even", "floor"]
Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
Size = tuple[int, int]  # height, width
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Transform:
    """Resize to cover ``resize_to``, cut ``crop_size`` out of the middle, normalise.

    Args:
        name: the published preprocessing that this is, or ``"custom"``.
        resize_to: (height, width) that the resized image covers; one side fits exactly. For a square this is the
            shortest edge.
        crop_size: (height, width) of the result.
        crop_rounding: what becomes of half a pixel of offset: torchvision and timm round it half to even, transformers
            floors.
        mean, std: per channel, for values in [0, 1].
        resizer: whose bicubic filter; torch's needs the torch engine.

    Raises:
        RefusedError: nobody can do as it says.
    """

    name: str
    resize_to: Size
    crop_size: Size
    crop_rounding: Rounding
    filter: Filter = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resizer: Resizer = "pillow"

    def __post_init__(self) -> None:
        for word, known in ((self.filter, Filter), (self.crop_rounding, Rounding), (self.resizer, Resizer)):
            if word not in get_args(known):
                raise RefusedError(f"The preprocessing says {word!r}", why=f"known is {', '.join(get_args(known))}")
        if not all(map(isfinite, self.mean)) or not all(0 < deviation < float("inf") for deviation in self.std):
            raise RefusedError(f"The preprocessing normalises by the mean {self.mean} and the deviation {self.std}")
        if any(edge < side for edge, side in zip(self.resize_to, self.crop_size, strict=True)):
            raise RefusedError(
                f"The preprocessing cuts {self.crop_size} out of an image resized to cover only {self.resize_to}",
                why="the margin would be invented",
            )

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of an image once it covers ``resize_to``; the long side is truncated, as in torchvision."""
        box_height, box_width = self.resize_to
        if box_width * height <= box_height * width:
            return int(box_height * width / height), box_height
        return box_width, int(box_width * height / width)

    def crop_offset(self, length: int, side: int) -> int:
        """Where the middle ``side`` pixels of ``length`` begin."""
        margin = length - side
        return margin // 2 if self.crop_rounding == "floor" else round(margin / 2)


def transform_for(name: PreprocessingName, image_size: Size) -> Transform:
    """The published preprocessing of that name for a final size (height, width) in pixels."""
    rounding: Rounding = "floor" if name in ("hf", "hf-tensor") else "half_even"
    resizer: Resizer = "torch" if name == "hf-tensor" else "pillow"
    return Transform(name, _covering(name, image_size), image_size, rounding, resizer=resizer)


def _covering(name: PreprocessingName, image_size: Size) -> Size:
    """256 for 224 in Meta's and transformers' code; timm resizes so that the crop keeps 0.9 of the edge: 248."""
    if name == "timm":
        return floor(image_size[0] / 0.9), floor(image_size[1] / 0.9)
    return int(256 / 224 * image_size[0]), int(256 / 224 * image_size[1])
