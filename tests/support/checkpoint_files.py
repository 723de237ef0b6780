"""Write checkpoint files of each format for tests."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import write_pickle, write_safetensors
from levit_cli.choices import CheckpointFormat, Dtype
from levit_cli.model.config import LevitConfig
from tests.support.random_weights import TINY, random_state

Array = NDArray[Any]


def arrays_of(format: CheckpointFormat, config: LevitConfig = TINY) -> dict[str, Array]:
    """Return writable arrays of a random model under the names of a format."""
    return {name: np.array(array) for name, array in to_format(random_state(config), config, format).items()}


def write_arrays(path: Path, arrays: dict[str, Array], dtype: Dtype = "float32") -> Path:
    """Write one weight file of the type given by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (write_safetensors if path.suffix == ".safetensors" else write_pickle)(path, arrays, dtype)
    return path


def write_model(path: Path, format: CheckpointFormat, config: LevitConfig = TINY, dtype: Dtype = "float32") -> Path:
    """Write the weight file of a random model."""
    return write_arrays(path, arrays_of(format, config), dtype)
