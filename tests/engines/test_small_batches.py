"""The work of a small batch grows with its images, and results do not depend on the graph that computes them."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.checkpoints import load
from levit_cli.data.inputs import Input
from levit_cli.engines import EngineSpec, LevitEngine, make_engine, openvino
from levit_cli.engines.small_batches import SmallBatches, noise, size_for
from levit_cli.engines.spec import CPU_BATCH, pad_batch
from levit_cli.predict.pipeline import predict
from levit_cli.predict.prefetch import Prefetcher

Pixels = NDArray[np.uint8]
COMPILE_S = 10.0


class FakeGraph:
    """Takes one second for each image of its size; the result has other bits if ``bits`` differ."""

    def __init__(self, machine: "FakeMachine", size: int, bits: float = 0.0) -> None:
        self.machine, self.size, self.bits = machine, size, bits

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        assert len(pixels) <= self.size
        self.machine.now += self.size
        self.machine.computed.append(self.size)
        return pixels.reshape(len(pixels), -1)[:, :3].astype(np.float32) + np.float32(self.bits)


class FakeMachine:
    def __init__(self, batch_size: int = 16, bits: float = 0.0) -> None:
        self.now, self.computed, self.compiled, self.bits = 0.0, list[int](), list[int](), bits
        self.network = SmallBatches(
            FakeGraph(self, batch_size), self.compile_for, batch_size=batch_size, compile_s=COMPILE_S,
            image_size=(4, 4), clock=lambda: self.now,
        )  # fmt: skip

    def compile_for(self, size: int) -> FakeGraph:
        self.compiled.append(size)
        return FakeGraph(self, size, self.bits)

    def run(self, *counts: int) -> list[int]:
        """Compute batches of so many images. Returns the images that each call computed."""
        self.computed.clear()
        for count in counts:
            pixels = noise((count, 4, 4, 3))
            assert np.array_equal(self.network(pixels), pixels.reshape(count, -1)[:, :3])
        return self.computed


@pytest.mark.parametrize(("images", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (9, 16), (16, 16), (17, 32)])
def test_sizes_are_powers_of_two(images: int, size: int) -> None:
    assert size_for(images) == size


@pytest.mark.guarantee("work-by-images")
def test_a_slow_list_pays_for_few_full_batches() -> None:
    machine = FakeMachine()
    machine.run(*[1] * 100)
    assert machine.compiled == [1]
    proof = 2 * 16  # both graphs compute a batch of noise
    assert machine.now <= 100 + 2 * 16 + proof
    assert machine.run(1, 1, 1) == [1, 1, 1]


def test_each_size_is_compiled_when_its_padding_has_cost_as_much() -> None:
    machine = FakeMachine()
    assert machine.run(16, 16, 16, 9, 15) == [16] * 5  # at least half full: no smaller power of two
    assert machine.compiled == []
    machine.run(*[3] * 5, *[8] * 5)
    assert machine.compiled == [4, 8]
    assert machine.run(3, 4, 5, 7, 8, 16) == [4, 4, 8, 8, 8, 16]


def test_a_short_run_compiles_nothing() -> None:
    machine = FakeMachine()
    assert machine.run(16, 16, 8) == [16] * 3
    assert machine.compiled == []


@pytest.mark.guarantee("batch-invariance", "resume-after-kill")
def test_a_graph_that_computes_other_bits_is_never_used() -> None:
    machine = FakeMachine(bits=1e-3)
    machine.run(*[1] * 20)
    assert machine.compiled == [1]
    assert machine.run(1, 1) == [16, 16]
    assert machine.compiled == [1]


def test_a_batch_size_that_is_no_power_of_two_is_the_largest_size() -> None:
    machine = FakeMachine(batch_size=12)
    assert machine.run(9, 12) == [12, 12]
    machine.run(*[5] * 10)
    assert machine.compiled == [8]
    assert machine.run(5, 9) == [8, 12]


def test_noise_has_no_pattern() -> None:
    pixels = noise((8, 64, 64, 3)).astype(float)
    assert np.array_equal(noise((2, 3)), noise((2, 3)))
    assert abs(pixels.mean() - 127.5) < 1
    assert abs(np.corrcoef(pixels.ravel()[1:], pixels.ravel()[:-1])[0, 1]) < 0.02
    assert len(np.unique(pixels)) == 256


# --- with OpenVINO ---------------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images that each call of a graph computes, padding included."""
    sizes: list[int] = []

    def counted(pixels: Pixels, batch_size: int) -> Pixels:
        padded = pad_batch(pixels, batch_size)
        sizes.append(len(padded))
        return padded

    monkeypatch.setattr(openvino, "pad_batch", counted)
    return sizes


