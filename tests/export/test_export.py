"""``levit export``: what it writes, what it refuses, and what is left after an error."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levit_cli.checkpoints import load
from levit_cli.choices import Dtype, ExportTarget
from levit_cli.errors import ExitCode, GateError, OutputError, RefusedError
from levit_cli.export.proof import proof_images
from levit_cli.export.run import export
from tests.support.binary import LEVIT, environment, levit
from tests.support.extras import hide_extra, names_pip_command, needs_export
from tests.support.foreign_systems import posix_only
from tests.support.random_weights import TINY, random_state, write_folder
from tests.system.test_atomic import full_disk

TARGETS = [pytest.param("onnx", marks=needs_export), "openvino"]
GRAPHS = {"onnx": ["model.onnx"], "openvino": ["model.bin", "model.xml"]}


@pytest.mark.parametrize("target", TARGETS)
def test_the_folder_holds_the_graph_its_facts_and_a_script(
    tiny_folder: Path, tmp_path: Path, target: ExportTarget
) -> None:
    done = levit("export", tiny_folder, "-o", tmp_path / "out", "--to", target)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"probabilities differ by at most" in done.stdout
    assert done.stdout.count(b"\n") == 1
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([*GRAPHS[target], "labels.txt", "preprocessing.json", "predict.py"])
    assert (tmp_path / "out" / "labels.txt").read_text() == "".join(f"class {index}\n" for index in range(7))
    facts = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert facts["resize_to"] == [73, 73]
    assert facts["crop_size"] == [64, 64]
    assert (facts["crop_rounding"], facts["filter"], facts["temperature"]) == ("floor", "bicubic", 1.0)
    assert facts["mean"] == [0.485, 0.456, 0.406]
    assert facts["weights_sha256"] == load(tiny_folder).sha256
    assert (facts.get("onnx_opset"), facts["graph"]) == (
        (17, "model.onnx") if target == "onnx" else (None, "model.xml")
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_are_exported_in_fp32(tmp_path: Path, dtype: Dtype) -> None:
    folder = write_folder(tmp_path / "model", dtype=dtype)
    report = export(load(folder), tmp_path / "out", "openvino")
    assert report.difference < 1e-5
    parameters = sum(array.size for array in random_state(TINY).values())
    assert (tmp_path / "out" / "model.bin").stat().st_size > 3 * parameters


@pytest.mark.guarantee("proved-export")
@pytest.mark.parametrize("target", TARGETS)
def test_a_graph_that_answers_otherwise_is_exit_1_and_leaves_nothing(
    tiny_folder: Path, tmp_path: Path, target: ExportTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_activation(target, monkeypatch)
    with pytest.raises(GateError, match=r"does not answer like .*tiny.* a probability differs by .* 0\.0001") as caught:
        export(load(tiny_folder), tmp_path / "out", target)
    assert caught.value.exit_code == ExitCode.SOME_FAILED
    assert list(tmp_path.iterdir()) == []


def wrong_activation(target: ExportTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the graph of a target have ReLU instead of Hardswish."""
    if target == "onnx":
        from levit_cli.export.onnx_graph import OnnxOps

        monkeypatch.setattr(OnnxOps, "hardswish", lambda ops, x: ops._node("Relu", x))
    else:
        from levit_cli.engines import openvino

        monkeypatch.setattr(openvino.OpenVinoOps, "hardswish", lambda ops, x: ops.add(x, x))


def test_a_model_whose_answers_are_no_numbers_is_not_exported(tmp_path: Path) -> None:
    state = random_state(TINY)
    for name in ("stem.0.conv.weight", "stem.1.conv.weight"):  # too much for float32, not for the reference
        state[name] = state[name] * np.float32(1e25)
    folder = write_folder(tmp_path / "model", state)
    with pytest.raises(GateError, match="not a number"):
        export(load(folder), tmp_path / "out", "openvino")
    assert not (tmp_path / "out").exists()


