"""A new folder appears with all its files or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from levit_cli.errors import ExitCode, LevitError, OutputError, UsageError
from levit_cli.system.new_folder import new_folder
from tests.support.foreign_systems import posix_only

KILLED = """
import os, signal, sys
from pathlib import Path
from levit_cli.system.new_folder import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "sub").mkdir()
    (folder / "sub" / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("a")
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_text("b")
        assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new" / "sub" / "b").read_text() == "b"


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "a").write_text("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_not_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to("missing")
    with pytest.raises(UsageError, match="exists"), new_folder(path):
        raise AssertionError("the block must not run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def create() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "a").write_text("ours")
            (tmp_path / "new").mkdir()

    with pytest.raises(LevitError):
        create()
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]


def test_a_missing_parent_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist"), new_folder(tmp_path / "no" / "new"):
        raise AssertionError("the block must not run")


@posix_only
def test_a_killed_run_leaves_no_folder_and_the_next_run_removes_its_files(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "new"], check=False)
    assert done.returncode < 0
    assert not (tmp_path / "new").exists()
    with new_folder(tmp_path / "new") as folder:
        (folder / "whole").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "whole"]


@posix_only
@pytest.mark.guarantee("concurrent-runs")
def test_two_runs_do_not_create_the_same_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("first")
        with pytest.raises(OutputError, match="another run is writing to it") as caught, new_folder(tmp_path / "new"):
            raise AssertionError("the block must not run")
    assert caught.value.exit_code == ExitCode.OUTPUT
    assert (tmp_path / "new" / "a").read_text() == "first"
