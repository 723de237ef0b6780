"""What a cold start imports. Help imports nothing heavy."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from levit_cli.checkpoints.pickles import LEGACY_MAGIC
from tests.support.binary import environment, levit
from tests.support.extras import needs_plot, needs_torch
from tests.support.sample_images import write_class_folders, write_images

HEAVY = ("torch", "torchvision", "transformers", "huggingface_hub", "httpx", "httpx2")
NETWORK = ("openvino", "numpy", "PIL", "safetensors")
SCRIPT = """
import json, sys
sys.argv[0] = "levit"
from levit_cli.cli import app
try:
    app(prog_name="levit")
except SystemExit as stop:
    code = stop.code
modules = {name.partition(".")[0] for name in sys.modules} | {"numpy.random"} & set(sys.modules)
print(json.dumps({"code": code, "modules": sorted(modules)}), file=sys.stderr)
"""


def modules_after(*arguments: str | Path) -> set[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=120, check=False)
    result = json.loads(done.stderr.splitlines()[-1])
    assert result["code"] in (None, 0, 2), done.stderr
    return set(result["modules"])


def test_a_prediction_on_a_cpu_imports_neither_torch_nor_the_hub(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    loaded = modules_after("predict", "-m", tiny_folder, path, "-f", "jsonl", "-q")
    assert loaded.isdisjoint({*HEAVY, "numpy.random", "pydantic"})  # NumPy imports its random part only when it is used
    assert "openvino" in loaded


@pytest.mark.parametrize("with_report", [False, pytest.param(True, marks=needs_plot)])
def test_an_evaluation_on_a_cpu_imports_no_torch_and_draws_only_for_a_report(
    tiny_folder: Path, tmp_path: Path, with_report: bool
) -> None:
    data = write_class_folders(tmp_path / "data", ("class 0", "class 1"), 2)
    output, report = tmp_path / "result.json", tmp_path / "report.html"
    options = ("--report", report) if with_report else ()
    loaded = modules_after("eval", data, "-m", tiny_folder, "-o", output, *options)
    assert loaded.isdisjoint({*HEAVY, "torchmetrics"})
    assert loaded.isdisjoint({"matplotlib", "jinja2"}) != with_report
    assert json.loads(output.read_text())["data"]["readable"] == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["predict", "--help"],
        ["convert-checkpoint", "-h"],
        ["info", "--help"],
        ["eval", "--help"],
        ["bench", "--help"],
        ["finetune", "--help"],
        ["export", "--help"],
        ["probe", "--help"],
        ["sort", "--help"],
        ["serve", "--help"],
        ["embed", "--help"],
        ["similar", "--help"],
        ["duplicates", "--help"],
        ["gallery", "--help"],
        ["merge", "--help"],
        ["predict", "--nope"],
    ],
)
def test_help_version_and_usage_errors_import_nothing_heavy(arguments: list[str]) -> None:
    assert modules_after(*arguments).isdisjoint({*HEAVY, *NETWORK})


def test_version_and_help_are_printed() -> None:
    assert levit("--version").stdout.startswith(b"levit 0.")
    text = levit("predict", "-h").stdout
    assert text.index(b"levit predict photo.jpg") < text.index(b"--model")
    assert levit().returncode == 2  # without a command: help and a usage error
    module = subprocess.run([sys.executable, "-m", "levit_cli", "--version"], capture_output=True, check=True)
    assert module.stdout == levit("--version").stdout


def test_only_the_cache_is_written_to_the_home_folder(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "in", 1)
    home = tmp_path / "home"
    home.mkdir()
    done = levit("predict", "-m", tiny_folder, path, "-q", env=environment(HOME=str(home), XDG_CACHE_HOME="", CI=""))
    assert done.returncode == 0
    written = [path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()]
    assert set(written) == {(".cache", "levit")}  # the compiled graph, in levit's cache


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "torch", "-m", "demo"], b"The torch engine needs torch and torchvision, which"),
        (["-m", "w.pth"], b"a checkpoint in the format of torch before 1.6, needs torch and torchvision, which"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_exit_3_and_no_bug(
    tmp_path: Path, arguments: list[str], message: bytes
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is not there')")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(LEGACY_MAGIC, protocol=2))
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", path, *arguments, cwd=tmp_path, env=environment(PYTHONPATH=str(tmp_path)))
    assert done.returncode == 3
    assert message in done.stderr
    assert b"libcudart" in done.stderr
    assert levit("predict", path, "-m", "demo", "-q", env=environment(PYTHONPATH=str(tmp_path))).returncode == 0
