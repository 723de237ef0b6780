"""Use torch where only torch will do: to read checkpoints in its format before 1.6, and to write ``.pth`` files."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from levit_cli.checkpoints.pickled_values import DTYPES, Unsupported
from levit_cli.choices import Dtype
from levit_cli.errors import RefusedError
from levit_cli.system.extras import extra

Array = NDArray[Any]
MIN_SAFE_TORCH = (2, 10)  # earlier versions can run code despite weights_only=True: CVE-2025-32434, CVE-2026-24747


class LegacyTensor:
    """A tensor that torch has read."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    @property
    def dtype(self) -> str:
        return str(self._tensor.dtype).removeprefix("torch.")

    @property
    def nbytes(self) -> int:
        return int(self._tensor.numel() * self._tensor.element_size())

    def array(self) -> Array:
        tensor = self._tensor.float() if self.dtype == "bfloat16" else self._tensor
        array: Array = tensor.detach().numpy()
        return array


def as_tensor(value: Any) -> LegacyTensor | Unsupported | None:
    """Return the tensor, or what makes it unusable; None for other values."""
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    tensor = LegacyTensor(value)
    if value.device.type != "cpu" or value.layout != torch.strided or tensor.dtype not in DTYPES:
        return Unsupported(f"a tensor of {value.layout}, {value.dtype}, on {value.device}", "save it as dense float32")
    return tensor


def read_legacy(path: Path) -> Any:
    """Return the content of a checkpoint in the format of torch before 1.6.

    Raises:
        UsageError: torch is not installed.
        RefusedError: the file is damaged, or this version of torch does not read it safely.
    """
    with extra("torch", f"Reading {path}, a checkpoint in the format of torch before 1.6,"):
        import argparse

        import torch
    installed = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if installed < MIN_SAFE_TORCH:
        raise RefusedError(
            f"{path} is in the format before torch 1.6, which torch {torch.__version__} cannot read safely",
            hint="upgrade to torch >= 2.10, or use safetensors",
        )
    try:
        # Meta's training script stores its arguments as a Namespace, which only holds values and runs no code.
        # Pass an open file, because torch.load treats some suffixes of a path specially.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # levit checks for the problems that torch warns of
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises RuntimeError, EOFError, KeyError, OSError and more
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise RefusedError(f"{path} is damaged or not a checkpoint", why=why) from error


def torch_saved(arrays: Mapping[str, Array], dtype: Dtype, suffix: str) -> bytes:
    """Return the file that ``torch.save`` writes for ``{"model": state}``, like Meta's training script.

    Args:
        arrays: for bfloat16, float32 arrays with values that bfloat16 represents.
        suffix: suffix of the file's name, for the error message.

    Raises:
        UsageError: torch is not installed.
    """
    with extra("torch", f"Writing {suffix or 'a pickle'}"):
        import torch
    state = {name: torch.as_tensor(array) for name, array in arrays.items()}
    if dtype == "bfloat16":
        state = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    buffer = io.BytesIO()  # given a path, torch.save stores the file's name, and the bytes would depend on it
    torch.save({"model": state}, buffer)
    return buffer.getvalue()
