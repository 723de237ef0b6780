"""The installed ``levit probe``: no torch, the model in other commands, class names, signals and missing packages."""

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from levit_cli.checkpoints import load
from tests.cli.test_startup import modules_after
from tests.probe.runs import write_colors
from tests.support.binary import LEVIT, environment, installed_levit, levit, records
from tests.support.extras import hide_extra, hide_packages, names_pip_command, needs_export, needs_probe
from tests.support.int8 import write_noise
from tests.support.random_weights import write_folder

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
NAMES = ("LABEL_0", "train", DECOMPOSED)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colors(tmp_path_factory.mktemp("data"), names=NAMES)


@pytest.fixture(scope="module")
def finished(data: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = levit("probe", data, "-o", folder, "-m", tiny_folder, "--precision", "fp32")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"top-1 ")
    return folder


@pytest.mark.guarantee("probe")
@needs_probe
def test_no_torch_is_imported(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    loaded = modules_after("probe", data, "-o", tmp_path / "run", "-m", tiny_folder, "-q")
    assert {"openvino", "sklearn"} <= loaded
    assert loaded.isdisjoint({"torch", "torchvision", "transformers", "matplotlib"})
    assert load(tmp_path / "run").labels.names == ("LABEL_0", COMPOSED, "train")


@pytest.mark.guarantee("probe", "class-names")
@needs_probe
def test_predict_and_eval_know_the_classes_by_their_names(finished: Path, data: Path) -> None:
    done = levit("predict", data, "-m", finished, "-f", "jsonl", "--top-k", "3")
    assert done.returncode == 0, done.stderr.decode()
    assert {entry["label"] for record in records(done.stdout) for entry in record["top"]} == {
        *("LABEL_0", COMPOSED, "train")
    }
    done = levit("eval", data, "-m", finished, "-f", "json")
    assert done.returncode == 0, done.stderr.decode()
    document = json.loads(done.stdout)
    assert [entry["folder"] for entry in document["classes"]] == ["LABEL_0", COMPOSED, "train"]
    assert document["top1"]["value"] > 0.8


@pytest.mark.guarantee("probe")
@needs_probe
def test_info_and_convert_checkpoint_take_the_run_folder(finished: Path, tmp_path: Path) -> None:
    done = levit("info", finished)
    assert b"one head" in done.stdout
    for format in ("hf", "timm"):
        done = levit("convert-checkpoint", finished, "-o", tmp_path / format, "--to", format)
        assert done.returncode == 0, done.stderr.decode()
        assert load(tmp_path / format).labels == load(finished).labels
        assert load(tmp_path / format).temperature == load(finished).temperature


@pytest.mark.exhaustive
@pytest.mark.guarantee("probe")
@needs_probe
@needs_export
def test_export_and_quantize_take_the_run_folder_and_probe_takes_the_int8_model(
    tiny_folder: Path, tmp_path: Path
) -> None:
    data = write_noise(tmp_path / "data", names=("a", "b"), count=60)
    assert levit("probe", data, "-o", tmp_path / "run", "-m", tiny_folder).returncode == 0
    done = levit("export", tmp_path / "run", "-o", tmp_path / "ir", "--to", "openvino")
    assert done.returncode == 0, done.stderr.decode()
    options = ("--samples", "20", "--max-drop", "100")
    done = levit("quantize", tmp_path / "run", "--data", data, "-o", tmp_path / "int8", *options)
    assert done.returncode == 0, done.stderr.decode()
    again = levit("probe", data, "-o", tmp_path / "again", "-m", tmp_path / "int8", "--precision", "fp32")
    assert again.returncode == 0, again.stderr.decode()
    assert b"The int8 graph" in again.stderr
    same = levit("probe", data, "-o", tmp_path / "same", "-m", tmp_path / "run", "--precision", "fp32")
    assert same.returncode == 0, same.stderr.decode()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("again", "same")]
    assert weights[0] == weights[1]


@pytest.mark.guarantee("class-names")
@pytest.mark.skipif(sys.platform != "linux", reason="the file system refuses such names")
def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    data = write_colors(tmp_path / "data", 2, (os.fsdecode(b"caf\xe9"), "tea"))
    done = levit("probe", data, "-o", tmp_path / "run", "-m", "nothing is loaded")
    assert done.returncode == 2
    assert b"are not UTF-8: caf\\udce9" in done.stderr


@pytest.mark.guarantee("missing-extra")
def test_a_missing_extra_is_named_with_the_pip_command_after_other_faults(data: Path, tmp_path: Path) -> None:
    env = environment(**hide_extra("probe", tmp_path / "hidden"))
    done = installed_levit("probe", data, "-o", tmp_path / "run", env=env)
    assert done.returncode == 2, done.stderr.decode()
    assert names_pip_command(done.stderr.decode(), "probe")
    assert len(done.stderr.splitlines()) == 1
    done = installed_levit("probe", tmp_path / "nowhere", "-o", tmp_path / "run", env=env)
    assert done.returncode == 2
    assert b"No folder" in done.stderr


@pytest.mark.exhaustive
@pytest.mark.guarantee("probe")
@needs_probe
def test_the_core_and_scikit_learn_are_enough(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    env = environment(**hide_packages(("torch", "torchvision", "pandas", "matplotlib", "jinja2"), tmp_path / "hidden"))
    done = installed_levit("probe", data, "-o", tmp_path / "run", "-m", tiny_folder, "-q", env=env)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


@pytest.mark.guarantee("probe-interrupted")
@needs_probe
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_stopped_run_leaves_no_run_folder(
    number: signal.Signals, code: int, tiny_folder: Path, tmp_path: Path
) -> None:
    data = write_noise(tmp_path / "data", names=("a", "b"), count=300)
    work = tmp_path / "work"
    work.mkdir()
    options = ("probe", data, "-o", work / "run", "-m", tiny_folder, "-v")
    process = subprocess.Popen([LEVIT, *map(str, options)], stderr=subprocess.PIPE, env=environment())
    assert process.stderr is not None
    while not process.stderr.readline().startswith(b"engine openvino"):
        assert process.poll() is None
    process.send_signal(number)
    start = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == code
    assert time.monotonic() - start < 10  # two seconds on an idle machine
    assert [*work.iterdir()] == []


LIMIT = """
import resource, sys
import numpy, openvino, sklearn.linear_model  # before the limit
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from levit_cli.cli import main
main()
"""


@pytest.mark.guarantee("probe-interrupted")
@needs_probe
@pytest.mark.skipif(sys.platform != "linux", reason="uses a limit of the system")
def test_a_full_disk_is_an_output_error_and_leaves_nothing(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    options = ("probe", data, "-o", work / "run", "-m", tiny_folder, "-q")
    command = [sys.executable, "-c", LIMIT.format(size=20_000), *map(str, options)]
    done = subprocess.run(command, capture_output=True, env=environment(), check=False, timeout=120)
    assert done.returncode == 4, done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert [*work.iterdir()] == []


@needs_probe
def test_a_preprocessing_that_needs_torch_is_refused(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    done = levit("probe", data, "-o", tmp_path / "run", "-m", tiny_folder, "--preprocessing", "hf-tensor")
    assert done.returncode == 2
    assert b"use --preprocessing hf" in done.stderr
    folder = write_folder(tmp_path / "tensor")
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings["levit_cli"]["recipe"] |= {"name": "hf-tensor", "resizer": "torch"}
    path.write_text(json.dumps(settings))
    done = levit("probe", data, "-o", tmp_path / "run", "-m", folder)
    assert done.returncode == 3, done.stderr.decode()
    assert b"use --preprocessing hf" in done.stderr
