"""Inspect pickles without running them.

torch's ``weights_only`` decides whether a pickle is loaded. This module adds three checks. It compares the unpacked
size of a zip archive with the file size, so that a small file cannot exhaust the memory. It verifies the checksums of
the archive. It reads the pickle opcodes and lists the names that the pickle would import, for the error message.
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
MAX_PICKLE_BYTES = 64 << 20  # limit of what is inspected; the pickle of a LeViT has about 50 kB, without the arrays
# Imports of a file that holds only tensors and training arguments. torch allows all of them.
ALLOWED_IMPORTS = re.compile(
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|_codecs\.encode|builtins\.(set|complex|bytearray)"
    r"|torch\.(\w*Storage|Size|device|Tensor|bool|(b?float|u?int|complex)\d+\w*)|torch\.storage\.\w+Storage"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+|torch\.nn\.parameter\.Parameter"
)
GLOBAL_NAME = re.compile(r"[\w.]+")


def require_plain_archive(path: Path) -> None:
    """Refuse a zip archive that is a TorchScript program, a zip bomb, or has a wrong checksum.

    torch does not verify the checksums. A file that is not a valid zip archive is left to the reader.

    Raises:
        RefusedError: the archive is refused.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _require_plain(path, archive.infolist())
            damaged = archive.testzip()
    except BROKEN_ZIP:
        return
    if damaged:
        raise RefusedError(
            f"{path} is damaged", why=f"its entry {damaged} has a wrong checksum", hint="download the file again"
        )


def _require_plain(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if any(Path(entry.filename).name == "constants.pkl" for entry in entries):
        raise RefusedError(
            f"{path} is refused: it is a TorchScript archive",
            why="it holds a program, not only weights",
            hint="ask the author for the state dict, preferably as safetensors",
        )
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > size:  # torch never compresses its archives
        raise RefusedError(f"{path} is refused: its {size:,} bytes unpack to {unpacked:,}", hint="use safetensors")


def unsafe_imports(path: Path) -> list[str]:
    """Return the names beyond tensors that unpickling would import, such as ``posix.system``, sorted.

    The arguments with which they would be called are not listed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickletools warns of invalid escapes in files that are not pickles
        names = {name for stream in _pickles(path) for name in _globals(stream)}
    return sorted(name for name in names if not ALLOWED_IMPORTS.fullmatch(name))


def _pickles(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream for each pickle: the ``.pkl`` entries of a zip archive, otherwise the file itself."""
    with path.open("rb") as file:
        content = file.read(MAX_PICKLE_BYTES)
    if not content.startswith(ZIP_MAGIC):
        yield BytesIO(content)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".pkl"):
                    yield BytesIO(archive.open(entry).read(MAX_PICKLE_BYTES))
    except BROKEN_ZIP:
        return


def _globals(stream: BinaryIO) -> Iterator[str]:
    """Yield the names in all consecutive pickles of a stream. torch before 1.6 wrote five pickles and then raw data."""
    end = stream.seek(0, 2)
    stream.seek(0)
    while stream.tell() < end:
        try:
            yield from _globals_of_one(stream)
        except (ValueError, LookupError, OverflowError):
            return


def _globals_of_one(stream: BinaryIO) -> Iterator[str]:
    strings: list[str] = []  # pushed strings; STACK_GLOBAL uses the last two
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
        # torch writes protocol 2, which uses the names of Python 2, such as __builtin__.eval
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        yield f"{module}.{name}"
