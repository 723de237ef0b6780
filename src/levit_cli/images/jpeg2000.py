"""Decode JPEG 2000: files in the JP2 format, and bare codestreams.

Pillow decodes the codestream alone, which has the pixels; the colors in the header of a JP2 file (a palette, YCbCr,
CMYK) are applied here. OpenJPEG also decodes a part of an image, so we check that all parts of all tiles are there.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from levit_cli.errors import InputError
from levit_cli.images.isobmff import Box, boxes, children
from levit_cli.images.plugins import check_size, open_as
from levit_cli.images.signatures import read_from_start
from levit_cli.system.extras import reinstall_command
from levit_cli.system.text import count_noun

CODESTREAM = b"\xff\x4f\xff\x51"
JP2 = (b"jP  ", b"ftyp", b"jp2h", b"jp2c", b"jp2i", b"xml ", b"uuid", b"uinf", b"rreq", b"asoc", b"free", b"res ",
       b"jpch", b"jplh", b"nlst", b"lbl ", b"cref", b"ftbl", b"dtbl", b"drep", b"roid")  # fmt: skip
TILE_PART, END = b"\xff\x90", b"\xff\xd9"
MAX_TILES = 16_384
FIRST_COMPONENT = 42  # where the bits of the first component are declared
TRANSFORM = {b"\xff\x52": 13, b"\xff\x53": 10}  # where the segments for coding styles hold the transform
CMYK, SRGB, GRAY, YCC = 12, 16, 17, 18  # color spaces
NUM_COMPONENTS = {CMYK: (4,), SRGB: (3, 4), GRAY: (1, 2), YCC: (3, 4)}
HINT = "convert it to RGB or gray"


class Component(NamedTuple):
    """A component: the bits of its values, whether it has all columns and rows."""

    bits: int
    is_full: bool


class Frame(NamedTuple):
    """What the codestream declares: its (width, height), its components, the number of tiles."""

    size: tuple[int, int]
    components: tuple[Component, ...]
    num_tiles: int


class Palette(NamedTuple):
    """The colors of a palette, (N, C), and the bits of each of the C columns."""

    colors: NDArray[np.int64]
    bits: tuple[int, ...]


class Colors(NamedTuple):
    """How a JP2 file says that its components are to be understood."""

    space: int | None = None
    palette: Palette | None = None
    is_reordered: bool = False


def load(file: BinaryIO) -> Image.Image:
    """Decode a JPEG 2000 image.

    Raises:
        InputError: the image is refused.
        Exception: whatever else Pillow raises.
    """
    if not features.check("jpg_2000"):
        why = "this is JPEG 2000, which this build of Pillow does not decode"
        raise InputError("format_not_allowed", f"{why}: {reinstall_command('pillow')}")
    data = read_from_start(file)
    codestream, colors = (data, Colors()) if data.startswith(CODESTREAM) else _unpacked(data)
    frame = _frame(codestream)
    check_size(frame.size)
    _require_known_layout(frame, colors)
    codestream = _complete(codestream, frame)
    image = _loaded(codestream)
    if any(component.bits > 8 for component in frame.components) and len(frame.components) > 1:
        image = _with_white(image, codestream, frame)
    return _colored(image, frame, colors)


def _loaded(codestream: bytes) -> Image.Image:
    image = open_as("JPEG2000", BytesIO(codestream))
    image.load()
    return image


def _with_white(image: Image.Image, codestream: bytes, frame: Frame) -> Image.Image:
    """Correct the values of several bands with more than 8 bits that are almost white.

    Pillow rounds 4088 to 4095 of 12 bits up to 256 and stores 0. The codestream is decoded once more with a bit more
    for each value, so that black is 64 and white is 192. This is possible only if the coding is without loss.
    """
    if _is_lossy(codestream):
        raise InputError("unsupported_mode", f"a lossy JPEG 2000 image with {_bands(frame)}; {HINT} with 8 bits")
    pixels = np.array(image)
    if pixels.all():
        return image
    widened = bytearray(codestream)
    for number, component in enumerate(frame.components):
        widened[FIRST_COMPONENT + 3 * number] += component.bits > 8
    pixels[(pixels == 0) & (np.asarray(_loaded(bytes(widened))) >= 128)] = 255
    return Image.fromarray(pixels, image.mode) if image.mode == "LA" else Image.fromarray(pixels)


# --- the header of a JP2 file --------------------------------------------------------------------------------------


def _unpacked(data: bytes) -> tuple[bytes, Colors]:
    """Return the first codestream of a JP2 file and its colors."""
    found: dict[bytes, Box] = {}
    for box in boxes(data, JP2):
        found.setdefault(box.kind, box)
    if b"jp2c" not in found:
        raise ValueError("the file is truncated or has no codestream")
    header = found.get(b"jp2h", Box(b"jp2h", 0, 0))
    stream = found[b"jp2c"]
    return data[stream.start : stream.end], _read_colors(data, header)


def _read_colors(data: bytes, header: Box) -> Colors:
    space, palette, is_reordered = None, None, False
    for box in children(data, header.start, header.end):
        content = data[box.start : box.end]
        if box.kind == b"colr" and content[0] == 1 and space is None:  # 2 and 3 are profiles, which we ignore
            space = struct.unpack_from(">I", content, 3)[0]
        elif box.kind == b"pclr":
            palette = _palette(content)
        elif box.kind == b"cmap":
            is_reordered |= _columns(content) != [*range(len(content) // 4)]
        elif box.kind == b"cdef":
            is_reordered |= not _is_in_order(content)
    return Colors(space, palette, is_reordered)


def _palette(content: bytes) -> Palette:
    count, columns = struct.unpack_from(">HB", content)
    bits = tuple((byte & 0x7F) + 1 for byte in content[3 : 3 + columns])
    kinds = [(f"{number}", ">u2" if each > 8 else "u1") for number, each in enumerate(bits)]
    table = np.frombuffer(content, np.dtype(kinds), count, 3 + columns)
    return Palette(np.stack([table[name].astype(np.int64) for name, _ in kinds], -1), bits)


def _columns(content: bytes) -> list[int]:
    """Return the columns of the palette to which the channels are mapped."""
    return [column for component, kind, column in struct.iter_unpack(">HBB", content) if kind == 1 and component == 0]


def _is_in_order(content: bytes) -> bool:
    """Whether the channels are red, green and blue, in this order, and opacities."""
    return all(
        kind != 0 or place in (0, channel + 1) for channel, kind, place in struct.iter_unpack(">HHH", content[2:])
    )


# --- the codestream ------------------------------------------------------------------------------------------------


def _frame(codestream: bytes) -> Frame:
    if len(codestream) < FIRST_COMPONENT:
        raise ValueError("the image is truncated in its header")
    _, right, bottom, left, top, *tiles, count = struct.unpack_from(">HIIIIIIIIH", codestream, 6)
    tile_width, tile_height, first_x, first_y = tiles
    if len(codestream) < FIRST_COMPONENT + 3 * count:
        raise ValueError("the image is truncated in its header")
    fields = struct.iter_unpack("BBB", codestream[FIRST_COMPONENT : FIRST_COMPONENT + 3 * count])
    components = tuple(Component((bits & 0x7F) + 1, steps == [1, 1]) for bits, *steps in fields)
    if right <= left or bottom <= top:
        raise ValueError("the image is empty")
    across, down = -(-(right - first_x) // tile_width), -(-(bottom - first_y) // tile_height)
    return Frame((right - left, bottom - top), components, across * down)


def _bands(frame: Frame) -> str:
    bits = " and ".join(str(each) for each in sorted({component.bits for component in frame.components}))
    return f"{count_noun(len(frame.components), 'band')} of {bits} bits"


def _require_known_layout(frame: Frame, colors: Colors) -> None:
    count = len(frame.components)
    layout = f"a JPEG 2000 image with {_bands(frame)}"
    if frame.num_tiles > MAX_TILES:
        raise InputError("too_large", f"{frame.num_tiles:,} tiles; the limit is {MAX_TILES:,}")
    if not 1 <= count <= 4:
        raise InputError("unsupported_mode", f"{layout}; {HINT}")
    if not all(component.is_full for component in frame.components) or colors.is_reordered:
        raise InputError("unsupported_mode", f"{layout}, some with fewer pixels or in an unusual order; {HINT}")
    if colors.palette is not None:
        if count != 1 or frame.components[0].bits > 8 or len(colors.palette.bits) not in (1, 3, 4):
            raise InputError("unsupported_mode", f"{layout} and a palette of {len(colors.palette.bits)} bands; {HINT}")
    elif colors.space is not None and count not in NUM_COMPONENTS.get(colors.space, ()):
        raise InputError("unsupported_mode", f"{layout} in color space {colors.space}; {HINT}")


def _complete(codestream: bytes, frame: Frame) -> bytes:
    """Return the codestream up to its end marker, which is added if it alone is missing.

    Raises:
        ValueError: a part of a tile is missing.
    """
    num_parts: dict[int, int] = {}  # as declared
    seen: Counter[int] = Counter()
    end = max(end for _, end in _header_segments(codestream))
    for part in _tile_parts(codestream, end):
        seen[part.tile] += 1
        num_parts[part.tile] = max(part.num_parts, num_parts.get(part.tile, 0))
        end = part.end
    is_counted = codestream.startswith(END, end) or all(num_parts.values())
    if not is_counted or len(seen) < frame.num_tiles or any(seen[tile] < num for tile, num in num_parts.items()):
        raise ValueError("the image data is truncated: parts of it are missing")
    return codestream[:end] + END


def _header_segments(codestream: bytes) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) of the segments before the tiles."""
    position = len(END)
    while not codestream.startswith(TILE_PART, position):
        if position + 4 > len(codestream):
            raise ValueError("the image is truncated in its header")
        marker, length = struct.unpack_from(">HH", codestream, position)
        if marker < 0xFF00 or length < 2:
            raise ValueError("the header has no marker where one is required")
        yield position, position + 2 + length
        position += 2 + length


