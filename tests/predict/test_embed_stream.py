"""The stream of feature vectors, which is the stream of predictions with another result."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Embedding, Network, Prefetcher, Stats, embed, normalized


def decode(item: Input) -> NDArray[np.uint8]:
    if "x" in item.path:
        raise InputError("corrupt", f"bad {item.path}")
    return np.full((2, 2, 3), int(item.path), np.uint8)


def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return vectors (number, 2 * number, -2 * number)."""
    return pixels[:, 0, 0, :1].astype(np.float32) * np.array([1, 2, -2], np.float32)


def run(paths: Iterable[str], compute: Network = features, batch_size: int = 4, **options: Any) -> list[Embedding]:
    inputs = [Input(path) for path in paths]
    return [*embed(Prefetcher(inputs, decode, batch_size=batch_size, workers=3), compute, **options)]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("streams", [1, 3])
def test_each_input_has_one_vector_or_error_in_order(batch_size: int, streams: int) -> None:
    paths = [f"{number}x" if number % 5 == 0 else str(number) for number in range(60)]
    stats = Stats()
    results = run(paths, batch_size=batch_size, streams=streams, stats=stats)
    assert [result.path for result in results] == paths
    assert (stats.images, stats.failed) == (60, 12)
    for result in results:
        if "x" in result.path:
            assert result.vector is None
            assert result.error is not None
            assert result.error.message == f"bad {result.path}"
        else:
            assert result.error is None
            np.testing.assert_array_equal(result.vector, np.array([1, 2, -2], np.float32) * int(result.path))


def test_vectors_are_normalized_and_converted() -> None:
    plain, half, unit = (
        run(["3"], **options)[0].vector for options in ({}, {"dtype": np.float16}, {"normalize": True})
    )
    assert plain is not None
    assert half is not None
    assert unit is not None
    assert [vector.dtype.name for vector in (plain, half, unit)] == ["float32", "float16", "float32"]
    np.testing.assert_allclose(unit, [1 / 3, 2 / 3, -2 / 3], rtol=1e-6)


def test_a_zero_vector_stays_zero() -> None:
    (result,) = run(["0"], normalize=True)
    np.testing.assert_array_equal(result.vector, np.zeros(3))


@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_the_norm_of_tiny_and_huge_vectors_neither_underflows_nor_overflows(value: float) -> None:
    unit = normalized(np.array([[3, 4]], np.float32) * np.float32(value))
    np.testing.assert_allclose(unit, [[0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_an_error(value: float) -> None:
    (result,) = run(["3"], lambda pixels: features(pixels) * np.float32(value), normalize=True)
    assert result.vector is None
    assert result.error is not None
    assert result.error.kind == "non_finite"


def test_a_feature_too_large_for_float16_is_an_error_unless_it_is_normalized() -> None:
    def large(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return features(pixels) * np.float32(1e5)

    (result,) = run(["3"], large, dtype=np.float16)
    assert result.error is not None
    assert "too large for float16" in result.error.message
    (result,) = run(["3"], large, dtype=np.float16, normalize=True)
    assert result.error is None
