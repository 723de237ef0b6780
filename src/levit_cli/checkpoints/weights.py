"""Read and write weight files as named NumPy arrays.

The first bytes of a file decide its type. safetensors are read without torch. Pickles are read by torch with
``weights_only=True``, and only by versions in which that option is safe; no option of levit disables this. NumPy has no
bfloat16, so such arrays are converted to float32, and ``Weights.dtype`` records the stored type.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from levit_cli.checkpoints import pickles
from levit_cli.choices import Dtype
from levit_cli.errors import RefusedError, reason_of
from levit_cli.system.atomic import replace_bytes

Array = NDArray[Any]
SAFETENSORS_TYPES = {
    "BOOL": np.dtype("?"),
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}
MIN_SAFE_TORCH = (2, 10)  # earlier versions can run code despite weights_only=True: CVE-2025-32434, CVE-2026-24747
PICKLE_MAGIC = b"\x80"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
# Weight files of a model folder in order of preference: safetensors before pickles, single files before shards.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PICKLED_STATES = ("model", "state_dict")  # keys of the weights in checkpoints of Meta's and timm's training scripts
PICKLED_EMAS = ("model_ema", "state_dict_ema")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
SHOWN_NAMES = 5  # names in a message


@dataclass(frozen=True)
class Weights:
    """The arrays of a weight file under the file's own names.

    Args:
        dtype: floating-point type of the stored arrays; float32 if the file mixes several.
        notes: remarks for the user about skipped contents and removed prefixes.
    """

    arrays: dict[str, Array]
    dtype: Dtype = "float32"
    notes: tuple[str, ...] = field(default=())


def read_weights(path: Path, *, ema: bool = False) -> Weights:
    """Read one weight file.

    Args:
        ema: read the exponential moving average of the weights in a training checkpoint instead of the weights.

    Raises:
        RefusedError: the file is not a weight file or is damaged, or loading it could run code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise RefusedError(f"Cannot read {path}", why=reason_of(error)) from error
    if head[8:9] == b"{":
        if ema:
            raise RefusedError(f"{path} has no EMA weights", why="a safetensors file holds one set of weights")
        return _read_safetensors(path)
    if head.startswith((pickles.ZIP_MAGIC, PICKLE_MAGIC)):
        return _read_pickle(path, ema)
    if imports := pickles.unsafe_imports(path):  # a pickle of an early protocol, which has no magic byte
        raise _refused_pickle(path, imports)
    raise RefusedError(f"{path} is not a weight file", why=f"it looks like {_guess_type(head)}")


def shards(index: Path) -> list[str]:
    """Return the weight files that a shard index lists, each once; an empty list if ``index`` is not a shard index.

    Raises:
        RefusedError: the index cannot be read, or lists a file outside its folder.
    """
    if not index.name.endswith(".index.json"):
        return []
    try:
        names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise RefusedError(f"Cannot read the shard index {index}", why=repr(error)) from error
    if not names:
        raise RefusedError(f"The shard index {index} lists no files")
    for name in names:
        if not name or Path(name).name != name or "\0" in name:
            raise RefusedError(f"The shard index {index} lists a file outside its folder", why=repr(name))
    return names


def weight_files(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the weights of a weight file, a shard index or a model folder.

    Raises:
        RefusedError: the folder holds no weights, or a shard index is invalid.
    """
    if path.is_dir():
        preferred = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
        if preferred is None:
            raise RefusedError(f"{path} holds no weights", why=f"looked for {', '.join(WEIGHT_FILES)}")
        path = preferred
    return tuple(path.with_name(name) for name in shards(path)) or (path,)


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of the concatenation of several files, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _guess_type(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; get the file itself with `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page, probably from a failed download; download the file again"
    if head[257:262] == b"ustar":
        return "a tar archive written by torch before 0.4; save it again with a newer version"
    return "an unknown file type" if head else "an empty file"


def _read_safetensors(path: Path) -> Weights:
    try:
        content = path.read_bytes()
        _require_consistent(content)
        tensors = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
        arrays = {name: _array(name, tensor) for name, tensor in tensors}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise RefusedError(f"{path} is damaged or not a safetensors file", why=_first_line(error)) from error
    return Weights(arrays, _common_dtype({tensor["dtype"] for _, tensor in tensors}))


def _require_consistent(content: bytes) -> None:
    """Check that the header matches the file size and lists each name once, so that the error names sizes and names.

    Raises:
        ValueError: the header is invalid.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    if start > len(content):
        raise ValueError(f"the header ends at byte {start:,}, but the file has {len(content):,} bytes")
    try:
        header = json.loads(content[8:start], object_pairs_hook=_without_duplicates)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected_size = start + max(ends, default=0)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"the header is invalid: {error!r}") from error
    if expected_size != len(content):
        raise ValueError(f"the header expects {expected_size:,} bytes, but the file has {len(content):,}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the header lists {next(name for name in names if names.count(name) > 1)} twice")
    return unique


def _array(name: str, tensor: Mapping[str, Any]) -> Array:
    data, shape, dtype = tensor["data"], tensor["shape"], tensor["dtype"]
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype not in SAFETENSORS_TYPES:
        raise ValueError(f"tensor {name} has the unsupported type {dtype}")
    return np.frombuffer(data, SAFETENSORS_TYPES[dtype]).reshape(shape)


