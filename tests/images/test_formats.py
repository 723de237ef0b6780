"""Each row of the tables on the page about formats: pixels, orientation, and what is refused."""

import re
import struct
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from levit_cli.data.skipped import SUFFIXES
from levit_cli.errors import InputError
from levit_cli.images import heif as heif_module
from levit_cli.images.decode import decode
from levit_cli.images.isobmff import boxes
from levit_cli.images.jxl import CONTAINER, Header, compiled_module, read_header
from levit_cli.images.rgb import to_rgb
from tests.images.test_decode import FILES, IMAGE, MODES, STORED, error_of, patched, pixels_of, with_alpha
from tests.images.test_one_path import exif, xmp
from tests.support.extras import needs_jxl
from tests.support.format_files import (
    HAS_JXL,
    binary_pnm,
    encoded,
    fixture,
    grid_of_tiles,
    jxl,
    jxl_of_jpeg,
    plain_pnm,
)
from tests.support.heif_files import Part, avif, box, coded, full_box, grid, heif, imir, irot, ispe
from tests.support.heif_files import exif as exif_item
from tests.support.heif_files import xmp as xmp_item
from tests.support.sample_images import sample_image

PAGE = Path(__file__).parents[2] / "docs/formats.md"
LIBRARY_TOLERANCE = 2  # levels

Array = NDArray[Any]
SMALL, TILE = sample_image(32, 24), sample_image(64, 64)
WIDE_GRAY = Image.fromarray(np.asarray(SMALL.convert("L")).astype(np.uint16) * 257)


def rgb(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image.convert("RGB")).astype(np.int16)


def of_pillow(data: bytes) -> NDArray[np.int16]:
    """Return the pixels that Pillow's own decoder gives."""
    with Image.open(BytesIO(data)) as image:
        image.load()
        return rgb(to_rgb(image))


def of_libheif(data: bytes) -> NDArray[np.int16]:
    """Return the pixels that ``pi_heif`` gives for the whole file."""
    from pi_heif import HeifFile

    return rgb(to_rgb(HeifFile(BytesIO(data)).to_pillow()))


def of_libjxl(data: bytes) -> NDArray[np.int16]:
    """Return the 8-bit colors that ``pillow_jxl`` gives."""
    _, info, pixels, *_ = compiled_module().Decoder(num_threads=0)(data)
    return rgb(Image.frombytes(info.mode, (info.width, info.height), pixels))


def avif_grid() -> bytes:
    tile = encoded(TILE, "AVIF", quality=90, subsampling="4:4:4")
    return avif([grid(2, 2, 120, 100, [2, 3, 4, 5]), *[coded(tile) for _ in range(4)]])


def jp2_with_palette() -> bytes:
    """Return a JP2 file in which 16 colors are looked up."""
    paletted = SMALL.quantize(16)
    palette = np.asarray(paletted.getpalette()[:48], np.uint8)  # type: ignore[index]
    data = encoded(Image.frombytes("L", paletted.size, paletted.tobytes()), "JPEG2000")
    parts = box(b"pclr", struct.pack(">HB", 16, 3) + b"\7\7\7" + palette.tobytes())
    return with_header_boxes(data, parts + box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, i) for i in range(3))))


def with_header_boxes(data: bytes, more: bytes) -> bytes:
    """Add boxes to the header of a JP2 file."""
    start = data.index(b"jp2h") - 4
    end = start + int.from_bytes(data[start : start + 4], "big")
    return data[:start] + struct.pack(">I", end - start + len(more)) + data[start + 4 : end] + more + data[end:]


PHOTO = encoded(IMAGE, "JPEG", quality=95)
PALETTED = rgb(SMALL.quantize(16))
# The file of each row; the pixels that it must have, if they are known; and how far it may be from those.
Case = tuple[Callable[[], bytes], Callable[[bytes], Array] | Array, float]


def of_modes(name: str) -> Case:
    data, expected, tolerance = MODES[name]
    return lambda: data, expected, tolerance


def of(data: bytes, expected: Callable[[bytes], Array] | Array, tolerance: float = LIBRARY_TOLERANCE) -> Case:
    return lambda: data, expected, tolerance


