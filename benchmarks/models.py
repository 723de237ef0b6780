"""A LeViT of random weights in a Hugging Face folder: speed does not depend on what the weights are."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from levit_cli.checkpoints import load, save
from levit_cli.checkpoints.weights import write_safetensors
from levit_cli.model.config import VARIANTS
from levit_cli.model.tensors import Tensor, tensors


def random_array(tensor: Tensor, rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if tensor.kind == "counter":
        return np.zeros((), np.int64)
    if tensor.kind == "matrix":
        return rng.normal(0, 0.7 * np.prod(tensor.shape[1:]) ** -0.5, tensor.shape).astype(np.float32)
    return rng.uniform(0.5, 1.5, tensor.shape).astype(np.float32)


def write_random_model(variant: str, folder: Path) -> Path:
    """Write ``folder`` as transformers would have it, and return it."""
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as temporary:
        bare = Path(temporary) / "bare.safetensors"
        arrays = {tensor.names.hf: random_array(tensor, rng) for tensor in tensors(VARIANTS[variant])}
        write_safetensors(bare, arrays, "float32")
        save(load(bare), folder, "hf")
    return folder


if __name__ == "__main__":
    write_random_model(sys.argv[1], Path(sys.argv[2]))