def _common_dtype(stored: set[str]) -> Dtype:
    floats = {name.removeprefix("torch.") for name in stored if re.match(r"torch\.(b?float)|B?F\d", name)}
    names: dict[str, Dtype] = {"F16": "float16", "float16": "float16", "BF16": "bfloat16", "bfloat16": "bfloat16"}
    return names.get(floats.pop(), "float32") if len(floats) == 1 else "float32"


def _read_pickle(path: Path, ema: bool) -> Weights:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch cannot be loaded
        raise RefusedError(
            f"{path} is a pickle, which only torch can read", why=str(error), hint="reinstall torch, or use safetensors"
        ) from error

    state, notes = _pick_state(path, _unpickle(path), ema)
    invalid = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if invalid:
        why = f"entries that are not named tensors: {len(invalid)} of {len(state)}"
        raise RefusedError(f"{path} is not a state dict", why=why)
    nbytes, size = sum(tensor.numel() * tensor.element_size() for tensor in state.values()), path.stat().st_size
    if nbytes > size:  # many tensors share one small storage
        raise RefusedError(f"{path} is refused: its tensors need {nbytes:,} bytes, but the file has {size:,}")
    arrays = {name: _to_numpy(path, name, tensor) for name, tensor in state.items()}
    return Weights(arrays, _common_dtype({str(tensor.dtype) for tensor in state.values()}), notes)


def _unpickle(path: Path) -> Any:
    import argparse
    import pickle
    import warnings

    import torch

    installed = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if installed < MIN_SAFE_TORCH:
        raise RefusedError(
            f"{path} is a pickle, which torch {torch.__version__} cannot read safely",
            hint="upgrade to torch >= 2.10, or use safetensors",
        )
    pickles.require_plain_archive(path)
    try:
        # Meta's training script stores its arguments as a Namespace, which only holds values and runs no code.
        # Pass an open file, because torch.load treats some suffixes of a path specially.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # levit checks for the problems that torch warns of
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises RuntimeError, EOFError, KeyError, OSError and more
        imports = pickles.unsafe_imports(path)
        if imports or isinstance(error, pickle.UnpicklingError):
            raise _refused_pickle(path, imports) from error
        raise RefusedError(f"{path} is damaged or not a checkpoint", why=_first_line(error)) from error


def _refused_pickle(path: Path, imports: list[str]) -> RefusedError:
    if not imports:
        return RefusedError(
            f"{path} is refused: torch.load cannot read it with weights_only=True",
            hint="save it with the default settings of torch.save, or as safetensors",
        )
    return RefusedError(
        f"{path} is refused: the pickle holds more than weights",
        why=f"it would import {', '.join(imports[:SHOWN_NAMES])}{' …' if len(imports) > SHOWN_NAMES else ''}",
        hint="none of its code was run; ask its author for a safetensors file",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _pick_state(path: Path, content: Any, ema: bool) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    if not isinstance(content, Mapping):
        raise RefusedError(f"{path} is not a state dict", why=f"it holds a {type(content).__name__}")
    for key in PICKLED_EMAS if ema else PICKLED_STATES:
        if isinstance(content.get(key), Mapping):
            skipped = ", ".join(str(other) for other in content if other != key)
            return content[key], (f"read {key!r}, skipped {skipped}",) if skipped else ()
    if ema:
        raise RefusedError(f"{path} has no EMA weights", why=f"it holds {', '.join(map(str, content))}"[:300])
    return content, ()


def _to_numpy(path: Path, name: str, tensor: Any) -> Array:
    import torch

    try:
        array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, 8-bit float, or on the meta device
        what = f"{path} holds a tensor {name} that cannot be converted to an array"
        raise RefusedError(what, why=_first_line(error)) from error
    return array


def unwrap(weights: Weights) -> Weights:
    """Remove the prefixes that training wrappers add to every name."""
    arrays, notes = weights.arrays, weights.notes
    stripped = True
    while stripped:
        stripped = False
        for prefix in WRAPPERS:
            if arrays and all(name.startswith(prefix) for name in arrays):
                arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
                notes, stripped = (*notes, f"removed the prefix {prefix!r} from every name"), True
    return Weights(arrays, weights.dtype, notes)


def cast(arrays: Mapping[str, Array], dtype: Dtype) -> dict[str, Any]:
    """Cast floating-point arrays to ``dtype``; for bfloat16 return torch tensors. Integers become int64."""
    if dtype == "bfloat16":
        import torch

        from levit_cli.model.levit import to_tensor

        return {
            name: to_tensor(array).to(torch.bfloat16 if array.dtype.kind == "f" else torch.int64)
            for name, array in arrays.items()
        }
    with np.errstate(over="ignore"):  # the caller checks the result for overflow
        return {
            name: np.array(array, dtype=dtype if array.dtype.kind == "f" else np.int64, order="C")
            for name, array in arrays.items()
        }


def write_safetensors(path: Path, arrays: Mapping[str, Array], dtype: Dtype) -> None:
    """Write one safetensors file atomically."""
    if dtype == "bfloat16":
        from safetensors.torch import save
    else:
        from safetensors.numpy import save
    replace_bytes(path, save(cast(arrays, dtype), metadata={"format": "pt"}))


def write_pickle(path: Path, arrays: Mapping[str, Array], dtype: Dtype) -> None:
    """Write ``{"model": state}`` with ``torch.save``, like Meta's training script."""
    import io

    import torch

    state = {name: torch.as_tensor(array) for name, array in cast(arrays, dtype).items()}
    buffer = io.BytesIO()  # given a path, torch.save stores the file's name, and the bytes would depend on it
    torch.save({"model": state}, buffer)
    replace_bytes(path, buffer.getvalue())
