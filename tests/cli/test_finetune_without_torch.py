"""``levit finetune`` without torch: what is wrong with the command line is said first, then what is missing."""

from pathlib import Path

import pytest

from tests.support.binary import environment, installed_levit
from tests.support.extras import hide_extra
from tests.support.sample_images import write_class_folders


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "data", ("a", "b", "c"), 4)


@pytest.mark.guarantee("impossible-training")
@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--epochs", "0", "--alpha", "0.3"], ["2 settings are invalid", "--epochs 0", "--alpha needs --teacher"]),
        (["-b", "1"], ["--batch-size 1, a part has 1 image"]),
        (["--config", "nowhere.toml"], ["Cannot read the settings in nowhere.toml"]),
        (["--resume"], ["No run to resume"]),
        (["--resume", "--preset", "paper"], ["--resume cannot be combined with"]),
        ([], ["Training needs the extra 'torch'", "pip install"]),
    ],
)
def test_faults_of_the_command_line_come_before_the_missing_extra(
    options: list[str], messages: list[str], data: Path, tmp_path: Path
) -> None:
    env = environment(**hide_extra("torch", tmp_path / "hidden"))
    done = installed_levit("finetune", data, "-o", tmp_path / "run", *options, cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stderr.decode()
    assert all(message in done.stderr.decode() for message in messages)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_new_run_needs_a_folder(tmp_path: Path) -> None:
    done = installed_levit("finetune", "-o", tmp_path / "run")
    assert done.returncode == 2
    assert b"FOLDER is missing" in done.stderr


def test_a_torch_that_cannot_be_imported_is_exit_3(data: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    for name in ("torch", "torchvision"):
        (tmp_path / "broken" / f"{name}.py").write_text("raise ImportError('libcudart.so is not there')")
    env = environment(PYTHONPATH=str(tmp_path / "broken"))
    done = installed_levit("finetune", data, "-o", tmp_path / "run", "-b", "4", env=env)
    assert done.returncode == 3
    assert b"libcudart" in done.stderr
    assert not (tmp_path / "run").exists()
