"""Write the zip archives of ``torch.save`` without torch: the pickle opcode by opcode, the storages as entries."""

import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
STORAGE_OF = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
UNTYPED = ("torch.storage", "UntypedStorage")


@dataclass(frozen=True)
class Name:
    """A global such as ``torch.float32``."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """The result of a function."""

    function: Name
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Namespace:
    """An ``argparse.Namespace``."""

    values: dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """A tensor that views a storage.

    Args:
        storage: all elements of the storage; the uint16 bits for bfloat16.
        dtype: torch's name; that of the array by default.
    """

    storage: Array
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    dtype: str = ""


class Persistent:
    """A reference to a storage."""

    def __init__(self, *identifier: Any) -> None:
        self.identifier = identifier


def stored(array: Array, dtype: str = "") -> Stored:
    """Return a contiguous tensor with its own storage."""
    strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    return Stored(np.ascontiguousarray(array).reshape(-1), array.shape, strides[: array.ndim], 0, dtype)


def archive_of(
    content: Any, *, root: str = "archive", order: str | None = "little", entries: Mapping[str, bytes] | None = None
) -> bytes:
    """Return the bytes of an archive.

    Args:
        content: None, numbers, text, lists, tuples, dicts, arrays and the classes above.
        order: content of the entry ``byteorder``; None leaves it out, as torch did before 2.1.
        entries: further entries.
    """
    storages: list[Array] = []
    pickle = b"\x80\x02" + encode(content, storages) + b"."
    files = {"data.pkl": pickle, **({} if order is None else {"byteorder": order.encode()})}
    for key, storage in enumerate(storages):
        files[f"data/{key}"] = (storage.byteswap() if order == "big" else storage).tobytes()
    return zip_of({f"{root}/{name}": value for name, value in {**files, "version": b"3\n", **(entries or {})}.items()})


def zip_of(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    from io import BytesIO

    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def write_archive(path: Path, content: Any, **options: Any) -> Path:
    """Write an archive whose root folder has the file's name, as ``torch.save`` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive_of(content, root=path.stem, **options))
    return path


def encode(value: Any, storages: list[Array]) -> bytes:
    """Return the opcodes that push a value, and append the storages that it needs."""

    def each(values: Any) -> bytes:
        return b"".join(encode(item, storages) for item in values)

    encoders: dict[type, Callable[[Any], bytes]] = {
        type(None): lambda _: b"N",
        bool: lambda value: b"\x88" if value else b"\x89",
        int: lambda value: b"\x8a\x0a" + value.to_bytes(10, "little", signed=True),
        float: lambda value: b"G" + struct.pack(">d", value),
        str: lambda value: b"X" + struct.pack("<I", len(value.encode())) + value.encode(),
        list: lambda value: b"](" + each(value) + b"e",
        tuple: lambda value: b"(" + each(value) + b"t",
        dict: lambda value: b"}(" + each(item for pair in value.items() for item in pair) + b"u",
        Name: lambda value: f"c{value.module}\n{value.name}\n".encode(),
        Call: lambda value: each((value.function, value.arguments)) + b"R",
        Namespace: lambda value: b"cargparse\nNamespace\n)\x81" + each([value.values]) + b"b",
        Persistent: lambda value: each([value.identifier]) + b"Q",
        Stored: lambda value: each([_tensor(value, storages)]),
        np.ndarray: lambda value: each([stored(value)]),
    }
    return encoders[type(value)](value)


def _tensor(tensor: Stored, storages: list[Array]) -> Call:
    key = next((index for index, known in enumerate(storages) if known is tensor.storage), len(storages))
    if key == len(storages):
        storages.append(tensor.storage)
    dtype = tensor.dtype or tensor.storage.dtype.name
    typed = dtype in STORAGE_OF
    kind = Name("torch", STORAGE_OF[dtype]) if typed else Name(*UNTYPED)
    size = tensor.storage.size if typed else tensor.storage.nbytes
    storage = Persistent("storage", kind, str(key), "cpu", size)
    hooks = Call(Name("collections", "OrderedDict"), ())
    arguments = (storage, tensor.offset, tensor.shape, tensor.strides, False, hooks)
    if typed:
        return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)
    return Call(Name("torch._utils", "_rebuild_tensor_v3"), (*arguments, Name("torch", dtype)))
