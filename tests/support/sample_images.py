"""Make images for tests."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def sample_image(width: int = 90, height: int = 70, seed: int = 0) -> Image.Image:
    """Make a smooth RGB image. Each seed gives a different one."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_images(folder: Path, count: int, suffix: str = "jpg") -> list[Path]:
    """Write ``count`` images 000.jpg, 001.jpg, … into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        sample_image(seed=number).save(path)
    return paths


def write_class_folders(root: Path, names: Iterable[str], count: int = 1, suffix: str = "jpg") -> Path:
    """Write ``count`` images into a folder for each class, and return the folder of all of them."""
    for name in names:
        write_images(root / name, count, suffix)
    return root
