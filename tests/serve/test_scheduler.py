"""How the scheduler forms batches, with a network and images that wait until they may go on."""

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from levit_cli.data.input import Input
from levit_cli.serve.metrics import Metrics
from levit_cli.serve.model import ServedModel
from levit_cli.serve.scheduler import Scheduler, Ticket

WAIT_S = 20.0


class Model:
    """A model whose images named ``slow`` are decoded, and whose batches are computed, when they may be.

    Attributes:
        batches: the sizes of the batches.
    """

    is_isolated = True

    def __init__(self) -> None:
        self.may_decode, self.may_compute = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def read(self, item: Input) -> Any:
        if item.path == "slow":
            assert self.may_decode.wait(WAIT_S)
        return np.zeros((1, 1, 3), np.uint8)

    def batch_size(self, _: str, num_images: int) -> int:
        return num_images

    def run(self, _: str, pixels: Sequence[Any], *, is_alone: bool) -> list[Any]:
        self.batches.append(len(pixels))
        assert self.may_compute.wait(WAIT_S)
        return [np.zeros(2, np.float32) for _ in pixels]


def scheduler(*, workers: int, streams: int, cores: int = 0, timeout_s: float = 60) -> Scheduler:
    return Scheduler(
        Metrics(), queue=64, workers=workers, streams=streams, cores=cores or streams, max_batch=16, timeout_s=timeout_s
    )


def submit(scheduler: Scheduler, model: Model, *names: str) -> threading.Event:
    """Submit a request; the event is set when it is answered."""
    done = threading.Event()
    scheduler.submit(Ticket([Input(name) for name in names], cast("ServedModel", model), "logits", done.set))
    return done


def test_a_decoded_image_does_not_wait_for_slow_ones_on_all_cores() -> None:
    model = Model()
    model.may_compute.set()
    busy = scheduler(workers=3, streams=2)
    slow = [submit(busy, model, "slow") for _ in range(2)]
    assert submit(busy, model, "fast").wait(WAIT_S)
    assert not any(done.is_set() for done in slow)
    model.may_decode.set()
    assert all(done.wait(WAIT_S) for done in slow)


def test_a_core_that_is_free_counts_though_the_network_has_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("levit_cli.serve.scheduler.MAX_DEFERRAL_S", 1e3)
    model = Model()
    model.may_compute.set()
    half_busy = scheduler(workers=2, streams=1, cores=2)
    submit(half_busy, model, "slow")
    assert submit(half_busy, model, "fast").wait(WAIT_S)
    model.may_decode.set()


def test_an_image_that_finds_a_free_core_is_computed_alone() -> None:
    model = Model()
    idle = scheduler(workers=1, streams=1)
    model.may_compute.set()
    for _ in range(3):
        assert submit(idle, model, "fast").wait(WAIT_S)
    assert model.batches == [1, 1, 1]


def test_what_is_decoded_while_the_network_computes_is_the_next_batch() -> None:
    model = Model()
    busy = scheduler(workers=2, streams=1)
    first = submit(busy, model, "fast")
    while not model.batches:
        threading.Event().wait(0.01)
    others = [submit(busy, model, "fast") for _ in range(8)]
    while len(busy._ready) < 8:
        threading.Event().wait(0.01)
    model.may_compute.set()
    assert all(done.wait(WAIT_S) for done in (first, *others))
    assert model.batches == [1, 8]


class HangingModel(Model):
    """A model that decodes in threads, where images named ``slow`` hang, until it is isolated."""

    is_isolated = False

    def isolate(self) -> None:
        self.is_isolated = True


def test_each_thread_whose_decoder_hangs_is_replaced_though_the_first_one_isolates_the_model() -> None:
    model = HangingModel()
    model.may_compute.set()
    busy = scheduler(workers=2, streams=1, timeout_s=0.4)
    hanging = [submit(busy, model, "slow")]
    threading.Event().wait(0.3)  # so that the first one is late earlier
    hanging.append(submit(busy, model, "slow"))
    assert all(done.wait(3) for done in hanging)
    assert not busy._decoding
    assert submit(busy, model, "fast").wait(WAIT_S)
    model.may_decode.set()
