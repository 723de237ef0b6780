"""Valid files as seeds, and the model target."""

from pathlib import Path

import numpy as np
import PIL.Image

from levit_cli.checkpoints import load, save
from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import write_safetensors
from tests.fuzz.targets import SMALLEST, Model
from tests.hostile.images import whole_images
from tests.support.checkpoint_files import write_model
from tests.support.random_weights import random_state
from tests.support.sample_images import sample_image
from tests.support.tiff_files import GRAY, RGB, tiff


def image_seeds() -> list[bytes]:
    """Return a small image in each format and mode, also in TIFF layouts that Pillow does not write."""
    PIL.Image.init()
    colors = np.asarray(sample_image(20, 16))
    layouts = [
        tiff(colors, RGB, planar=True),
        tiff(colors.astype(np.uint16), RGB, planar=True, deflate=True),
        tiff(colors[..., :1], GRAY, bits=6),
        tiff((colors / 255).astype(np.float32), RGB, order=">"),
    ]
    return [*whole_images().values(), *layouts]


def model_target(folder: Path) -> Model:
    """Return the target that loads a damaged model in ``folder``."""
    bare = folder / "bare.safetensors"
    write_safetensors(bare, to_format(random_state(SMALLEST), SMALLEST, "timm"), "float16")
    save(load(bare, preprocessing="hf"), folder / "valid", "hf", "float16")
    (folder / "damaged").mkdir()
    return Model(folder / "valid", folder / "damaged")


def model_seeds(model: Model, folder: Path) -> list[bytes]:
    """Return one seed for each way to damage a model."""
    weights = model.valid["model.safetensors"]
    contents = [
        weights,
        weights[8 : 8 + int.from_bytes(weights[:8], "little")],
        model.valid["config.json"],
        model.valid["preprocessor_config.json"],
        model.archive.entries[model.archive.pickle],
        write_model(folder / "fb.pth", "fb", SMALLEST).read_bytes(),
        model.archive.directory,
    ]
    return [bytes([index]) + content for index, content in enumerate(contents)]