def engine_for(batch_size: int) -> LevitEngine:
    spec = EngineSpec(precision="fp32", threads=1).with_batching(batch_size, single=False)
    return make_engine(load("demo"), spec)


@pytest.mark.guarantee("work-by-images")
@pytest.mark.parametrize("batch_size", [256, 64, 16])
def test_forty_images_are_not_padded_to_a_batch_of_256(batch_size: int, computed: list[int]) -> None:
    engine = engine_for(batch_size)
    height, width = load("demo").config.image_size
    images = noise((40, height, width, 3))
    inputs = [Input(str(number)) for number in range(40)]
    prefetcher = Prefetcher(inputs, lambda item: images[int(item.path)], batch_size=engine.spec.batch_size, workers=1)
    assert len([*predict(prefetcher, engine, top_k=1)]) == 40
    assert 40 <= sum(computed) <= 40 + 2 * CPU_BATCH  # the first batch may be small, and so is the last


@pytest.mark.guarantee("work-by-images", "batch-invariance")
@pytest.mark.parametrize("output", [openvino.LOGITS, openvino.FEATURES])
def test_a_lone_image_has_the_same_bits_before_and_after_its_graph_is_compiled(
    computed: list[int], output: int
) -> None:
    engine = engine_for(256)
    height, width = load("demo").config.image_size
    image = noise((1, height, width, 3))
    network = getattr(engine, "_output")(output).call  # noqa: B009
    network._compile_s = 0.0  # as if compiling cost nothing
    compute = engine if output == openvino.LOGITS else engine.features
    first = compute(image)
    computed.clear()
    second = compute(image)
    assert first.tobytes() == second.tobytes()
    assert computed in ([1], [CPU_BATCH])  # the latter on a CPU whose kernels depend on the size


def test_only_openvino_limits_the_batch_size() -> None:
    assert EngineSpec().with_batching(256, single=False).batch_size == CPU_BATCH
    assert EngineSpec().with_batching(4, single=False).batch_size == 4
    for spec in (EngineSpec(engine="torch"), EngineSpec(engine="compile"), EngineSpec(device="cuda")):
        assert replace(spec).with_batching(256, single=False).batch_size == 256


def test_the_graph_of_the_features_is_compiled_alone_and_cached_apart_from_the_logits() -> None:
    entries: dict[str, bytes] = {}

    class Memory:
        def load(self, key: str) -> memoryview | None:
            return memoryview(entries[key]) if key in entries else None

        def store(self, key: str, content: bytes) -> None:
            assert key not in entries  # nothing is stored twice
            entries[key] = content

    spec, demo = EngineSpec(precision="fp32", threads=1, batch_size=1), load("demo")
    image = noise((1, *demo.config.image_size, 3))
    engine = make_engine(demo, spec, Memory(), for_features=True)
    engine.save_cache()
    assert len(entries) == 1
    expected = engine.features(image)
    assert expected.shape == (1, demo.config.hidden_sizes[-1])
    assert engine(image).shape == (1, demo.config.num_classes)  # compiled now
    engine.save_cache()
    assert len(entries) == 2
    again = make_engine(demo, spec, Memory(), for_features=True)
    again.save_cache()
    np.testing.assert_array_equal(again.features(image), expected)
