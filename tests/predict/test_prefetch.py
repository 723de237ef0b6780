"""Inputs are decoded in order, and an input that hangs does not delay the others."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError
from levit_cli.predict import prefetch
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


def kinds(prefetcher: Prefetcher) -> dict[str, str]:
    predictions = predict(prefetcher, network, top_k=1)
    return {prediction.path: prediction.error.kind if prediction.error else "ok" for prediction in predictions}


@pytest.mark.parametrize("workers", [1, 2])
def test_inputs_that_hang_time_out_and_all_others_are_classified(workers: int, released: threading.Event) -> None:
    def hanging(item: Input) -> NDArray[np.uint8]:
        if "hangs" in item.path:
            released.wait()
        return pixels(item)

    paths = ["a", "hangs 1", "b", "hangs 2", "hangs 3", *(str(number) for number in range(40))]
    prefetcher = Prefetcher(map(Input, paths), hanging, batch_size=4, workers=workers, timeout_s=LIMIT_S)
    kind_by_path = kinds(prefetcher)
    assert list(kind_by_path) == paths
    assert {path for path, kind in kind_by_path.items() if kind == "timeout"} == {"hangs 1", "hangs 2", "hangs 3"}
    assert set(kind_by_path.values()) == {"ok", "timeout"}


def test_inputs_after_the_first_timeout_are_decoded_by_another_function(released: threading.Event) -> None:
    hanging_paths: list[str] = []
    limited_paths: list[str] = []

    def hanging(item: Input) -> NDArray[np.uint8]:
        if "hangs" in item.path:
            hanging_paths.append(item.path)
            released.wait()
        return pixels(item)

    def limited(item: Input) -> NDArray[np.uint8]:
        limited_paths.append(item.path)
        if "hangs" in item.path:
            time.sleep(LIMIT_S / 10)
            raise InputError("timeout", "ended")
        return pixels(item)

    paths = ["hangs", *(f"{number}{' hangs' * (number % 10 == 0)}" for number in range(1, 80))]
    prefetcher = Prefetcher(
        map(Input, paths), hanging, batch_size=4, workers=1, timeout_s=LIMIT_S, on_timeout=lambda: limited
    )
    kind_by_path = kinds(prefetcher)
    assert [path for path, kind in kind_by_path.items() if kind == "timeout"] == [
        path for path in paths if "hangs" in path
    ]
    assert hanging_paths == ["hangs"]
    assert limited_paths == paths[1:]


def test_timeout_begins_after_fetching() -> None:
    def slow(item: Input) -> Input:
        time.sleep(2 * LIMIT_S)
        return Input(item.path, content=b"bytes")

    def decode(item: Input) -> NDArray[np.uint8]:
        assert item.content == b"bytes"
        return pixels(item)

    prefetcher = Prefetcher([Input("a")], decode, batch_size=1, workers=1, fetch=slow, timeout_s=LIMIT_S)
    assert kinds(prefetcher) == {"a": "ok"}


def test_waiting_for_a_thread_does_not_count_towards_the_timeout() -> None:
    def slow(item: Input) -> NDArray[np.uint8]:
        time.sleep(LIMIT_S / 4)
        return pixels(item)

    paths = [str(number) for number in range(20)]
    prefetcher = Prefetcher(map(Input, paths), slow, batch_size=20, workers=1, timeout_s=LIMIT_S)
    assert set(kinds(prefetcher).values()) == {"ok"}


def test_errors_keep_no_reference_to_the_image() -> None:
    def failing(item: Input) -> NDArray[np.uint8]:
        try:
            raise ValueError("within")
        except ValueError as error:
            raise InputError("corrupt", "bad") from error

    (prediction,) = predict(Prefetcher([Input("a")], failing, batch_size=1, workers=1), network, top_k=1)
    assert prediction.error is not None
    assert prediction.error.__cause__ is None
    assert prediction.error.__context__ is None


def test_stop_does_not_wait_for_a_decoder_that_hangs(released: threading.Event) -> None:
    def hanging(item: Input) -> NDArray[np.uint8]:
        released.wait()
        return pixels(item)

    prefetcher = Prefetcher(map(Input, "abcdef"), hanging, batch_size=2, workers=1)
    predictions = predict(prefetcher, network, top_k=1)
    threading.Timer(LIMIT_S, prefetcher.stop).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        next(predictions)
    assert time.monotonic() - start < 10


# --- inputs that bring their bytes -----------------------------------------------------------------------------------


class Content(bytes):
    """Bytes that count how many of them exist."""

    existing = 0

    def __new__(cls, data: bytes) -> "Content":
        Content.existing += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Content.existing -= 1


@pytest.mark.guarantee("many-members")
def test_few_bytes_are_read_ahead_and_none_are_kept_after_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MAX_BYTES_AHEAD", 1000)
    most = [0]

    def inputs() -> Iterator[Input]:
        for number in range(60):
            yield Input(str(number), content=Content(bytes(300)))
            most.append(Content.existing)

    prefetcher = Prefetcher(inputs(), pixels, batch_size=16, workers=2)
    tasks: list[prefetch.Task] = []
    while len(tasks) < 60:
        tasks += prefetcher.take()[0]
    assert {type(prefetcher.result(task)) for task in tasks} == {prefetch.Decoded}
    assert [task.item.path for task in tasks] == [str(number) for number in range(60)]
    assert max(most) <= 3 + 1 + 2  # in the queue, waiting for room, and being dropped by two threads
    assert Content.existing <= 1


def test_an_input_larger_than_the_limit_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MAX_BYTES_AHEAD", 1000)
    items = [Input(str(number), content=bytes(5000)) for number in range(8)]
    assert set(kinds(Prefetcher(items, pixels, batch_size=2, workers=2)).values()) == {"ok"}


def test_inputs_that_hang_give_their_bytes_back(monkeypatch: pytest.MonkeyPatch, released: threading.Event) -> None:
    monkeypatch.setattr(prefetch, "MAX_BYTES_AHEAD", 1000)

    def hanging(item: Input) -> NDArray[np.uint8]:
        if item.path in "15":
            released.wait()
        return pixels(item)

    items = [Input(str(number), content=bytes(900)) for number in range(9)]
    kind_by_path = kinds(Prefetcher(items, hanging, batch_size=2, workers=1, timeout_s=LIMIT_S))
    assert [path for path, kind in kind_by_path.items() if kind == "timeout"] == ["1", "5"]


def test_stop_ends_the_wait_for_room(monkeypatch: pytest.MonkeyPatch, released: threading.Event) -> None:
    monkeypatch.setattr(prefetch, "MAX_BYTES_AHEAD", 1000)

    def hanging(item: Input) -> NDArray[np.uint8]:
        released.wait()
        return pixels(item)

    before = {*threading.enumerate()}
    items = [Input(str(number), content=bytes(900)) for number in range(9)]
    prefetcher = Prefetcher(items, hanging, batch_size=2, workers=1)
    prefetcher.take()
    (listing,) = [thread for thread in threading.enumerate() if thread.name == "inputs" and thread not in before]
    prefetcher.stop()
    listing.join(10)
    assert not listing.is_alive()
