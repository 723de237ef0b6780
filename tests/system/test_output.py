"""An output file has one writer, is not changed before the first write, and holds complete records only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from levit_cli.errors import ExitCode, OutputError, UsageError
from levit_cli.system.output import Document, OutputFile, Sink, open_output, require_free
from tests.support.foreign_systems import posix_only

HOLDING_RUN = """
import sys, time
from pathlib import Path
from levit_cli.system.output import OutputFile
output = OutputFile(Path(sys.argv[1]), may_exist=True)
output.write(b"theirs\\n")
print("holding", flush=True)
time.sleep(60)
"""


def test_the_file_is_not_changed_before_the_first_write(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with OutputFile(path, may_exist=True):
        pass
    assert path.read_bytes() == b"old"
    with OutputFile(path, may_exist=True) as output:
        output.write(b"new")
        assert path.read_bytes() == b"new"


def test_a_new_file_without_any_write_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), OutputFile(tmp_path / "out", may_exist=False):
        raise ValueError("refused")
    assert os.listdir(tmp_path) == []


@posix_only
def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with OutputFile(tmp_path / "link", may_exist=False) as output:
        output.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_file_created_since_the_check_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(UsageError, match="exists"):
        OutputFile(tmp_path / "out", may_exist=False)
    assert (tmp_path / "out").read_bytes() == b"old"


def test_a_record_that_cannot_be_written_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 8:
            return written(descriptor, bytes(data)[:5])
        raise OSError(28, "No space left on device")

    with OutputFile(tmp_path / "out", may_exist=False) as output:
        output.write(b"first\n")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OutputError, match="No space left"):
            output.write(b"the second\n")
        monkeypatch.undo()
    assert (tmp_path / "out").read_bytes() == b"first\n"


@pytest.mark.guarantee("concurrent-runs")
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_second_run_is_refused_until_the_first_ends(tmp_path: Path, options: dict[str, bool]) -> None:
    path = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDING_RUN, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        settings = {"overwrite": False, "resume": False, **options}
        with pytest.raises(OutputError, match="another run is writing to it") as caught:
            open_for_run(path, **settings)
        assert caught.value.exit_code == ExitCode.OUTPUT
        assert path.read_bytes() == b"theirs\n"
        holder.kill()
        holder.wait()
    with OutputFile(path, may_exist=True) as output:
        output.write(b"ours\n")
    assert path.read_bytes() == b"ours\n"


def open_for_run(path: Path, *, overwrite: bool, resume: bool) -> None:
    require_free(path, [], overwrite=overwrite, resume=resume)
    open_output(path, overwrite=overwrite, resume=resume)


def test_the_lock_holds_after_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with OutputFile(path, may_exist=False) as output:
        document = Document(output)
        document.write(b"whole")
        assert path.read_bytes() == b""
        document.finish()
        assert path.read_bytes() == b"whole"
        with pytest.raises(OutputError, match="another run"):
            OutputFile(path, may_exist=True)
    assert os.listdir(tmp_path) == ["out"]


def test_a_discarded_document_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with OutputFile(path, may_exist=True) as output:
        document = Document(output)
        document.write(b"half")
        document.discard()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


@posix_only
def test_devices_are_written_to_directly(tmp_path: Path) -> None:
    with open_output(Path("/dev/null"), overwrite=False, resume=False) as output:
        assert isinstance(output, Sink)
        output.write(b"gone")


@pytest.mark.parametrize("content", [b"first", bytes(1_000_000)])
def test_the_next_run_removes_the_temporary_file_of_a_killed_run(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("x" * 255)
    with OutputFile(path, may_exist=False) as output:
        document = Document(output)
        document.write(content)
        assert len(os.listdir(tmp_path)) == 2
        with OutputFile(tmp_path / "other", may_exist=False):
            assert len(os.listdir(tmp_path)) == 3
    with OutputFile(path, may_exist=True) as output:
        output.write(b"new")
    assert os.listdir(tmp_path) == ["x" * 255]
