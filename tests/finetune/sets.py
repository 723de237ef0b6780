"""A data set that a network learns in two epochs, because each class has its own color."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from levit_cli.model.config import LevitConfig

COLORS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 40, 50)}
SMALL = LevitConfig((16, 24, 32), (8, 8, 8), (2, 3, 4), (1, 1, 1), num_classes=3, image_size=(48, 48))


def noisy_image(name: str, seed: int, size: int = 40) -> Image.Image:
    """Return an image in the color of the class, with noise."""
    rng = np.random.default_rng([seed, *COLORS[name]])
    noise = rng.normal(0, 40, (size, size + 8, 3))
    return Image.fromarray((np.array(COLORS[name]) + noise).clip(0, 255).astype(np.uint8))


def write_set(root: Path, train: int = 12, val: int = 4) -> Path:
    """Write ``train/`` and ``val/`` with this number of images per class, and return ``root``."""
    for part, count in (("train", train), ("val", val)):
        for name in COLORS:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noisy_image(name, number + 1000 * (part == "val")).save(folder / f"{number:03d}.png")
    return root


def write_architecture(path: Path, config: LevitConfig = SMALL) -> Path:
    """Write the widths as a Hugging Face ``config.json`` for ``--from-scratch``, and return ``path``."""
    names = ("hidden_sizes", "key_dim", "num_attention_heads", "depths")
    values = (config.hidden_sizes, config.key_dims, config.num_heads, config.depths)
    path.write_text(json.dumps(dict(zip(names, values, strict=True))))
    return path
