"""Inputs become pixels in order, and one that does not come back in time holds up nobody."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import predict
from levit_cli.predict.prefetch import Prefetcher

LIMIT_S = 0.3


def pixels(item: Input) -> NDArray[np.uint8]:
    return np.full((1, 1, 3), len(item.path), np.uint8)


def network(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ones((len(batch), 2), np.float32)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def kinds(ahead: Prefetcher) -> dict[str, str]:
    return {answer.path: answer.error.kind if answer.error else "ok" for answer in predict(ahead, network, top_k=1)}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_hangs_is_a_timeout_and_everything_behind_it_an_answer(workers: int, released: threading.Event) -> None:
    def hanging(item: Input) -> NDArray[np.uint8]:
        if "hangs" in item.path:
            released.wait()
        return pixels(item)

    paths = ["a", "hangs 1", "b", "hangs 2", "hangs 3", *(str(number) for number in range(40))]
    ahead = Prefetcher(map(Input, paths), hanging, batch_size=4, workers=workers, limit_s=LIMIT_S)
    found = kinds(ahead)
    assert list(found) == paths
    assert {path for path, kind in found.items() if kind == "timeout"} == {"hangs 1", "hangs 2", "hangs 3"}
    assert set(found.values()) == {"ok", "timeout"}


def test_behind_the_first_that_hangs_something_else_prepares(released: threading.Event) -> None:
    threads_stuck: list[str] = []
    elsewhere: list[str] = []

    def hanging(item: Input) -> NDArray[np.uint8]:
        if "hangs" in item.path:
            threads_stuck.append(item.path)
            released.wait()
        return pixels(item)

    def patient(item: Input) -> NDArray[np.uint8]:
        elsewhere.append(item.path)
        if "hangs" in item.path:
            time.sleep(LIMIT_S / 10)
            raise InputError("timeout", "ended")
        return pixels(item)

    paths = ["hangs", *(f"{number}{' hangs' * (number % 10 == 0)}" for number in range(1, 80))]
    ahead = Prefetcher(map(Input, paths), hanging, batch_size=4, workers=1, limit_s=LIMIT_S, on_timeout=lambda: patient)
    found = kinds(ahead)
    assert [path for path, kind in found.items() if kind == "timeout"] == [path for path in paths if "hangs" in path]
    assert threads_stuck == ["hangs"]
    assert elsewhere == paths[1:]


def test_the_clock_starts_when_the_bytes_are_there() -> None:
    def slow(item: Input) -> Input:
        time.sleep(2 * LIMIT_S)
        return Input(item.path, content=b"here")

    def prepare(item: Input) -> NDArray[np.uint8]:
        assert item.content == b"here"
        return pixels(item)

    ahead = Prefetcher([Input("a")], prepare, batch_size=1, workers=1, fetch=slow, limit_s=LIMIT_S)
    assert kinds(ahead) == {"a": "ok"}


def test_many_that_wait_for_a_thread_are_not_late() -> None:
    def slow(item: Input) -> NDArray[np.uint8]:
        time.sleep(LIMIT_S / 4)
        return pixels(item)

    paths = [str(number) for number in range(20)]
    ahead = Prefetcher(map(Input, paths), slow, batch_size=20, workers=1, limit_s=LIMIT_S)
    assert set(kinds(ahead).values()) == {"ok"}


def test_an_error_holds_on_to_nothing_of_the_image() -> None:
    def failing(item: Input) -> NDArray[np.uint8]:
        try:
            raise ValueError("within")
        except ValueError as error:
            raise InputError("corrupt", "bad") from error

    (answer,) = predict(Prefetcher([Input("a")], failing, batch_size=1, workers=1), network, top_k=1)
    assert answer.error is not None
    assert answer.error.__cause__ is None
    assert answer.error.__context__ is None


def test_who_stops_does_not_wait_for_what_hangs(released: threading.Event) -> None:
    def hanging(item: Input) -> NDArray[np.uint8]:
        released.wait()
        return pixels(item)

    ahead = Prefetcher(map(Input, "abcdef"), hanging, batch_size=2, workers=1)
    answers = predict(ahead, network, top_k=1)
    threading.Timer(LIMIT_S, ahead.stop).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        next(answers)
    assert time.monotonic() - start < 10
