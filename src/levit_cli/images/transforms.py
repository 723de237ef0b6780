"""Define the published preprocessing of LeViT checkpoints: Meta's (``fb``), transformers' (``hf``) and ``timm``'s.

All of them resize the image with a bicubic filter so that it covers a box, and then take the center crop. They differ
in the size of the box, and in how they round a crop offset that ends in half a pixel.
"""

from dataclasses import dataclass
from math import floor, isfinite
from typing import Literal, get_args

from levit_cli.choices import PreprocessingName
from levit_cli.errors import RefusedError

Rounding = Literal["half_even", "floor"]
ReferenceResizer = Literal["pillow", "torch"]
Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
Size = tuple[int, int]  # height, width
MAX_EDGE = 65_535  # pixels, as for images that are read
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Transform:
    """Resize to cover ``resize_to``, take the center crop of ``crop_size``, normalize.

    Args:
        name: the name of a published preprocessing, or ``"custom"``.
        resize_to: (height, width) in pixels that the resized image covers; one side fits exactly. If both are equal,
            this is the length of the shortest edge.
        crop_size: (height, width) of the result in pixels.
        crop_rounding: how a crop offset that ends in half a pixel is rounded: torchvision and timm round half to even,
            transformers rounds down.
        mean, std: one value per channel, for pixel values in [0, 1].
        resizer: the library whose pixels are the reference. Only torch equals torch, which needs its engine; Pillow is
            equaled by ``images.preprocess`` and by ``images.resize_simd``.

    Raises:
        RefusedError: a value is unknown or impossible.
    """

    name: str
    resize_to: Size
    crop_size: Size
    crop_rounding: Rounding
    filter: Filter = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resizer: ReferenceResizer = "pillow"

    def __str__(self) -> str:
        (height, width), (crop_height, crop_width) = self.resize_to, self.crop_size
        return (
            f"{self.name}: resize to cover {height} x {width} px ({self.filter}), "
            f"crop {crop_height} x {crop_width} px ({self.crop_rounding})"
        )

    def __post_init__(self) -> None:
        for value, choices in ((self.filter, Filter), (self.crop_rounding, Rounding), (self.resizer, ReferenceResizer)):
            if value not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise RefusedError(f"Unknown value {value!r} in the preprocessing", why=f"the known values are {known}")
        if not all(map(isfinite, self.mean)) or not all(0 < deviation < float("inf") for deviation in self.std):
            raise RefusedError(f"Cannot normalize by the mean {self.mean} and the standard deviation {self.std}")
        if max(self.resize_to) > MAX_EDGE:
            raise RefusedError(f"Cannot resize to {max(self.resize_to):,} pixels", why=f"the limit is {MAX_EDGE:,}")
        if any(edge < side for edge, side in zip(self.resize_to, self.crop_size, strict=True)):
            raise RefusedError(
                f"Cannot crop {self.crop_size} from an image that is resized to {self.resize_to}",
                why="the crop is larger than the resized image",
            )

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) of an image after resizing.

        The side that exceeds the box is truncated, as in torchvision. If the box is not square, it is rounded as in
        timm, because torchvision and transformers have no such box.
        """
        box_height, box_width = self.resize_to
        if box_height != box_width:
            ratio = min(height / box_height, width / box_width)
            return round(width / ratio), round(height / ratio)
        if box_width * height <= box_height * width:
            return int(box_height * width / height), box_height
        return box_width, int(box_width * height / width)

    def crop_offset(self, length: int, side: int) -> int:
        """Return the offset of the center ``side`` pixels of ``length`` pixels."""
        margin = length - side
        return margin // 2 if self.crop_rounding == "floor" else round(margin / 2)


def transform_for(name: PreprocessingName, image_size: Size) -> Transform:
    """Return the published preprocessing of that name for a crop of (height, width) pixels."""
    rounding: Rounding = "floor" if name in ("hf", "hf-tensor") else "half_even"
    resizer: ReferenceResizer = "torch" if name == "hf-tensor" else "pillow"
    return Transform(name, _resize_to(name, image_size), image_size, rounding, resizer=resizer)


def _resize_to(name: PreprocessingName, image_size: Size) -> Size:
    """Return the size of the box: for a crop of 224, it is 256 for Meta and transformers, and 248 for timm."""
    if name == "timm":
        return floor(image_size[0] / 0.9), floor(image_size[1] / 0.9)
    return int(256 / 224 * image_size[0]), int(256 / 224 * image_size[1])
