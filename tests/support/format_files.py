"""Images in the formats that have modules of their own: HEIC, AVIF, JPEG 2000, JPEG XL and PNM."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from levit_cli.images.jxl import compiled_module
from levit_cli.system.extras import missing_package
from tests.support.heif_files import coded, grid, heif

FOLDER = Path(__file__).parents[1] / "images/files"
HAS_JXL = missing_package("jxl") is None


def fixture(name: str) -> bytes:
    """Return a file that ``tests/images/files/make.py`` has written."""
    return (FOLDER / name).read_bytes()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jxl(image: Image.Image, *, exif: bytes | None = None, container: bool = False) -> bytes:
    """Encode without loss. The package's plugin for Pillow is not used: it registers itself for the whole process."""
    encoder = compiled_module().Encoder(
        mode=image.mode,
        lossless=True,
        quality=100,
        decoding_speed=0,
        effort=3,
        use_container=container,
        use_original_profile=False,
        num_threads=0,
    )
    metadata = {"exif": exif, "jumb": None, "xmp": None, "compress": False}
    return bytes(encoder(image.tobytes(), image.width, image.height, jpeg_encode=False, **metadata))


def jxl_of_jpeg(content: bytes, width: int, height: int) -> bytes:
    """Convert a JPEG in such a way that it can be restored."""
    encoder = compiled_module().Encoder(
        mode="RGB",
        lossless=True,
        quality=100,
        decoding_speed=0,
        effort=3,
        use_container=True,
        use_original_profile=False,
        num_threads=0,
    )
    return bytes(encoder(content, width, height, jpeg_encode=True))


def plain_pnm(image: Image.Image, maximum: int = 255) -> bytes:
    """Encode a PNM whose values are decimal numbers."""
    values = np.asarray(image).astype(int)
    if image.mode == "1":
        return b"P1\n%d %d\n" % image.size + b"".join(b"%d" % (1 - value) for value in values.ravel()) + b"\n"
    kind = b"P3" if image.mode == "RGB" else b"P2"
    numbers = b"\n".join(b"%d" % value for value in np.rint(values * (maximum / 255)).astype(int).ravel())
    return kind + b" # a comment\n%d %d\n%d\n" % (*image.size, maximum) + numbers + b"\n"


def binary_pnm(image: Image.Image, maximum: int) -> bytes:
    """Encode a PNM whose values have a range that Pillow does not write."""
    kind = b"P6" if image.mode == "RGB" else b"P5"
    values = np.rint(np.asarray(image).astype(float) * (maximum / 255))
    return kind + b"\n%d %d\n%d\n" % (*image.size, maximum) + values.astype(">u2" if maximum > 255 else "u1").tobytes()


def grid_of_tiles(width: int, height: int) -> bytes:
    """Return a HEIC of 2 x 2 tiles of 64 x 64 pixels, cut to a size, as phones write it."""
    tiles = [coded(fixture("tile.heic")) for _ in range(4)]
    return heif([grid(2, 2, width, height, [2, 3, 4, 5]), *tiles])


def files_of(image: Image.Image) -> dict[str, bytes]:
    """Return an image in each of the formats; the HEIC is always that of ``sample_image(96, 80)``."""
    gray = image.convert("L")
    files = {
        "avif": encoded(image, "AVIF"),
        "avif, gray": encoded(gray, "AVIF", quality=60),
        "avif, animated": encoded(image, "AVIF", save_all=True, append_images=[image.rotate(180)]),
        "heic": fixture("photo.heic"),
        "heic, grid": grid_of_tiles(96, 80),
        "jpeg 2000": encoded(image, "JPEG2000"),
        "jpeg 2000, codestream": encoded(image, "JPEG2000", no_jp2=True, irreversible=True),
        "jpeg 2000, tiles": encoded(image, "JPEG2000", tile_size=(64, 64)),
        "ppm": encoded(image, "PPM"),
        "pgm, 10 bits": binary_pnm(gray, 1023),
        "pbm": encoded(image.convert("1"), "PPM"),
        "ppm, plain": plain_pnm(image),
        "pbm, plain": plain_pnm(image.convert("1")),
    }
    if HAS_JXL:
        files |= {
            "jpeg xl": jxl(image),
            "jpeg xl, container": jxl(gray, container=True),
            "jpeg xl, of a jpeg": jxl_of_jpeg(encoded(image, "JPEG", quality=95), *image.size),
        }
    return files
