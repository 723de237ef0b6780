"""Write a LeViT with random weights as a Hugging Face folder. Speed does not depend on the weights.

python -m benchmarks.models VARIANT FOLDER
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


if __name__ == "__main__":
    write_random_model(sys.argv[1], Path(sys.argv[2]))
