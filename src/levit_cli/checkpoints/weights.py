"""Named arrays out of weight files and into them: safetensors without torch, pickles with torch and never on trust.

What a file is, its first bytes say. Pickles are read with ``weights_only=True``, by a torch in which that is sound, and
there is no way around it. bfloat16, which NumPy lacks, is widened to float32; ``Weights.dtype`` remembers it.
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
from levit_cli.errors import RefusedError
from levit_cli.system.atomic import replace_bytes

Array = NDArray[Any]
SAFETENSORS_TYPES = {
    "BOOL": np.dtype("?"),
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}
OLDEST_SOUND_TORCH = (2, 10)  # before it, weights_only=True ran code: CVE-2025-32434, CVE-2026-24747
PICKLE_MAGIC = b"\x80"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
# What makes a model in a folder; the first that is there is taken: safetensors before pickles, whole before sharded.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PICKLED_STATES = ("model", "state_dict")  # where Meta's and timm's training scripts keep the weights
PICKLED_EMAS = ("model_ema", "state_dict_ema")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Weights:
    """Arrays under the names of their file.

    Args:
        dtype: the one floating-point type of the file; float32 where it mixes several.
        notes: what was passed over or taken off, for the user.
    """

    arrays: dict[str, Array]
    dtype: Dtype = "float32"
    notes: tuple[str, ...] = field(default=())


def read_weights(path: Path, *, ema: bool = False) -> Weights:
    """Read one weight file.

    Args:
        ema: take the exponential moving average out of a training checkpoint, instead of the weights.

    Raises:
        RefusedError: it is not a weight file, it is damaged, or it would run code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise RefusedError(f"Cannot read {path}", why=error.strerror or str(error)) from error
    if head[8:9] == b"{":
        if ema:
            raise RefusedError(f"{path} has no EMA weights", why="safetensors hold one set of weights")
        return _read_safetensors(path)
    if head.startswith((pickles.ZIP_MAGIC, PICKLE_MAGIC)):
        return _read_pickle(path, ema)
    if asked := pickles.globals_asked_for(path):  # a pickle of an early protocol, which has no first byte of its own
        raise _refused_pickle(path, asked)
    raise RefusedError(f"{path} is not a weight file", why=f"it looks like {_looks_like(head)}")


