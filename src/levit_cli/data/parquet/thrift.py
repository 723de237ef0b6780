"""Read chosen fields of structs in Thrift's compact protocol, in which Parquet stores its footer and page headers.

pyarrow reads these too, but its functions for the metadata of columns end the process if the metadata is damaged.
"""

from typing import Any

from levit_cli.errors import InputError

MAX_DEPTH = 16
MAX_VARINT_BITS = 70

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
FIXED_BYTES = {TRUE: 0, FALSE: 0, BYTE: 1, DOUBLE: 8}
INTEGERS = (I16, I32, I64)

# The fields to read, by number: a dict for a struct, a list of a dict for a list of structs, None for any other value.
Fields = dict[int, Any]


class Thrift:
    """Reads the values in some bytes.

    Attributes:
        position: the number of bytes that were read.

    Raises (each method):
        IndexError: the bytes end before the value does.
        InputError: the bytes are damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def struct(self, wanted: Fields, depth: int = 0) -> dict[int, Any]:
        """Return the wanted fields of a struct that are present: integers, bytes, structs, and lists of them."""
        _require_shallow(depth)
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) & 15:
            number = number + (head >> 4) if head >> 4 else self._integer()
            if number in wanted:
                fields[number] = self._value(head & 15, wanted[number], depth + 1)
            else:
                self._skip(head & 15, depth + 1)
        return fields

    def _value(self, kind: int, wanted: Any, depth: int) -> Any:
        if kind in INTEGERS:
            return self._integer()
        if kind == BINARY:
            length = self._varint()
            return self._data[self._pass(length) - length : self.position]
        if kind == STRUCT and isinstance(wanted, dict):
            return self.struct(wanted, depth)
        if kind == LIST:
            element, count = self._list_header()
            item = wanted[0] if isinstance(wanted, list) else None
            return [self._value(element, item, depth) for _ in range(count)]
        self._skip(kind, depth)
        return None

    def _skip(self, kind: int, depth: int) -> None:
        _require_shallow(depth)
        if kind in INTEGERS:
            self._varint()
        elif kind in FIXED_BYTES:
            self._pass(FIXED_BYTES[kind])
        elif kind == BINARY:
            self._pass(self._varint())
        elif kind == STRUCT:
            self.struct({}, depth)
        elif kind in (LIST, SET):
            self._skip_elements(depth)
        else:
            raise _damaged()  # Parquet has no maps

    def _skip_elements(self, depth: int) -> None:
        element, count = self._list_header()
        if element in FIXED_BYTES:  # in a list, a truth value takes a byte
            self._pass(count * (FIXED_BYTES[element] or 1))
            return
        for _ in range(count):
            self._skip(element, depth + 1)

    def _list_header(self) -> tuple[int, int]:
        head = self._byte()
        count = head >> 4
        count = self._varint() if count == 15 else count
        if count > len(self._data):
            raise _damaged()
        return head & 15, count

    def _pass(self, count: int) -> int:
        self.position += count
        if self.position > len(self._data):
            raise IndexError
        return self.position

    def _byte(self) -> int:
        value = self._data[self.position]
        self.position += 1
        return value

    def _varint(self) -> int:
        value = self._byte()
        if value < 128:
            return value
        value &= 127
        for shift in range(7, MAX_VARINT_BITS, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise _damaged()

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _require_shallow(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _damaged()


def _damaged() -> InputError:
    return InputError("corrupt", "the metadata of the Parquet file is damaged")
