"""Every kind of image decodes to RGB, and every damaged or unsupported file is an error. The tests create all files."""

import gzip
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, _imaging

from levit_cli.errors import InputError
from levit_cli.images.decode import decode
from levit_cli.images.plugins import MAX_PIXELS, MAX_SIDE
from levit_cli.images.rgb import to_rgb
from tests.support.format_files import files_of
from tests.support.sample_images import sample_image

OLD_PILLOW = int(PIL.__version__.partition(".")[0]) < 13

Array = NDArray[Any]
IMAGE = sample_image(96, 80)
OTHER = sample_image(96, 80, seed=1)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(data: bytes) -> NDArray[np.int16]:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


def outcome(data: bytes) -> Array | tuple[str, str]:
    """Return the pixels, or the kind and message of the error."""
    try:
        return np.asarray(decode(data))
    except InputError as error:
        return error.kind, error.message


def error_of(data: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        decode(data)
    return caught.value


def gray(values: Array) -> Array:
    return np.repeat(np.asarray(values, np.int16)[..., None], 3, axis=-1)


# --- modes ---------------------------------------------------------------------------------------------------------


def tiff(values: Array, bits: int, *, signed: bool = False) -> bytes:
    """Encode a little-endian gray TIFF with one strip, also with value types that Pillow does not write."""
    height, width = values.shape
    if bits == 12:  # two values in three bytes, high bits first
        pairs = values.reshape(-1, 2).astype(int)
        strip = b"".join((int(first) << 12 | int(second)).to_bytes(3, "big") for first, second in pairs)
    else:
        strip = values.astype(f"<{'i' if signed else 'u'}{bits // 8}").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(strip)}
    if signed:
        tags[339] = 2
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


