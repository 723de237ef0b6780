"""Decode HEIC and AVIF images: the primary image alone, never a thumbnail, a depth map or another image of the file.

Pillow decodes AVIF (AV1), and ``pi_heif`` decodes HEIC (HEVC). Two properties of their libraries need care:

- libheif decodes a grid in which tiles are damaged without an error, and leaves gaps. We therefore hand it one coded
  image at a time, in a file of its own, and assemble grids ourselves. libavif checks its tiles.
- libavif refuses files whose EXIF block is broken. We therefore hide all blocks of metadata from it.

A HEIF image is turned upright by its own properties ``irot`` and ``imir``. The orientation in its EXIF or XMP block
describes the same rotation for programs that know nothing of HEIF, and is ignored, as the standard says.
"""

import struct
from fractions import Fraction
from functools import cache
from io import BytesIO
from math import floor
from types import SimpleNamespace
from typing import Any, BinaryIO

from PIL import Image, features

from levit_cli.errors import InputError
from levit_cli.images import isobmff
from levit_cli.images.isobmff import Item, Structure
from levit_cli.images.plugins import check_size, open_as, subclass
from levit_cli.images.rgb import region
from levit_cli.images.signatures import read_from_start
from levit_cli.system.extras import reinstall_command

HEVC, AV1 = b"hvc1", b"av01"
GRID, IDENTITY = b"grid", b"iden"
OTHER_CODINGS = {
    b"jpeg": "JPEG", b"avc1": "AVC (H.264)", b"vvc1": "VVC (H.266)", b"evc1": "EVC", b"lhv1": "layered HEVC",
    b"j2k1": "JPEG 2000", b"unci": "uncompressed pixels", b"iovl": "an overlay of images", b"tili": "tiles",
    b"mski": "a mask",
}  # fmt: skip
IMAGE_BRANDS = (
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"miaf",
    b"avif", b"avis", b"jpeg", b"jpgs", b"avci", b"avcs", b"j2ki", b"j2is", b"vvic", b"vvis", b"evbi", b"unif",
)  # fmt: skip
AVIF_SEQUENCE = b"avis"
DECODING = (b"hvcC", b"ispe", b"pixi", b"pasp")  # the properties that matter for the pixels of a coded image
ROTATIONS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
MIRRORS = (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)
SHORTEST = 16  # bytes, of the box that holds the brand
LOCATION = ">IHHHHHII"  # the content of the box iloc with one item
HINT = "convert it to JPEG or PNG"


def load(file: BinaryIO) -> Image.Image:
    """Decode the primary image of a HEIF or AVIF file, or the first frame of an AVIF sequence, and turn it upright.

    Raises:
        InputError: the file is no image, or its size or its coding is refused.
        Exception: whatever else the decoders raise.
    """
    data = read_from_start(file)
    brands = _brands(data)
    if len(data) < SHORTEST:
        raise ValueError("the file is truncated in its header")
    if not brands & {*IMAGE_BRANDS}:
        raise InputError("format_not_allowed", f"this is a video or another file of the brand {_text(data[8:12])}")
    structure = isobmff.read_structure(data)
    items = structure.image_items()
    _require_data(items, len(data), structure)
    for item in items:
        check_size(item.size or (0, 0))
    coding = _coding(items)
    if coding == HEVC:
        return _load_heic(data, structure)
    return _load_avif(data, structure)


def _brands(data: bytes) -> set[bytes]:
    end = min(int.from_bytes(data[:4], "big"), len(data))
    return {data[start : start + 4] for start in (8, *range(16, end - 3, 4))}


def _text(kind: bytes) -> str:
    return ascii(kind.decode("latin-1"))


def _require_data(items: list[Item], length: int, structure: Structure) -> None:
    """Check that the file contains all data of the image."""
    if not items and not structure.has_tracks:
        raise ValueError("the file is truncated or has no primary image")
    for item in items:
        if item.is_elsewhere:
            raise InputError("unsupported_mode", f"the data of the image is in another file or item; {HINT}")
        if any(end > length for _, end in item.extents):
            raise ValueError("the image data is truncated")
        if sum(end - start for start, end in item.extents) > length:
            raise ValueError("the parts of the image data overlap")


