import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Network, Prediction, Prefetcher, Stats, predict

CLASSES = 5


def prepare(item: Input) -> NDArray[np.uint8]:
    """Pixels that carry the number in the path; paths with an x cannot be read."""
    if "x" in item.path:
        raise InputError("corrupt", f"bad {item.path}")
    return np.full((2, 2, 3), int(item.path), np.uint8)


def network(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class ``number % CLASSES`` wins."""
    numbers = pixels[:, 0, 0, 0]
    return np.eye(CLASSES, dtype=np.float32)[numbers % CLASSES] * 3


def stream(
    inputs: Iterable[Input], compute: Network = network, batch_size: int = 1, workers: int = 1, **options: Any
) -> Iterator[Prediction]:
    ahead = Prefetcher(inputs, prepare, batch_size=batch_size, workers=workers)
    return predict(ahead, compute, **{"top_k": 2, **options})


def run(paths: list[str], batch_size: int = 4, workers: int = 3, **options: Any) -> list[Prediction]:
    return list(stream([Input(path) for path in paths], batch_size=batch_size, workers=workers, **options))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("streams", [1, 3])
def test_one_prediction_for_each_input_in_order_errors_included(batch_size: int, workers: int, streams: int) -> None:
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
    assert [rank.class_index for rank in prediction.top] == [3, 0]  # of equals the lowest index
    assert [rank.prob for rank in prediction.top] == pytest.approx([likely, (1 - likely) / (CLASSES - 1)])


def test_a_temperature_divides_the_logits_and_changes_neither_them_nor_the_order() -> None:
    (plain,), (tempered,) = run(["3"]), run(["3"], temperature=1.5)
    likely = np.exp(3 / 1.5) / (np.exp(3 / 1.5) + CLASSES - 1)
    assert [rank.prob for rank in tempered.top] == pytest.approx([likely, (1 - likely) / (CLASSES - 1)])
    assert [rank.class_index for rank in tempered.top] == [rank.class_index for rank in plain.top]
    assert tempered.logits is not None
    assert tempered.logits.tolist() == [0, 0, 0, 3, 0]


@pytest.mark.parametrize(("temperature", "likely"), [(1e-320, 1.0), (1e300, 1 / CLASSES)])
def test_a_temperature_beyond_all_reason_makes_no_nan(temperature: float, likely: float) -> None:
    (prediction,) = run(["3"], temperature=temperature)
    assert prediction.top[0].prob == pytest.approx(likely)


def test_more_classes_wanted_than_there_are() -> None:
    (prediction,) = stream([Input("1")], top_k=99)
    assert len(prediction.top) == CLASSES


@pytest.mark.guarantee("non-finite")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error_of_that_image_only(bad: float) -> None:
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
@pytest.mark.parametrize("most", [1, 3, 5])
def test_a_batch_too_large_for_the_memory_is_halved_and_no_row_lost_or_doubled(error: Exception, most: int) -> None:
    sizes: list[int] = []

    def small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(pixels))
        if len(pixels) > most:
            raise error
        return network(pixels)

    paths = ["x3" if number == 3 else str(number) for number in range(23)]
    predictions = run(paths, batch_size=8, compute=small)
    assert [prediction.path for prediction in predictions] == paths
    assert [p.top[0].class_index for p in predictions if p.top] == [n % CLASSES for n in range(23) if n != 3]
    assert max(sizes) > most
    assert min(sizes) <= most


def test_an_image_too_large_for_the_memory_on_its_own_is_a_record() -> None:
    def never(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise MemoryError

    assert [p.error and p.error.kind for p in run(["1", "2"], compute=never)] == ["too_large"] * 2


def test_another_failure_of_the_network_is_no_lack_of_memory() -> None:
    def broken(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        run(["1"], compute=broken)


def test_an_input_that_came_with_an_error_is_not_tried() -> None:
    error = InputError("permission", "shut")
    (prediction,) = stream([Input("7", error)])
    assert prediction.error is error


def test_memory_is_bounded_by_workers_and_batch_not_by_the_list() -> None:
    asked: list[int] = []

    def endless() -> Iterator[Input]:
        for number in itertools.count():
            asked.append(number)
            yield Input(str(number % 250))

    answers = stream(endless(), batch_size=4, workers=2)
    for _ in range(20):
        next(answers)
    answers.close()  # type: ignore[attr-defined]  # a generator
    assert len(asked) <= 20 + (3 * 4 + 2 * 4) + 4 * 4 + 2


def test_a_slow_list_does_not_hold_back_what_is_ready() -> None:
    answered = threading.Event()

    def slow() -> Iterator[Input]:
        yield Input("1")
        assert answered.wait(timeout=30), "the first answer waits for a second input"
        yield Input("2")

    answers = stream(slow(), batch_size=16)
    assert next(answers).path == "1"
    answered.set()
    assert next(answers).path == "2"


def test_what_the_list_raises_reaches_the_reader_behind_the_finished_images() -> None:
    def failing() -> Iterator[Input]:
        yield Input("1")
        raise OSError("the list broke")

    answers = stream(failing())
    assert next(answers).path == "1"
    with pytest.raises(OSError, match="the list broke"):
        next(answers)


def test_a_bug_in_preparing_is_not_taken_for_a_bad_image() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        run(["not a number"])


def test_no_input_no_output() -> None:
    assert run([]) == []


def test_stats_count_images_failures_and_batches() -> None:
    stats = Stats()
    run(["1", "2", "x", "3"], batch_size=1, stats=stats)
    assert (stats.images, stats.failed, stats.batches) == (4, 1, 4)
    assert stats.network_s > 0
    assert stats.prepare_s > 0


def test_decoding_begins_before_there_is_a_network() -> None:
    decoded = threading.Event()

    def noticed(item: Input) -> NDArray[np.uint8]:
        decoded.set()
        return prepare(item)

    ahead = Prefetcher([Input("1")], noticed, batch_size=1, workers=1)
    assert decoded.wait(timeout=30)
    assert [prediction.path for prediction in predict(ahead, network, top_k=1)] == ["1"]
