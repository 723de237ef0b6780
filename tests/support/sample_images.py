"""Images made by the tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def sample_image(width: int = 90, height: int = 70, seed: int = 0) -> Image.Image:
    """A smooth RGB image that differs from seed to seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_images(folder: Path, count: int, suffix: str = "jpg") -> list[Path]:
    """``count`` images 000.jpg, 001.jpg, … in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        sample_image(seed=number).save(path)
    return paths
