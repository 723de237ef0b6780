"""Size, colors and orientation of an image do not depend on its metadata, file size, or damage outside its pixels."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from levit_cli.data.inputs import Input
from levit_cli.images.decode import decode
from levit_cli.images.transforms import transform_for
from levit_cli.predict.reader import Reader
from tests.images.test_decode import (
    FILES,
    IMAGE,
    PALETTED,
    SMALL,
    STORED,
    chunk,
    cmyk,
    encoded,
    outcome,
    patched,
    pixels_of,
    segment,
    with_alpha,
    ycck_jpeg,
)

UPRIGHT = np.asarray(SMALL)
BYTES_OF_NOTES = 9 << 20  # larger than any limit that once selected another way of decoding


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010F] = orientation, "maker"
    return block.tobytes()


def xmp(orientation: int, *, as_element: bool = False) -> bytes:
    element = b"<tiff:Orientation>%d</tiff:Orientation>" % orientation
    attribute = b' tiff:Orientation="%d"' % orientation
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description%s>%s</rdf:Description></x:xmpmeta>' % (
        (b"", element) if as_element else (attribute, b"")
    )


SOURCES: dict[str, Callable[[int], dict[str, bytes]]] = {
    "exif": lambda orientation: {"exif": exif(orientation)},
    "xmp": lambda orientation: {"xmp": xmp(orientation)},
    "xmp element": lambda orientation: {"xmp": xmp(orientation, as_element=True)},
    "both": lambda orientation: {"exif": exif(orientation), "xmp": xmp(9 - orientation)},  # EXIF counts
    "broken exif and xmp": lambda orientation: {"exif": b"Exif\0\0garbage", "xmp": xmp(orientation)},
}


def after_first_segment(data: bytes, more: bytes) -> bytes:
    end = 4 + int.from_bytes(data[4:6], "big")
    return data[:end] + more + data[end:]


JPEG_VARIANTS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: data,
    "without end marker": lambda data: data[:-2],
    "with bytes after the end": lambda data: data + b"more" * 99,
    "over 8 MiB of comments": lambda data: after_first_segment(data, segment(0xFE, bytes(65_000)) * 150),
    "over 8 MiB, without end marker": lambda data: after_first_segment(data, segment(0xFE, bytes(65_000)) * 150)[:-2],
    "over 8 MiB of bytes after the end": lambda data: data + bytes(BYTES_OF_NOTES),
    "with a broken index of images": lambda data: after_first_segment(data, segment(0xE2, b"MPF\0garbage")),
    "with a JFIF segment that is too short": lambda data: after_first_segment(data, segment(0xE0, b"JFIF\0")),
    "with an Adobe segment that is too short": lambda data: after_first_segment(data, segment(0xEE, b"Adobe")),
    "with a broken Photoshop block": lambda data: after_first_segment(
        data, segment(0xED, b"Photoshop 3.0\x008BIM\3\xed")
    ),
    "with a profile in missing parts": lambda data: after_first_segment(data, segment(0xE2, b"ICC_PROFILE\0\5\1x")),
    "with garbage between segments": lambda data: after_first_segment(data, b"garbage"),
}


def oriented_jpeg(orientation: int, source: str) -> bytes:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    return encoded(stored, "JPEG", quality=100, subsampling=0, **SOURCES[source](orientation))


@pytest.mark.guarantee("one-way-of-decoding", "exif-orientation")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("variant", JPEG_VARIANTS)
def test_a_jpeg_is_upright_whatever_is_around_its_pixels(variant: str, source: str) -> None:
    for orientation in STORED if "8 MiB" not in variant else (6,):
        data = oriented_jpeg(orientation, source)
        found = pixels_of(JPEG_VARIANTS[variant](data))
        assert np.abs(found - UPRIGHT).max() <= 4, orientation
        assert np.array_equal(found, pixels_of(data)), orientation


@pytest.mark.guarantee("one-way-of-decoding")
@pytest.mark.parametrize("variant", ["small", "over 8 MiB", "no end marker"])
def test_a_photo_with_its_orientation_in_xmp_has_one_answer(variant: str) -> None:
    """Once, such a photo was lying on its side when it was larger than 8 MiB or had no end marker."""
    data = encoded(IMAGE.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, xmp=xmp(6))
    large = after_first_segment(data, segment(0xFE, b"n" * 65_533) * 140)
    reader = Reader(transform_for("hf", (64, 64)))
    expected = reader(Input("a", content=data))
    found = reader(Input("a", content={"small": data, "over 8 MiB": large, "no end marker": data[:-2]}[variant]))
    assert np.array_equal(found, expected)


def named(data: bytes, names: bytes) -> bytes:
    """Return a JPEG whose components have other names; libjpeg takes R, G, B for the color space without JFIF."""
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    places = [frame + 10 + 3 * number for number in range(3)] + [scan + 5 + 2 * number for number in range(3)]
    return patched(data, {place: names[number % 3 : number % 3 + 1] for number, place in enumerate(places)})


def without_jfif(data: bytes) -> bytes:
    return data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]


PLAIN = encoded(IMAGE, "JPEG", quality=95)
COLORED = {
    "three inks": FILES["jpeg, cmyk"],
    "four inks": encoded(cmyk(IMAGE), "JPEG", quality=95),
    "ycck": ycck_jpeg(IMAGE),
    "gray": FILES["jpeg, gray"],
    "jfif and components that are named RGB": named(PLAIN, b"RGB"),
    "components that are named RGB": named(without_jfif(PLAIN), b"RGB"),
    "no jfif": without_jfif(PLAIN),
    "rgb by Adobe": encoded(IMAGE, "JPEG", keep_rgb=True, quality=95),
    "jfif and Adobe": after_first_segment(PLAIN, segment(0xEE, b"Adobe\0d\0\0\0\0\0")),
}


@pytest.mark.guarantee("one-way-of-decoding", "color-modes")
@pytest.mark.parametrize("variant", ["without end marker", "over 8 MiB of bytes after the end", "with a broken index"])
@pytest.mark.parametrize("name", COLORED)
def test_the_colors_of_a_jpeg_are_those_of_pillow_whatever_is_around_its_pixels(name: str, variant: str) -> None:
    data = COLORED[name]
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels_of(data), expected)
    broken = {
        "without end marker": data[:-2],
        "over 8 MiB of bytes after the end": data + bytes(BYTES_OF_NOTES),
        "with a broken index": data[:2] + segment(0xE2, b"MPF\0garbage") + data[2:],
    }[variant]
    assert np.array_equal(pixels_of(broken), expected)


def text_chunk(name: bytes, keyword: bytes, text: bytes) -> bytes:
    content = {
        b"tEXt": keyword + b"\0" + text,
        b"zTXt": keyword + b"\0\0" + zlib.compress(text),
        b"iTXt": keyword + b"\0\0\0\0\0" + text,
        b"iTXt compressed": keyword + b"\0\1\0en\0title\0" + zlib.compress(text),
    }[name]
    return chunk(name[:4], content)


def hex_of(block: bytes) -> bytes:
    return b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"


PNG_SOURCES: dict[str, Callable[[int], bytes]] = {
    "exif": lambda orientation: chunk(b"eXIf", exif(orientation)[6:]),
    "exif with its prefix": lambda orientation: chunk(b"eXIf", exif(orientation)),
    "exif as text": lambda orientation: text_chunk(b"tEXt", b"Raw profile type exif", hex_of(exif(orientation))),
    "exif as zipped text": lambda orientation: text_chunk(b"zTXt", b"Raw profile type exif", hex_of(exif(orientation))),
    "xmp": lambda orientation: text_chunk(b"iTXt", b"XML:com.adobe.xmp", xmp(orientation)),
    "zipped xmp": lambda orientation: text_chunk(b"iTXt compressed", b"XML:com.adobe.xmp", xmp(orientation)),
    "exif and xmp": lambda orientation: (
        chunk(b"eXIf", exif(orientation)[6:]) + text_chunk(b"iTXt", b"XML:com.adobe.xmp", xmp(9 - orientation))
    ),
}
DAMAGED_CHUNKS = {
    "none": b"",
    "a text with a bad checksum": chunk(b"tEXt", b"a\0b")[:-4] + b"1234",
    "a text of an unknown method": chunk(b"zTXt", b"a\0\7abc"),
    "a text that unzips to 100 MB": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20))),
    "a broken profile": chunk(b"iCCP", b"a\0\0garbage"),
    "a gamma of one byte": chunk(b"gAMA", b"a"),
    "a physical size of one byte": chunk(b"pHYs", b"a"),
    "an animation of no frames": chunk(b"acTL", bytes(8)),
    "xmp that is no text": chunk(b"tEXt", b"XML:com.adobe.xmp\0\xff"),
}


@pytest.mark.guarantee("one-way-of-decoding", "exif-orientation")
@pytest.mark.parametrize("source", PNG_SOURCES)
@pytest.mark.parametrize("damage", DAMAGED_CHUNKS)
def test_a_png_is_upright_whatever_is_around_its_pixels(damage: str, source: str) -> None:
    for orientation in STORED:
        stored = encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT))), "PNG")
        end = stored.index(b"IEND") - 4
        block = PNG_SOURCES[source](orientation)
        before = stored[:33] + DAMAGED_CHUNKS[damage] + block + stored[33:]
        after = stored[:end] + block + DAMAGED_CHUNKS[damage] + stored[end:]
        assert np.array_equal(pixels_of(before), UPRIGHT), orientation
        assert np.array_equal(pixels_of(after), UPRIGHT), orientation


@pytest.mark.guarantee("one-way-of-decoding", "broken-metadata")
def test_an_orientation_in_a_png_with_a_bad_checksum_is_ignored() -> None:
    stored = encoded(SMALL, "PNG")
    block = chunk(b"eXIf", exif(6)[6:])[:-4] + b"1234"
    assert np.array_equal(pixels_of(stored[:33] + block + stored[33:]), UPRIGHT)


@pytest.mark.guarantee("one-way-of-decoding", "color-modes")
@pytest.mark.parametrize("damage", DAMAGED_CHUNKS)
def test_the_colors_of_a_png_do_not_depend_on_transparency_gamma_or_damage(damage: str) -> None:
    for image, options in (
        (IMAGE, {"transparency": (1, 2, 3)}),
        (PALETTED, {"transparency": bytes(range(0, 256, 8))}),
        (with_alpha(IMAGE), {}),
        (IMAGE.convert("L"), {"transparency": 99}),
    ):
        data = encoded(image, "PNG", **options)
        gamma = chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"sRGB", b"\0")
        found = pixels_of(data[:33] + gamma + DAMAGED_CHUNKS[damage] + data[33:])
        assert np.array_equal(found, np.asarray(image.convert("RGBA").convert("RGB")))


@pytest.mark.guarantee("one-way-of-decoding", "exif-orientation")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_a_webp_or_tiff_is_upright_by_exif_and_by_xmp(kind: str, source: str) -> None:
    for orientation in STORED:
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
        blocks: dict[str, Any] = SOURCES[source](orientation)
        if kind == "TIFF" and "exif" in blocks:
            if source == "broken exif and xmp":
                continue  # in a TIFF, the orientation is not in a block of its own
            blocks["exif"] = Image.Exif()
            blocks["exif"][0x0112] = orientation
        if kind == "TIFF" and "xmp" in blocks:
            blocks["tiffinfo"] = {700: blocks.pop("xmp")}
            if "exif" in blocks:
                blocks["tiffinfo"][0x0112] = orientation
                del blocks["exif"]
        data = encoded(stored, kind, **({"lossless": True} if kind == "WEBP" else {}), **blocks)
        assert np.array_equal(pixels_of(data), UPRIGHT), orientation


@pytest.mark.guarantee("one-way-of-decoding")
@pytest.mark.parametrize("name", FILES)
def test_bytes_files_and_cut_files_give_one_answer(name: str) -> None:
    """A file that is cut anywhere has the pixels of the whole file, or an error; never others."""
    data = FILES[name]
    expected = np.asarray(decode(data))
    for length in range(len(data) - 1, max(len(data) - 40, 0), -1):
        found = outcome(data[:length])
        assert found[0] == "truncated" if isinstance(found, tuple) else np.array_equal(found, expected), length


def test_a_png_of_many_chunks_is_read_where_it_lies() -> None:
    """The file is not copied into memory: only the ranges of its image are read."""

    class Counting(BytesIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.largest = max(self.largest, len(data))
            return data

    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "PNG", compress_level=0)
    file = Counting(data[:33] + chunk(b"tEXt", b"a\0b") + data[33:])
    assert np.array_equal(np.asarray(decode(file)), noise)
    assert file.largest < len(data) // 4
