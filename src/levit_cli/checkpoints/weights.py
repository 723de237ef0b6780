"""Read and write weight files as named NumPy arrays.

The first bytes of a file decide its type. safetensors are read here, checkpoints of ``torch.save`` in ``pickles``.
NumPy has no bfloat16, so such arrays are converted to float32, and ``Weights.dtype`` records the stored type.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from levit_cli.checkpoints.detect import has_stem
from levit_cli.choices import Dtype
from levit_cli.errors import RefusedError, reason_of
from levit_cli.system.atomic import replace_bytes
from levit_cli.system.text import count_noun

Array = NDArray[Any]
SAFETENSORS_TYPES = {
    "BOOL": np.dtype("?"),
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}
ZIP_MAGIC, PICKLE_MAGIC = b"PK\3\4", b"\x80"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
# Weight files of a model folder in order of preference: safetensors before pickles, single files before shards.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INT8_DESCRIPTION = "int8.json"  # beside the weights in a folder that levit quantize made
# Prefixes of DistributedDataParallel, torch.compile, Lightning modules and other wrappers, transformers' timm wrapper.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "timm_model.")
HEADS = ("head.", "head_dist.", "classifier")  # first names of the heads in the three formats
SHOWN_NAMES = 5  # names in a note
WRITTEN_TYPES: dict[Dtype, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


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
        RefusedError: the file is not a weight file or is damaged, or asks for more than weights.
        UsageError: the file is in the format of torch before 1.6, and torch is not installed.
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
    from levit_cli.checkpoints import pickles  # not needed for safetensors, and its import takes time

    if head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        state = pickles.read_pickle(path, ema=ema)
        return Weights(state.arrays, _common_dtype(state.dtypes), state.notes)
    if imports := pickles.unsafe_imports_of(path):  # a pickle of an early protocol, which has no magic byte
        raise pickles.refused_pickle(path, imports)
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
    floats = {name for name in stored if re.match(r"b?float|B?F\d", name)}
    names: dict[str, Dtype] = {"F16": "float16", "float16": "float16", "BF16": "bfloat16", "bfloat16": "bfloat16"}
    return names.get(floats.pop(), "float32") if len(floats) == 1 else "float32"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def unwrap(weights: Weights) -> Weights:
    """Remove the prefixes that training wrappers add to the names of a network.

    A prefix that only some names have is removed if these are the names of a LeViT. Of the others, the heads of a LeViT
    are kept, and the rest is listed in a note.
    """
    arrays, notes = weights.arrays, weights.notes
    while prefix := _prefix_of(arrays):
        below = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        others = {name: array for name, array in arrays.items() if not name.startswith(prefix)}
        heads = {name: array for name, array in others.items() if name.startswith(HEADS) and name not in below}
        notes = (*notes, f"removed the prefix {prefix!r} from {_extent(len(below), list(others), list(heads))}")
        arrays = below | heads
    return Weights(arrays, weights.dtype, notes)


def _prefix_of(arrays: Mapping[str, Array]) -> str:
    """Return the prefix to remove, or the empty string."""
    if not arrays or has_stem(arrays):
        return ""
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in arrays):
            return prefix
    return next((prefix for prefix in WRAPPERS if has_stem(_below(arrays, prefix))), "")


def _below(names: Iterable[str], prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _extent(count: int, others: list[str], heads: list[str]) -> str:
    """Describe the names that had a prefix, and the others, of which the heads are kept."""
    skipped = [name for name in others if name not in heads]
    shown = ", ".join(name[:100] for name in skipped[:SHOWN_NAMES]) + (" …" if len(skipped) > SHOWN_NAMES else "")
    kept = f", kept {count_noun(len(heads), 'name')} of heads without it" if heads else ""
    skip = f", skipped the other {len(skipped)}: {shown}" if skipped else ""
    return (f"{count_noun(count, 'name')}" if others else "every name") + kept + skip


def cast(arrays: Mapping[str, Array], dtype: Dtype) -> dict[str, Array]:
    """Round floating-point arrays to ``dtype``. Integers become int64. bfloat16 values are returned as float32."""
    with np.errstate(over="ignore"):  # the caller checks the result for overflow
        return {
            name: _rounded(array, dtype) if array.dtype.kind == "f" else _integers(array)
            for name, array in arrays.items()
        }


def _integers(array: Array) -> Array:
    return np.array(array, dtype=np.int64, order="C")


def _rounded(array: Array, dtype: Dtype) -> Array:
    if dtype != "bfloat16":
        return np.array(array, dtype=dtype, order="C")
    bits = np.array(array, dtype=np.float32, order="C").view(np.uint32)
    # Round to nearest, ties to even, as torch does: add half of the last kept bit, and 1 more if that bit is set.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return np.where(np.isnan(bits.view(np.float32)), bits, rounded).astype(np.uint32).view(np.float32)


def write_safetensors(path: Path, arrays: Mapping[str, Array], dtype: Dtype) -> None:
    """Write one safetensors file atomically. Its bytes are those that ``safetensors.torch.save`` writes."""
    replace_bytes(path, _safetensors(cast(arrays, dtype), dtype))


def write_pickle(path: Path, arrays: Mapping[str, Array], dtype: Dtype) -> None:
    """Write ``{"model": state}`` with ``torch.save``.

    Raises:
        UsageError: torch is not installed.
    """
    from levit_cli.checkpoints.torch_files import torch_saved

    replace_bytes(path, torch_saved(cast(arrays, dtype), dtype, path.suffix))


def _safetensors(arrays: Mapping[str, Array], dtype: Dtype) -> bytes:
    """Return the file's bytes. The library writes no bfloat16 without torch."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    contents: list[bytes] = []
    end = 0
    for name in sorted(arrays, key=lambda name: (arrays[name].dtype.kind == "f", name)):  # wider types first
        array = arrays[name]
        is_float = array.dtype.kind == "f"
        contents.append(_bfloat16(array) if is_float and dtype == "bfloat16" else array.tobytes())
        start, end = end, end + len(contents[-1])
        kind = WRITTEN_TYPES[dtype] if is_float else "I64"
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *contents])


def _bfloat16(array: Array) -> bytes:
    return (array.view(np.uint32) >> 16).astype("<u2").tobytes()
