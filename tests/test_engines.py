import tarfile
from dataclasses import replace

import numpy as np
import pytest

from levit_cli.checkpoints import Checkpoint, load
from levit_cli.choices import EngineName, Precision
from levit_cli.decode import decode
from levit_cli.engines import EngineSpec, make_engine, spec, usable_threads
from levit_cli.errors import RefusedError, UsageError
from levit_cli.preprocess import preprocess
from tests.random_weights import random_pixels
from tests.shared_data import shared, shared_photos

FP32 = EngineSpec(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return load("demo")


def test_the_answer_is_the_same_in_any_batch(demo: Checkpoint) -> None:
    pixels = random_pixels(demo.config, 33)
    engine = make_engine(demo, FP32)
    together = engine(pixels)
    for size in (1, 7, 32):
        apart = np.concatenate([engine(pixels[start : start + size]) for start in range(0, 33, size)])
        np.testing.assert_allclose(apart, together, rtol=0, atol=1e-5)


def test_an_engine_keeps_no_hold_on_the_answers_it_gave(demo: Checkpoint) -> None:
    engine = make_engine(demo, FP32)
    first = engine(random_pixels(demo.config, 1, seed=1))
    kept = first.copy()
    engine(random_pixels(demo.config, 1, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_what_was_chosen_is_told(demo: Checkpoint) -> None:
    chosen = make_engine(demo, EngineSpec()).spec
    assert chosen.engine == "openvino"
    assert chosen.device == "cpu"
    assert chosen.precision in ("fp32", "bf16")
    assert chosen.threads == usable_threads()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_and_openvino_agree(demo: Checkpoint, precision: Precision) -> None:
    asked = replace(FP32, precision=precision)
    try:
        ours = make_engine(demo, replace(asked, engine="openvino"))
    except RefusedError:
        pytest.skip("this CPU has no bf16 instructions")
    theirs = make_engine(demo, replace(asked, engine="torch"))
    pixels = random_pixels(demo.config, 4)
    tolerance = 1e-4 if precision == "fp32" else 0.1
    np.testing.assert_allclose(ours(pixels), theirs(pixels), rtol=0, atol=tolerance)


def test_a_device_or_a_precision_that_is_not_there_is_refused(demo: Checkpoint) -> None:
    with pytest.raises(RefusedError, match="fp16"):
        make_engine(demo, replace(FP32, precision="fp16"))
    with pytest.raises(UsageError, match="not on cuda"):
        make_engine(demo, EngineSpec(device="cuda", engine="openvino"))


@pytest.mark.parametrize(
    ("affinity", "quota", "asked", "expected"), [(8, 0, 0, 8), (8, 2, 0, 2), (2, 4, 0, 2), (8, 4, 1, 1), (4, 0, 9, 4)]
)
def test_threads_are_the_least_of_affinity_quota_and_wish(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: int, asked: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(spec, "_quota", lambda: quota)
    assert usable_threads(asked) == expected


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_trained_checkpoint_gives_the_logits_of_its_makers_code(engine: EngineName) -> None:
    given = np.load(shared("cifar10-levit128S-96px-logits.npz", "checkpoints"))
    checkpoint = load(shared("cifar10-levit128S-96px-fb.pth", "checkpoints"))
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (checkpoint.recipe.mean, checkpoint.recipe.std))
    pixels = np.rint((given["pixel_values"] * std + mean) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    logits = make_engine(checkpoint, replace(FP32, engine=engine))(np.ascontiguousarray(pixels))
    assert np.abs(logits - given["logits"]).max() <= 1e-5 * np.abs(given["logits"]).max()


def test_the_pixels_of_a_trained_checkpoint_are_those_of_its_makers_transform() -> None:
    given = np.load(shared("cifar10-levit128S-96px-logits.npz", "checkpoints"))
    recipe = load("demo").recipe
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (recipe.mean, recipe.std))
    expected = np.rint((given["pixel_values"] * std + mean) * 255).transpose(0, 2, 3, 1)
    with tarfile.open(shared("cifar10-val.tar")) as tar:
        files = [tar.extractfile(str(name)) for name in given["files"]]
        found = np.stack([preprocess(decode(file.read()), recipe) for file in files if file])
    np.testing.assert_array_equal(found, expected)


def test_bf16_gives_the_same_top_1_on_real_photos(demo: Checkpoint) -> None:
    pixels = np.stack([preprocess(photo, demo.recipe) for photo in shared_photos("clothing.tar", 500)])
    answers = []
    for precision in ("fp32", "bf16"):
        try:
            engine = make_engine(demo, replace(FP32, precision=precision))
        except RefusedError:
            pytest.skip("this CPU has no bf16 instructions")
        answers.append(np.concatenate([engine(part) for part in np.array_split(pixels, 20)]).argmax(axis=1))
    assert (answers[0] == answers[1]).mean() >= 0.99
