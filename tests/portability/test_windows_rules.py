"""What Windows does differently, one rule at a time and inside this process."""

import errno
import io
import os
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli import cli, errors
from levit_cli.data.inputs import Input
from levit_cli.errors import InputError, OutputError
from levit_cli.predict import pipeline
from levit_cli.predict.prefetch import Prefetcher
from levit_cli.system import atomic, locking
from levit_cli.system.atomic import Replacement, read_at, replace_bytes
from levit_cli.system.files import open_regular
from levit_cli.system.output import Document, OutputFile, Sink
from tests.predict.resume.test_merge import NAMES, run, uninterrupted
from tests.support.foreign_systems import REMOVING, is_open, linux_only, posix_only, refusing_open_files


@pytest.fixture
def open_files_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is replaced or removed while it is open, and there is no flock and no pread."""
    monkeypatch.setattr(locking, "posix", None)
    monkeypatch.delattr(os, "pread")
    for name in REMOVING:
        monkeypatch.setattr(os, name, refusing_open_files(getattr(os, name)))


@linux_only
def test_the_rule_refuses_open_files_only(tmp_path: Path, open_files_stay: None) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with (tmp_path / "a").open("rb"):
        assert is_open(str(tmp_path / "a"))
        with pytest.raises(PermissionError):
            os.unlink(tmp_path / "a")
        with pytest.raises(PermissionError):
            os.replace(tmp_path / "b", tmp_path / "a")
    os.replace(tmp_path / "b", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "b"


@linux_only
@pytest.mark.guarantee("atomic-replacement")
def test_files_are_closed_before_they_are_replaced(tmp_path: Path, open_files_stay: None) -> None:
    path = tmp_path / "out"
    for content in (b"first", b"second"):
        replace_bytes(path, content)
        assert path.read_bytes() == content
    with OutputFile(path, may_exist=True) as output:
        document = Document(output)
        document.write(b"third")
        document.finish()
        output.write(b", continued")
    assert path.read_bytes() == b"third, continued"
    assert os.listdir(tmp_path) == ["out"]


@linux_only
def test_an_output_without_any_record_is_removed(tmp_path: Path, open_files_stay: None) -> None:
    with OutputFile(tmp_path / "out", may_exist=False):
        pass
    assert os.listdir(tmp_path) == []


@linux_only
@pytest.mark.guarantee("atomic-replacement")
def test_a_target_that_another_program_has_open_stays_and_can_be_written(tmp_path: Path, open_files_stay: None) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with path.open("rb"), OutputFile(path, may_exist=True) as output:
        document = Document(output)
        document.write(b"new")
        with pytest.raises(OutputError, match="being used"):
            document.finish()
        document.discard()
        assert path.read_bytes() == b"old"
        output.write(b"next")
    assert path.read_bytes() == b"next"
    assert os.listdir(tmp_path) == ["out"]


@linux_only
@pytest.mark.guarantee("resume-after-kill")
@pytest.mark.parametrize("minutes", [0.0, 100.0])
@pytest.mark.parametrize(
    ("old", "bad", "new"),
    [
        (NAMES[:4], "", NAMES),
        (NAMES, "03", NAMES),
        (NAMES, "0123456", NAMES),
        (NAMES, "1", [NAMES[0], *NAMES[2:]]),
        (NAMES[::-1], "36", NAMES),
        ([*NAMES, *NAMES], "24", NAMES),
        (NAMES, "5", [*NAMES, *NAMES]),
    ],
)
def test_records_are_merged_while_no_replaced_file_is_open(
    tmp_path: Path, open_files_stay: None, old: list[str], bad: str, new: list[str], minutes: float
) -> None:
    path = tmp_path / "out"
    whole = uninterrupted(tmp_path, "jsonl", new)
    run(path, "jsonl", old, bad)
    times = count(0.0, minutes)  # with minutes between any two calls, each new record is committed
    run(path, "jsonl", new, clock=lambda: next(times))
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["out"]


def test_reading_without_pread_keeps_the_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pread", raising=False)
    with (tmp_path / "a").open("wb+", buffering=0) as file:
        file.write(b"0123456789")
        assert read_at(file.fileno(), 4, 3) == b"3456"
        assert read_at(file.fileno(), 4, 8) == b"89"
        assert file.tell() == 10


def test_a_file_that_is_open_for_a_moment_is_replaced_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    replace = os.replace

    def busy(source: str, target: str) -> None:
        if len(pauses) < 3:
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    replacement = Replacement(tmp_path / "a")
    replacement.write(b"new")
    replacement.close()
    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(atomic, "IS_WINDOWS", False)
    with pytest.raises(OutputError, match="Access is denied"):
        replacement.commit()
    assert pauses == []
    monkeypatch.setattr(atomic, "IS_WINDOWS", True)
    replacement.commit()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert pauses == [atomic.REPLACE_INTERVAL_S] * 3


def test_an_invalid_argument_is_a_closed_pipe_on_windows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = OSError(errno.EINVAL, "Invalid argument")
    monkeypatch.setattr(errors, "IS_WINDOWS", False)
    assert errors.is_broken_pipe(BrokenPipeError())
    assert not errors.is_broken_pipe(invalid)
    monkeypatch.setattr(errors, "IS_WINDOWS", True)
    assert errors.is_broken_pipe(invalid)
    assert not errors.is_broken_pipe(OSError(errno.ENOSPC, "No space left on device"))
    assert not errors.is_broken_pipe(ValueError())


@pytest.mark.guarantee("closed-pipe")
def test_a_reader_of_stdout_that_leaves_is_a_closed_pipe_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(errors, "IS_WINDOWS", True)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(Closed()))  # type: ignore[type-var]
    with pytest.raises(BrokenPipeError):
        Sink(None).write(b"record")


def test_stdout_is_utf_8_with_plain_line_feeds() -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding="cp1252", newline="\r\n")
    cli._write_utf8(stream, None)
    print("3 → 4", file=stream, flush=True)
    assert content.getvalue() == "3 → 4\n".encode()


@posix_only
@pytest.mark.guarantee("not-regular-file")
def test_a_pipe_is_not_opened_where_opening_would_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.delattr(os, "O_NONBLOCK")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull)):
        with pytest.raises(InputError) as caught:
            open_regular(str(path))
        assert caught.value.kind == "not_regular"
    with pytest.raises(InputError, match="no such file"):
        open_regular(str(tmp_path / "missing"))
    with open_regular(str(tmp_path / "file")) as file:
        assert file.read() == b"content"


def test_the_main_thread_may_wait_in_short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(0.05)
        if pixels[0, 0, 0, 0] == 9:
            raise TimeoutError("from the network")
        return np.zeros((len(pixels), 2), np.float32)

    def pixels_of(item: Input) -> NDArray[np.uint8]:
        return np.full((1, 1, 3), int(item.path), np.uint8)

    monkeypatch.setattr(pipeline, "WAIT_S", 0.001)
    for paths, error in (("0123", None), ("09", TimeoutError)):
        prefetcher = Prefetcher(map(Input, paths), pixels_of, batch_size=1, workers=1)
        predictions = pipeline.predict(prefetcher, slow, top_k=1)
        if error is None:
            assert [prediction.path for prediction in predictions] == [*paths]
        else:
            with pytest.raises(error):
                list(predictions)
