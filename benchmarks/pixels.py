"""How far our pixels lie from resizing the whole image and cutting: python -m benchmarks.pixels FOLDER.

For each preprocessing at 224 pixels, over all images below the folder.
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
    width, height = transform.resized_size(*image.size)
    crop_height, crop_width = transform.crop_size
    left, top = transform.crop_offset(width, crop_width), transform.crop_offset(height, crop_height)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + crop_width, top + crop_height)))


def differences(folder: Path, transform: Transform) -> Iterator[tuple[int, float]]:
    """The largest difference and the share of values that differ, image by image."""
    for item in walk(str(folder)):
        image = decode(Path(item.path).read_bytes())
        apart = np.abs(preprocess(image, transform).astype(int) - reference(image, transform))
        yield int(apart.max()), float((apart > 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print("| preprocessing | photos | largest difference | mean share | worst photo | photos above 0.1 % |")
    print("|---|---|---|---|---|---|")
    for name in get_args(PreprocessingName):
        transform = transform_for(name, (224, 224))
        if transform.resizer == "pillow":
            largest, shares = zip(*differences(options.folder, transform), strict=True)
            above = sum(share > 0.001 for share in shares)
            print(
                f"| {name} | {len(shares):,} | {max(largest)} | {100 * np.mean(shares):.4f} % | "
                f"{100 * max(shares):.3f} % | {above} |"
            )


if __name__ == "__main__":
    main()
