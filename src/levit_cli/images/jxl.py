"""Decode JPEG XL with the extra ``jxl``, whose package ``pillow_jxl`` wraps libjxl.

The package registers its decoder for the whole process when it is imported. We load its compiled module alone.

libjxl turns the image upright by the orientation in its codestream, which replaces that of the EXIF block. A file that
was made from a JPEG without loss is converted back to that JPEG, and decoded like any JPEG.
"""

import sys
from collections.abc import Iterator
from functools import cache
from importlib import machinery, util
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from levit_cli.errors import InputError
from levit_cli.images.isobmff import Box, boxes
from levit_cli.images.plugins import check_size
from levit_cli.images.signatures import read_from_start
from levit_cli.system.extras import missing_package, pip_command
from levit_cli.system.text import count_noun

CODESTREAM = b"\xff\x0a"
CODED = (b"jxlc", b"jxlp")
CONTAINER = (*CODED, b"JXL ", b"ftyp", b"jxll", b"jxli", b"jbrd", b"Exif", b"xml ", b"brob", b"jumb", b"free", b"skip")
HINT = "convert it to JPEG or PNG"
SIDE = ((9, 1), (13, 1), (18, 1), (30, 1))  # each number has one of four codes: (bits, offset)
PREVIEW_SIDE = ((6, 1), (8, 65), (10, 321), (12, 1345))
PREVIEW_SIDE_DIV8 = ((0, 16), (0, 32), (5, 1), (9, 33))
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
BLACK, COLOR_FILTER = 4, 5  # types of extra channels that change the colors
MAX_EXTRA_CHANNELS = 4
SAMPLE_TYPES: dict[int, type[np.generic]] = {1: np.uint8, 2: np.uint16, 4: np.float32}


class Header(NamedTuple):
    """What the start of a codestream declares."""

    size: tuple[int, int]
    is_animated: bool = False
    extra_channels: tuple[int, ...] = ()  # their types


