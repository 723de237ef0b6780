"""Decode PNM: the portable bitmap, graymap and pixmap formats (PBM, PGM, PPM), binary and plain.

Pillow decodes them too, but those with a maximum other than 255 in a loop of Python, which takes a second for each
megapixel.
"""

import re
from io import SEEK_SET
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit_cli.images.plugins import check_size
from levit_cli.images.signatures import MAX_READ_BYTES

MAX_HEADER_BYTES = 1 << 16
MAX_VALUE = 65_535
SPACE = rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])"
START_OF_HEADER = re.compile(rb"P[1-6](?:" + SPACE + rb"|[0-9])*(?:#[^\r\n]*)?\Z")
NUMBERS = re.compile(rb"P([1-6])" + SPACE + rb"+([0-9]+)" + SPACE + rb"+([0-9]+)")
MAXIMUM = re.compile(SPACE + rb"+([0-9]+)")
COMMENT = re.compile(rb"#[^\r\n]*")
WHITESPACE = b" \t\n\v\f\r"
OTHER_THAN_DIGITS = re.compile(rb"[^0-9 \t\n\v\f\r]")
PART = 1 << 20
BITMAPS, PLAIN, COLORS = (1, 4), (1, 2, 3), (3, 6)


class Header(NamedTuple):
    """The header of a file: the digit of its type, its size, the value of white, and where the pixels start."""

    kind: int
    width: int
    height: int
    maximum: int
    start: int

    @property
    def bands(self) -> int:
        return 3 if self.kind in COLORS else 1


def load(file: BinaryIO) -> Image.Image:
    """Decode a PNM image; values are scaled so that the maximum in the header becomes 255.

    Raises:
        InputError: the size is refused.
        ValueError: the file is truncated or broken.
    """
    file.seek(0)
    header = read_header(file.read(MAX_HEADER_BYTES))
    check_size((header.width, header.height))
    file.seek(header.start, SEEK_SET)
    if header.kind == 4:
        return _bitmap(header, file)
    values = _plain(header, file.read(MAX_READ_BYTES)) if header.kind in PLAIN else _binary(header, file)
    return Image.fromarray(_scaled(values, header).reshape(_shape(header)))


def read_header(data: bytes) -> Header:
    """Read the header.

    Raises:
        ValueError: it is incomplete or broken.
    """
    numbers = NUMBERS.match(data)
    maximum = None if numbers is None or int(numbers[1]) in BITMAPS else MAXIMUM.match(data, numbers.end())
    last = maximum or numbers
    if numbers is None or last is None or (maximum is None and int(numbers[1]) not in BITMAPS):
        raise ValueError("the header is " + ("truncated" if START_OF_HEADER.match(data) else "broken"))
    if last.end() >= len(data):
        raise ValueError("the image is truncated in its header")
    kind, width, height = (int(number[:20]) for number in numbers.groups())
    white = 1 if maximum is None else int(maximum[1][:20])
    if not (width and height and 0 < white <= MAX_VALUE):
        raise ValueError(f"a width of {width}, a height of {height} and a maximum of {white} are impossible")
    return Header(kind, width, height, white, last.end() + 1)


def _shape(header: Header) -> tuple[int, ...]:
    return (header.height, header.width) if header.bands == 1 else (header.height, header.width, 3)


def _bitmap(header: Header, file: BinaryIO) -> Image.Image:
    content = _read(file, (header.width + 7) // 8 * header.height)
    return Image.frombytes("1", (header.width, header.height), content, "raw", "1;I")


def _binary(header: Header, file: BinaryIO) -> NDArray[np.generic]:
    kind = np.dtype("u1" if header.maximum < 256 else ">u2")
    count = header.width * header.height * header.bands
    return np.frombuffer(_read(file, count * kind.itemsize), kind)


def _read(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise ValueError(f"the image data is truncated ({len(content):,} of {size:,} bytes)")
    return content


def _plain(header: Header, text: bytes) -> NDArray[np.generic]:
    """Read values that are written as decimal numbers, or as single digits in a bitmap."""
    text = COMMENT.sub(b"", text)
    other = OTHER_THAN_DIGITS.search(text)
    digits = text[: other.start()] if other else text  # what follows the last value is ignored
    count = header.width * header.height * header.bands
    values = _bits(digits, count) if header.kind == 1 else _numbers(digits, header.maximum)
    if len(values) < count:
        fault = "broken" if other else "truncated"
        raise ValueError(f"the image data is {fault} after {len(values):,} of {count:,} values")
    last = values[count - 1]
    if len(values) == count and digits[-1:].isdigit() and header.kind != 1 and 0 < 10 * last <= header.maximum:
        raise ValueError("the last number may be truncated: the file ends without a line end")
    return values[:count]


def _bits(text: bytes, count: int) -> NDArray[np.generic]:
    digits = np.frombuffer(text.translate(None, WHITESPACE), np.uint8)[:count]
    if len(digits) and digits.max() > ord("1"):
        raise ValueError("a bitmap with other digits than 0 and 1")
    return ord("1") - digits  # 1 is black


def _numbers(text: bytes, maximum: int) -> NDArray[np.generic]:
    values = np.fromstring(text, np.float32, sep=" ")
    if len(values) and values.max() > maximum:
        raise ValueError(f"a value above the maximum, which is {maximum}")
    return values


def _scaled(values: NDArray[np.generic], header: Header) -> NDArray[np.uint8]:
    """Scale values to 256 levels, in parts because the indices take eight bytes each."""
    if header.maximum == 255 and values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    table = np.rint(np.arange(header.maximum + 1) * (255 / header.maximum)).astype(np.uint8)
    levels = np.empty(len(values), np.uint8)
    for start in range(0, len(values), PART):
        part = values[start : start + PART].astype(np.intp)
        levels[start : start + PART] = table[np.minimum(part, header.maximum)]  # as Pillow does
    return levels