RGB = np.asarray(IMAGE).astype(np.int16)
LEVELS = np.asarray(IMAGE.convert("L"))
WIDE = np.linspace(0, 65_535, LEVELS.size).astype(np.uint16).reshape(LEVELS.shape)
WIDE_RGB = gray(np.rint(WIDE / 257))
OPACITIES = Image.fromarray(np.linspace(0, 255, LEVELS.size).astype(np.uint8).reshape(LEVELS.shape))
BILEVEL = IMAGE.convert("1")
PALETTED = IMAGE.quantize(32)
PALETTED_RGB = np.asarray(PALETTED.convert("RGB")).astype(np.int16)
FEW_LEVELS = Image.fromarray(LEVELS // 32)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(OPACITIES)
    return image


def cmyk(image: Image.Image) -> Image.Image:
    """Convert an image to CMYK, with some of the gray in the black channel."""
    inks = 255 - np.asarray(image).astype(int)
    black = inks.min(-1, keepdims=True) // 2
    colors = np.rint((inks - black) / (255 - black) * 255)
    return Image.frombytes("CMYK", image.size, np.concatenate([colors, black], -1).astype(np.uint8).tobytes())


def ycck_jpeg(image: Image.Image) -> bytes:
    """Encode Adobe's YCCK JPEG: inverted inks as YCbCr, written as four plain channels and then marked as YCCK."""
    inks = Image.fromarray(255 - np.asarray(image))
    planes = np.dstack([np.asarray(inks.convert("YCbCr")), np.full((image.height, image.width), 255, np.uint8)])
    plain = Image.frombytes("CMYK", image.size, (255 - planes).astype(np.uint8).tobytes())
    data = encoded(plain, "JPEG", quality=100, subsampling=0)
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\2" + data[transform + 1 :]


MODES: dict[str, tuple[bytes, Array, int]] = {
    "1 png": (encoded(BILEVEL, "PNG"), gray(np.asarray(BILEVEL) * 255), 0),
    "1 tiff": (encoded(BILEVEL, "TIFF", compression="group4"), gray(np.asarray(BILEVEL) * 255), 0),
    "1 bmp": (encoded(BILEVEL, "BMP"), gray(np.asarray(BILEVEL) * 255), 0),
    "L png": (encoded(IMAGE.convert("L"), "PNG"), gray(LEVELS), 0),
    "L png, one transparent level": (encoded(IMAGE.convert("L"), "PNG", transparency=99), gray(LEVELS), 0),
    "L jpeg": (encoded(IMAGE.convert("L"), "JPEG", quality=95), gray(LEVELS), 6),
    "L gif": (encoded(FEW_LEVELS, "GIF"), gray(LEVELS // 32), 0),
    "LA png": (encoded(with_alpha(IMAGE.convert("L")), "PNG"), gray(LEVELS), 0),
    "LA tiff": (encoded(with_alpha(IMAGE.convert("L")), "TIFF"), gray(LEVELS), 0),
    "P png": (encoded(PALETTED, "PNG"), PALETTED_RGB, 0),
    "P png, opacities": (encoded(PALETTED, "PNG", transparency=bytes(range(0, 256, 8))), PALETTED_RGB, 0),
    "P png, one transparent color": (encoded(PALETTED, "PNG", transparency=3), PALETTED_RGB, 0),
    "P gif": (encoded(PALETTED, "GIF"), PALETTED_RGB, 0),
    "P gif, one transparent color": (encoded(PALETTED, "GIF", transparency=3), PALETTED_RGB, 0),
    "P bmp": (encoded(PALETTED, "BMP"), PALETTED_RGB, 0),
    "P tiff": (encoded(PALETTED, "TIFF"), PALETTED_RGB, 0),
    "PA tiff": (encoded(PALETTED.convert("PA"), "TIFF"), PALETTED_RGB, 0),
    "RGB png": (encoded(IMAGE, "PNG"), RGB, 0),
    "RGB png, one transparent color": (encoded(IMAGE, "PNG", transparency=(1, 2, 3)), RGB, 0),
    "RGB bmp": (encoded(IMAGE, "BMP"), RGB, 0),
    "RGB tiff": (encoded(IMAGE, "TIFF"), RGB, 0),
    "RGB tiff, BigTIFF": (encoded(IMAGE, "TIFF", big_tiff=True), RGB, 0),
    "RGB webp": (encoded(IMAGE, "WEBP", lossless=True), RGB, 0),
    "RGB jpeg": (encoded(IMAGE, "JPEG", quality=95), RGB, 12),
    "RGBA png": (encoded(with_alpha(IMAGE), "PNG"), RGB, 0),
    "RGBA webp": (encoded(with_alpha(IMAGE), "WEBP", lossless=True, exact=True), RGB, 0),
    "RGBA tiff": (encoded(with_alpha(IMAGE), "TIFF"), RGB, 0),
    "RGBX tiff": (encoded(IMAGE.convert("RGBX"), "TIFF"), RGB, 0),
    "YCbCr tiff": (encoded(IMAGE.convert("YCbCr"), "TIFF"), RGB, 3),
    "CMYK tiff": (encoded(cmyk(IMAGE), "TIFF"), RGB, 2),
    "CMYK jpeg, inverted": (encoded(cmyk(IMAGE), "JPEG", quality=95, subsampling=0), RGB, 9),
    "CMYK jpeg, inverted, as YCCK": (ycck_jpeg(IMAGE), RGB, 6),
    "I;16 png": (encoded(Image.fromarray(WIDE), "PNG"), WIDE_RGB, 0),
    "I;16 tiff": (encoded(Image.fromarray(WIDE), "TIFF"), WIDE_RGB, 0),
    "I;16 tiff, compressed": (encoded(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw"), WIDE_RGB, 0),
    "I;16B tiff": (encoded(Image.frombytes("I;16B", IMAGE.size, WIDE.astype(">u2").tobytes()), "TIFF"), WIDE_RGB, 0),
    "I;16 tiff with 12 bits": (tiff(WIDE >> 4, 12), gray(np.rint((WIDE >> 4) / 4095 * 255)), 0),
    "I tiff": (encoded(Image.fromarray(WIDE.astype(np.int32)), "TIFF"), WIDE_RGB, 0),
    "I tiff with signed 16-bit values": (tiff(WIDE // 2, 16, signed=True), gray(np.rint(WIDE // 2 / 257)), 0),
    "F tiff": (encoded(Image.fromarray(WIDE.astype(np.float32) / 65_535), "TIFF"), WIDE_RGB, 0),
}


@pytest.mark.guarantee("color-modes", "high-bit-depth")
@pytest.mark.parametrize("name", MODES)
def test_every_mode_in_a_file_is_converted_to_rgb(name: str) -> None:
    if OLD_PILLOW and name == "YCbCr tiff":
        pytest.skip("Pillow before 13 does not read the YCbCr TIFFs that it writes")
    data, expected, tolerance = MODES[name]
    assert Image.open(BytesIO(data)).mode in (name.split()[0], "RGB")  # some decoders convert to RGB themselves
    assert np.abs(pixels_of(data) - expected).max() <= tolerance


@pytest.mark.parametrize("mode", ["HSV", "YCbCr", "CMYK", "RGBX", "RGBA", "RGBa", "LA", "La", "L", "1", "P", "PA"])
def test_every_mode_in_memory_is_converted_to_rgb(mode: str) -> None:
    base = {"RGBa": "RGBA", "La": "LA"}.get(mode, mode)  # colors are premultiplied by the opacity
    image = IMAGE.convert(base)
    assert np.array_equal(np.asarray(to_rgb(image.convert(mode))), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("lightness", "level"), [(0, 0), (128, 119), (255, 255)])
def test_neutral_lab_colors_become_gray(lightness: int, level: int) -> None:
    image = Image.frombytes("LAB", (8, 8), bytes((lightness, 0, 0)) * 64)
    assert np.abs(pixels_of(encoded(image, "TIFF")) - level).max() <= 2


def test_lab_colors_survive_a_round_trip() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(IMAGE, srgb, lab, outputMode="LAB")
    assert image is not None
    assert np.abs(pixels_of(encoded(image, "TIFF")) - RGB).mean() <= 2


@pytest.mark.guarantee("high-bit-depth")
@pytest.mark.parametrize(
    ("mode", "value"),
    [("I", 65_536), ("I", -1), ("F", 1.5), ("F", -0.25), ("F", float("nan")), ("F", float("inf"))],
)
def test_values_outside_the_supported_range_are_an_error(mode: str, value: float) -> None:
    values = np.zeros((6, 5), np.int32 if mode == "I" else np.float32)
    values[2, 3] = value
    assert error_of(encoded(Image.fromarray(values), "TIFF")).kind == "unsupported_mode"


# --- orientation and metadata --------------------------------------------------------------------------------------

SMALL = IMAGE.resize((9, 6))
STORED = {  # the pixels in the file of an upright image, by EXIF orientation
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright)[:, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}
ORIENTABLE: dict[str, tuple[str, dict[str, Any], int]] = {
    "png": ("PNG", {}, 0),
    "jpeg": ("JPEG", {"quality": 100, "subsampling": 0}, 4),
    "webp": ("WEBP", {"lossless": True}, 0),
    "tiff, raw": ("TIFF", {}, 0),  # Pillow itself rotates TIFFs, in both of its loaders
    "tiff, by libtiff": ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
}


def oriented(orientation: int, stored: Array, kind: str, options: dict[str, Any]) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)


@pytest.mark.guarantee("exif-orientation")
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ORIENTABLE)
def test_all_eight_orientations_decode_to_the_same_image(name: str, orientation: int) -> None:
    kind, options, tolerance = ORIENTABLE[name]
    upright = np.asarray(SMALL)
    data = oriented(orientation, STORED[orientation](upright), kind, options)
    assert np.abs(pixels_of(data) - upright).max() <= tolerance


@pytest.mark.guarantee("broken-metadata")
@pytest.mark.parametrize("orientation", [0, 9, 65_535])
@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "tiff, raw"])
def test_an_invalid_orientation_is_ignored(name: str, orientation: int) -> None:
    kind, options, tolerance = ORIENTABLE[name]
    data = oriented(orientation, np.asarray(SMALL), kind, options)
    assert np.abs(pixels_of(data) - np.asarray(SMALL)).max() <= tolerance


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(*chunks: bytes) -> bytes:
    data = encoded(SMALL, "PNG")
    return data[:33] + b"".join(chunks) + data[33:]  # after the signature and the header


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(*segments: bytes) -> bytes:
    data = encoded(SMALL, "JPEG", quality=100, subsampling=0)
    return data[:2] + b"".join(segments) + data[2:]


def tiff_with(tag: int, kind: int, count: int, value: int) -> bytes:
    """Encode a TIFF in which a private tag is replaced by another tag."""
    data = encoded(SMALL, "TIFF", tiffinfo={65_000: 1})
    position = data.index(struct.pack("<H", 65_000))
    return data[:position] + struct.pack("<HHII", tag, kind, count, value) + data[position + 12 :]


BROKEN_METADATA = {
    "jpeg, exif": jpeg_with(segment(0xE1, b"Exif\0\0garbage")),
    "jpeg, exif beyond the end": jpeg_with(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "jpeg, exif of 65,535 entries": jpeg_with(segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\3\0" * 9)),
    "jpeg, orientation as text": jpeg_with(
        segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\4\0\0\0\xff\xfe6\0\0\0\0\0")
    ),
    "jpeg, xmp": jpeg_with(segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0\xff\xfe<x tiff:Orientation="9">')),
    "jpeg, icc": jpeg_with(segment(0xE2, b"ICC_PROFILE\0\5\1garbage")),
    "jpeg, multi-image": jpeg_with(segment(0xE2, b"MPF\0garbage")),
    "jpeg, jfif": jpeg_with(segment(0xE0, b"JFIF\0")),
    "jpeg, photoshop": jpeg_with(segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\5abc")),
    "png, exif": png_with(chunk(b"eXIf", b"abc")),
    "png, exif as text": png_with(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nzz")),
    "png, xmp": png_with(chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="9">')),
    "png, text of an unknown method": png_with(chunk(b"zTXt", b"a\0\7abc")),
    "png, text with a bad checksum": png_with(chunk(b"tEXt", b"a\0b")[:-4] + b"1234"),
    "png, icc": png_with(chunk(b"iCCP", b"a\0\0garbage")),
    "png, icc without a method": png_with(chunk(b"iCCP", b"a")),
    "png, gamma": png_with(chunk(b"gAMA", b"a")),
    "webp": encoded(SMALL, "WEBP", lossless=True, exif=b"Exif\0\0junk", xmp=b"\xff\xfe", icc_profile=b"junk"),
    "tiff, exif beyond the end": tiff_with(0x8769, 4, 1, 9_999_999),
    "tiff, exif within the pixels": tiff_with(0x8769, 4, 1, 9),
    "tiff, icc beyond the end": tiff_with(34_675, 7, 1000, 9_999_999),
    "tiff, xmp of a gigabyte": tiff_with(700, 1, 1 << 30, 8),
}


@pytest.mark.guarantee("broken-metadata")
@pytest.mark.parametrize("name", BROKEN_METADATA)
def test_broken_metadata_is_ignored(name: str) -> None:
    assert np.abs(pixels_of(BROKEN_METADATA[name]) - np.asarray(SMALL)).max() <= 4


@cache
def hundred_megabytes() -> bytes:
    return zlib.compress(bytes(100 << 20), 9)


LARGE_METADATA: dict[str, Callable[[], bytes]] = {
    "png, texts": lambda: png_with(*[chunk(b"tEXt", b"a\0" + b"x" * (1 << 20))] * 70),
    "png, compressed text": lambda: png_with(chunk(b"zTXt", b"a\0\0" + hundred_megabytes())),
    "png, compressed international text": lambda: png_with(chunk(b"iTXt", b"a\0\1\0\0\0" + hundred_megabytes())),
    "png, compressed icc": lambda: png_with(chunk(b"iCCP", b"a\0\0" + hundred_megabytes())),
    "jpeg, exif": lambda: jpeg_with(*[segment(0xE1, b"Exif\0\0" + bytes(65_000))] * 600),
    "jpeg, icc": lambda: jpeg_with(*[segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000))] * 300),
    "jpeg, comments": lambda: jpeg_with(*[segment(0xFE, bytes(65_000))] * 300),
    "tiff, text": lambda: encoded(SMALL, "TIFF", tiffinfo={270: "x" * (20 << 20)}),
    "gif, comment": lambda: encoded(SMALL, "GIF", comment=b"x" * (4 << 20)),
}


@pytest.mark.guarantee("broken-metadata")
@pytest.mark.parametrize("name", LARGE_METADATA)
def test_large_metadata_is_ignored_in_bounded_memory(name: str) -> None:
    data = LARGE_METADATA[name]()
    tracemalloc.start()
    pixels = pixels_of(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (6, 9, 3)
    assert peak <= 3 * len(data) + (16 << 20)


def test_the_orientation_of_a_jpeg_with_large_metadata_is_applied() -> None:
    upright = np.asarray(SMALL)
    data = oriented(6, STORED[6](upright), "JPEG", {"quality": 100, "subsampling": 0})
    profile = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000)) * 150
    assert np.abs(pixels_of(data[:2] + profile + data[2:]) - upright).max() <= 4


# --- several frames ------------------------------------------------------------------------------------------------

FRAMES = {
    kind: encoded(IMAGE, kind, save_all=True, append_images=[OTHER], lossless=True, quality=95)
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO")
}


@pytest.mark.guarantee("multiple-frames")
@pytest.mark.parametrize("kind", FRAMES)
def test_the_first_of_several_frames_is_decoded(kind: str) -> None:
    with Image.open(BytesIO(FRAMES[kind])) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert np.abs(pixels_of(FRAMES[kind]) - RGB).mean() <= {"GIF": 8, "MPO": 2}.get(kind, 0)


@pytest.mark.guarantee("multiple-frames")
@pytest.mark.parametrize("kind", FRAMES)
def test_other_frames_are_never_decoded(kind: str) -> None:
    data = FRAMES[kind]
    middle, end = len(data) * 2 // 3, len(data) - (300 if kind == "TIFF" else 30)
    broken = data[:middle] + bytes(byte ^ 0x55 for byte in data[middle:end]) + data[end:]
    assert np.array_equal(pixels_of(broken), pixels_of(data))


# --- other files and formats --------------------------------------------------------------------------------------


def photoshop() -> bytes:
    return b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 6, 9, 8, 3) + bytes(12) + bytes(2 + 3 * 54)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
NOT_DECODED: dict[str, tuple[bytes, str, str]] = {
    "an empty file": (b"", "empty_file", "0 bytes"),
    "text": (b"hello, world, this is a text\n" * 9, "not_an_image", "text"),
    "text that begins like a bitmap": (b"BMW builds cars.\n", "not_an_image", "text"),
    "text that begins like a GIF": (b"GIF89a is a format.\n", "not_an_image", "text"),
    "a web page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "not_an_image", "HTML"),
    "a web page without a doctype": (b"<HTML><head><title>503</title>", "not_an_image", "HTML"),
    "a Git LFS pointer": (LFS_POINTER, "not_an_image", "git lfs pull"),
    "zip": (b"PK\3\4" + bytes(99), "not_an_image", "ZIP"),
    "gzip": (gzip.compress(b"x"), "not_an_image", "gzip"),
    "audio": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(20), "not_an_image", "unknown"),
    "zeros": (bytes(5000), "not_an_image", "unknown"),
    "pdf": (encoded(SMALL, "PDF"), "format_not_allowed", "PDF"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "format_not_allowed", "SVG"),
    "svg with a prologue": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg/>', "format_not_allowed", "SVG"),
    "eps": (encoded(SMALL, "EPS"), "format_not_allowed", "PostScript"),
    "psd": (photoshop(), "format_not_allowed", "Photoshop"),
    "ico": (encoded(IMAGE, "ICO"), "format_not_allowed", "ICO"),
    "raw": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), "format_not_allowed", "'crx '"),
    "mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isommp42" + bytes(99), "format_not_allowed", "video"),
    "pam": (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nENDHDR\n" + bytes(4), "format_not_allowed", "PAM"),
    "pfm": (encoded(SMALL.convert("F"), "PPM"), "unsupported_mode", "floating-point"),
    "text that begins like a graymap": (b"P2 is a type of file, and P5 another.\n", "not_an_image", "text"),
}


@pytest.mark.guarantee("empty-file", "not-an-image", "format-not-allowed")
@pytest.mark.parametrize("name", NOT_DECODED)
def test_the_error_for_another_type_of_file_names_the_type(name: str) -> None:
    data, kind, word = NOT_DECODED[name]
    error = error_of(data)
    assert error.kind == kind
    assert word in error.message


DECODE_SCRIPT = """
import sys
from pathlib import Path
from levit_cli.images.decode import decode
from levit_cli.errors import InputError

def report_processes(event, arguments):
    if event.split(".")[0] in ("subprocess", "pty") or event.startswith(("os.exec", "os.fork", "os.posix", "os.sys")):
        print(event, arguments, file=sys.stderr)

sys.addaudithook(report_processes)
for path in map(Path, sys.argv[1:]):
    try:
        decode(path.read_bytes())
    except InputError as error:
        print(path.name, error.kind)
"""


@pytest.mark.guarantee("format-not-allowed")
def test_other_formats_start_no_process(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.jpg" for name in ("eps", "pdf", "svg", "psd", "ico", "raw", "pam")]
    for path in paths:
        path.write_bytes(NOT_DECODED[path.stem][0])
    result = subprocess.run([sys.executable, "-c", DECODE_SCRIPT, *map(str, paths)], capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [f"{path.name} format_not_allowed" for path in paths]


# --- truncated and damaged files -----------------------------------------------------------------------------------

EXIF = Image.Exif()
EXIF[0x010F] = "maker"
JPEGS = {
    "jpeg": encoded(IMAGE, "JPEG"),
    "jpeg, gray": encoded(IMAGE.convert("L"), "JPEG"),
    "jpeg, cmyk": encoded(cmyk(IMAGE), "JPEG"),
    "jpeg, progressive": encoded(IMAGE, "JPEG", progressive=True, quality=90),
    "jpeg, restarts": encoded(IMAGE, "JPEG", restart_marker_blocks=3),
    "jpeg, progressive, restarts": encoded(IMAGE, "JPEG", progressive=True, restart_marker_rows=1),
    "jpeg, metadata": encoded(IMAGE, "JPEG", exif=EXIF, icc_profile=bytes(3000), comment=b"text", optimize=True),
}
FILES = {
    **JPEGS,
    "png": encoded(IMAGE, "PNG"),
    "png, palette": encoded(PALETTED, "PNG"),
    "png, bilevel": encoded(BILEVEL, "PNG"),
    "gif": encoded(IMAGE, "GIF"),
    "gif, animated": FRAMES["GIF"],
    "webp": encoded(IMAGE, "WEBP"),
    "webp, lossless": encoded(with_alpha(IMAGE), "WEBP", lossless=True),
    "webp, animated": FRAMES["WEBP"],
    "bmp": encoded(IMAGE, "BMP"),
    "bmp, palette": encoded(PALETTED, "BMP"),
    "tiff": encoded(IMAGE, "TIFF"),
    "tiff, pages": FRAMES["TIFF"],
    "tiff, bigtiff": encoded(IMAGE, "TIFF", big_tiff=True),
    "tiff, lzw": encoded(IMAGE, "TIFF", compression="tiff_lzw"),
    "tiff, deflate": encoded(IMAGE, "TIFF", compression="tiff_adobe_deflate"),
    "tiff, packbits": encoded(IMAGE, "TIFF", compression="packbits"),
    "tiff, jpeg": encoded(IMAGE, "TIFF", compression="jpeg"),
    "tiff, fax": encoded(BILEVEL, "TIFF", compression="group4"),
    **files_of(IMAGE),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_object_decodes_like_its_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(FILES[name])
    with path.open("rb") as file:
        assert np.array_equal(np.asarray(decode(file)), pixels_of(FILES[name]))


def assert_truncated_or_complete(data: bytes, length: int) -> None:
    result = outcome(data[:length])
    if isinstance(result, tuple):
        assert result[0] == "truncated", f"cut at {length} of {len(data)}: {result}"
    else:
        assert np.array_equal(result, outcome(data)), f"cut at {length} of {len(data)}"


@pytest.mark.guarantee("truncated")
@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_truncated_unless_its_image_is_complete(name: str) -> None:
    data = FILES[name]
    for length in {*range(1, 16), *np.linspace(16, len(data) - 1, 30).astype(int).tolist()}:
        assert_truncated_or_complete(data, length)


@pytest.mark.guarantee("truncated")
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_in_half_is_truncated(name: str) -> None:
    data = FILES[name]
    # with several frames, the first one ends before the middle of the file
    assert error_of(data[: len(data) // (3 if name in ("gif, animated", "tiff, pages") else 2)]).kind == "truncated"


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_cut_between_scans_or_restarts_is_truncated(name: str) -> None:
    data = JPEGS[name]
    positions = [match.start() for match in re.finditer(rb"\xff[\xc4\xd0-\xd7\xda]", data)]
    for length in {position + offset for position in positions for offset in range(3)}:
        assert error_of(data[:length]).kind == "truncated", length


@pytest.mark.guarantee("truncated")
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_with_a_tail_of_zeros_is_truncated(name: str) -> None:
    data = JPEGS[name]
    length = len(data) * 3 // 4
    assert error_of(data[:length] + bytes(len(data) - length)).kind == "truncated"
    assert error_of(data[:length] + bytes(10 * len(data))).kind == "truncated"


@pytest.mark.guarantee("truncated")
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_cut_in_a_segment_within_a_scan_is_truncated(name: str) -> None:
    """Such a segment would contain the filler, so that missing data would not be detected. The fuzzer found this."""
    data = JPEGS[name]
    assert error_of(data[: len(data) * 3 // 4] + b"\xff\xe6\x47\x63\xb3").kind == "truncated"


@pytest.mark.guarantee("missing-end-marker")
@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("missing_bytes", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_is_complete(name: str, missing_bytes: int) -> None:
    assert np.array_equal(pixels_of(JPEGS[name][:-missing_bytes]), pixels_of(JPEGS[name]))


@pytest.mark.guarantee("missing-end-marker")
@pytest.mark.parametrize("tail", [bytes(1000), b"\n", b"more" * 99, b"\xff\xd8\xff\xe0\0\x10JFIF", b"\xff" * 9])
@pytest.mark.parametrize("name", FILES)
def test_bytes_after_the_end_are_ignored(name: str, tail: bytes) -> None:
    assert np.array_equal(pixels_of(FILES[name] + tail), pixels_of(FILES[name]))


def flips(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        damaged = bytearray(data)
        for bit in rng.integers(0, 8 * len(data), rng.integers(1, 9)):
            damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


@pytest.mark.guarantee("corrupt-image")
@pytest.mark.parametrize("region", ["anywhere", "at the start"])
@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_give_an_image_or_an_error_reproducibly(name: str, region: str) -> None:
    if OLD_PILLOW and name in ("tiff, jpeg", "tiff, fax"):
        pytest.skip("Pillow before 13 decodes damaged TIFFs of this kind nondeterministically")
    data = FILES[name]
    start = len(data) if region == "anywhere" else min(400, len(data))
    for damaged in flips(data[:start], 100, seed=len(data)):
        first, second = outcome(damaged + data[start:]), outcome(damaged + data[start:])
        assert isinstance(first, tuple) == isinstance(second, tuple)
        assert first == second if isinstance(first, tuple) else np.array_equal(first, second)


@pytest.mark.guarantee("corrupt-image")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(["set", "cut", "double", "zero"]), st.integers(0, 255)), max_size=6
    ),
)
def test_any_damage_gives_an_image_or_an_error(name: str, damages: list[tuple[float, str, int]]) -> None:
    data = FILES[name]
    for where, how, value in damages:
        start = int(where * max(len(data) - 1, 0))
        piece = data[start : start + value]
        middle = {"set": bytes([value]) + piece[1:], "cut": b"", "double": piece * 2, "zero": bytes(len(piece))}[how]
        data = data[:start] + middle + data[start + value :]
    result = outcome(data)
    assert isinstance(result, tuple) or result.shape[2] == 3


# --- too large -----------------------------------------------------------------------------------------------------


def png_of(width: int, height: int, bits: int = 8, pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")
    )


def patched(data: bytes, changes: dict[int, bytes]) -> bytes:
    for position, new in changes.items():
        data = data[:position] + new + data[position + len(new) :]
    return data


def gif_of(width: int, height: int) -> bytes:
    data, size = encoded(SMALL.quantize(4), "GIF"), struct.pack("<HH", width, height)
    return patched(data, {6: size, data.index(b",") + 5: size})


def webp_of(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return patched(FRAMES["WEBP"], {FRAMES["WEBP"].index(b"VP8X") + 12: canvas})


def tiff_of(width: int, height: int) -> bytes:
    data = tiff(np.zeros((2, 2), np.uint8), 8)
    return patched(data, {22: struct.pack("<I", width), 34: struct.pack("<I", height)})


BOMBS: dict[str, Callable[[], tuple[bytes, int, int]]] = {
    "png": lambda: (png_of(65_535, 65_535), 65_535, 65_535),
    "png, 1 bit, with pixels": lambda: (png_of(20_000, 20_000, 1, bytes(2501 * 20_000)), 20_000, 20_000),
    "png, slightly too large": lambda: (png_of(13_345, 13_345), 13_345, 13_345),
    "png, one side too long": lambda: (png_of(70_000, 2), 70_000, 2),
    "png, largest": lambda: (png_of(2**31 - 1, 2**31 - 1), 2**31 - 1, 2**31 - 1),
    "bmp": lambda: (patched(encoded(SMALL, "BMP"), {18: struct.pack("<ii", 65_535, 65_535)}), 65_535, 65_535),
    "gif": lambda: (gif_of(65_535, 65_535), 65_535, 65_535),
    "webp": lambda: (webp_of(16_383, 16_383), 16_383, 16_383),
    "tiff": lambda: (tiff_of(65_535, 65_535), 65_535, 65_535),
    "jpeg": lambda: (
        patched(FILES["jpeg"], {FILES["jpeg"].index(b"\xff\xc0") + 5: struct.pack(">HH", 65_500, 65_500)}),
        65_500,
        65_500,
    ),
}


@pytest.mark.guarantee("too-large")
@pytest.mark.parametrize("name", BOMBS)
def test_a_declared_size_beyond_the_limits_is_an_error_before_allocation(name: str) -> None:
    data, width, height = BOMBS[name]()
    _imaging.reset_stats()
    error = error_of(data)
    assert _imaging.get_stats()["allocated_blocks"] == 0
    assert error.kind == "too_large"
    assert f"{width} x {height}" in error.message or str(width * height) in error.message
    assert f"{MAX_PIXELS:,}" in error.message
    assert f"{MAX_SIDE:,}" in error.message


@pytest.mark.guarantee("too-large")
def test_a_tile_beyond_the_limits_is_an_error_before_allocation() -> None:
    tags = {256: 2, 257: 2, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 16_000, 324: 4, 325: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    error = error_of(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))
    assert error.kind == "too_large"
    assert "40000 x 16000" in error.message


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1), (65_535, 1)])
def test_an_extreme_shape_within_the_limits_is_decoded(size: tuple[int, int]) -> None:
    assert decode(encoded(Image.new("RGB", size, (9, 8, 7)), "PNG")).size == size


def test_a_jpeg_that_is_4_times_too_large_is_scaled_down_but_not_below_twice_the_requested_size() -> None:
    data = encoded(IMAGE.resize((640, 480)), "JPEG")
    assert decode(data, shrink_to=(161, 120)).size == (640, 480)
    assert decode(data, shrink_to=(160, 120)).size == (320, 240)
    assert decode(data, shrink_to=(81, 60)).size == (320, 240)
    assert decode(data, shrink_to=(80, 60)).size == (160, 120)
    assert decode(data, shrink_to=(10, 10)).size == (80, 60)
    assert decode(data[:-2], shrink_to=(80, 60)).size == (160, 120)
    assert decode(FILES["png"], shrink_to=(8, 8)).size == IMAGE.size
