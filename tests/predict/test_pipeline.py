import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Network, Prediction, Prefetcher, Stats, predict

CLASSES = 5


def decode(item: Input) -> NDArray[np.uint8]:
    """Return pixels whose value is the number in the path; a path with an x cannot be decoded."""
    if "x" in item.path:
        raise InputError("corrupt", f"bad {item.path}")
    return np.full((2, 2, 3), int(item.path), np.uint8)


def network(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return logits whose highest is that of class ``number % CLASSES``."""
    numbers = pixels[:, 0, 0, 0]
    return np.eye(CLASSES, dtype=np.float32)[numbers % CLASSES] * 3


def stream(
    inputs: Iterable[Input], compute: Network = network, batch_size: int = 1, workers: int = 1, **options: Any
) -> Iterator[Prediction]:
    prefetcher = Prefetcher(inputs, decode, batch_size=batch_size, workers=workers)
    return predict(prefetcher, compute, **{"top_k": 2, **options})


def run(paths: list[str], batch_size: int = 4, workers: int = 3, **options: Any) -> list[Prediction]:
    return list(stream([Input(path) for path in paths], batch_size=batch_size, workers=workers, **options))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("streams", [1, 3])
def test_each_input_has_one_prediction_or_error_in_order(batch_size: int, workers: int, streams: int) -> None:
    paths = [f"{number}x" if number % 5 == 0 else str(number) for number in range(60)]
    predictions = run(paths, batch_size, workers, streams=streams)
    assert [prediction.path for prediction in predictions] == paths
    for prediction in predictions:
        if "x" in prediction.path:
            assert prediction.top == ()
            assert prediction.error is not None
            assert prediction.error.message == f"bad {prediction.path}"
        else:
            assert prediction.top[0].class_index == int(prediction.path) % CLASSES


def test_probabilities_are_the_softmax_over_all_classes() -> None:
    (prediction,) = run(["3"])
    likely = np.exp(3) / (np.exp(3) + CLASSES - 1)
    assert [rank.class_index for rank in prediction.top] == [3, 0]  # of equal logits, the lowest index
    assert [rank.prob for rank in prediction.top] == pytest.approx([likely, (1 - likely) / (CLASSES - 1)])


def test_temperature_changes_probabilities_but_neither_logits_nor_order() -> None:
    (plain,), (tempered,) = run(["3"]), run(["3"], temperature=1.5)
    likely = np.exp(3 / 1.5) / (np.exp(3 / 1.5) + CLASSES - 1)
    assert [rank.prob for rank in tempered.top] == pytest.approx([likely, (1 - likely) / (CLASSES - 1)])
    assert [rank.class_index for rank in tempered.top] == [rank.class_index for rank in plain.top]
    assert tempered.logits is not None
    assert tempered.logits.tolist() == [0, 0, 0, 3, 0]


@pytest.mark.parametrize(("temperature", "likely"), [(1e-320, 1.0), (1e300, 1 / CLASSES)])
def test_extreme_temperatures_do_not_give_nan(temperature: float, likely: float) -> None:
    (prediction,) = run(["3"], temperature=temperature)
    assert prediction.top[0].prob == pytest.approx(likely)


def test_top_k_may_exceed_the_number_of_classes() -> None:
    (prediction,) = stream([Input("1")], top_k=99)
    assert len(prediction.top) == CLASSES


@pytest.mark.guarantee("non-finite")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_logits_are_an_error_of_that_image_only(bad: float) -> None:
    def broken(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = network(pixels)
        logits[pixels[:, 0, 0, 0] == 1] = bad
        return logits

    predictions = list(stream(map(Input, "012"), broken, batch_size=3))
    assert [prediction.error.kind if prediction.error else "ok" for prediction in predictions] == [
        "ok",
        "non_finite",
        "ok",
    ]


@pytest.mark.guarantee("out-of-memory")
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to"), RuntimeError("std::bad_alloc")]
)
@pytest.mark.parametrize("capacity", [1, 3, 5])
def test_batch_that_does_not_fit_in_memory_is_halved_without_losing_or_repeating_images(
    error: Exception, capacity: int
) -> None:
    sizes: list[int] = []

    def small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(pixels))
        if len(pixels) > capacity:
            raise error
        return network(pixels)

    paths = ["x3" if number == 3 else str(number) for number in range(23)]
    predictions = run(paths, batch_size=8, compute=small)
    assert [prediction.path for prediction in predictions] == paths
    assert [p.top[0].class_index for p in predictions if p.top] == [n % CLASSES for n in range(23) if n != 3]
    assert max(sizes) > capacity
    assert min(sizes) <= capacity


def test_single_image_that_does_not_fit_in_memory_is_an_error_record() -> None:
    def never(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise MemoryError

    assert [p.error and p.error.kind for p in run(["1", "2"], compute=never)] == ["too_large"] * 2


def test_other_failures_of_the_network_are_raised() -> None:
    def broken(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        run(["1"], compute=broken)


def test_input_with_an_error_is_not_decoded() -> None:
    error = InputError("permission", "not readable")
    (prediction,) = stream([Input("7", error)])
    assert prediction.error is error


def test_number_of_inputs_in_memory_is_bounded() -> None:
    listed: list[int] = []

    def endless() -> Iterator[Input]:
        for number in itertools.count():
            listed.append(number)
            yield Input(str(number % 250))

    predictions = stream(endless(), batch_size=4, workers=2)
    for _ in range(20):
        next(predictions)
    predictions.close()  # type: ignore[attr-defined]  # a generator
    assert len(listed) <= 20 + (3 * 4 + 2 * 4) + 4 * 4 + 2


def test_slow_list_does_not_delay_finished_predictions() -> None:
    received = threading.Event()

    def slow() -> Iterator[Input]:
        yield Input("1")
        assert received.wait(timeout=30), "the first prediction waits for the second input"
        yield Input("2")

    predictions = stream(slow(), batch_size=16)
    assert next(predictions).path == "1"
    received.set()
    assert next(predictions).path == "2"


def test_exception_of_the_list_is_raised_after_the_finished_predictions() -> None:
    def failing() -> Iterator[Input]:
        yield Input("1")
        raise OSError("the list broke")

    predictions = stream(failing())
    assert next(predictions).path == "1"
    with pytest.raises(OSError, match="the list broke"):
        next(predictions)


def test_unexpected_exception_while_decoding_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        run(["not a number"])


def test_no_inputs_give_no_predictions() -> None:
    assert run([]) == []


def test_stats_count_images_failures_and_batches() -> None:
    stats = Stats()
    run(["1", "2", "x", "3"], batch_size=1, stats=stats)
    assert (stats.images, stats.failed, stats.batches) == (4, 1, 4)
    assert stats.network_s > 0
    assert stats.decode_s > 0


def test_decoding_begins_before_the_network_exists() -> None:
    decoded = threading.Event()

    def recording(item: Input) -> NDArray[np.uint8]:
        decoded.set()
        return decode(item)

    prefetcher = Prefetcher([Input("1")], recording, batch_size=1, workers=1)
    assert decoded.wait(timeout=30)
    assert [prediction.path for prediction in predict(prefetcher, network, top_k=1)] == ["1"]


@pytest.mark.parametrize(
    ("elapsed_s", "large_jpeg_s", "hints"),
    [(9, 60, True), (9, 40, False), (2, 60, False)],
    ids=["most", "less", "short"],
)
def test_the_closing_line_names_fast_decoding_if_large_photos_took_most_of_the_run(
    elapsed_s: float, large_jpeg_s: float, hints: bool
) -> None:
    stats = Stats(decode_s=70, network_s=30, started=time.perf_counter() - elapsed_s)
    assert ("--decode fast" in stats.decoding_hint(large_jpeg_s)) == hints