def test_the_images_of_the_proof_are_the_same_each_time_and_differ() -> None:
    images = proof_images(32, 48)
    assert images.shape == (8, 32, 48, 3)
    assert (images == proof_images(32, 48)).all()
    assert len({image.tobytes() for image in images}) == len(images)
    assert 30 < images[:5].std() < 100


@pytest.mark.guarantee("existing-output")
@pytest.mark.parametrize("is_empty", [True, False])
def test_an_existing_folder_is_exit_2_and_untouched(tiny_folder: Path, tmp_path: Path, is_empty: bool) -> None:
    output = tmp_path / "out"
    output.mkdir()
    if not is_empty:
        (output / "mine").write_text("mine")
    done = levit("export", tiny_folder, "-o", output, "--to", "openvino")
    assert done.returncode == 2
    assert f"The output {output} exists".encode() in done.stderr
    assert [path.name for path in output.iterdir()] == [] if is_empty else ["mine"]


def test_a_missing_parent_is_exit_4_before_the_model_is_loaded(tmp_path: Path) -> None:
    done = levit("export", tmp_path / "no model", "-o", tmp_path / "no" / "out", "--to", "openvino")
    assert done.returncode == 4
    assert b"its folder does not exist" in done.stderr


@posix_only
@pytest.mark.guarantee("full-disk")
@pytest.mark.parametrize("target", TARGETS)
def test_a_full_disk_is_exit_4_and_leaves_nothing(tiny_folder: Path, tmp_path: Path, target: ExportTarget) -> None:
    checkpoint = load(tiny_folder)
    with full_disk(100_000), pytest.raises(OutputError, match=r"Cannot write .*model\.") as caught:
        export(checkpoint, tmp_path / "out", target)
    assert caught.value.exit_code == ExitCode.OUTPUT
    assert list(tmp_path.iterdir()) == []


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    command = [LEVIT, "export", "demo", "-o", str(tmp_path / "out"), "--to", "openvino"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(tmp_path.rglob("model.bin")):
            time.sleep(0.005)
        os.kill(process.pid, number)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else ExitCode.TERMINATED)
    assert not (tmp_path / "out").exists()
    if number == signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []
    elif any(tmp_path.iterdir()):
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".levit-")


@pytest.mark.guarantee("missing-extra")
def test_without_the_extra_onnx_is_exit_2_and_openvino_works(tiny_folder: Path, tmp_path: Path) -> None:
    env = environment(**hide_extra("export", tmp_path / "hidden"))
    done = levit("export", tiny_folder, "-o", tmp_path / "onnx", "--to", "onnx", env=env)
    assert done.returncode == 2
    assert b"Exporting to ONNX needs the extra 'export'" in done.stderr
    assert names_pip_command(done.stderr.decode(), "export")
    assert not (tmp_path / "onnx").exists()
    done = levit("export", tiny_folder, "-o", tmp_path / "ir", "--to", "openvino", env=env)
    assert done.returncode == 0, done.stderr


def test_a_preprocessing_that_needs_torch_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    command = ("export", tiny_folder, "-o", tmp_path / "out", "--to", "openvino", "--preprocessing", "hf-tensor")
    done = levit(*command)
    assert done.returncode == 2
    assert b"hf-tensor cannot be exported" in done.stderr
    checkpoint: Any = load(tiny_folder, preprocessing="hf-tensor")
    with pytest.raises(RefusedError, match="hf-tensor") as caught:
        export(checkpoint, tmp_path / "out", "openvino")
    assert "--preprocessing hf" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_labels_and_preprocessing_are_those_of_the_options(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in "abcdefg"))
    done = levit(
        "export", tiny_folder, "-o", tmp_path / "out", "--to", "openvino", "--labels", tmp_path / "labels.txt",
        "--preprocessing", "timm",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "labels.txt").read_text() == "a\nb\nc\nd\ne\nf\ng\n"
    assert json.loads((tmp_path / "out" / "preprocessing.json").read_text())["resize_to"] == [71, 71]
