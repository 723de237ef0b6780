"""Sound files to begin with, and where a model is spoilt."""

from pathlib import Path

import PIL.Image

from levit_cli.checkpoints import load, save
from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import write_safetensors
from tests.fuzz.targets import SMALLEST, Model
from tests.hostile.images import whole_images
from tests.support.checkpoint_files import write_model
from tests.support.random_weights import random_state


def image_seeds() -> list[bytes]:
    """A small image in each format and mode."""
    PIL.Image.init()
    return list(whole_images().values())


def spoilable_model(folder: Path) -> Model:
    bare = folder / "bare.safetensors"
    write_safetensors(bare, to_format(random_state(SMALLEST), SMALLEST, "timm"), "float16")
    save(load(bare, preprocessing="hf"), folder / "sound", "hf", "float16")
    (folder / "spoilt").mkdir()
    return Model(folder / "sound", folder / "spoilt")


def model_seeds(model: Model, folder: Path) -> list[bytes]:
    """One for each way to spoil a model."""
    weights = model.sound["model.safetensors"]
    contents = [
        weights,
        weights[8 : 8 + int.from_bytes(weights[:8], "little")],
        model.sound["config.json"],
        model.sound["preprocessor_config.json"],
        model.archive.entries[model.archive.pickle],
        write_model(folder / "fb.pth", "fb", SMALLEST).read_bytes(),
    ]
    return [bytes([way]) + content for way, content in enumerate(contents)]
