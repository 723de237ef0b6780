"""Interpret the pickle of a torch archive.

Python's own unpickler imports the names that a pickle asks for and calls them. This interpreter knows only the opcodes
that ``torch.save`` writes, and the names in ``pickled_values``, which are never imported. Every opcode takes constant
time or time in proportion to its operands, and the number of opcodes is limited, so that time and memory are bounded.
"""

import pickletools
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any

from levit_cli.checkpoints.pickled_values import (
    FUNCTIONS,
    NAMES,
    NAMESPACE,
    STORAGE_NAMES,
    Buffers,
    InvalidPickleError,
    Name,
    Namespace,
    OtherKey,
    Storage,
    require,
)

MAX_OPCODES = 500_000  # a state dict of a LeViT has 16,000, a training checkpoint of it 60,000
MAX_STORAGE_BYTES = 1 << 62


def python3_name(module: str, name: str) -> str:
    """Return the dotted name in Python 3. torch writes protocol 2 with Python 2's names, such as ``__builtin__``."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def unpickle(data: bytes, buffers: Buffers) -> Any:
    """Return the value of a pickle: None, numbers, text, tuples, lists, dicts, and the classes of ``pickled_values``.

    Args:
        buffers: source of the storages' bytes. They are not read here, but when a tensor's array is requested.

    Raises:
        InvalidPickleError: the pickle is damaged, or uses another opcode or another name.
    """
    machine = _Machine(data, buffers)
    try:
        return machine.run()
    except (IndexError, KeyError) as error:
        raise InvalidPickleError("it is damaged: a value is missing") from error
    except struct.error as error:
        raise InvalidPickleError("it is truncated") from error
    except InvalidPickleError:
        raise
    except ValueError as error:  # a text is not UTF-8, or a line has no end
        raise InvalidPickleError("it is damaged: a text is invalid") from error


class _Machine:
    """The state of the interpreter.

    Args:
        outer: the stacks below each mark.
        memo: the stored values by their index as text, because the hashes of numbers can be made to collide.
    """

    def __init__(self, data: bytes, buffers: Buffers) -> None:
        self.data, self.position, self.buffers = data, 0, buffers
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[str, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            opcode = self.data[self.position]
            self.position += 1
            if opcode == STOP:
                require(len(self.stack) == 1 and not self.outer, "it is damaged: it ends within a value")
                return self.stack[0]
            if opcode not in HANDLERS:
                raise InvalidPickleError(f"it uses {_opcode_name(opcode)}, which torch.save does not write")
            HANDLERS[opcode](self)
        raise InvalidPickleError(f"it has more than {MAX_OPCODES:,} opcodes")

    # --- reading the pickle

    def number(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return value

    def take(self, count: int) -> bytes:
        content = self.data[self.position : self.position + count]
        require(len(content) == count, "it is truncated")
        self.position += count
        return content

    def line(self) -> str:
        end = self.data.index(b"\n", self.position)
        content = self.take(end - self.position)
        self.position += 1
        return content.decode("utf-8")

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    # --- opcodes

    def protocol(self) -> None:
        self.take(1)

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def push_long(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.number(UINT8)), "little", signed=True))

    def push_text(self) -> None:
        self.stack.append(self.take(self.number(UINT32)).decode("utf-8", "surrogatepass"))

    def push_short_text(self) -> None:
        self.stack.append(self.take(self.number(UINT8)).decode("utf-8"))

    def push_name(self) -> None:
        name = python3_name(self.line(), self.line())
        require(name in NAMES, f"it uses the name {name[:100]}")
        self.stack.append(Name(name))

    def tuple_of_marked(self) -> None:
        items = tuple(self.pop_mark())
        self.stack.append(items)

    def append(self) -> None:
        self._extend([self.stack.pop()])

    def appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        require(type(target) is list, "it appends to something that is not a list")
        target.extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def set_items(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        require(type(target) is dict and len(items) % 2 == 0, "it sets items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        known = isinstance(function, Name) and function.name in FUNCTIONS
        require(known and type(arguments) is tuple, "it calls something that is not a function for weights")
        try:
            self.stack.append(FUNCTIONS[function.name](*arguments))
        except TypeError as error:
            raise InvalidPickleError(f"it calls {function.name} with other arguments than torch.save does") from error

    def new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        require(kind == Name(NAMESPACE) and arguments == (), "it creates an object that is not an argparse.Namespace")
        self.stack.append(Namespace({}))

    def set_state(self) -> None:
        """Set the values of a Namespace. A dict's state, which holds the versions of a module, is ignored."""
        state = self.stack.pop()
        target = self.stack[-1]
        require(type(state) is dict, "the state of an object is not a dict")
        require(type(target) in (dict, Namespace), "it changes the state of something that has none")
        if type(target) is Namespace:
            target.values = state

    def push_storage(self) -> None:
        storage = self._storage(self.stack.pop())
        known = self.storages.setdefault(storage.key, storage)
        same = storage.dtype in (known.dtype, "") and storage.nbytes == known.nbytes
        require(same, "it describes a storage in two ways")
        self.stack.append(storage)

    def _storage(self, identifier: Any) -> Storage:
        require(type(identifier) is tuple and len(identifier) == 5, "it refers to something that is not a storage")
        what, kind, key, location, size = identifier
        require(what == "storage" and type(key) is str and type(location) is str, "it refers to an invalid storage")
        require(isinstance(kind, Name) and kind.name in STORAGE_NAMES, "it refers to a storage of an unknown type")
        require(type(size) is int and 0 <= size <= MAX_STORAGE_BYTES, "a storage of an invalid size")
        return Storage(key, STORAGE_NAMES[kind.name], size, self.buffers)


