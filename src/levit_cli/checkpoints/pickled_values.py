"""The values that a pickle of weights can hold, and the names that it may use.

No name is imported. Each name on the list stands for one of the functions below or for a plain label; a pickle that
uses another name is refused. A function runs in constant time and copies nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# How the elements of each type are stored. NumPy has no bfloat16; its bits are the upper half of a float32.
DTYPES = {
    "bool": np.dtype("?"),
    **{f"float{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"int{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    "bfloat16": np.dtype("<u2"),
}
# Types that are understood only so that the message can name the tensor.
OTHER_DTYPES = {
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
}
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
}
UNTYPED = "torch.storage.UntypedStorage"
MAX_DIMENSIONS = 32  # NumPy before 2.0 has no more
MAX_ELEMENTS = 1 << 59  # with 8 bytes each, the most that NumPy counts


class InvalidPickleError(ValueError):
    """The pickle is damaged, or holds something other than weights and training arguments."""


class Unsupported:
    """A tensor that is not read. It matters only if it belongs to the weights.

    Args:
        what: kind of tensor, such as "a sparse tensor".
        hint: how to save it instead.
    """

    def __init__(self, what: str, hint: str) -> None:
        self.what, self.hint = what, hint


@dataclass(frozen=True, slots=True)
class Name:
    """A name on the list, such as ``torch.float32``."""

    name: str


@dataclass(slots=True)
class Namespace:
    """The values of an ``argparse.Namespace``. They are kept in a dict and do not become attributes."""

    values: dict[Any, Any]


@dataclass(frozen=True, slots=True)
class OtherKey:
    """A key of a dict that is a number or None, as text."""

    text: str

    def __str__(self) -> str:
        return self.text


class Buffers(Protocol):
    """Source of the bytes of storages."""

    def raw(self, storage: "Storage") -> Array:
        """Return the elements of a storage, or the bytes of an untyped one."""

    def widened(self, storage: "Storage") -> Array:
        """Return the elements of a bfloat16 storage as float32."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory that tensors share.

    Args:
        key: name in the archive.
        dtype: type of the elements; empty for an untyped storage, whose elements are bytes.
    """

    key: str
    dtype: str
    size: int
    buffers: Buffers

    @property
    def itemsize(self) -> int:
        return itemsize_of(self.dtype) if self.dtype else 1

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage.

    Args:
        offset: index of the first element in the storage.
        strides: step of each dimension in elements.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return count_of(self.shape) * itemsize_of(self.dtype)

    def array(self) -> Array:
        """Return the tensor as an array that shares the storage's memory; bfloat16 becomes float32."""
        wide = self.dtype == "bfloat16"
        dtype = np.dtype("<f4") if wide else DTYPES[self.dtype]
        if count_of(self.shape) == 0:
            return np.empty(self.shape, dtype)
        buffer = self.storage.buffers.widened(self.storage) if wide else self.storage.buffers.raw(self.storage)
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        offset = self.offset * dtype.itemsize
        return np.ndarray(self.shape, dtype, buffer=buffer, offset=offset, strides=strides)


def itemsize_of(dtype: str) -> int:
    return DTYPES[dtype].itemsize if dtype in DTYPES else OTHER_DTYPES[dtype]


def count_of(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def require(condition: bool, why: str) -> None:
    if not condition:
        raise InvalidPickleError(why)


def _tensor(storage: Storage, dtype: str, offset: int, shape: Any, strides: Any, metadata: Any) -> Any:
    require(isinstance(storage, Storage) and type(offset) is int and offset >= 0, "a tensor without a storage")
    for sizes in (shape, strides):
        require(type(sizes) is tuple and len(sizes) <= MAX_DIMENSIONS, "a tensor with an invalid shape")
        require(all(type(size) is int and 0 <= size <= MAX_ELEMENTS for size in sizes), "a tensor with a negative size")
    require(len(shape) == len(strides), "a tensor with more or fewer strides than dimensions")
    if dtype not in DTYPES:
        return Unsupported(f"a tensor of type {dtype}", "save it as float32")
    require(metadata is None or type(metadata) is dict, "a tensor with invalid metadata")
    if metadata:
        return Unsupported("a tensor with pending negation or conjugation", "save it after resolve_neg()")
    require(count_of(shape) <= MAX_ELEMENTS, "a tensor with too many elements")
    if count_of(shape):
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        require((last + 1) * itemsize_of(dtype) <= storage.nbytes, "a tensor that exceeds its storage")
    return Tensor(storage, dtype, offset, shape, strides)


def rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, metadata: Any = None
) -> Any:
    """Return a tensor of the storage's type."""
    del gradient, hooks
    require(isinstance(storage, Storage) and storage.dtype != "", "a tensor without a typed storage")
    return _tensor(storage, storage.dtype, offset, shape, strides, metadata)


def rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> Any:
    """Return a tensor of the given type, whose storage is untyped."""
    del gradient, hooks
    require(isinstance(storage, Storage) and storage.dtype == "", "a tensor without an untyped storage")
    require(isinstance(dtype, Name) and dtype.name in DTYPE_NAMES, "a tensor without a type")
    return _tensor(storage, DTYPE_NAMES[dtype.name], offset, shape, strides, metadata)


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Any:
    """Return a tensor of the storage's type, as the first versions stored it."""
    return rebuild_tensor_v2(storage, offset, shape, strides, False, None)


def rebuild_parameter(data: Any, gradient: Any, hooks: Any, state: Any = None) -> Any:
    """Return the tensor of a parameter."""
    del gradient, hooks, state
    require(isinstance(data, Tensor | Unsupported), "a parameter without a tensor")
    return data


def rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """Return a tensor to which the writer had attached attributes; they are ignored."""
    del state
    require(isinstance(function, Name) and function.name in REBUILDS, "a tensor without a function that rebuilds it")
    require(isinstance(kind, Name) and kind.name in TENSOR_CLASSES, "a tensor of an unknown class")
    require(type(arguments) is tuple, "a call without arguments")
    return REBUILDS[function.name](*arguments)


def unsupported(what: str, hint: str) -> Callable[..., Unsupported]:
    """Return a function that ignores its arguments and returns an unsupported tensor."""
    return lambda *_: Unsupported(what, hint)


def dictionary(content: Any = None) -> Any:
    """Return an OrderedDict or a Counter as a dict."""
    require(content is None or type(content) is dict, "a dictionary that is made from other values")
    return {} if content is None else content


def size(content: Any) -> Any:
    """Return a ``torch.Size`` as a tuple."""
    require(type(content) is tuple, "a size that is not a tuple")
    return content


def label(*parts: Any) -> Any:
    """Return a device or a layout as the text that describes it."""
    require(bool(parts) and type(parts[0]) is str, "a device or layout that is not described by text")
    return parts[0]


DTYPE_NAMES = {f"torch.{name}": name for name in (*DTYPES, *OTHER_DTYPES)}
STORAGE_NAMES = {**{f"torch.{name}": dtype for name, dtype in STORAGES.items()}, UNTYPED: ""}
TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
REBUILDS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
    "torch._utils._rebuild_sparse_tensor": unsupported("a sparse tensor", "save it after to_dense()"),
    "torch._utils._rebuild_qtensor": unsupported("a quantized tensor", "save it after dequantize()"),
    "torch._utils._rebuild_meta_tensor_no_storage": unsupported(
        "a tensor on the meta device, which has no values", "save it after the weights were loaded"
    ),
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **REBUILDS,
    "torch._tensor._rebuild_from_type_v2": rebuild_from_type,
    "collections.OrderedDict": dictionary,
    "collections.Counter": dictionary,
    "torch.Size": size,
    "torch.device": label,
    "torch.serialization._get_layout": label,
}
NAMESPACE = "argparse.Namespace"
NAMES = frozenset(
    {
        *FUNCTIONS,
        *DTYPE_NAMES,
        *STORAGE_NAMES,
        *TENSOR_CLASSES,
        NAMESPACE,
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
    }
)
