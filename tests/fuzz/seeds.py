"""Sound files to begin with, and where a model is spoilt."""

from pathlib import Path

import PIL.Image

from tests.fuzz.targets import SMALLEST, Model
from tests.hostile.images import whole_images
from tests.support.checkpoint_files import write_model
from tests.support.random_weights import write_folder


def image_seeds() -> list[bytes]:
    """A small image in each format and mode."""
    PIL.Image.init()
    return list(whole_images().values())


def spoilable_model(folder: Path) -> Model:
    write_folder(folder / "sound", config=SMALLEST, dtype="float16")
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
