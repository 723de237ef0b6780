"""What a pickle is and asks for, looked at without running any of it.

Whether a pickle is read at all, torch's ``weights_only`` decides. Here its archive is held against its own size, so
that a small file cannot fill the memory, and against its checksums; and its opcodes are read for the names of what it
wants imported.
"""

import pickletools
import re
import warnings
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from levit_cli.errors import RefusedError

ZIP_MAGIC = b"PK\3\4"
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError)
LONGEST_PICKLE = 64 << 20  # bytes looked at; the pickle of a LeViT is some 50 kB, its arrays lie outside
# What a file of tensors and training arguments asks for, none of which torch refuses.
HARMLESS = re.compile(
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|_codecs\.encode|builtins\.(set|complex|bytearray)"
    r"|torch\.(\w*Storage|Size|device|Tensor|bool|(b?float|u?int|complex)\d+\w*)|torch\.storage\.\w+Storage"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+|torch\.nn\.parameter\.Parameter"
)
GLOBAL_NAME = re.compile(r"[\w.]+")


def require_plain_archive(path: Path) -> None:
    """Refuse a zip that is no pickle of weights, that unpacks to more than it is, or whose bytes have changed.

    Raises:
        RefusedError: TorchScript, a zip bomb, or a checksum that torch does not look at. A zip that is no zip is left
            to the reader.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _require_plain(path, archive.infolist())
            damaged = archive.testzip()
    except BROKEN_ZIP:
        return
    if damaged:
        raise RefusedError(
            f"{path} is damaged", why=f"{damaged} in it does not have its checksum", hint="fetch it anew"
        )


def _require_plain(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if any(Path(entry.filename).name == "constants.pkl" for entry in entries):
        raise RefusedError(
            f"{path} is refused: it is a TorchScript archive",
            why="that is a program, not only weights",
            hint="ask its maker for the state dict, best as safetensors",
        )
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > size:  # torch stores and never compresses
        raise RefusedError(f"{path} is refused: its {size:,} bytes unpack to {unpacked:,}", hint="use safetensors")


def globals_asked_for(path: Path) -> list[str]:
    """What unpickling would import beyond tensors, as ``posix.system``; what it is called with does not show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of strange escapes in what is no pickle
        asked = {name for stream in _pickles(path) for name in _globals(stream)}
    return sorted(name for name in asked if not HARMLESS.fullmatch(name))


def _pickles(path: Path) -> Iterator[BinaryIO]:
    """The streams of one pickle after another: those of a zip archive, or the file itself."""
    with path.open("rb") as file:
        content = file.read(LONGEST_PICKLE)
    if not content.startswith(ZIP_MAGIC):
        yield BytesIO(content)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".pkl"):
                    yield BytesIO(archive.open(entry).read(LONGEST_PICKLE))
    except BROKEN_ZIP:
        return


def _globals(stream: BinaryIO) -> Iterator[str]:
    """The names in the pickles of a stream, up to where there are no more: an old torch wrote five, and then data."""
    end = stream.seek(0, 2)
    stream.seek(0)
    while stream.tell() < end:
        try:
            yield from _globals_of_one(stream)
        except (ValueError, LookupError, OverflowError):
            return


def _globals_of_one(stream: BinaryIO) -> Iterator[str]:
    strings: list[str] = []  # as they are pushed; STACK_GLOBAL takes the last two
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield from _global(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield from _global(*strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = strings[-1] if strings else ""
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            strings.append(memo.get(argument or 0, ""))


def _global(module: str = "", name: str = "") -> Iterator[str]:
    if GLOBAL_NAME.fullmatch(module) and GLOBAL_NAME.fullmatch(name):
        # torch's pickles are of protocol 2, which goes by the names of Python 2: __builtin__.eval
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        yield f"{module}.{name}"
