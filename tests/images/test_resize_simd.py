"""Resizing with SIMD: any size, both ways into the package, and what happens if the package fails."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit_cli.images import preprocess as with_pillow
from levit_cli.images.transforms import Filter, Transform, transform_for
from tests.support.preprocess_oracle import SHAPES, differences, noise_and_edges, resize_then_crop

pytest.importorskip("cykooz_resizer")

from levit_cli.images import resize_simd

HF = transform_for("hf", (224, 224))
LENGTHS = st.integers(1, 100) | st.integers(100, 900)
SMOOTH = st.sampled_from(["bicubic", "lanczos", "bilinear"])


@pytest.mark.guarantee("pixels")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.tuples(LENGTHS, LENGTHS), st.tuples(*[st.integers(1, 256)] * 2), st.integers(0, 64), SMOOTH)
def test_any_size_is_within_two_levels_of_pillow(
    size: tuple[int, int], crop: tuple[int, int], margin: int, resample: Filter
) -> None:
    if max(size) > 40 * min(size):
        size = (max(size), max(size) // 40 + 1)
    edge = max(crop) + margin
    transform = Transform("custom", (edge, edge), crop, "floor", filter=resample)
    image = noise_and_edges(size)
    failing = pytest.MonkeyPatch()
    with failing.context() as patch:
        patch.setattr(with_pillow, "preprocess", _not_called)
        pixels = resize_simd.preprocess(image, transform)
    assert differences(pixels, resize_then_crop(image, transform)).max() <= 2


def _not_called(image: Image.Image, transform: Transform) -> None:
    raise AssertionError(f"the package failed on {image.size} with {transform}")


@pytest.mark.parametrize("size", SHAPES)
def test_copied_pixels_give_the_same_result_as_shared_memory(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory layout of future versions of Pillow is unknown; their pixels are copied."""
    image = noise_and_edges(size)
    shared = resize_simd.preprocess(image, HF)
    monkeypatch.setattr(resize_simd, "SHARES_MEMORY", False)
    monkeypatch.setattr(resize_simd, "_resize", None)
    monkeypatch.setattr(with_pillow, "preprocess", _not_called)
    np.testing.assert_array_equal(resize_simd.preprocess(image, HF), shared)


def test_this_version_of_pillow_shares_its_memory() -> None:
    assert resize_simd.SHARES_MEMORY


def test_threads_do_not_disturb_each_other() -> None:
    images = [noise_and_edges(size) for size in SHAPES]
    expected = [resize_simd.preprocess(image, HF) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda image: resize_simd.preprocess(image, HF), images * 4)]
    for one, other in zip(found, expected * 4, strict=True):
        np.testing.assert_array_equal(one, other)


class PanicException(BaseException):
    """What a panic in Rust becomes in Python."""


PanicException.__module__ = "pyo3_runtime"


@pytest.mark.guarantee("resizer-failure")
@pytest.mark.parametrize("error", [PanicException("index out of bounds"), ValueError("box"), RuntimeError()])
def test_pillow_resizes_an_image_on_which_the_package_fails(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_with(error, monkeypatch)
    image = noise_and_edges((300, 200))
    np.testing.assert_array_equal(resize_simd.preprocess(image, HF), with_pillow.preprocess(image, HF))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError()])
def test_what_is_no_failure_of_the_package_is_raised(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(error, monkeypatch)
    with pytest.raises(type(error)):
        resize_simd.preprocess(noise_and_edges((300, 200)), HF)


def _fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(resize_simd, "Resizer", fail)