def _is_lossy(codestream: bytes) -> bool:
    """Whether the transform of the image or of a component is the one that loses information."""
    styles = [(start, TRANSFORM.get(codestream[start : start + 2])) for start, _ in _header_segments(codestream)]
    return any(codestream[start + offset] == 0 for start, offset in styles if offset is not None)


class TilePart(NamedTuple):
    """A part of a tile: the number of the tile, the number of its parts or 0, and where the part ends."""

    tile: int
    num_parts: int
    end: int


def _tile_parts(codestream: bytes, position: int) -> Iterator[TilePart]:
    while codestream.startswith(TILE_PART, position):
        if position + 12 > len(codestream):
            raise ValueError("the image data is truncated")
        tile, length, _, num_parts = struct.unpack_from(">HIBB", codestream, position + 4)
        end = position + length if length else codestream.find(END, position)  # 0: up to the end marker
        if end > len(codestream) or end < 0:
            raise ValueError("the image data is truncated")
        if end < position + 14:
            raise ValueError("a part of a tile is too short")
        yield TilePart(tile, num_parts, end)
        position = end


# --- colors --------------------------------------------------------------------------------------------------------


def _colored(image: Image.Image, frame: Frame, colors: Colors) -> Image.Image:
    """Return an image whose bands have their full range, in a color space of Pillow."""
    if colors.palette is not None:
        return _with_palette(image, frame.components[0].bits, colors)
    if any(component.bits < 8 for component in frame.components):
        tables = [_full_range(component.bits) for component in frame.components]
        image = image.point([level for table in tables for level in table])
    if colors.space == YCC:
        return Image.merge("YCbCr", image.split()[:3])
    return Image.merge("CMYK", image.split()) if colors.space == CMYK else image


def _full_range(bits: int) -> list[int]:
    """Return a table for values that Pillow has shifted to 8 bits, so that white is below 255."""
    shift = max(8 - bits, 0)
    return [round((level >> shift) * 255 / ((1 << 8 - shift) - 1)) for level in range(256)]


def _with_palette(image: Image.Image, bits: int, colors: Colors) -> Image.Image:
    assert colors.palette is not None
    white = (1 << np.array(colors.palette.bits)) - 1
    table = np.rint(colors.palette.colors * 255 / white).astype(np.uint8)
    indices = np.asarray(image) >> (8 - bits)
    if indices.max() >= len(table):
        raise ValueError("a color is not in the palette")
    pixels = table[indices] if table.shape[1] > 1 else table[indices][..., 0]
    converted = Image.fromarray(pixels)
    return Image.merge("CMYK", converted.split()) if colors.space == CMYK else converted
