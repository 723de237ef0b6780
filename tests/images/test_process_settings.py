"""Decoding neither changes nor obeys the settings of Pillow and of warnings in the process that uses the package."""

import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from levit_cli.errors import InputError
from levit_cli.images.decode import decode
from levit_cli.images.preprocess import preprocess
from levit_cli.images.transforms import transform_for
from tests.images.test_decode import (
    BOMBS,
    BROKEN_METADATA,
    FILES,
    SMALL,
    chunk,
    encoded,
    jpeg_with,
    oriented,
    outcome,
    png_with,
    segment,
)
from tests.support.sample_images import sample_image

SCRIPT = """
import importlib.util, pkgutil, sys, warnings
import numpy  # which sets filters of its own
from pathlib import Path
from PIL import Image, ImageFile, PngImagePlugin

def settings():
    return (
        Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK,
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, [*warnings.filters], warnings.showwarning,
    )

HOMES = {"cykooz_resizer": ("resize_simd",), "pyarrow": ("parquet_output", "reading", "columns", "pages")}
absent = [name for package, names in HOMES.items() if not importlib.util.find_spec(package) for name in names]
before = settings()
import levit_cli
for package in ("images", "data", "model", "system", "checkpoints", "predict"):
    folder = importlib.import_module("levit_cli." + package)
    for module in pkgutil.iter_modules(folder.__path__, folder.__name__ + "."):
        if not module.name.endswith(("model.levit", "resize_torch", "plotting", *absent)):  # these import an extra
            importlib.import_module(module.name)
assert settings() == before, "after the imports"

from levit_cli.errors import InputError
from levit_cli.images.decode import decode
for path in map(Path, sys.argv[1:]):
    try:
        decode(path.read_bytes())
    except InputError:
        pass
    assert settings() == before, path
"""
ODD_METADATA: dict[str, bytes] = {
    **BROKEN_METADATA,
    "tiff, too many values": encoded(SMALL, "TIFF", tiffinfo={282: (1, 2), 270: "text"}),
    "jpeg, a tag beyond the end of exif": jpeg_with(
        segment(
            0xE1,
            b"Exif\0\0II*\0\x08\0\0\0\2\0" + struct.pack("<HHIIHHII", 0x10F, 2, 99, 9_999, 0x112, 3, 1, 1) + bytes(4),
        )
    ),
    "jpeg, index of several images": jpeg_with(segment(0xE2, b"MPF\0II*\0\x08\0\0\0\1\0" + bytes(30))),
    "png, animation of no frames": png_with(chunk(b"acTL", bytes(8))),
    "png, two animations": png_with(*[chunk(b"acTL", struct.pack(">II", 1, 0))] * 2),
}


@pytest.fixture(params=[None, 1, 1000, 10**12])
def host_limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", request.param)


@pytest.mark.guarantee("process-settings")
def test_imports_and_decoding_change_no_settings_of_the_process(tmp_path: Any) -> None:
    for number, content in enumerate([*ODD_METADATA.values(), *FILES.values(), FILES["jpeg"][:900]]):
        (tmp_path / str(number)).write_bytes(content)
    paths = [str(path) for path in tmp_path.iterdir()]
    result = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT, *paths], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.guarantee("process-settings")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("host_limit")
def test_images_are_decoded_whatever_limit_the_program_has_set(name: str) -> None:
    assert np.asarray(decode(FILES[name])).shape == (80, 96, 3)


@pytest.mark.guarantee("process-settings", "too-large")
@pytest.mark.parametrize("name", ["bmp", "gif", "webp", "tiff", "jpeg", "png", "png, slightly too large"])
@pytest.mark.usefixtures("host_limit")
def test_our_limits_hold_whatever_limit_the_program_has_set(name: str) -> None:
    data, width, height = BOMBS[name]()
    with pytest.raises(InputError, match=f"{width} x {height} pixels; the limits are") as caught:
        decode(data)
    assert caught.value.kind == "too_large"


@pytest.mark.guarantee("process-settings")
@pytest.mark.usefixtures("host_limit")
def test_large_images_are_preprocessed_and_scaled_whatever_limit_the_program_has_set() -> None:
    transform = transform_for("hf", (32, 32))
    image = sample_image(96, 80)
    assert preprocess(image, transform).shape == (32, 32, 3)
    wide = Image.fromarray(np.zeros((2000, 1000), np.uint16))
    assert decode(encoded(wide, "PNG")).size == (1000, 2000)


@pytest.mark.guarantee("process-settings", "truncated")
@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_errors_though_the_program_loads_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[name]
    parts = [data[: len(data) * part // 20] for part in range(1, 20)]
    damaged = [data[:position] + bytes(30) + data[position + 30 :] for position in range(0, len(data), len(data) // 9)]
    strict = [outcome(content) for content in [data, *parts, *damaged]]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for content, expected in zip([data, *parts, *damaged], strict, strict=True):
        found = outcome(content)
        assert found == expected if isinstance(expected, tuple) else np.array_equal(found, expected)


def test_a_png_header_that_is_too_short_is_the_same_error_though_the_program_loads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encoded(SMALL, "PNG")
    short = data[:8] + chunk(b"IHDR", data[16:26]) + data[33:]
    expected = outcome(short)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert isinstance(expected, tuple)
    assert outcome(short) == expected


@pytest.mark.guarantee("process-settings", "broken-metadata")
@pytest.mark.parametrize("name", ODD_METADATA)
def test_warnings_as_errors_change_no_answer(name: str) -> None:
    data = ODD_METADATA[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(decode(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(decode(data)), expected)


@pytest.mark.guarantee("process-settings", "exif-orientation")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_beside_a_broken_tag_is_applied_with_warnings_as_errors(kind: str) -> None:
    """Cameras write such tags: Pillow warns that the tag's data is beyond the end, and skips it."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9286] = 6, "maker", "comment" * 20
    data = encoded(SMALL, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    order = "<" if kind == "TIFF" else ">"
    place = data.index(struct.pack(order + "H", 0x9286)) + 8
    broken = data[:place] + struct.pack(order + "I", 9_999_999) + data[place + 4 :]
    if kind == "PNG":
        start = broken.index(b"eXIf")
        length = int.from_bytes(broken[start - 4 : start], "big")
        broken = broken[: start - 4] + chunk(b"eXIf", broken[start + 4 :][:length]) + broken[start + 8 + length :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(broken)
    assert found.size == SMALL.size[::-1]
    assert np.array_equal(np.asarray(found), np.asarray(decode(data)))


@pytest.mark.guarantee("process-settings")
def test_eight_threads_decode_without_touching_the_filters() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = [*warnings.filters]
        expected = [outcome(data) for data in ODD_METADATA.values()]
        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(outcome, [*ODD_METADATA.values()] * 8)]
        assert filters == warnings.filters
    assert all(np.array_equal(one, other) for one, other in zip(found, expected * 8, strict=True))


def test_a_rotated_image_is_turned_upright_once() -> None:
    upright = np.asarray(SMALL)
    data = oriented(6, np.rot90(upright), "TIFF", {})
    assert np.array_equal(np.asarray(decode(data)), upright)
