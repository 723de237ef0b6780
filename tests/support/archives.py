"""Make tar and zip archives, also such that no program writes."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

MANY = 5_000


def tar_bytes(contents: Mapping[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name.endswith("/"):
                info.type, info.size = tarfile.DIRTYPE, 0
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write_tar(path: Path, contents: Mapping[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    path.write_bytes(tar_bytes(contents, format))
    return path


def write_zip(path: Path | BinaryIO, contents: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path if isinstance(path, Path) else Path()


def tar_of_folder(path: Path, folder: Path) -> Path:
    """Write the files of a folder into an archive, with their names relative to it."""
    mode = {".gz": "w:gz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.add(file, file.relative_to(folder).as_posix())
    return path


def zip_of_folder(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def header(name: bytes, size: int, kind: bytes = b"0", size_field: bytes | None = None) -> bytes:
    """Return a header block of a tar archive."""
    if size_field is None:
        size_field = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    block = bytearray(512)
    block[:100] = name.ljust(100, b"\0")
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size_field.ljust(12, b"\0")
    block[136:148] = b"%011o\0" % 0
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax_header(content: bytes) -> bytes:
    return header(b"pax", len(content), b"x") + content + bytes(-len(content) % 512)


def header_only_tar(count: int) -> io.BytesIO:
    """Return an archive of empty members named 0.jpg, 1.jpg and so on."""
    block = header(b"", 0)
    rest = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
    file = io.BytesIO()
    for number in range(count):
        name = b"%d.jpg" % number
        file.write(name.ljust(100, b"\0") + block[100:148])
        file.write(b"%06o\0 " % (sum(name) + rest) + block[156:])
    file.write(bytes(1024))
    file.seek(0)
    return file
