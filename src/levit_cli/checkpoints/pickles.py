"""Read checkpoints of ``torch.save``: zip archives without torch, older files with it.

A zip archive is read by ``zip_archive`` and ``unpickle``, which import nothing that the file names. Only the format of
torch before 1.6, which is not a zip archive, is read by torch. If a file is refused, the names that its pickle would
import are listed for the error message; the pickle is not run for this.
"""

import pickletools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import zip_archive
from levit_cli.checkpoints.pickled_values import NAMES, Storage, Tensor, Unsupported, require
from levit_cli.checkpoints.unpickle import MAX_OPCODES, python3_name, unpickle
from levit_cli.checkpoints.zip_archive import Archive, damaged
from levit_cli.errors import RefusedError

Array = NDArray[Any]
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle in a file of torch before 1.6
LEGACY_PICKLES = 5  # magic number, protocol, system, content, storage keys; then raw data
MAX_PICKLE_BYTES = 64 << 20  # bytes that are inspected; the pickle of a LeViT has about 65 kB without the arrays
MAX_DATA_BYTES = 16 << 20  # bytes of the pickle in an archive; text may take 4 times as much memory
MAX_SHARED_BYTES = 64 << 20  # tensors that share a storage may need this much more than the file when they are copied
# Keys of the weights in training checkpoints: Meta's, timm's and Lightning's, those of PyTorch's tutorials and others.
STATES = ("model", "state_dict", "model_state_dict", "net", "network", "module")
EMAS = ("model_ema", "state_dict_ema", "ema_state_dict")
GLOBAL_NAME = re.compile(r"[\w.]+")
SHOWN_NAMES = 5  # names in a message
MAX_SHOWN_KEYS = 20


class StoredTensor(Protocol):
    """A tensor of a checkpoint whose values are read on request."""

    @property
    def dtype(self) -> str: ...

    @property
    def nbytes(self) -> int: ...

    def array(self) -> Array:
        """Return the values; bfloat16 becomes float32."""


@dataclass(frozen=True)
class PickledState:
    """The weights of a checkpoint.

    Args:
        dtypes: types of the stored tensors, in torch's words without "torch.".
        notes: remarks for the user about skipped contents.
    """

    arrays: dict[str, Array]
    dtypes: set[str]
    notes: tuple[str, ...]


def read_pickle(path: Path, *, ema: bool = False) -> PickledState:
    """Read the state dict of a checkpoint that was written by ``torch.save``.

    Args:
        ema: read the exponential moving average of the weights instead of the weights.

    Raises:
        RefusedError: the file is damaged, holds no state dict, or asks for more than weights.
        UsageError: the file is in the format of torch before 1.6, and torch is not installed.
    """
    with path.open("rb") as file:
        in_zip = file.read(len(zip_archive.MAGIC)) == zip_archive.MAGIC
    return _read_zip(path, ema) if in_zip else _read_legacy(path, ema)