def _opcode_name(opcode: int) -> str:
    names = [known.name for known in pickletools.opcodes if known.code == chr(opcode)]
    return f"the pickle opcode {names[0]}" if names else f"the byte {opcode:#04x} as a pickle opcode"


def _key(value: Any) -> str | OtherKey:
    """Return a key of a dict. Only the hashes of texts cannot be predicted, so numbers are replaced by texts."""
    require(type(value) in (str, int, float, bool, type(None)), "a key of a dict is neither text nor a number")
    return value if type(value) is str else OtherKey(repr(value))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


def _number(layout: struct.Struct) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(machine.number(layout))


def _recall(layout: struct.Struct) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(machine.memo[str(machine.number(layout))])


def _memoize(layout: struct.Struct) -> Callable[[_Machine], None]:
    def memoize(machine: _Machine) -> None:
        machine.memo[str(machine.number(layout))] = machine.stack[-1]

    return memoize


def _tuple(count: int) -> Callable[[_Machine], None]:
    def make(machine: _Machine) -> None:
        require(len(machine.stack) >= count, "it is damaged: a value is missing")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return make


UINT8, UINT16, UINT32, INT32, FLOAT64 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<i", ">d"))
STOP = ord(".")
HANDLERS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    ord("("): _Machine.mark,
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("J"): _number(INT32),
    ord("K"): _number(UINT8),
    ord("M"): _number(UINT16),
    ord("G"): _number(FLOAT64),
    0x8A: _Machine.push_long,
    ord("X"): _Machine.push_text,
    ord("U"): _Machine.push_short_text,
    ord(")"): _constant(()),
    ord("]"): lambda machine: machine.stack.append([]),
    ord("}"): lambda machine: machine.stack.append({}),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): _Machine.tuple_of_marked,
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("h"): _recall(UINT8),
    ord("j"): _recall(UINT32),
    ord("q"): _memoize(UINT8),
    ord("r"): _memoize(UINT32),
    ord("c"): _Machine.push_name,
    ord("R"): _Machine.call,
    0x81: _Machine.new_object,
    ord("b"): _Machine.set_state,
    ord("Q"): _Machine.push_storage,
}