def _coding(items: list[Item]) -> bytes:
    """Return the coding of the image, or AV1 for a sequence.

    Raises:
        InputError: ``unsupported_mode`` if we do not decode it.
    """
    kinds = {item.kind for item in items} - {GRID, IDENTITY}
    for kind in sorted(kinds - {HEVC, AV1}):
        coding = OTHER_CODINGS.get(kind, f"the type {_text(kind)}")
        raise InputError("unsupported_mode", f"a HEIF image coded as {coding}, which is not decoded; {HINT}")
    if len(kinds) > 1:
        raise InputError("unsupported_mode", f"a HEIF image coded as both HEVC and AV1; {HINT}")
    return kinds.pop() if kinds else AV1


# --- AVIF ----------------------------------------------------------------------------------------------------------


def _load_avif(data: bytes, structure: Structure) -> Image.Image:
    if not features.check("avif"):
        why = "this is AVIF, which this build of Pillow does not decode"
        raise InputError("format_not_allowed", f"{why}: {reinstall_command('pillow')}")
    if not structure.items and AVIF_SEQUENCE not in _brands(data):
        raise InputError("unsupported_mode", f"an image sequence without a primary image; {HINT}")
    clean = isobmff.without_metadata(data, structure)
    if AVIF_SEQUENCE not in _brands(data):
        clean = clean[:8] + b"avif" + clean[12:]  # libavif insists on the brand, whatever the coding is
    image = open_as("AVIF", BytesIO(clean))
    image.load()
    if structure.primary is None:
        return image
    properties = structure.items[structure.primary].properties
    return _transformed(image, [each for each in properties if each[0] != b"clap"])  # libavif ignores it too


# --- HEIC ----------------------------------------------------------------------------------------------------------


def _load_heic(data: bytes, structure: Structure) -> Image.Image:
    assert structure.primary is not None
    item = structure.items[structure.primary]
    image = _image_of(item, data, structure)
    if b"prem" not in item.references:  # the opacities would be dropped anyway
        return image
    opacity = _image_of(structure.items[item.references[b"prem"][0]], data, structure)
    premultiplied = Image.merge("RGBa", (*image.split(), opacity.convert("L")))
    return premultiplied.convert("RGBA").convert("RGB")


def _image_of(item: Item, data: bytes, structure: Structure) -> Image.Image:
    """Return the image of an item, after its cropping, rotation and reflection."""
    sources = [structure.items[number] for number in item.references.get(b"dimg", ())]
    if item.kind == GRID:
        image = _assembled(item, sources, data, structure)
    elif item.kind == IDENTITY:
        image = _image_of(sources[0], data, structure)
    else:
        image = _decoded(item, data)
    return _transformed(image, item.properties)


