"""How far our pixels lie from resizing the whole picture and cutting: python -m benchmarks.pixels FOLDER.

For each recipe at 224 pixels, over all pictures below the folder.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit_cli.choices import RecipeName
from levit_cli.data.inputs import walk
from levit_cli.images.decode import decode
from levit_cli.images.preprocess import preprocess
from levit_cli.images.transforms import Recipe, recipe_for


def reference(image: Image.Image, recipe: Recipe) -> NDArray[np.uint8]:
    width, height = recipe.resized_size(*image.size)
    crop_height, crop_width = recipe.crop_size
    left, top = recipe.crop_offset(width, crop_width), recipe.crop_offset(height, crop_height)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + crop_width, top + crop_height)))


def differences(folder: Path, recipe: Recipe) -> Iterator[tuple[int, float]]:
    """The largest difference and the share of values that differ, picture by picture."""
    for item in walk(str(folder)):
        image = decode(Path(item.path).read_bytes())
        apart = np.abs(preprocess(image, recipe).astype(int) - reference(image, recipe))
        yield int(apart.max()), float((apart > 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print("| recipe | photos | largest difference | mean share | worst photo | photos above 0.1 % |")
    print("|---|---|---|---|---|---|")
    for name in get_args(RecipeName):
        recipe = recipe_for(name, (224, 224))
        if recipe.resizer == "pillow":
            largest, shares = zip(*differences(options.folder, recipe), strict=True)
            above = sum(share > 0.001 for share in shares)
            print(
                f"| {name} | {len(shares):,} | {max(largest)} | {100 * np.mean(shares):.4f} % | "
                f"{100 * max(shares):.3f} % | {above} |"
            )


if __name__ == "__main__":
    main()
