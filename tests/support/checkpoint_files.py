"""Write checkpoint files of each format for tests."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import cast, write_pickle, write_safetensors
from levit_cli.choices import CheckpointFormat, Dtype
from levit_cli.model.config import LevitConfig
from tests.support.random_weights import TINY, random_state
from tests.support.torch_archive import Stored, stored, write_archive

Array = NDArray[Any]


def arrays_of(format: CheckpointFormat, config: LevitConfig = TINY) -> dict[str, Array]:
    """Return writable arrays of a random model under the names of a format."""
    return {name: np.array(array) for name, array in to_format(random_state(config), config, format).items()}


def write_arrays(path: Path, arrays: dict[str, Array], dtype: Dtype = "float32") -> Path:
    """Write one weight file of the type given by its suffix; a pickle by torch where it is installed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        write_safetensors(path, arrays, dtype)
    elif find_spec("torch"):
        write_pickle(path, arrays, dtype)
    else:
        values = cast(arrays, dtype).items()
        write_archive(path, {"model": {name: _stored(array, dtype) for name, array in values}}, order="little")
    return path


def _stored(array: Array, dtype: Dtype) -> Array | Stored:
    is_bfloat16 = dtype == "bfloat16" and array.dtype.kind == "f"
    return stored((array.view(np.uint32) >> 16).astype(np.uint16), dtype) if is_bfloat16 else array


def write_model(path: Path, format: CheckpointFormat, config: LevitConfig = TINY, dtype: Dtype = "float32") -> Path:
    """Write the weight file of a random model."""
    return write_arrays(path, arrays_of(format, config), dtype)
