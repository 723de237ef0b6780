"""Write a LeViT with random weights as a Hugging Face folder. Speed does not depend on the weights.

python -m benchmarks.models VARIANT FOLDER [int8]

With ``int8``, the folder also holds an int8 graph, which was calibrated with noise.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from levit_cli.checkpoints import load, save
from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import write_safetensors
from levit_cli.model.config import VARIANTS
from levit_cli.model.tensors import random_state


def write_random_model(variant: str, folder: Path) -> Path:
    """Write ``folder`` in the format of transformers and return it."""
    config = VARIANTS[variant]
    with TemporaryDirectory() as temporary:
        weights = Path(temporary) / "weights.safetensors"
        write_safetensors(weights, to_format(random_state(config), config, "hf"), "float32")
        save(load(weights), folder, "hf")
    return folder


def write_random_int8_model(variant: str, folder: Path) -> Path:
    """Write ``folder`` as ``levit quantize`` does, whatever its accuracy, and return it."""
    from levit_cli.predict.model import ModelOptions
    from levit_cli.quantize.run import Calibration, quantize
    from levit_cli.system.progress import silent

    with TemporaryDirectory() as temporary:
        model = write_random_model(variant, Path(temporary) / "model")
        data = write_noise(Path(temporary) / "data" / "tabby")
        calibration = Calibration(data.parent, samples=10, max_drop=100)
        quantize(ModelOptions(str(model)), folder, calibration, silent, quiet=True)
    return folder


def write_noise(folder: Path, count: int = 100) -> Path:
    """Write images of coarse noise, and return their folder."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (14, 14, 3), np.uint8)
        Image.fromarray(noise).resize((256, 256)).save(folder / f"{number}.png")
    return folder


if __name__ == "__main__":
    write = write_random_int8_model if sys.argv[3:] == ["int8"] else write_random_model
    write(sys.argv[1], Path(sys.argv[2]))