CASES: dict[tuple[str, str], Case] = {
    ("JPEG", "gray"): of_modes("L jpeg"),
    ("JPEG", "YCbCr"): of_modes("RGB jpeg"),
    ("JPEG", "CMYK, inverted"): of_modes("CMYK jpeg, inverted"),
    ("JPEG", "YCCK"): of_modes("CMYK jpeg, inverted, as YCCK"),
    ("PNG", "gray, 1 bit"): of_modes("1 png"),
    ("PNG", "gray, 8 bits"): of_modes("L png"),
    ("PNG", "gray, 16 bits"): of_modes("I;16 png"),
    ("PNG", "palette"): of_modes("P png"),
    ("PNG", "colors"): of_modes("RGB png"),
    ("PNG", "colors and opacity"): of_modes("RGBA png"),
    ("WebP", "colors"): of_modes("RGB webp"),
    ("WebP", "colors and opacity"): of_modes("RGBA webp"),
    ("GIF", "palette"): of_modes("P gif"),
    ("BMP", "palette"): of_modes("P bmp"),
    ("BMP", "colors"): of_modes("RGB bmp"),
    ("TIFF", "gray, 12 bits"): of_modes("I;16 tiff with 12 bits"),
    ("TIFF", "gray, 16 bits"): of_modes("I;16 tiff"),
    ("TIFF", "gray, floating point from 0 to 1"): of_modes("F tiff"),
    ("TIFF", "colors"): of_modes("RGB tiff"),
    ("TIFF", "YCbCr"): of_modes("YCbCr tiff"),
    ("TIFF", "CMYK"): of_modes("CMYK tiff"),
    ("HEIC", "gray, 8 bits"): of(fixture("gray.heic"), of_libheif),
    ("HEIC", "gray, 10 bits"): of(fixture("gray 10 bits.heic"), of_libheif),
    ("HEIC", "gray, 12 bits"): of(fixture("gray 12 bits.heic"), of_libheif),
    ("HEIC", "colors, 8 bits, 4:2:0"): of(fixture("tile 420.heic"), of_libheif),
    ("HEIC", "colors, 8 bits, 4:4:4"): of(fixture("tile.heic"), of_libheif),
    ("HEIC", "colors, 10 bits"): of(fixture("rgb 10 bits.heic"), of_libheif),
    ("HEIC", "colors, 12 bits"): of(fixture("rgb 12 bits.heic"), of_libheif),
    ("HEIC", "colors and opacity"): of(fixture("rgba.heic"), of_libheif),
    ("HEIC", "colors multiplied by their opacity"): of(fixture("premultiplied.heic"), of_libheif),
    ("HEIC", "a grid of tiles"): of(grid_of_tiles(120, 100), of_libheif),
    ("AVIF", "gray, 8 bits"): of(encoded(TILE.convert("L"), "AVIF"), of_pillow),
    ("AVIF", "gray, 12 bits"): of(fixture("gray 12 bits.avif"), of_pillow),
    ("AVIF", "colors, 8 bits"): of(encoded(TILE, "AVIF"), of_pillow),
    ("AVIF", "colors, 10 bits"): of(fixture("rgb 10 bits.avif"), of_pillow),
    ("AVIF", "colors, 12 bits"): of(fixture("rgb 12 bits.avif"), of_pillow),
    ("AVIF", "colors and opacity"): of(encoded(with_alpha(IMAGE), "AVIF"), of_pillow),
    ("AVIF", "a grid of tiles"): of(avif_grid(), of_pillow),
    ("AVIF", "a sequence"): of(FILES["avif, animated"], of_pillow),
    ("JPEG 2000", "gray, 1 bit"): of(fixture("gray 1 bit.j2k"), (rgb(SMALL.convert("L")) >> 7) * 255, 0),
    ("JPEG 2000", "gray, 4 bits"): of(fixture("gray 4 bits.j2k"), (rgb(SMALL.convert("L")) >> 4) * 17, 0),
    ("JPEG 2000", "gray, 8 bits"): of(encoded(SMALL.convert("L"), "JPEG2000"), of_pillow),
    ("JPEG 2000", "gray, 12 bits"): of(fixture("gray 12 bits.jp2"), of_pillow),
    ("JPEG 2000", "gray, 16 bits"): of(encoded(WIDE_GRAY, "JPEG2000"), of_pillow),
    ("JPEG 2000", "gray and opacity"): of(encoded(with_alpha(IMAGE.convert("L")), "JPEG2000"), of_pillow),
    ("JPEG 2000", "palette"): of(jp2_with_palette(), PALETTED, 0),
    ("JPEG 2000", "colors, 5 bits"): of(fixture("rgb 5 bits.j2k"), np.rint((rgb(SMALL) >> 3) * (255 / 31)), 0),
    ("JPEG 2000", "colors, 8 bits"): of(encoded(SMALL, "JPEG2000"), of_pillow),
    ("JPEG 2000", "colors, 12 bits, without loss"): of(fixture("rgb 12 bits.jp2"), rgb(SMALL), 1),
    ("JPEG 2000", "signed colors"): of(fixture("signed.j2k"), of_pillow),
    ("JPEG 2000", "colors and opacity"): of(encoded(with_alpha(IMAGE), "JPEG2000"), of_pillow),
    ("JPEG 2000", "YCbCr"): of(fixture("ycc.jp2"), of_pillow),
    ("JPEG 2000", "CMYK"): of(fixture("cmyk.jp2"), of_pillow),
    ("PNM", "bitmap (PBM), binary"): of(encoded(SMALL.convert("1"), "PPM"), of_pillow),
    ("PNM", "bitmap (PBM), plain"): of(plain_pnm(SMALL.convert("1")), of_pillow),
    ("PNM", "gray (PGM), white up to 255"): of(binary_pnm(SMALL.convert("L"), 100), of_pillow),
    ("PNM", "gray (PGM), white up to 65,535"): of(encoded(WIDE_GRAY, "PPM"), of_pillow),
    ("PNM", "colors (PPM), white up to 255"): of(encoded(SMALL, "PPM"), of_pillow),
    ("PNM", "colors (PPM), white up to 65,535"): of(binary_pnm(SMALL, 1000), of_pillow),
    ("PNM", "colors (PPM), plain"): of(plain_pnm(SMALL, 1000), of_pillow),
}
if HAS_JXL:
    GRAY = SMALL.convert("L")
    CASES |= {
        ("JPEG XL", "gray, 8 bits"): of(jxl(GRAY), rgb(GRAY), 0),
        ("JPEG XL", "gray, 12 bits"): of(fixture("gray 12 bits.jxl"), rgb(GRAY), 1),
        ("JPEG XL", "gray and opacity, 16 bits"): of(fixture("gray and opacity 16 bits.jxl"), rgb(GRAY), 0),
        ("JPEG XL", "gray and other channels"): of(
            fixture("gray with two more channels.jxl"), rgb(SMALL)[..., :1].repeat(3, -1), 0
        ),
        ("JPEG XL", "colors, 8 bits"): of(jxl(SMALL), of_libjxl),
        ("JPEG XL", "colors, 10 bits"): of(fixture("rgb 10 bits.jxl"), of_libjxl),
        ("JPEG XL", "colors, floating point"): of(fixture("rgb float.jxl"), of_libjxl),
        ("JPEG XL", "colors and opacity"): of(jxl(with_alpha(IMAGE)), of_libjxl),
        ("JPEG XL", "a converted JPEG"): of(
            FILES["jpeg xl, of a jpeg"], of_pillow(encoded(IMAGE, "JPEG", quality=95)), 0
        ),
    }


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table whose header has this last cell, without the header."""
    pattern = rf"^\| format \| content \| {heading} \|\n\|[-|]+\|\n((?:\|.*\n)+)"
    table = re.search(pattern, PAGE.read_text("utf-8"), re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def in_table(format: str, content: str) -> Any:
    return pytest.param(format, content, marks=needs_jxl if format == "JPEG XL" else ())


@pytest.mark.guarantee("formats", "color-modes", "high-bit-depth")
@pytest.mark.parametrize(("format", "content"), [in_table(*row[:2]) for row in rows("RGB")])
def test_each_mode_on_the_page_has_the_pixels_of_its_library(format: str, content: str) -> None:
    file, expected, tolerance = CASES[format, content]
    data = file()
    pixels = expected(data) if callable(expected) else expected
    found = pixels_of(data)
    assert found.shape == pixels.shape
    assert np.abs(found - pixels).max() <= tolerance


def test_each_tested_mode_is_on_the_page() -> None:
    assert {(row[0], row[1]) for row in rows("RGB")} >= CASES.keys()


def test_the_page_names_the_suffixes_that_are_taken_from_folders() -> None:
    table = PAGE.read_text("utf-8").partition("## What becomes")[0]
    assert set(re.findall(r"`(\.\w+)`", table)) == set(SUFFIXES)


# --- colors with a known source: the libraries could be wrong together ----------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "tolerance"),
    [
        ("tile.heic", TILE, 8),
        ("gray.heic", TILE.convert("L"), 6),
        ("gray 10 bits.heic", TILE.convert("L"), 6),
        ("gray 12 bits.heic", TILE.convert("L"), 6),
        ("rgb 10 bits.heic", TILE, 8),
        ("rgb 12 bits.heic", TILE, 8),
        ("rgba.heic", TILE, 8),
        ("premultiplied.heic", TILE, 40),
        ("rgb 10 bits.avif", SMALL, 10),
        ("rgb 12 bits.avif", SMALL, 10),
        ("gray 12 bits.avif", SMALL.convert("L"), 6),
        ("rgb 12 bits.jp2", SMALL, 1),
        ("gray 12 bits.jp2", SMALL.convert("L"), 1),
        ("ycc.jp2", SMALL, 3),
        ("cmyk.jp2", SMALL, 2),
        ("signed.j2k", SMALL, 0),
        pytest.param("rgb 10 bits.jxl", SMALL, 1, marks=needs_jxl),
        pytest.param("rgb float.jxl", SMALL, 1, marks=needs_jxl),
    ],
)
def test_the_pixels_are_those_of_the_image_that_was_encoded(name: str, source: Image.Image, tolerance: int) -> None:
    assert np.abs(pixels_of(fixture(name)) - rgb(source)).max() <= tolerance


# --- what is refused ------------------------------------------------------------------------------------------------


def coded_as(kind: bytes) -> bytes:
    return heif([Part(kind, b"data" * 30, [ispe(64, 64)])])


def jxl_header(*numbers: tuple[int, int]) -> bytes:
    """Return the start of a codestream of (value, number of bits)."""
    value = shift = 0
    for number, count in numbers:
        value |= number << shift
        shift += count
    return b"\xff\x0a" + value.to_bytes(-(-shift // 8) + 40, "little")


SIZE_8 = ((1, 1), (0, 5), (1, 3))  # small, 8 high, as wide as high
CMYK_JXL = jxl_header(*SIZE_8, (0, 1), (0, 1), (0, 3), (0, 1), (1, 2), (0, 1), (2, 2), (2, 4), (0, 3), (0, 4), (0, 3))
REFUSED: dict[tuple[str, str], list[tuple[bytes, str]]] = {
    ("HEIC", "another coding: JPEG, AVC, VVC, an overlay"): [
        (coded_as(b"jpeg"), "JPEG"),
        (coded_as(b"avc1"), "H.264"),
        (coded_as(b"vvc1"), "VVC"),
        (coded_as(b"iovl"), "overlay"),
        (coded_as(b"abcd"), "abcd"),
    ],
    ("JPEG 2000", "five or more bands"): [(fixture("five bands.jp2"), "5 bands of 8 bits")],
    ("JPEG 2000", "bands with fewer pixels (4:2:0)"): [
        (patched(encoded(SMALL, "JPEG2000", no_jp2=True), {46: b"\2\2", 49: b"\2\2"}), "fewer pixels")
    ],
    ("JPEG 2000", "colors with more than 8 bits, coded with loss"): [
        (fixture("lossy 12 bits.jp2"), "3 bands of 12 bits")
    ],
    ("JPEG 2000", "another color space (Lab and others)"): [
        (encoded(SMALL, "JPEG2000").replace(b"colr\1\0\0\0\0\0\x10", b"colr\1\0\0\0\0\0\x0e"), "color space 14")
    ],
    ("PNM", "floating point (PFM)"): [(encoded(SMALL.convert("F"), "PPM"), "floating-point")],
    ("PNM", "arbitrary map (PAM)"): [(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0", "PAM")],
    ("JPEG XL", "an animation"): [(fixture("animated.jxl"), "animated")],
    ("JPEG XL", "CMYK (a black channel)"): [(CMYK_JXL, "1 channel beside its colors")],
}


@pytest.mark.guarantee("formats", "unsupported-mode", "format-not-allowed")
@pytest.mark.parametrize(("format", "content", "kind"), rows("error"))
def test_each_refused_mode_on_the_page_is_an_error_that_names_it(format: str, content: str, kind: str) -> None:
    for data, word in REFUSED[format, content]:
        error = error_of(data)
        assert error.kind == kind.strip("`")
        assert word in error.message


# --- orientation ----------------------------------------------------------------------------------------------------

TRANSFORMATIONS = {  # of HEIF, by the EXIF orientation with the same meaning
    1: [],
    2: [imir(1)],
    3: [irot(2)],
    4: [imir(0)],
    5: [irot(1), imir(0)],
    6: [irot(3)],
    7: [irot(1), imir(1)],
    8: [irot(1)],
}
HEIF_FILES = {"heic": (fixture("tile.heic"), heif), "avif": (encoded(TILE.crop((0, 0, 64, 48)), "AVIF"), avif)}


@pytest.mark.guarantee("exif-orientation")
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", HEIF_FILES)
def test_heif_is_turned_by_its_properties_and_not_again_by_exif_or_xmp(name: str, orientation: int) -> None:
    data, write = HEIF_FILES[name]
    stored = pixels_of(data)
    image = coded(data)
    image.properties += TRANSFORMATIONS[orientation]
    found = pixels_of(write([image]))
    assert np.array_equal(STORED[orientation](found), stored)
    for other in STORED:
        block = exif(other)[6:]
        assert np.array_equal(pixels_of(write([image, exif_item(block, 1), xmp_item(xmp(other), 1)])), found), other


@pytest.mark.guarantee("exif-orientation")
@pytest.mark.parametrize("properties", [[irot(1), imir(1)], [imir(1), irot(1)], [imir(0), irot(3), imir(1)]])
def test_heif_is_turned_as_libheif_does_in_any_order_also_a_grid(properties: list[tuple[bytes, bytes]]) -> None:
    tile = coded(fixture("tile 420.heic"))
    whole = grid(1, 2, 120, 60, [2, 3])
    whole.properties += properties
    for data in (heif([whole, tile, tile]), heif([Part(**{**vars(tile), "properties": tile.properties + properties})])):
        assert np.array_equal(pixels_of(data), of_libheif(data))


@pytest.mark.parametrize("aperture", [(33, 40, 0, 0), (10, 11, 3, 1), (63, 64, -1, 0), (1, 64, 0, 0)])
def test_heic_is_cropped_as_libheif_does(aperture: tuple[int, int, int, int]) -> None:
    width, height, right, down = aperture
    image = coded(fixture("tile.heic"))
    image.properties.append((b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, right, 2, down, 2)))
    data = heif([image])
    assert np.array_equal(pixels_of(data), of_libheif(data))


@pytest.mark.guarantee("exif-orientation")
@pytest.mark.parametrize("orientation", STORED)
def test_an_avif_that_pillow_has_written_with_an_orientation_is_upright(orientation: int) -> None:
    upright = np.asarray(IMAGE)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    data = encoded(stored, "AVIF", quality=100, subsampling="4:4:4", exif=exif(orientation))
    assert np.abs(pixels_of(data) - upright).max() <= 3


@needs_jxl
@pytest.mark.guarantee("exif-orientation")
@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_xl_that_was_a_jpeg_is_upright_also_without_what_restores_it(orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(IMAGE))))
    jpeg = encoded(stored, "JPEG", quality=100, subsampling=0, exif=exif(orientation))
    data = jxl_of_jpeg(jpeg, *stored.size)
    assert np.array_equal(pixels_of(data), pixels_of(jpeg))
    bare = b"".join(data[part.start + 4 : part.end] for part in boxes(data, CONTAINER) if part.kind == b"jxlp")
    assert np.abs(pixels_of(bare) - rgb(IMAGE)).max() <= 12  # by the orientation in the codestream


@needs_jxl
@pytest.mark.guarantee("exif-orientation")
def test_exif_beside_a_jpeg_xl_codestream_is_ignored() -> None:
    data = jxl(SMALL, exif=exif(6)[6:], container=True)
    assert b"Exif" in data
    assert np.array_equal(pixels_of(data), rgb(SMALL))


# --- the right image, whole -----------------------------------------------------------------------------------------


def other_tile() -> Part:
    return coded(fixture("gray.heic"))


@pytest.mark.guarantee("multiple-frames")
def test_only_the_primary_image_is_decoded() -> None:
    primary = pixels_of(fixture("tile.heic"))
    thumbnail, depth = other_tile(), other_tile()
    thumbnail.references = {b"thmb": [2]}
    depth.references = {b"auxl": [2]}
    depth.properties.append((b"auxC", bytes(4) + b"urn:mpeg:hevc:2015:auxid:2\0"))
    parts = [other_tile(), coded(fixture("tile.heic")), thumbnail, depth, other_tile()]
    assert np.array_equal(pixels_of(heif(parts, primary=2)), primary)
    for number in (0, 2, 3, 4):  # damage in the others does not matter
        parts[number].data = bytes(len(parts[number].data))
    assert np.array_equal(pixels_of(heif(parts, primary=2)), primary)


@pytest.mark.guarantee("truncated")
@pytest.mark.parametrize("damage", [lambda data: bytes(len(data)), lambda data: data[: len(data) // 2]])
@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_a_damaged_tile_is_an_error_of_the_image(kind: str, damage: Callable[[bytes], bytes]) -> None:
    """libheif alone decodes the other tiles without an error."""
    data = fixture("tile.heic") if kind == "heic" else encoded(TILE, "AVIF", subsampling="4:4:4")
    tiles = [coded(data) for _ in range(4)]
    write = heif if kind == "heic" else avif
    assert pixels_of(write([grid(2, 2, 128, 128, [2, 3, 4, 5]), *tiles])).shape == (128, 128, 3)
    tiles[2].data = damage(tiles[2].data)
    assert error_of(write([grid(2, 2, 128, 128, [2, 3, 4, 5]), *tiles])).kind in ("corrupt", "truncated")


@pytest.mark.parametrize("tiles", [[2, 3, 4], [2, 3, 4, 9], [1, 1, 1, 1]])
def test_a_grid_with_missing_tiles_or_of_itself_is_an_error(tiles: list[int]) -> None:
    parts = [coded(fixture("tile.heic")) for _ in range(4)]
    assert error_of(heif([grid(2, 2, 128, 128, tiles), *parts])).kind == "corrupt"


@pytest.mark.guarantee("broken-metadata")
@pytest.mark.parametrize("block", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", bytes(1 << 20)])
@pytest.mark.parametrize("name", HEIF_FILES)
def test_broken_metadata_in_heif_is_ignored(name: str, block: bytes) -> None:
    """libavif alone refuses such a file."""
    data, write = HEIF_FILES[name]
    image = coded(data)
    image.properties.append((b"colr", b"prof" + (block[:1000] or b"x")))
    assert np.array_equal(pixels_of(write([image, exif_item(block, 1), xmp_item(block, 1)])), pixels_of(data))


def test_av1_is_decoded_in_a_file_of_any_heif_brand() -> None:
    data = encoded(TILE, "AVIF")
    for brands in ((b"mif1",), (b"heic", b"mif1"), (b"mif1", b"avif")):
        assert np.array_equal(pixels_of(heif([coded(data)], 1, brands)), pixels_of(data))


def test_a_jpeg_2000_without_a_tile_is_truncated() -> None:
    data = encoded(IMAGE, "JPEG2000", tile_size=(32, 32), no_jp2=True)
    last = data.rindex(b"\xff\x90")
    assert error_of(data[:last]).kind == "truncated"
    assert error_of(data[:last] + b"\xff\xd9").kind == "truncated"


@pytest.mark.parametrize("method", [1, 2, 3])
def test_a_color_profile_in_a_jp2_is_ignored(method: int) -> None:
    data = encoded(SMALL, "JPEG2000")
    position = data.index(b"colr") + 4
    assert np.array_equal(pixels_of(patched(data, {position: bytes([method])})), rgb(SMALL))


@pytest.mark.parametrize("extra", [b"", b" ", b"\n# end", b"\nP3 1 1 255 0 0 0"])
def test_a_plain_pnm_may_end_with_anything_but_a_cut_number(extra: bytes) -> None:
    data = b"P2 2 1 255\n7 25"
    if extra:
        assert pixels_of(data + extra).tolist() == [[[7] * 3, [25] * 3]]
    else:
        assert error_of(data).kind == "truncated"  # 25 may have been 250
    assert pixels_of(b"P2 2 1 255\n7 255").tolist() == [[[7] * 3, [255] * 3]]


@pytest.mark.guarantee("corrupt-image")
@pytest.mark.parametrize(
    "data", [b"P2 1 1 0 0\n", b"P2 0 1 9 0\n", b"P2 1 1 9 10\n", b"P2 1 1 9 x\n", b"P1 1 1 2\n", b"P5 1 1 70000\n\0\0"]
)
def test_a_broken_pnm_is_corrupt(data: bytes) -> None:
    assert error_of(data).kind == "corrupt"


# --- limits ---------------------------------------------------------------------------------------------------------

CODESTREAM = encoded(SMALL, "JPEG2000", no_jp2=True)
LARGE = struct.pack(">II", 60_000, 50_000)
BOMBS = {
    "heic": heif([coded(fixture("tile.heic"), (60_000, 50_000))]),
    "heic, grid": heif([grid(1, 1, 60_000, 50_000, [2]), coded(fixture("tile.heic"))]),
    "heic, tile": heif([grid(1, 1, 60, 50, [2]), coded(fixture("tile.heic"), (60_000, 50_000))]),
    "heic, grid that says less": heif(
        [Part(**{**vars(grid(1, 1, 60_000, 50_000, [2])), "properties": [ispe(64, 64)]}), coded(fixture("tile.heic"))]
    ),
    "avif": avif([coded(encoded(TILE, "AVIF"), (60_000, 50_000))]),
    "jpeg 2000": patched(CODESTREAM, {8: LARGE}),
    "jp2": patched(encoded(SMALL, "JPEG2000"), {encoded(SMALL, "JPEG2000").index(b"\xff\x4f\xff\x51") + 8: LARGE}),
    "jpeg 2000, tiles": patched(CODESTREAM, {8: struct.pack(">II", 10_000, 10_000), 24: struct.pack(">II", 8, 8)}),
    "pnm": b"P6 60000 50000 255\n",
    "pnm, long numbers": b"P6 " + b"9" * 5000 + b" 1 255\n",
    "jpeg xl": jxl_header((0, 1), (3, 2), (49_999, 30), (0, 3), (3, 2), (59_999, 30), (1, 1)),
}


@pytest.mark.guarantee("too-large")
@pytest.mark.parametrize("name", BOMBS)
def test_a_size_beyond_the_limits_is_an_error_before_allocation(name: str) -> None:
    error = error_of(BOMBS[name])
    assert error.kind == "too_large"
    assert "tiles" in error.message or "the limits are" in error.message


@pytest.mark.guarantee("too-large")
@pytest.mark.parametrize("declared", [(32, 32), (4000, 3000)])
def test_a_heic_that_declares_another_size_is_an_error(declared: tuple[int, int]) -> None:
    assert error_of(heif([coded(fixture("tile.heic"), declared)])).kind == "corrupt"


def test_parts_of_the_data_that_overlap_are_an_error_in_bounded_memory() -> None:
    data = heif([coded(fixture("tile.heic"))])
    start = data.index(b"iloc")
    place = struct.unpack_from(">II", data, start + 18)
    extents = struct.pack(">H", 5000) + struct.pack(">II", *place) * 5000
    old = int.from_bytes(data[start - 4 : start], "big")
    content = data[start + 4 : start + 16] + extents
    moved = data[: start - 4] + full_box(b"iloc", content[4:]) + data[start - 4 + old :]
    grown = len(extents) - 10
    meta = data.index(b"meta") - 4
    length = int.from_bytes(data[meta : meta + 4], "big") + grown
    assert error_of(patched(moved, {meta: struct.pack(">I", length)})).kind == "corrupt"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((*SIZE_8, (1, 1)), Header((8, 8))),
        (((1, 1), (9, 5), (3, 3), (1, 1)), Header((106, 80))),
        (((0, 1), (0, 2), (99, 9), (0, 3), (1, 2), (4999, 13), (1, 1)), Header((5000, 100))),
        ((*SIZE_8, (0, 1), (1, 1), (5, 3), (0, 2), (1, 1), (0, 7), (0, 60)), Header((8, 8), is_animated=True)),
    ],
)
def test_headers_of_jpeg_xl(numbers: tuple[tuple[int, int], ...], expected: Header) -> None:
    assert read_header(jxl_header(*numbers)) == expected


# --- the process ----------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from PIL import Image
from levit_cli.images.decode import decode

Image.init()
before = dict(Image.OPEN), dict(Image.SAVE), dict(Image.EXTENSION), dict(Image.MIME), list(Image.ID)
for path in map(Path, sys.argv[1:]):
    decode(path.read_bytes())
assert before == (Image.OPEN, Image.SAVE, Image.EXTENSION, Image.MIME, Image.ID)
assert "pillow_jxl" not in sys.modules
"""


