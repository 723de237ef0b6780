"""An intact file in a layout that we do not read is ``unsupported_mode`` with bands and bits, and never ``corrupt``."""

import logging
import re
import struct
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from levit_cli.errors import InputError
from tests.images.test_decode import FILES, IMAGE, LEVELS, PALETTED, encoded, error_of, gray, patched, pixels_of
from tests.support.tiff_files import CMYK, GRAY, RGB, tiff

COLORS = np.asarray(IMAGE)
ONE = LEVELS[..., None]


def bands(count: int, dtype: str = "u1") -> NDArray[Any]:
    """Return an image of that many bands."""
    values = np.dstack([COLORS, *[LEVELS] * max(count - 3, 0)])[..., :count] if count != 2 else np.dstack([LEVELS] * 2)
    kind = np.dtype(dtype)
    scale = 1 / 255 if kind.kind in "fc" else np.iinfo(kind).max // 255
    scaled: NDArray[Any] = values.astype(kind) * kind.type(scale)
    return scaled


UNSUPPORTED_TIFFS: dict[str, tuple[bytes, int, int]] = {
    "five bands of 8 bits": (tiff(bands(5), GRAY, extra=(0,) * 4), 5, 8),
    "gray and opacity of 16 bits": (tiff(bands(2, "u2"), GRAY, extra=(1,)), 2, 16),
    "gray and other opacity of 16 bits": (tiff(bands(2, "u2"), GRAY, extra=(2,)), 2, 16),
    "three gray bands": (tiff(bands(3), GRAY, extra=(0, 0)), 3, 8),
    "eight bands with colors": (tiff(bands(8), RGB, extra=(0,) * 5), 8, 8),
    "thirteen bands": (tiff(bands(13, "u2"), GRAY, extra=(0,) * 12), 13, 16),
    "signed bytes": (tiff(bands(1, "i1"), GRAY), 1, 8),
    "signed colors of 8 bits": (tiff(bands(3, "i1"), RGB), 3, 8),
    "signed colors of 16 bits": (tiff(bands(3, "i2"), RGB), 3, 16),
    "colors of 32 bits": (tiff(bands(3, "u4"), RGB), 3, 32),
    "64 bits": (tiff(bands(1, "u8"), GRAY), 1, 64),
    "half precision": (tiff(bands(1, "f2"), GRAY), 1, 16),
    "floating-point colors": (tiff(bands(3, "f4"), RGB), 3, 32),
    "double precision": (tiff(bands(1, "f8"), GRAY), 1, 64),
    "complex numbers": (tiff(bands(1, "c8"), GRAY), 1, 64),
    "Lab of 16 bits": (tiff(bands(3, "u2"), 8), 3, 16),
    "color filter array": (tiff(bands(1, "u2"), 32803), 1, 16),
    "a mask": (tiff(bands(1), 4), 1, 8),
    "an unknown compression": (tiff(bands(1), GRAY, tags={259: (34712,)}), 1, 8),
    "old-style JPEG without its tables": (tiff(bands(3), 6, tags={259: (6,)}), 3, 8),
    "LogLuv": (tiff(bands(3, "u2"), 32845, tags={259: (34676,)}), 3, 16),
    "JPEG XL": (tiff(bands(3), RGB, tags={259: (50002,)}), 3, 8),
    **{f"gray of {bits} bits": (tiff(bands(1), GRAY, bits=bits), 1, bits) for bits in (3, 5, 6, 7)},
    **{f"gray of {bits} bits": (tiff(bands(1, "u4"), GRAY, bits=bits), 1, bits) for bits in (10, 14, 24)},
    **{f"colors of {bits} bits": (tiff(bands(3, "u2"), RGB, bits=bits), 3, bits) for bits in (1, 2, 4, 10, 12)},
    "a palette of 3 bits": (tiff(ONE // 32, 3, bits=3, tags={320: tuple(range(24))}), 1, 3),
    "a palette of 6 bits": (tiff(ONE // 4, 3, bits=6, tags={320: tuple(range(192))}), 1, 6),
}
PLANAR = {
    "colors of 16 bits": (tiff(bands(3, "u2"), RGB, planar=True), 3, 16),
    "inks of 16 bits": (tiff(bands(4, "u2"), CMYK, planar=True), 4, 16),
    "five bands": (tiff(bands(5), GRAY, extra=(0,) * 4, planar=True), 5, 8),
    "gray and another band": (tiff(bands(2), GRAY, extra=(0,), planar=True), 2, 8),
    "colors and two other bands": (tiff(bands(5), RGB, extra=(0, 0), planar=True), 5, 8),
    "YCbCr": (tiff(bands(3), 6, planar=True), 3, 8),
    "Lab": (tiff(bands(3), 8, planar=True), 3, 8),
}


def assert_unsupported(data: bytes, count: int, bits: int) -> None:
    error = error_of(data)
    assert error.kind == "unsupported_mode"
    assert re.search(rf"\b{count} bands? of {bits}\b", error.message), error.message


@pytest.mark.guarantee("unsupported-mode")
@pytest.mark.parametrize("name", UNSUPPORTED_TIFFS)
def test_a_tiff_in_a_layout_that_is_not_read_names_bands_and_bits(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())
    assert_unsupported(*UNSUPPORTED_TIFFS[name])
    assert "samples per pixel" not in capfd.readouterr().err  # Pillow logs it


@pytest.mark.guarantee("unsupported-mode")
@pytest.mark.parametrize("name", PLANAR)
def test_bands_that_are_stored_one_after_another_are_not_read_as_if_they_were_interleaved(name: str) -> None:
    """Pillow reads 16-bit bands as if they had 8 bits: an image of noise, and a wrong label."""
    assert_unsupported(*PLANAR[name])


@pytest.mark.guarantee("unsupported-mode", "truncated")
@pytest.mark.parametrize("name", ["five bands of 8 bits", "floating-point colors"])
def test_a_truncated_tiff_in_a_layout_that_is_not_read_has_an_error_of_its_own(name: str) -> None:
    data = UNSUPPORTED_TIFFS[name][0]
    assert error_of(data[: len(data) // 2]).kind == "truncated"


READABLE: dict[str, tuple[bytes, NDArray[Any], int]] = {
    "planar colors of 8 bits": (tiff(bands(3), RGB, planar=True), COLORS, 0),
    "colors of 16 bits": (tiff(bands(3, "u2"), RGB), COLORS, 0),
    "colors of 16 bits, big-endian": (tiff(bands(3, "u2"), RGB, order=">"), COLORS, 0),
    "colors and opacity of 16 bits": (tiff(bands(4, "u2"), RGB, extra=(2,)), COLORS, 0),
    "colors and two other bands": (tiff(bands(5), RGB, extra=(0, 0)), COLORS, 0),
    "gray and another band": (tiff(bands(2), GRAY, extra=(0,)), gray(LEVELS), 0),
    "16 bits, white is zero": (tiff(65_535 - ONE.astype("u2") * 257, 0), gray(LEVELS), 0),
    "floating point, white is zero": (tiff((1 - ONE / 255).astype("f4"), 0), gray(LEVELS), 0),
    "8 bits, white is zero": (tiff(255 - ONE, 0), gray(LEVELS), 0),
    "gray of 2 bits": (tiff(ONE // 64, GRAY, bits=2), gray(LEVELS // 64 * 85), 0),
    "gray of 4 bits": (tiff(ONE // 16, GRAY, bits=4), gray(LEVELS // 16 * 17), 0),
    "16-bit gray with more than 8 significant bits": (
        tiff(ONE.astype("u2") * 257 + 100, GRAY, tags={281: (65_535,)}),
        gray(LEVELS),
        1,
    ),
    "compressed as JPEG": (encoded(IMAGE, "TIFF", compression="jpeg"), COLORS, 120),
}


@pytest.mark.guarantee("high-bit-depth", "color-modes")
@pytest.mark.parametrize("name", READABLE)
def test_a_tiff_that_pillow_does_not_write_is_read(name: str) -> None:
    if name == "gray and another band" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("needs Pillow 13, which reads this layout")
    data, expected, tolerance = READABLE[name]
    assert np.abs(pixels_of(data) - expected.astype(np.int16)).max() <= tolerance


@pytest.mark.guarantee("unsupported-mode")
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "f4", "f8"])
def test_gray_in_either_byte_order_is_read_or_unsupported_and_never_wrong(
    dtype: str, photometric: int, order: str, deflate: bool
) -> None:
    kind = np.dtype(dtype)
    white = {"u1": 255, "f4": 1, "f8": 1}.get(dtype, 65_535)
    values = ONE / 255.0 * white
    data = tiff((values if photometric else white - values).astype(kind), photometric, order=order, deflate=deflate)
    try:
        found = pixels_of(data)
    except InputError:
        assert_unsupported(data, 1, 8 * kind.itemsize)
    else:
        assert np.abs(found - gray(LEVELS)).max() <= 1


@pytest.mark.guarantee("unsupported-mode")
@pytest.mark.parametrize("values", [ONE.astype("i2"), (ONE / 255).astype("f4"), ONE.astype("i4")])
def test_big_endian_numbers_that_pillow_would_swap_twice_are_not_read(values: NDArray[Any]) -> None:
    """With some values, the swapped ones are in the supported range, and the image would get a wrong label."""
    assert_unsupported(tiff(values, GRAY, order=">", deflate=True), 1, 8 * values.dtype.itemsize)


@pytest.mark.guarantee("color-modes")
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(("count", "photometric"), [(3, RGB), (4, CMYK)])
def test_bands_of_8_bits_give_the_same_image_one_after_another(count: int, photometric: int, deflate: bool) -> None:
    interleaved = pixels_of(tiff(bands(count), photometric, deflate=deflate))
    planar = pixels_of(tiff(bands(count), photometric, planar=True, deflate=deflate))
    assert np.array_equal(planar, interleaved)
    assert np.array_equal(interleaved, pixels_of(tiff(bands(count), photometric)))


def frame_header(data: bytes) -> int:
    return data.index(b"\xff\xc0")


def bmp(bits: int, compression: int = 0) -> bytes:
    return patched(encoded(IMAGE, "BMP"), {28: struct.pack("<HI", bits, compression)})


OTHER_FORMATS: dict[str, tuple[bytes, str]] = {
    "jpeg of 12 bits": (patched(FILES["jpeg"], {frame_header(FILES["jpeg"]) + 4: b"\x0c"}), "3 bands of 12 bits"),
    "jpeg of two bands": (patched(FILES["jpeg"], {frame_header(FILES["jpeg"]) + 9: b"\2"}), "2 bands of 8 bits"),
    "hierarchical jpeg": (
        patched(FILES["jpeg"], {frame_header(FILES["jpeg"]): b"\xff\xc5"}),
        "hierarchical JPEG with 3",
    ),
    "lossless jpeg of 16 bits": (
        patched(FILES["jpeg"], {frame_header(FILES["jpeg"]): b"\xff\xc3\0\x11\x10"}),
        "lossless JPEG with 3 bands of 16 bits",
    ),
    "bmp of 2 bits": (bmp(2), "1 band of 2 bits"),
    "bmp of 64 bits": (bmp(64), "4 bands of 16 bits"),
    "bmp that holds a jpeg": (bmp(24, 4), "compressed as JPEG"),
    "bmp that holds a png": (bmp(24, 5), "compressed as PNG"),
    "bmp with unusual masks": (
        patched(encoded(IMAGE.convert("RGBA"), "BMP"), {30: struct.pack("<I", 3), 54: struct.pack("<III", 7, 56, 448)}),
        "3 or 4 bands in 32 bits (unusual bit masks)",
    ),
}


@pytest.mark.guarantee("unsupported-mode")
@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_a_jpeg_or_bmp_in_a_layout_that_is_not_read_names_bands_and_bits(name: str) -> None:
    data, words = OTHER_FORMATS[name]
    error = error_of(data)
    assert error.kind == "unsupported_mode"
    assert words in error.message


def rle8(levels: NDArray[np.uint8]) -> bytes:
    rows = b"".join(b"".join(bytes((1, level)) for level in row) + b"\0\0" for row in levels[::-1])
    palette = b"".join(bytes((level,) * 3) + b"\0" for level in range(256))
    height, width = levels.shape
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + palette + rows


def bmp16(colors: NDArray[np.uint8]) -> bytes:
    fives = colors.astype(np.uint16) >> 3
    values = (fives[..., 0] << 10 | fives[..., 1] << 5 | fives[..., 2]).astype("<u2")
    height, width = values.shape
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 0, 2 * values.size, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 2 * values.size, 0, 0, 54) + header + values[::-1].tobytes()


BMPS = {
    "runs of 8 bits": (rle8(LEVELS), gray(LEVELS), 0),
    "16 bits": (bmp16(COLORS), COLORS, 8),
    "32 bits": (encoded(IMAGE.convert("RGBA"), "BMP"), COLORS, 0),
    "a palette of 4 bits": (
        encoded(PALETTED.quantize(16), "BMP"),
        np.asarray(PALETTED.quantize(16).convert("RGB")),
        0,
    ),
}


@pytest.mark.guarantee("color-modes")
@pytest.mark.parametrize("name", BMPS)
def test_every_kind_of_bmp_is_read(name: str) -> None:
    data, expected, tolerance = BMPS[name]
    assert np.abs(pixels_of(data) - expected.astype(np.int16)).max() <= tolerance


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_png_of_few_bits_is_read(bits: int) -> None:
    few = Image.fromarray(LEVELS >> (8 - bits)).convert("P")
    few.putpalette(bytes(value for level in range(256) for value in (level * 255 // (2**bits - 1) % 256,) * 3))
    data = encoded(few, "PNG", bits=bits)
    assert data[24] == bits
    assert np.abs(pixels_of(data) - gray((LEVELS >> (8 - bits)).astype(int) * 255 // (2**bits - 1))).max() <= 1
