"""Objects are read ahead: several at once, bounded by count and size, in order."""

import threading
import time
from collections.abc import Iterable

import pytest

from levit_cli.data.input import Input
from levit_cli.data.remote.ahead import ReadAhead, RemoteRead
from levit_cli.errors import InputError


class Gate:
    """Reads that wait until they are let through, and the highest number of them at once."""

    def __init__(self) -> None:
        self.open, self.lock = threading.Event(), threading.Lock()
        self.running = self.highest = 0

    def read(self, name: str) -> bytes:
        with self.lock:
            self.running += 1
            self.highest = max(self.highest, self.running)
        self.open.wait(10)
        with self.lock:
            self.running -= 1
        return name.encode()

    def inputs(self, count: int, size: int | None = 1) -> Iterable[Input]:
        for number in range(count):
            name = str(number)
            yield Input(name, load=RemoteRead(lambda name=name: self.read(name), size))  # type: ignore[misc]


def start(ahead: ReadAhead) -> tuple[list[Input], threading.Thread]:
    """List the inputs in another thread, as the prefetcher does."""
    listed: list[Input] = []
    thread = threading.Thread(target=lambda: listed.extend(ahead), daemon=True)
    thread.start()
    return listed, thread


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.001)


def content(item: Input) -> bytes:
    assert item.load is not None
    return item.load()


def test_several_are_read_at_once_and_given_in_order() -> None:
    gate = Gate()
    listed, thread = start(ReadAhead(gate.inputs(10), reads_at_once=4))
    wait_for(lambda: gate.running == 4)
    assert gate.highest == 4
    gate.open.set()
    thread.join(10)
    assert [content(item) for item in listed] == [str(number).encode() for number in range(10)]
    assert gate.highest == 4


def test_the_size_of_what_waits_is_bounded() -> None:
    gate = Gate()
    gate.open.set()
    listed: list[Input] = []
    iterator = iter(ReadAhead(gate.inputs(4, size=40), reads_at_once=4, max_bytes=100))
    listed += [next(iterator), next(iterator)]
    third = threading.Thread(target=lambda: listed.append(next(iterator)), daemon=True)
    third.start()
    third.join(0.05)
    assert len(listed) == 2  # a third one would be above 100 bytes
    content(listed[0])
    third.join(10)
    assert len(listed) == 3


def test_an_object_above_the_limit_is_read_alone() -> None:
    gate = Gate()
    gate.open.set()
    for item in ReadAhead(gate.inputs(3, size=1000), max_bytes=100):
        content(item)


def test_stop_ends_a_stream_that_waits() -> None:
    gate = Gate()
    ahead = ReadAhead(gate.inputs(10), reads_at_once=2)
    listed, thread = start(ahead)
    wait_for(lambda: gate.running == 2)
    ahead.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert len(listed) <= 2
    gate.open.set()


def test_a_read_that_hangs_is_abandoned() -> None:
    gate = Gate()
    (item,) = ReadAhead(gate.inputs(1), limit_s=0.02)
    with pytest.raises(InputError, match=r"not read within 0\.02 s") as caught:
        content(item)
    assert caught.value.kind == "download"
    gate.open.set()


def test_errors_come_from_load() -> None:
    def fail() -> bytes:
        raise InputError("download", "no")

    (item,) = ReadAhead([Input("a", load=RemoteRead(fail))])
    with pytest.raises(InputError, match="no"):
        content(item)


def test_other_inputs_pass_unchanged() -> None:
    inputs = [Input("a.jpg"), Input("b", load=lambda: b""), Input("c", InputError("not_found", "no"))]
    assert [*ReadAhead(inputs)] == inputs
