"""Compare levit's pixels with those of resizing the whole image and then cropping it.

python -m benchmarks.pixels FOLDER

All images in the folder are compared, for each preprocessing at 224 x 224 pixels.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit_cli.choices import PreprocessingName
from levit_cli.data.inputs import walk
from levit_cli.images.decode import decode
from levit_cli.images.preprocess import preprocess
from levit_cli.images.transforms import Transform, transform_for


def reference(image: Image.Image, transform: Transform) -> NDArray[np.uint8]:
    """Resize the whole image with Pillow, then crop it."""
    width, height = transform.resized_size(*image.size)
    crop_height, crop_width = transform.crop_size
    left, top = transform.crop_offset(width, crop_width), transform.crop_offset(height, crop_height)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + crop_width, top + crop_height)))


def differences(folder: Path, transform: Transform) -> Iterator[tuple[int, float]]:
    """Yield for each image the largest difference of a value and the fraction of values that differ."""
    for item in walk(str(folder)):
        image = decode(Path(item.path).read_bytes())
        difference = np.abs(preprocess(image, transform).astype(int) - reference(image, transform))
        yield int(difference.max()), float((difference > 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print("| preprocessing | photos | largest difference | mean % of values | worst photo | photos above 0.1 % |")
    print("|---|---|---|---|---|---|")
    for name in get_args(PreprocessingName):
        transform = transform_for(name, (224, 224))
        if transform.resizer == "pillow":
            largest, fractions = zip(*differences(options.folder, transform), strict=True)
            above = sum(fraction > 0.001 for fraction in fractions)
            print(
                f"| {name} | {len(fractions):,} | {max(largest)} | {100 * np.mean(fractions):.4f} % | "
                f"{100 * max(fractions):.3f} % | {above} |"
            )


if __name__ == "__main__":
    main()