def unsafe_imports(content: bytes) -> list[str]:
    """Return the names that unpickling would import and that weights do not need, such as ``posix.system``, sorted.

    The arguments of their calls are not listed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickletools warns of invalid escapes in files that are not pickles
        return sorted(set(_globals(BytesIO(content[:MAX_PICKLE_BYTES]))) - NAMES)


def unsafe_imports_of(path: Path) -> list[str]:
    """Return the unsafe imports of a file that is not a zip archive."""
    with path.open("rb") as file:
        return unsafe_imports(file.read(MAX_PICKLE_BYTES))


def refused_pickle(path: Path, names: list[str]) -> RefusedError:
    """Return the error for a pickle that would import names which weights do not need."""
    shown = ", ".join(name[:100] for name in names[:SHOWN_NAMES]) + (" …" if len(names) > SHOWN_NAMES else "")
    return RefusedError(
        f"{path} is refused: the pickle holds more than weights",
        why=f"it would import {shown}",
        hint="none of its code was run; ask its author for a safetensors file",
    )


def _read_zip(path: Path, ema: bool) -> PickledState:
    with Archive(path) as archive:
        root = next(iter(archive.entries)).partition("/")[0]
        if f"{root}/data.pkl" not in archive.entries:
            raise damaged(path, f"it has no entry {root}/data.pkl, which every file of torch.save has")
        size = archive.entries[f"{root}/data.pkl"].size
        if size > MAX_DATA_BYTES:
            raise damaged(path, f"its pickle has {size:,} bytes; that of a LeViT has less than {MAX_DATA_BYTES:,}")
        pickle = archive.read(f"{root}/data.pkl").tobytes()
        try:
            state = _state(path, unpickle(pickle, _Buffers(archive, root)), ema, _identity)
        except ValueError as error:
            raise _refusal(path, pickle, str(error)) from error
        archive.verify_rest()
    if archive.has_checksums:
        return state
    return replace(state, notes=(*state.notes, "the file was saved without checksums, so damage may go unnoticed"))


def _refusal(path: Path, pickle: bytes, why: str) -> RefusedError:
    names = unsafe_imports(pickle)
    hint = "save it with the default settings of torch.save, or as safetensors"
    return refused_pickle(path, names) if names else damaged(path, why, hint)


def _read_legacy(path: Path, ema: bool) -> PickledState:
    with path.open("rb") as file:
        content = file.read(MAX_PICKLE_BYTES)
    if names := unsafe_imports(content):
        raise refused_pickle(path, names)
    if not _is_legacy(content):
        raise damaged(path, "it is a pickle that torch.save did not write, or its start is missing")
    from levit_cli.checkpoints import torch_files

    return _state(path, torch_files.read_legacy(path), ema, torch_files.as_tensor)


def _is_legacy(content: bytes) -> bool:
    """Return whether the first pickle is the magic number of torch before 1.6."""
    try:
        return any(argument == LEGACY_MAGIC for _, argument, _ in pickletools.genops(content[:64]))
    except ValueError:
        return False


class _Buffers:
    """The bytes of the storages in an archive, read when first used.

    Args:
        root: the archive's folder, which has the name of the file when it was written.
    """

    def __init__(self, archive: Archive, root: str) -> None:
        self._archive, self._root = archive, root
        name = f"{root}/byteorder"  # missing in files of torch before 2.1, which are little-endian
        order = archive.read(name).tobytes() if name in archive.entries else b"little"
        require(order in (b"little", b"big"), f"an unknown byte order {order[:20]!r}")
        self._big_endian = order == b"big"
        self._raw: dict[str, Array] = {}
        self._itemsizes: dict[str, int] = {}
        self._wide: dict[str, Array] = {}

    def raw(self, storage: Storage) -> Array:
        if storage.key not in self._raw:
            self._raw[storage.key], self._itemsizes[storage.key] = self._read(storage), storage.itemsize
        same = self._itemsizes[storage.key] == storage.itemsize
        require(same or not self._big_endian, "a big-endian storage with elements of two sizes")
        return self._raw[storage.key]

    def widened(self, storage: Storage) -> Array:
        if storage.key not in self._wide:
            bits = self._read(storage)[: storage.nbytes].view("<u2")
            self._wide[storage.key] = (bits.astype("<u4") << 16).view("<f4")
        return self._wide[storage.key]

    def _read(self, storage: Storage) -> Array:
        name = f"{self._root}/data/{storage.key}"
        require(name in self._archive.entries, f"its entry {name} is missing")
        size = self._archive.entries[name].size
        expected = f"its entry {name} has {size:,} bytes, but its pickle expects {storage.nbytes:,}"
        require(size // storage.itemsize == storage.size, expected)
        content = self._archive.read(name)
        if not self._big_endian or storage.dtype in ("bool", "int8", "uint8"):
            return content
        require(storage.dtype != "", "a big-endian storage without a type")  # torch.load does not swap its bytes
        return content[: storage.nbytes].view(f"u{storage.itemsize}").byteswap().view(np.uint8)


def _identity(value: Any) -> StoredTensor | Unsupported | None:
    return value if isinstance(value, Tensor | Unsupported) else None


def _state(
    path: Path, content: Any, ema: bool, as_tensor: Callable[[Any], StoredTensor | Unsupported | None]
) -> PickledState:
    state, notes = _pick_state(path, content, ema)
    tensors = {name: as_tensor(value) for name, value in state.items()}
    invalid = [name for name, tensor in tensors.items() if type(name) is not str or tensor is None]
    if invalid:
        why = f"entries that are not named tensors: {len(invalid)} of {len(state)}; it holds {_listed(state)}"
        hint = f"the weights are looked for at the top and in {', '.join(EMAS if ema else STATES)}"
        raise RefusedError(f"{path} is not a state dict", why=why, hint=hint)
    for name, tensor in tensors.items():
        if isinstance(tensor, Unsupported):
            what = f"{path} holds a tensor {name} that cannot be converted to an array"
            raise RefusedError(what, why=f"it is {tensor.what}", hint=tensor.hint)
    readable = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, Unsupported | None)}
    nbytes, size = sum(tensor.nbytes for tensor in readable.values()), path.stat().st_size
    if nbytes > size + MAX_SHARED_BYTES:  # many tensors share one small storage
        raise RefusedError(f"{path} is refused: its tensors need {nbytes:,} bytes, but the file has {size:,}")
    arrays = {name: tensor.array() for name, tensor in readable.items()}
    return PickledState(arrays, {tensor.dtype for tensor in readable.values()}, notes)


def _pick_state(path: Path, content: Any, ema: bool) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    if not isinstance(content, Mapping):
        raise RefusedError(f"{path} is not a state dict", why=f"it holds a {type(content).__name__}")
    for key in EMAS if ema else STATES:
        if isinstance(content.get(key), Mapping):
            skipped = _listed({other: None for other in content if other != key})
            return content[key], (f"read {key!r}, skipped {skipped}",) if skipped else ()
    if ema:
        raise RefusedError(f"{path} has no EMA weights", why=f"it holds {_listed(content)}")
    return content, ()


def _listed(content: Mapping[Any, Any]) -> str:
    """Return the first keys as text."""
    keys = [str(key)[:100] for key in islice(content, MAX_SHOWN_KEYS + 1)]
    return ", ".join(keys[:MAX_SHOWN_KEYS]) + (" …" if len(keys) > MAX_SHOWN_KEYS else "")


def _globals(stream: BinaryIO) -> Iterator[str]:
    """Yield the names in the first consecutive pickles of a stream."""
    end = stream.seek(0, 2)
    stream.seek(0)
    for _ in range(LEGACY_PICKLES):
        if stream.tell() == end:
            return
        try:
            yield from _globals_of_one(stream)
        except (ValueError, LookupError, OverflowError):
            return


def _globals_of_one(stream: BinaryIO) -> Iterator[str]:
    strings: list[str] = []  # pushed strings; STACK_GLOBAL uses the last two
    memo: dict[str, str] = {}  # by the index as text, because the hashes of numbers can be made to collide
    for opcode, argument, _ in islice(pickletools.genops(stream), MAX_OPCODES):
        if opcode.name in ("GLOBAL", "INST"):
            yield from _global(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield from _global(*strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[str(len(memo) if argument is None else argument)] = strings[-1] if strings else ""
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            strings.append(memo.get(str(argument), ""))


def _global(module: str = "", name: str = "") -> Iterator[str]:
    if GLOBAL_NAME.fullmatch(module) and GLOBAL_NAME.fullmatch(name):
        yield python3_name(module, name)
