"""``levit quantize``: what it writes, when it refuses, and that it leaves nothing half-made."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levit_cli.checkpoints import Threshold, load
from levit_cli.checkpoints.metadata import store_threshold
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.errors import GateError, OutputError, RefusedError, UsageError
from levit_cli.predict.model import ModelOptions
from levit_cli.quantize.run import Calibration, quantize
from levit_cli.system.progress import silent
from tests.quantize.conftest import Quantized
from tests.support.binary import LEVIT, environment, installed_levit, levit
from tests.support.extras import hide_extra, names_pip_command, needs_export
from tests.support.foreign_systems import linux_only
from tests.support.int8 import CLASSES, loaded, quantized, replace_nncf, write_noise
from tests.support.random_weights import random_pixels, write_folder
from tests.support.sample_images import write_images

FILES = {
    "README.md",
    "config.json",
    "int8.bin",
    "int8.json",
    "int8.xml",
    "model.safetensors",
    "preprocessor_config.json",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture
def no_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_nncf(monkeypatch)


@pytest.mark.guarantee("quantize-gate")
def test_the_folder_holds_the_original_model_and_the_measured_graph(made: Quantized, tiny_folder: Path) -> None:
    assert {path.name for path in made.folder.iterdir()} == FILES
    original, model = load(tiny_folder), loaded(made.folder)
    assert (model.labels, model.transform, model.config) == (original.labels, original.transform, original.config)
    for name, array in original.state.items():
        np.testing.assert_array_equal(model.state[name], array)
    description = json.loads((made.folder / "int8.json").read_text())
    assert (description["samples"], description["data"]) == (30, str(made.data))
    gate = description["gate"]
    assert (gate["images"], gate["unreadable"]) == (75, 1)  # of 105 and the cut one
    assert gate["agreement"] > 0.8
    low, high = gate["drop_interval"]
    assert low <= gate["top1_before"] - gate["top1_after"] <= high
    assert f"{100 * gate['top1_after']:.2f} % in int8" in made.stdout
    assert "compared      75 images, fp32 against int8; 1 image could not be read" in made.stdout
    assert "same first class" in (made.folder / "README.md").read_text()


def test_the_graph_computes_in_int8_and_like_the_original(made: Quantized) -> None:
    model = loaded(made.folder)
    pixels = random_pixels(model.config, 5)
    spec = EngineSpec("cpu", "openvino", "fp32", threads=1, batch_size=16)
    original = make_engine(model, spec)
    int8 = make_engine(model, EngineSpec("cpu", "openvino", "int8", threads=1, batch_size=16))
    assert int8.spec.precision == "int8"
    for expected, actual in ((original(pixels), int8(pixels)), (original.features(pixels), int8.features(pixels))):
        assert actual.shape == expected.shape
        difference = np.abs(actual - expected).max() / np.abs(expected).max()
        assert 1e-4 < difference < 0.2
    assert (made.folder / "int8.bin").stat().st_size < 0.5 * (made.folder / "model.safetensors").stat().st_size


def test_nncf_brings_no_torch_no_telemetry_and_no_output(made: Quantized) -> None:
    assert made.modules.isdisjoint({"torch", "onnx", "openvino_telemetry"})
    assert "nncf" in made.modules
    assert [*made.home.rglob("*")] == []
    assert made.stderr == "Calibrating on 30 images, then comparing on up to 76\n" or made.stderr == (
        "Calibrating on 30 images, then comparing on up to 75\n"  # the cut image was drawn for the calibration
    )


@needs_export
@pytest.mark.exhaustive
def test_it_works_where_torch_is_not_installed(tiny_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "photos"
    write_images(images, 100)
    env = environment(**hide_extra("torch", tmp_path / "hidden"))
    output = tmp_path / "out"
    done = installed_levit("quantize", tiny_folder, "--data", images, "-o", output, "--samples", "5", "-q", env=env)
    assert done.returncode in (0, 1), done.stderr  # noise: the first class of random weights may differ
    assert output.exists() == (done.returncode == 0)
    assert done.returncode == 0 or b"is not accurate enough" in done.stderr


def test_without_the_extra_the_message_names_it(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    env = environment(**hide_extra("export", tmp_path / "hidden"))
    done = levit("quantize", tiny_folder, "--data", data, "-o", tmp_path / "out", env=env)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert names_pip_command(done.stderr.decode(), "export")


@pytest.mark.guarantee("quantize-gate")
@pytest.mark.parametrize("kind", ["classes", "plain"])
def test_an_inaccurate_model_is_refused_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    def always_the_last_class(weights: dict[str, Any]) -> None:
        weights["head.bias"] = weights["head.bias"] + 1e4 * np.eye(len(CLASSES), dtype=np.float32)[-1]

    replace_nncf(monkeypatch, always_the_last_class)
    if kind == "plain":
        write_images(data.parent / "plain", 100)
    folder = first_classes(data, tmp_path / "data") if kind == "classes" else data.parent / "plain"
    state = {name: array.copy() for name, array in load(tiny_folder).state.items()}
    for head in load(tiny_folder).config.head_names:
        state[f"{head}.linear.bias"][0] += 1e4  # always the first class, which is right for 1 of 7 images
    model = write_folder(tmp_path / "model", state)
    work = tmp_path / "work"
    work.mkdir()
    words = "top-1 drops by" if kind == "classes" else "the first class is the same on"
    with pytest.raises(GateError, match=words):
        quantized(model, folder, work / "out")
    assert [*work.iterdir()] == []


def first_classes(data: Path, folder: Path) -> Path:
    """Copy the images so that most belong to the first class."""
    shutil.copytree(data, folder)
    for path in [*folder.glob("class [2-5]/*.png")]:
        path.rename(folder / "class 0" / f"{path.parent.name} {path.name}")
    for number in range(2, 6):
        (folder / f"class {number}").rmdir()
    return folder


@pytest.mark.usefixtures("no_nncf")
def test_a_plain_folder_is_compared_by_the_first_class(tiny_folder: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 100)
    report = quantized(tiny_folder, tmp_path / "photos", tmp_path / "out", samples=300)
    assert "calibrated    on 50 images" in report  # at most half
    assert "compared      50 images" in report
    assert "the same first class on 100.00 % of the images, at least 97 % required" in report
    assert "top-1" not in report


@pytest.mark.usefixtures("no_nncf")
def test_the_seed_decides_which_images_calibrate(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, data: Path
) -> None:
    from levit_cli.checkpoints import load
    from levit_cli.data.skipped import Skipped
    from levit_cli.quantize.images import samples_of, shuffled

    samples = samples_of(data, load(tiny_folder).labels, Skipped())
    assert [sample.target for sample in samples] == sorted(15 * [*range(7)])
    assert shuffled(samples, 3) == shuffled(samples, 3) != shuffled(samples, 4)
    assert sorted(shuffled(samples, 3), key=lambda sample: sample.image.path) == samples


@pytest.mark.guarantee("quantize-new-folder")
@pytest.mark.usefixtures("no_nncf")
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("few", RefusedError, "has only 98 readable images .* needs at least 100"),
        ("cut", RefusedError, "has only 99 readable images .*the first that cannot be read is .*00.\\.png: "),
        ("unknown class", RefusedError, "zebra.*name a folder that contains images and no folders"),
        ("missing", UsageError, "No folder"),
        ("file", UsageError, "data is not a folder"),
        ("all cut", RefusedError, "has only 0 readable images"),
        ("output exists", UsageError, "exists"),
        ("empty output exists", UsageError, "exists"),
        ("output among the images", UsageError, "lies among the images"),
        ("no parent", OutputError, "its folder does not exist"),
    ],
)
def test_bad_input_is_refused(
    tiny_folder: Path, tmp_path: Path, change: str, error: type[Exception], words: str
) -> None:
    folder = tmp_path / "data"
    others = {"output among the images": folder / "out", "no parent": tmp_path / "a" / "out"}
    output = others.get(change, tmp_path / "out")
    if change in ("few", "cut", "all cut", "unknown class"):
        write_noise(folder, count=14 if change == "few" else 15)
    elif change == "file":
        folder.touch()
    elif change != "missing":
        folder.mkdir()
    if "cut" in change:
        for path in sorted(folder.glob("*/*"))[: 6 if change == "cut" else None]:
            path.write_bytes(path.read_bytes()[:60])
    if change == "unknown class":
        (folder / "class 3").rename(folder / "zebra")
    if "exists" in change:
        output.mkdir()
        (output / "mine").touch() if change == "output exists" else None
    with pytest.raises(error, match=words):
        quantized(tiny_folder, folder, output)
    assert not list(tmp_path.glob(".levit-*"))
    assert output.exists() == ("exists" in change)


@pytest.mark.usefixtures("no_nncf")
def test_a_preprocessing_that_needs_torch_is_refused(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(tiny_folder, tmp_path / "own"), "preprocessor_config.json")
    own.write_text(own.read_text().replace('"resizer": "pillow"', '"resizer": "torch"'))
    words = "cannot be quantized with the preprocessing hf.*--preprocessing hf, "
    with pytest.raises(RefusedError, match=words):
        quantized(own.parent, data, tmp_path / "out")
    options = ModelOptions(str(tiny_folder), preprocessing="hf-tensor")
    with pytest.raises(UsageError, match=words):
        quantize(options, tmp_path / "out", Calibration(data), silent)


@pytest.mark.guarantee("stored-threshold")
@pytest.mark.usefixtures("no_nncf")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_checkpoint_in_16_bits_keeps_its_type_and_labels(data: Path, tmp_path: Path, dtype: Any) -> None:
    source = write_folder(tmp_path / "source", dtype=dtype)
    store_threshold(source, Threshold(0.5, 1.0, 0.9, 100, 80, 80))
    quantized(source, data, tmp_path / "out", max_drop=0)
    assert loaded(tmp_path / "out").dtype == dtype
    assert loaded(tmp_path / "out").threshold is None  # int8 changes the probabilities
    # an int8 model can be quantized again: its weights are the original ones
    quantized(tmp_path / "out", data, tmp_path / "again", max_drop=0)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert weights[0] == weights[1]


LIMIT = """
import resource, sys
import numpy, openvino  # before the limit
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from levit_cli.cli import main
main()
"""


@linux_only
@needs_export
@pytest.mark.guarantee("full-disk")
@pytest.mark.parametrize("size", [pytest.param(20_000, marks=pytest.mark.exhaustive), 100_000])
def test_a_full_disk_is_an_output_error_and_leaves_nothing(
    tiny_folder: Path, tmp_path: Path, size: int, data: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    options = ("quantize", tiny_folder, "--data", data, "-o", work / "out", "-q", "--samples", "3")
    command = [sys.executable, "-c", LIMIT.format(size=size), *options]
    done = subprocess.run([*map(str, command)], capture_output=True, env=environment(), check=False, timeout=120)
    assert done.returncode == 4, done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert [*work.iterdir()] == []


@linux_only
@needs_export
@pytest.mark.guarantee("quantize-new-folder")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_run_leaves_no_model(
    tiny_folder: Path, data: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    options = ("quantize", tiny_folder, "--data", data, "-o", work / "out", "--samples", "50")
    process = subprocess.Popen([LEVIT, *map(str, options)], stderr=subprocess.PIPE, env=environment())
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"Calibrating on 50 images")
    os.kill(process.pid, number)
    start = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == code
    assert time.monotonic() - start < 10  # two seconds on an idle machine
    if number != signal.SIGKILL:
        assert [*work.iterdir()] == []
        return
    assert not (work / "out").exists()
    for folder in work.iterdir():
        assert levit("info", folder).returncode == 3


def test_help_has_examples_and_no_import_of_nncf() -> None:
    done = levit("quantize", "--help")
    assert done.returncode == 0
    assert re.search(
        rb"levit quantize runs/flowers --data flowers/train -o runs/flowers-int8 --max-drop 0.5", done.stdout
    )
