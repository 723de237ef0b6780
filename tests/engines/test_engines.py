"""Engines: results are independent of batch, engine and precision; unavailable devices are refused."""

import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from levit_cli.bench.models import RandomWeights
from levit_cli.checkpoints import Checkpoint, load
from levit_cli.choices import BASELINES, EngineName, Precision
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.errors import RefusedError, UsageError
from levit_cli.images.decode import decode
from levit_cli.images.preprocess import preprocess
from levit_cli.images.transforms import transform_for
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.system.cpu import usable_threads
from tests.support.binary import environment, levit
from tests.support.random_weights import random_pixels
from tests.support.sample_images import write_images
from tests.support.shared_data import shared, shared_photos

FP32 = EngineSpec(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return load("demo")


@pytest.mark.guarantee("batch-invariance")
def test_logits_do_not_depend_on_the_batch(demo: Checkpoint) -> None:
    pixels = random_pixels(demo.config, 33)
    engine = make_engine(demo, FP32)
    expected = engine(pixels)
    for size in (1, 7, 32):
        actual = np.concatenate([engine(pixels[start : start + size]) for start in range(0, 33, size)])
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_returned_logits_are_not_overwritten(demo: Checkpoint) -> None:
    engine = make_engine(demo, FP32)
    first = engine(random_pixels(demo.config, 1, seed=1))
    kept = first.copy()
    engine(random_pixels(demo.config, 1, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_the_spec_of_an_engine_is_resolved(demo: Checkpoint) -> None:
    chosen = make_engine(demo, EngineSpec()).spec
    assert chosen.engine == "openvino"
    assert chosen.device == "cpu"
    assert chosen.precision in ("fp32", "bf16")
    assert chosen.threads == usable_threads()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_and_openvino_agree(demo: Checkpoint, precision: Precision) -> None:
    requested = replace(FP32, precision=precision)
    try:
        ours = make_engine(demo, replace(requested, engine="openvino"))
    except RefusedError:
        pytest.skip("this CPU has no bf16 instructions")
    theirs = make_engine(demo, replace(requested, engine="torch"))
    pixels = random_pixels(demo.config, 4)
    tolerance = 1e-4 if precision == "fp32" else 0.1
    np.testing.assert_allclose(ours(pixels), theirs(pixels), rtol=0, atol=tolerance)


SMALL = RandomWeights(LevitConfig((16, 24), (8, 8), (2, 3), (1, 1), num_classes=7, image_size=(32, 32)))


@pytest.mark.exhaustive
def test_the_compiled_engine_agrees_with_torch_up_to_its_batch_size() -> None:
    requested = EngineSpec("cpu", "compile", "fp32", batch_size=3)
    compiled = make_engine(SMALL, requested)
    assert (compiled.spec.engine, compiled.spec.precision, compiled.spec.batch_size) == ("compile", "fp32", 3)
    pixels = random_pixels(SMALL.config, 3)
    expected = make_engine(SMALL, replace(requested, engine="torch"))(pixels)
    for size in (3, 1):
        np.testing.assert_allclose(compiled(pixels[:size]), expected[:size], rtol=0, atol=1e-4)
    assert torch._dynamo.config.recompile_limit >= len(VARIANTS) + len(BASELINES)  # torch's default is 8
    with ThreadPoolExecutor(1) as pool:  # the pipeline calls engines from other threads
        np.testing.assert_allclose(pool.submit(compiled, pixels).result(), expected, rtol=0, atol=1e-4)


def test_the_compiled_engine_is_refused_without_a_compiler(tiny_folder: Path, tmp_path: Path) -> None:
    (image,) = write_images(tmp_path, 1)
    no_compiler = environment(CXX=str(tmp_path / "no-compiler"), XDG_CACHE_HOME=str(tmp_path / "cache"))
    done = levit("predict", image, "-m", tiny_folder, "--engine", "compile", env=no_compiler)
    assert done.returncode == 3, done.stderr
    assert b"torch.compile does not work on this machine" in done.stderr
    assert b"--engine openvino" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("engine", ["torch", "compile"])
def test_a_gpu_agrees_with_the_cpu_from_several_threads(engine: EngineName) -> None:
    on_gpu = make_engine(SMALL, EngineSpec("cuda", engine, "fp32", batch_size=4))
    pixels = random_pixels(SMALL.config, 4)
    expected = make_engine(SMALL, EngineSpec("cpu", "torch", "fp32"))(pixels)
    with ThreadPoolExecutor(on_gpu.spec.streams) as pool:
        for size, logits in zip((4, 1, 4, 2), pool.map(lambda n: on_gpu(pixels[:n]), (4, 1, 4, 2)), strict=True):
            np.testing.assert_allclose(logits, expected[:size], rtol=0, atol=1e-2)


@pytest.mark.guarantee("device-unavailable")
def test_an_unsupported_device_or_precision_is_refused(demo: Checkpoint) -> None:
    with pytest.raises(RefusedError, match="fp16"):
        make_engine(demo, replace(FP32, precision="fp16"))
    with pytest.raises(UsageError, match="not on cuda"):
        make_engine(demo, EngineSpec(device="cuda", engine="openvino"))


@pytest.mark.guarantee("device-unavailable")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
@pytest.mark.parametrize("engine", ["auto", "torch", "compile"])
def test_a_missing_gpu_is_refused(demo: Checkpoint, engine: EngineName) -> None:
    with pytest.raises(RefusedError, match="There is no cuda device on this machine"):
        make_engine(demo, EngineSpec(device="cuda", engine=engine))


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_the_logits_of_a_trained_checkpoint_equal_the_reference(engine: EngineName) -> None:
    reference = np.load(shared("cifar10-levit128S-96px-logits.npz", "checkpoints"))
    checkpoint = load(shared("cifar10-levit128S-96px-fb.pth", "checkpoints"))
    mean, std = (
        np.array(values).reshape(1, 3, 1, 1) for values in (checkpoint.transform.mean, checkpoint.transform.std)
    )
    pixels = np.rint((reference["pixel_values"] * std + mean) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    logits = make_engine(checkpoint, replace(FP32, engine=engine))(np.ascontiguousarray(pixels))
    assert np.abs(logits - reference["logits"]).max() <= 1e-5 * np.abs(reference["logits"]).max()


def test_the_pixels_for_a_trained_checkpoint_equal_the_reference() -> None:
    reference = np.load(shared("cifar10-levit128S-96px-logits.npz", "checkpoints"))
    transform = replace(transform_for("hf", (96, 96)), name="custom", resize_to=(96, 96))
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (transform.mean, transform.std))
    expected = np.rint((reference["pixel_values"] * std + mean) * 255).transpose(0, 2, 3, 1)
    with tarfile.open(shared("cifar10-val.tar")) as tar:
        files = [tar.extractfile(str(name)) for name in reference["files"]]
        actual = np.stack([preprocess(decode(file.read()), transform) for file in files if file])
    np.testing.assert_array_equal(actual, expected)


def test_bf16_gives_the_same_top_1_on_real_photos(demo: Checkpoint) -> None:
    pixels = np.stack([preprocess(photo, demo.transform) for photo in shared_photos("clothing.tar", 500)])
    predictions = []
    for precision in ("fp32", "bf16"):
        try:
            engine = make_engine(demo, replace(FP32, precision=precision))
        except RefusedError:
            pytest.skip("this CPU has no bf16 instructions")
        predictions.append(np.concatenate([engine(part) for part in np.array_split(pixels, 20)]).argmax(axis=1))
    assert (predictions[0] == predictions[1]).mean() >= 0.99