@pytest.mark.guarantee("process-settings")
def test_nothing_is_registered_in_the_process(tmp_path: Path) -> None:
    names = [name for name in FILES if name.startswith(("heic", "avif", "jpeg 2000", "jpeg xl", "ppm", "pgm", "pbm"))]
    for name in names:
        (tmp_path / name).write_bytes(FILES[name])
    paths = [str(tmp_path / name) for name in names]
    result = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT, *paths], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.guarantee("process-settings")
def test_options_that_the_program_has_set_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from pi_heif import options
    from PIL import AvifImagePlugin

    bomb = heif([coded(fixture("tile.heic"), (32, 32))])
    expected = [pixels_of(FILES["heic"]), pixels_of(FILES["avif"])]
    message = error_of(bomb).message
    monkeypatch.setattr(options, "DISABLE_SECURITY_LIMITS", True)
    monkeypatch.setattr(options, "PREFERRED_DECODER", {"HEIF": "none", "AVIF": "none"})
    monkeypatch.setattr(AvifImagePlugin, "DECODE_CODEC_CHOICE", "none")
    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 64)
    found = [pixels_of(FILES["heic"]), pixels_of(FILES["avif"])]
    assert error_of(bomb).message == message
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_an_image_that_was_opened_with_the_package_s_own_plugin_is_converted_alike() -> None:
    from pi_heif import HeifFile

    image = HeifFile(BytesIO(fixture("rgba.heic"))).to_pillow()
    assert np.array_equal(rgb(to_rgb(image)), pixels_of(fixture("rgba.heic")))


@pytest.mark.guarantee("format-not-allowed")
@pytest.mark.parametrize("name", ["avif", "jpg_2000"])
def test_a_pillow_that_lacks_a_decoder_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != name)
    error = error_of(FILES["avif" if name == "avif" else "jpeg 2000"])
    assert error.kind == "format_not_allowed"
    assert f"{sys.executable} -m pip install --force-reinstall pillow" in error.message


@pytest.mark.guarantee("format-not-allowed")
def test_a_heif_package_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    heif_module._file_class.cache_clear()
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    error = error_of(FILES["heic"])
    assert error.kind == "format_not_allowed"
    assert "-m pip install --force-reinstall pi-heif" in error.message


@needs_jxl
def test_a_panic_in_the_jpeg_xl_decoder_is_an_error_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As that of PyO3, which is no subclass of ``Exception``."""

    def panic(_: bytes) -> None:
        raise PanicException

    monkeypatch.setattr("levit_cli.images.jxl.compiled_module", lambda: SimpleNamespace(Decoder=lambda **_: panic))
    with pytest.raises(InputError) as caught:
        decode(FILES["jpeg xl"])
    assert caught.value.kind == "corrupt"
