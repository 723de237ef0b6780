"""A data set that a network learns in two epochs: each class has a colour of its own."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from levit_cli.model.config import LevitConfig

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 40, 50)}
SMALL = LevitConfig((16, 24, 32), (8, 8, 8), (2, 3, 4), (1, 1, 1), num_classes=3, image_size=(48, 48))


def coloured(name: str, seed: int, side: int = 40) -> Image.Image:
    """A noisy image of a class's colour."""
    rng = np.random.default_rng([seed, *COLOURS[name]])
    noise = rng.normal(0, 40, (side, side + 8, 3))
    return Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8))


def write_set(root: Path, train: int = 12, val: int = 4) -> Path:
    """``root`` with ``train/`` and ``val/``, so many images a class."""
    for part, count in (("train", train), ("val", val)):
        for name in COLOURS:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                coloured(name, number + 1000 * (part == "val")).save(folder / f"{number:03d}.png")
    return root


def write_shape(path: Path, config: LevitConfig = SMALL) -> Path:
    """The widths as a Hugging Face ``config.json``, for ``--from-scratch``."""
    names = ("hidden_sizes", "key_dim", "num_attention_heads", "depths")
    values = (config.hidden_sizes, config.key_dims, config.num_heads, config.depths)
    path.write_text(json.dumps(dict(zip(names, values, strict=True))))
    return path
