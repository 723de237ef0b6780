"""Without torch, what needs it is a usage error that names the pip command, and everything else works."""

from pathlib import Path

import pytest

from tests.support.binary import environment, installed_levit
from tests.support.extras import hide_extra, names_pip_command
from tests.support.sample_images import write_images


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--engine", "torch"], "The torch engine"),
        (["--engine", "compile"], "The compile engine"),
        (["--device", "cuda"], "The torch engine"),
        (["--preprocessing", "hf-tensor", "--engine", "torch"], "The preprocessing hf-tensor"),
    ],
)
def test_what_needs_torch_names_the_extra(tmp_path: Path, arguments: list[str], what: str) -> None:
    (path,) = write_images(tmp_path, 1)
    hidden = environment(**hide_extra("torch", tmp_path / "hidden"))
    done = installed_levit("predict", path, "-m", "demo", *arguments, env=hidden)
    message = done.stderr.decode()
    assert done.returncode == 2, message
    assert f"{what} needs the extra 'torch' · the package torch is not installed" in message
    assert names_pip_command(message, "torch")
    assert done.stdout == b""


def test_a_prediction_needs_no_torch(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    hidden = environment(**hide_extra("torch", tmp_path / "hidden"))
    done = installed_levit("predict", path, "-m", "demo", "-f", "jsonl", env=hidden)
    assert done.returncode == 0, done.stderr
    assert b'"status": "ok"' in done.stdout
