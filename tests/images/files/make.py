"""Write the images in this folder, which the packages of a development environment cannot write.

They are of our own making, from ``sample_image``. To write them again, run this from the root of the repository:
``python -m venv /tmp/encoders && /tmp/encoders/bin/pip install pillow-heif imagecodecs && /tmp/encoders/bin/python -m
tests.images.files.make``.
"""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
from PIL import Image

from tests.support.sample_images import sample_image

FOLDER = Path(__file__).parent
PHOTO = sample_image(96, 80)
SMALL = sample_image(32, 24)
OTHER = sample_image(32, 24, seed=1)
TILE = sample_image(64, 64)


def scaled(values: Any, bits: int) -> Any:
    return np.rint(np.asarray(values) * (((1 << bits) - 1) / 255)).astype(np.uint16)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    opacities = np.linspace(40, 255, image.width * image.height).astype(np.uint8)
    image.putalpha(Image.fromarray(opacities.reshape(image.height, image.width)))
    return image


def heic() -> None:
    pillow_heif.register_heif_opener()
    pillow_heif.options.SAVE_NCLX_PROFILE = True
    PHOTO.save(FOLDER / "photo.heic", quality=90)
    TILE.save(FOLDER / "tile.heic", quality=95, chroma=444)
    TILE.save(FOLDER / "tile 420.heic", quality=95)
    TILE.convert("L").save(FOLDER / "gray.heic", quality=95)
    with_alpha(TILE).save(FOLDER / "rgba.heic", quality=95, chroma=444)
    premultiplied = pillow_heif.from_bytes("RGBa", TILE.size, with_alpha(TILE).convert("RGBa").tobytes())
    premultiplied.save(FOLDER / "premultiplied.heic", quality=95, chroma=444)
    wide = np.asarray(TILE).astype(np.uint16) * 257
    for bits in (10, 12):
        pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
        colors = pillow_heif.from_bytes("RGB;16", TILE.size, wide.tobytes())
        colors.save(FOLDER / f"rgb {bits} bits.heic", quality=95, chroma=444)
        levels = np.asarray(TILE.convert("L")).astype(np.uint16) * 257
        gray = pillow_heif.from_bytes("I;16", TILE.size, levels.tobytes())
        gray.save(FOLDER / f"gray {bits} bits.heic", quality=95)


def jpeg_xl() -> None:
    def write(name: str, values: Any, **options: Any) -> None:
        (FOLDER / f"{name}.jxl").write_bytes(imagecodecs.jpegxl_encode(values, lossless=True, **options))

    colors, gray = np.asarray(SMALL), np.asarray(SMALL.convert("L"))
    write("animated", np.stack([colors, np.asarray(OTHER)]))
    write("rgb 10 bits", scaled(colors, 10), bitspersample=10)
    write("gray 12 bits", scaled(gray, 12), bitspersample=12)
    write("gray and opacity 16 bits", scaled(np.dstack([gray, 255 - gray]), 16))
    write("rgb float", (colors / 255).astype(np.float32))
    write("gray with two more channels", np.moveaxis(colors, -1, 0), photometric="gray", planar=True)


def jpeg_2000() -> None:
    def write(name: str, values: Any, **options: Any) -> None:
        codec = name.rpartition(".")[2]
        settings = {"level": 0, "codecformat": codec, "reversible": True, **options}
        (FOLDER / name).write_bytes(imagecodecs.jpeg2k_encode(values, **settings))

    colors, gray = np.asarray(SMALL), np.asarray(SMALL.convert("L"))
    write("rgb 12 bits.jp2", scaled(colors, 12), bitspersample=12)
    write("lossy 12 bits.jp2", scaled(colors, 12), bitspersample=12, level=60, reversible=False)
    write("gray 12 bits.jp2", scaled(gray, 12), bitspersample=12)
    write("rgb 5 bits.j2k", colors >> 3, bitspersample=5)
    write("gray 4 bits.j2k", gray >> 4, bitspersample=4)
    write("gray 1 bit.j2k", gray >> 7, bitspersample=1)
    write("signed.j2k", (colors.astype(np.int16) - 128).astype(np.int8))
    write("ycc.jp2", np.asarray(SMALL.convert("YCbCr")), colorspace="SYCC", mct=False)
    write("cmyk.jp2", np.asarray(SMALL.convert("CMYK")), colorspace="CMYK", mct=False)
    write("five bands.jp2", np.dstack([colors, colors[..., :2]]))


def avif() -> None:
    def write(name: str, values: Any, bits: int, layout: str) -> None:
        content = imagecodecs.avif_encode(scaled(values, bits), level=95, bitspersample=bits, pixelformat=layout)
        (FOLDER / f"{name}.avif").write_bytes(content)

    write("rgb 10 bits", np.asarray(SMALL), 10, "444")
    write("rgb 12 bits", np.asarray(SMALL), 12, "444")
    write("gray 12 bits", np.asarray(SMALL.convert("L")), 12, "400")


if __name__ == "__main__":
    for write in (heic, jpeg_xl, jpeg_2000, avif):
        write()