class Bits:
    """Reads numbers of bits, the lowest bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def __call__(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the header is truncated")
        number = self._value & ((1 << count) - 1)
        self._value >>= count
        return number

    def number(self, codes: tuple[tuple[int, int], ...]) -> int:
        bits, offset = codes[self(2)]
        return self(bits) + offset


def load(file: BinaryIO) -> Image.Image | bytes:
    """Decode a JPEG XL image, or return the JPEG that it was made from.

    Raises:
        InputError: the extra is not installed, or the image is refused.
        Exception: whatever else the decoder raises.
    """
    data = read_from_start(file)
    codestream, is_jpeg = _codestream(data)
    header = read_header(codestream)
    check_size(header.size)
    _require_known_channels(header)
    decoder = compiled_module().Decoder(num_threads=0)  # because several images are decoded at the same time
    restored, info, pixels, *_ = _decode(decoder, data if is_jpeg else codestream)
    return bytes(pixels) if restored else _image(info, pixels)


def _codestream(data: bytes) -> tuple[bytes, bool]:
    """Return the codestream, and whether the file has what is needed to restore a JPEG."""
    if data.startswith(CODESTREAM):
        return data, False
    found = [*boxes(data, CONTAINER)]
    parts = [data[box.start + (4 if box.kind == b"jxlp" else 0) : box.end] for box in found if box.kind in CODED]
    if not parts or not _has_last_part(found, data):
        raise ValueError("the file is truncated before the end of the codestream")
    return b"".join(parts), any(box.kind == b"jbrd" for box in found)


def _has_last_part(found: list[Box], data: bytes) -> bool:
    parts = [box for box in found if box.kind == b"jxlp"]
    return not parts or any(data[box.start] & 0x80 for box in parts)


def _decode(decoder: Any, data: bytes) -> Any:
    try:
        return decoder(data)
    except RuntimeError as error:  # libjxl does not say which
        raise ValueError("the image data is truncated or damaged") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, no subclass of Exception
            raise
        raise ValueError("the decoder failed") from error


def _image(info: Any, pixels: bytes) -> Image.Image:
    """Return the pixels as an image: gray has the samples of the file, colors have 8 bits."""
    bands = info.num_channels + info.has_alpha_channel
    bytes_per_sample = len(pixels) // (info.width * info.height * bands)
    samples = np.frombuffer(pixels, SAMPLE_TYPES[bytes_per_sample]).reshape(info.height, info.width, bands)
    if info.num_channels == 1:
        return Image.fromarray(samples[..., 0])
    return Image.fromarray(samples)


def _require_known_channels(header: Header) -> None:
    extra = header.extra_channels
    if header.is_animated:  # the decoder returns the last frame
        raise InputError("unsupported_mode", f"an animated JPEG XL image; {HINT}")
    if BLACK in extra or COLOR_FILTER in extra or len(extra) > MAX_EXTRA_CHANNELS:
        channels = count_noun(len(extra), "channel")
        raise InputError("unsupported_mode", f"a JPEG XL image with {channels} beside its colors; {HINT}")


@cache
def compiled_module() -> ModuleType:
    """Return the compiled module of ``pillow_jxl``.

    Raises:
        InputError: ``format_not_allowed`` if the extra is not installed.
    """
    name = "pillow_jxl.pillow_jxl"
    if name in sys.modules:
        return sys.modules[name]
    package = util.find_spec("pillow_jxl") if missing_package("jxl") is None else None
    spec = package and machinery.PathFinder.find_spec(name, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise InputError("format_not_allowed", f"this is JPEG XL, which needs the extra 'jxl': {pip_command('jxl')}")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the header of a codestream ------------------------------------------------------------------------------------


def read_header(codestream: bytes) -> Header:
    """Read the header of a codestream.

    Raises:
        ValueError: it is incomplete.
    """
    bits = Bits(codestream[2:2048])
    size = _size(bits)
    if bits(1):  # all defaults
        return Header(size)
    is_animated = bool(bits(1)) and _read_extra_fields(bits)
    _skip_bit_depth(bits)
    bits(1)  # whether 16-bit buffers suffice
    count = bits.number(((0, 0), (0, 1), (4, 2), (12, 1)))
    if count > MAX_EXTRA_CHANNELS:
        return Header(size, is_animated, (BLACK,) * count)
    return Header(size, is_animated, tuple(_extra_channels(bits, count)))


def _size(bits: Bits) -> tuple[int, int]:
    is_small = bits(1)
    height = 8 * (bits(5) + 1) if is_small else bits.number(SIDE)
    ratio = bits(3)
    if ratio:
        across, down = RATIOS[ratio - 1]
        return height * across // down, height
    return (8 * (bits(5) + 1) if is_small else bits.number(SIDE)), height


def _read_extra_fields(bits: Bits) -> bool:
    """Return whether the image is animated."""
    bits(3)  # the orientation, which the decoder applies
    if bits(1):
        _size(bits)
    if bits(1):
        codes = PREVIEW_SIDE_DIV8 if bits(1) else PREVIEW_SIDE
        bits.number(codes)
        if not bits(3):
            bits.number(codes)
    return bool(bits(1)) and _skip_animation(bits)


def _skip_animation(bits: Bits) -> bool:
    bits.number(((0, 100), (0, 1000), (10, 1), (30, 1)))
    bits.number(((0, 1), (0, 1001), (8, 1), (10, 1)))
    bits.number(((0, 0), (3, 0), (16, 0), (32, 0)))
    bits(1)
    return True


def _skip_bit_depth(bits: Bits) -> None:
    if bits(1):  # floating point
        bits.number(((0, 32), (0, 16), (0, 24), (6, 1)))
        bits(4)
    else:
        bits.number(((0, 8), (0, 10), (0, 12), (6, 1)))


def _extra_channels(bits: Bits, count: int) -> Iterator[int]:
    """Yield the types of the channels beside the colors."""
    for _ in range(count):
        if bits(1):  # all defaults: opacities
            yield 0
            continue
        kind = bits.number(((0, 0), (0, 1), (4, 2), (6, 18)))
        _skip_bit_depth(bits)
        bits.number(((0, 0), (0, 3), (0, 4), (3, 1)))
        bits(8 * bits.number(((0, 0), (4, 0), (5, 16), (10, 48))))
        bits({0: 1, 2: 64}.get(kind, 0))
        yield kind
        if kind == COLOR_FILTER:
            return
