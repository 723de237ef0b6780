"""Measure the time to list and split class folders, for growing numbers of classes with the same number of images.

python -m benchmarks.split [--classes 500,1000,2000,4000] [--images 10] [--rounds 3]

The files are empty: listing and splitting read no image. The time per image should not grow with the classes.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from levit_cli.finetune.split import find_images


def write_classes(root: Path, num_classes: int, images: int) -> None:
    for number in range(num_classes):
        folder = root / f"class{number:05d}"
        folder.mkdir()
        for image in range(images):
            (folder / f"{image:03d}.jpg").touch()


def split_s(root: Path) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    find_images(root, 0.1, 0)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default="500,1000,2000,4000", help="numbers of classes, separated by commas")
    parser.add_argument("--images", type=int, default=10, help="images per class")
    parser.add_argument("--rounds", type=int, default=3, help="number of interleaved rounds")
    options = parser.parse_args()
    counts = [int(count) for count in options.classes.split(",")]
    with TemporaryDirectory() as folder:
        roots = {count: Path(folder, str(count)) for count in counts}
        for count, root in roots.items():
            root.mkdir()
            write_classes(root, count, options.images)
        rounds = [{count: split_s(root) for count, root in roots.items()} for _ in range(options.rounds)]
    for count in counts:
        times = [measured[count] for measured in rounds]
        per_image_us = 1e6 * median(times) / (count * options.images)
        print(
            f"{count} classes x {options.images} images: median {median(times):.3f} s "
            f"({min(times):.3f} to {max(times):.3f}), {per_image_us:.0f} us per image"
        )


if __name__ == "__main__":
    main()
