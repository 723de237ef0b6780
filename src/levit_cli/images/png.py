"""Read the chunks of a PNG file, and separate its image from its metadata.

Pillow fails on many kinds of broken metadata, and reads all texts and profiles into memory.
"""

import zlib
from io import SEEK_END, BufferedReader, RawIOBase
from typing import BinaryIO

from levit_cli.images.orientation import Metadata

SIGNATURE_BYTES, HEADER_BYTES = 8, 13
IMAGE_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
EXIF_AS_TEXT, XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
MAX_METADATA_BYTES = 4 << 20  # a larger block is ignored


def split(file: BinaryIO) -> tuple[BinaryIO, Metadata]:
    """Return a file with the chunks of the image alone, and the metadata that may hold its orientation.

    Raises:
        OSError: the header is too short.
    """
    ranges, exif, texts = [(0, SIGNATURE_BYTES)], b"", dict[bytes, bytes]()
    position = SIGNATURE_BYTES
    file.seek(position)
    while len(header := file.read(8)) == 8:
        length, name = int.from_bytes(header[:4], "big"), header[4:]
        end = position + 12 + length  # length, name, data, checksum
        if name == b"IHDR" and length < HEADER_BYTES:
            raise OSError("truncated IHDR chunk")  # Pillow ignores it if the process loads truncated images
        if name in IMAGE_CHUNKS:
            _append(ranges, position, end)
        elif name == b"eXIf":
            exif = exif or _content(file, name, length)
        elif name in TEXT_CHUNKS:
            keyword, _, text = _content(file, name, length).partition(b"\0")
            if keyword == EXIF_AS_TEXT or (keyword == XMP and name == b"iTXt"):
                texts[keyword] = _text(name, text)
        position = end
        file.seek(position)
    metadata = Metadata(exif or _from_hex(texts.get(EXIF_AS_TEXT, b"")), texts.get(XMP, b""))
    return BufferedReader(Ranges(file, ranges)), metadata


def _append(ranges: list[tuple[int, int]], start: int, end: int) -> None:
    if ranges[-1][1] == start:
        start = ranges.pop()[0]
    ranges.append((start, end))


def _content(file: BinaryIO, name: bytes, length: int) -> bytes:
    """Return the content of a chunk, or nothing if the chunk is too large or broken."""
    if length > MAX_METADATA_BYTES:
        return b""
    data = file.read(length + 4)
    content, checksum = data[:length], data[length:]
    return content if zlib.crc32(name + content).to_bytes(4, "big") == checksum else b""


def _text(name: bytes, text: bytes) -> bytes:
    """Return the text of a chunk, or nothing if it is too large or broken."""
    compressed = name == b"zTXt"
    if name == b"iTXt":  # whether it is compressed, the method, the language, and the keyword in that language
        compressed, text = text[:1] == b"\1", b"\0".join(text[2:].split(b"\0")[2:])
    elif compressed:
        text = text[1:]
    if not compressed:
        return text
    try:
        return zlib.decompressobj().decompress(text, MAX_METADATA_BYTES)
    except zlib.error:
        return b""


def _from_hex(text: bytes) -> bytes:
    """Decode ImageMagick's text form of a block: an empty line, its name, its length, and hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


class Ranges(RawIOBase):
    """Some ranges of a file, (start, end) each, as one file."""

    def __init__(self, file: BinaryIO, ranges: list[tuple[int, int]]) -> None:
        self._file, self._position = file, 0
        size = file.seek(0, SEEK_END)
        self._ranges = [(start, min(end, size)) for start, end in ranges if start < size]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        size = sum(end - start for start, end in self._ranges)
        self._position = max(offset + (0, self._position, size)[whence], 0)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        offset = self._position
        for start, end in self._ranges:
            if offset < end - start:
                self._file.seek(start + offset)
                data = self._file.read(min(len(buffer), end - start - offset))
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
            offset -= end - start
        return 0