def _assembled(item: Item, tiles: list[Item], data: bytes, structure: Structure) -> Image.Image:
    """Return a grid of tiles, cut to its declared size."""
    rows, columns, width, height = _grid(_content(item, data))
    check_size((width, height))
    first = _image_of(tiles[0], data, structure)
    whole = Image.new(first.mode, (width, height), None)
    across, down = (-(-width // first.width), -(-height // first.height))
    if (rows, columns) != (down, across) or len(tiles) != rows * columns:
        raise ValueError("the tiles do not fit the image")
    for number, tile in enumerate(tiles):
        part = _image_of(tile, data, structure) if number else first
        if (part.mode, part.size) != (first.mode, first.size):
            raise ValueError("the tiles differ")
        whole.paste(part, (number % columns * part.width, number // columns * part.height))
    return whole


def _grid(content: bytes) -> tuple[int, int, int, int]:
    """Return rows, columns, width and height."""
    _, flags, rows, columns = content[:4]
    width, height = struct.unpack_from(">II" if flags & 1 else ">HH", content, 4)
    return rows + 1, columns + 1, width, height


@cache
def _file_class() -> Any:
    """Return the class for files in ``pi_heif``, which obeys options that belong to the process, with options of ours.

    One thread, because several images are decoded at the same time.
    """
    try:
        from pi_heif import heif, options
    except ImportError as error:
        why = f"this is HEIC, and the package pi-heif cannot be imported ({error})"
        raise InputError("format_not_allowed", f"{why}: {reinstall_command('pi-heif')}") from error
    ours = {"DECODE_THREADS": 1, "PREFERRED_DECODER": {}, "DISABLE_SECURITY_LIMITS": False}
    return subclass(heif.HeifFile, (), options=SimpleNamespace(**{**vars(options), **ours}))


def _decoded(item: Item, data: bytes) -> Image.Image:
    image = _file_class()(BytesIO(_file_of(item, data)), convert_hdr_to_8bit=True, hdr_to_16bit=True)
    check_size(image.size)
    content = image.data
    return Image.frombytes(image.mode, image.size, content, "raw", image.mode, image.stride)


def _content(item: Item, data: bytes) -> bytes:
    return b"".join(data[start:end] for start, end in item.extents)


def _file_of(item: Item, data: bytes) -> bytes:
    """Return a file that has one coded image and nothing else."""
    content = _content(item, data)
    properties = [each for each in item.properties if each[0] in DECODING or each[1][:4] == b"nclx"]
    associations = struct.pack(">IIHB", 0, 1, 1, len(properties)) + bytes(range(0x81, 0x81 + len(properties)))
    entry = struct.pack(">IHH", 2 << 24, 1, 0) + item.kind + b"\0"
    before_location = (
        _box(b"hdlr", bytes(8) + b"pict" + bytes(13))
        + _box(b"pitm", struct.pack(">IH", 0, 1))
        + _box(b"iinf", struct.pack(">IH", 0, 1) + _box(b"infe", entry))
        + _box(b"iprp", _box(b"ipco", b"".join(_box(*each) for each in properties)) + _box(b"ipma", associations))
    )
    file_type = _box(b"ftyp", b"heic\0\0\0\0heicmif1")
    start = len(file_type) + 12 + len(before_location) + 8 + struct.calcsize(LOCATION) + 8
    location = _box(b"iloc", struct.pack(LOCATION, 0, 0x4400, 1, 1, 0, 1, start, len(content)))
    return file_type + _box(b"meta", bytes(4) + before_location + location) + _box(b"mdat", content)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


# --- cropping, rotation and reflection -----------------------------------------------------------------------------


def _transformed(image: Image.Image, properties: list[tuple[bytes, bytes]]) -> Image.Image:
    """Crop, rotate and reflect an image by its properties, in their order."""
    for kind, content in properties:
        method = None
        if kind == b"irot":
            method = ROTATIONS[content[0] & 3]
        elif kind == b"imir":
            method = MIRRORS[content[0] & 1]
        elif kind == b"clap":
            image = region(image, _clean_aperture(content, image.size))
        image = image.transpose(method) if method is not None else image
    return image


def _clean_aperture(content: bytes, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) to which an image is cropped."""
    numbers = struct.unpack(">IIIIiIiI", content[:32])
    width, height, from_left, from_top = (Fraction(*numbers[i : i + 2]) for i in range(0, 8, 2))
    left, right = _interval(width, from_left, size[0], Fraction(0))
    top, bottom = _interval(height, from_top, size[1], Fraction(1, 2))  # libheif rounds down only from the left
    return left, top, right, bottom


def _interval(length: Fraction, offset: Fraction, whole: int, rounding: Fraction) -> tuple[int, int]:
    start = floor(offset + Fraction(whole - 1, 2) - (length - 1) / 2 + rounding)
    end = min(start + round(length), whole)
    start = max(start, 0)
    if end <= start:
        raise ValueError("the cropped image is empty")
    return start, end