def shards(index: Path) -> list[str]:
    """The weight files that a sharded index names, each once; nothing for a file that is whole.

    Raises:
        RefusedError: the index cannot be read, or names something outside its folder.
    """
    if not index.name.endswith(".index.json"):
        return []
    try:
        names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise RefusedError(f"Cannot read the shard index {index}", why=repr(error)) from error
    if not names:
        raise RefusedError(f"The shard index {index} names no file")
    for name in names:
        if not name or Path(name).name != name or "\0" in name:
            raise RefusedError(f"The shard index {index} names a file outside its folder", why=repr(name))
    return names


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights at ``path``: itself, its shards, or the best of a folder."""
    if path.is_dir():
        found = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
        if found is None:
            raise RefusedError(f"{path} holds no weights", why=f"looked for {', '.join(WEIGHT_FILES)}")
        path = found
    return tuple(path.with_name(name) for name in shards(path)) or (path,)


def sha256_of(*paths: Path) -> str:
    """The SHA-256 of a file, or of several files one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _looks_like(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page, perhaps a failed download"
    if head[257:262] == b"ustar":
        return "a tar archive of a torch before 0.4; save it again with a newer one"
    return "nothing known" if head else "an empty file"


def _read_safetensors(path: Path) -> Weights:
    try:
        content = path.read_bytes()
        _require_consistent(content)
        tensors = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
        arrays = {name: _array(name, tensor) for name, tensor in tensors}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise RefusedError(f"{path} is damaged or not safetensors", why=_first_line(error)) from error
    return Weights(arrays, _common_dtype({tensor["dtype"] for _, tensor in tensors}))


def _require_consistent(content: bytes) -> None:
    """Find what the reader of safetensors does not say, by how much a file is short, or not see, a name given twice."""
    start = 8 + int.from_bytes(content[:8], "little")
    if start > len(content):
        raise ValueError(f"its header says that it ends at byte {start:,}, the file has {len(content):,}")
    try:
        header = json.loads(content[8:start], object_pairs_hook=_without_duplicates)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        said = start + max(ends, default=0)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"its header makes no sense: {error!r}") from error
    if said != len(content):
        raise ValueError(f"its header says {said:,} bytes, the file has {len(content):,}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"its header names {next(name for name in names if names.count(name) > 1)} twice")
    return unique


def _array(name: str, tensor: Mapping[str, Any]) -> Array:
    data, shape, dtype = tensor["data"], tensor["shape"], tensor["dtype"]
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype not in SAFETENSORS_TYPES:
        raise ValueError(f"tensor {name} is of type {dtype}")
    return np.frombuffer(data, SAFETENSORS_TYPES[dtype]).reshape(shape)


def _common_dtype(stored: set[str]) -> Dtype:
    floats = {name.removeprefix("torch.") for name in stored if re.match(r"torch\.(b?float)|B?F\d", name)}
    names: dict[str, Dtype] = {"F16": "float16", "float16": "float16", "BF16": "bfloat16", "bfloat16": "bfloat16"}
    return names.get(floats.pop(), "float32") if len(floats) == 1 else "float32"


def _read_pickle(path: Path, ema: bool) -> Weights:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of torch's that does not load
        raise RefusedError(
            f"{path} is a pickle, which only torch reads", why=str(error), hint="use safetensors"
        ) from error

    state, notes = _pick_state(path, _unpickle(path), ema)
    strange = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if strange:
        raise RefusedError(f"{path} is not a state dict", why=f"{len(strange)} entries are no named tensors")
    claimed, size = sum(tensor.numel() * tensor.element_size() for tensor in state.values()), path.stat().st_size
    if claimed > size:  # many views of one small storage
        raise RefusedError(f"{path} is refused: its tensors claim {claimed:,} bytes, the file has {size:,}")
    arrays = {name: _to_numpy(path, name, tensor) for name, tensor in state.items()}
    return Weights(arrays, _common_dtype({str(tensor.dtype) for tensor in state.values()}), notes)


def _unpickle(path: Path) -> Any:
    import argparse
    import pickle
    import warnings

    import torch

    installed = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if installed < OLDEST_SOUND_TORCH:
        raise RefusedError(
            f"{path} is a pickle, and torch {torch.__version__} cannot read one safely",
            hint="upgrade to torch >= 2.10, or use safetensors",
        )
    pickles.require_plain_archive(path)
    try:
        # Meta's training script leaves its arguments in the file; a Namespace is a bag of values and runs nothing.
        # An open file, as torch would go by the suffix of a path.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises RuntimeError, EOFError, KeyError, OSError and more
        asked = pickles.globals_asked_for(path)
        if asked or isinstance(error, pickle.UnpicklingError):
            raise _refused_pickle(path, asked) from error
        raise RefusedError(f"{path} is damaged or not a checkpoint", why=_first_line(error)) from error


def _refused_pickle(path: Path, asked: list[str]) -> RefusedError:
    if not asked:
        return RefusedError(
            f"{path} is refused: torch's reader of mere weights does not take it",
            hint="save it by torch.save as that does by default, or as safetensors",
        )
    return RefusedError(
        f"{path} is refused: it holds more than weights",
        why=f"it asks for {', '.join(asked[:SHOWN])}{' …' if len(asked) > SHOWN else ''}",
        hint="nothing in it was run; ask its maker for safetensors",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _pick_state(path: Path, content: Any, ema: bool) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    if not isinstance(content, Mapping):
        raise RefusedError(f"{path} is not a state dict", why=f"it holds a {type(content).__name__}")
    for key in PICKLED_EMAS if ema else PICKLED_STATES:
        if isinstance(content.get(key), Mapping):
            passed_over = ", ".join(str(other) for other in content if other != key)
            return content[key], (f"took {key!r}, passed over {passed_over}",) if passed_over else ()
    if ema:
        raise RefusedError(f"{path} has no EMA weights", why=f"it holds {', '.join(map(str, content))}"[:300])
    return content, ()


def _to_numpy(path: Path, name: str, tensor: Any) -> Array:
    import torch

    try:
        array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantised, of eight bits, without data
        raise RefusedError(f"{path} holds no plain array as {name}", why=_first_line(error)) from error
    return array


def unwrap(weights: Weights) -> Weights:
    """Take the prefixes off that training wrappers put before every name."""
    arrays, notes = weights.arrays, weights.notes
    stripped = True
    while stripped:
        stripped = False
        for prefix in WRAPPERS:
            if arrays and all(name.startswith(prefix) for name in arrays):
                arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
                notes, stripped = (*notes, f"took the prefix {prefix!r} off every name"), True
    return Weights(arrays, weights.dtype, notes)


def cast(arrays: Mapping[str, Array], dtype: Dtype) -> dict[str, Any]:
    """Floating-point arrays in ``dtype``, as torch tensors where that is bfloat16; integers as they are."""
    if dtype == "bfloat16":
        import torch

        from levit_cli.model.levit import to_tensor

        return {
            name: to_tensor(array).to(torch.bfloat16 if array.dtype.kind == "f" else torch.int64)
            for name, array in arrays.items()
        }
    with np.errstate(over="ignore"):  # an overflow is found by the check of the result
        return {
            name: np.array(array, dtype=dtype if array.dtype.kind == "f" else np.int64, order="C")
            for name, array in arrays.items()
        }


def write_safetensors(path: Path, arrays: Mapping[str, Array], dtype: Dtype) -> None:
    """Write one safetensors file, the old one or the new one at every moment."""
    if dtype == "bfloat16":
        from safetensors.torch import save
    else:
        from safetensors.numpy import save
    replace_bytes(path, save(cast(arrays, dtype), metadata={"format": "pt"}))


def write_pickle(path: Path, arrays: Mapping[str, Array], dtype: Dtype) -> None:
    """Write ``{"model": state}`` as Meta's script does."""
    import io

    import torch

    state = {name: torch.as_tensor(array) for name, array in cast(arrays, dtype).items()}
    buffer = io.BytesIO()  # a path would put its own name into the archive: the same weights, other bytes
    torch.save({"model": state}, buffer)
    replace_bytes(path, buffer.getvalue())
