"""A replaced file holds the old or the new content, and no temporary file is left."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from levit_cli.errors import ExitCode, OutputError
from levit_cli.system.atomic import replace_bytes, replace_text
from tests.support.foreign_systems import IS_ROOT, linux_only, posix_only
from tests.support.killed import KilledError, dies_at


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes; the system call then fails as it does on a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def error_of(path: Path, content: bytes = b"new") -> str:
    with pytest.raises(OutputError) as caught:
        replace_bytes(path, content)
    assert caught.value.exit_code == ExitCode.OUTPUT
    assert caught.value.what == f"Cannot write {path}"
    assert caught.value.why
    return caught.value.why


def test_a_missing_file_is_created(tmp_path: Path) -> None:
    replace_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@posix_only
@pytest.mark.guarantee("atomic-replacement")
def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with (tmp_path / "a").open("rb") as reader:
        replace_text(tmp_path / "a", "neu: é")
        assert reader.read() == b"old"  # an open descriptor keeps the old file
    assert (tmp_path / "a").read_bytes() == "neu: é".encode()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@posix_only
def test_a_symbolic_link_is_kept_and_its_target_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to("folder/a")
    replace_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "a").read_bytes() == b"new"


@linux_only
def test_pipes_and_devices_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_bytes(tmp_path / "pipe", b"new")
        assert os.read(reader, 9) == b"new"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert error_of(Path("/dev/full")) == "No space left on device"
    assert Path("/dev/full").is_char_device()


@posix_only
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        replace_bytes(tmp_path / "a", b"new")
        assert os.umask(mask) == mask  # read, not changed
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


@posix_only
@pytest.mark.parametrize("name", ["x" * 255, "猫" * 85, "-", " ", ".hidden", "new\nline"])
def test_every_valid_file_name_works(tmp_path: Path, name: str) -> None:
    replace_bytes(tmp_path / name, b"new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_relative_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replace_bytes(Path("a"), b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@posix_only
@pytest.mark.guarantee("atomic-replacement")
def test_a_full_disk_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with full_disk(1000):
        assert error_of(tmp_path / "a", bytes(1_000_000)) == "File too large"
        error_of(tmp_path / "b", bytes(1_000_000))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@linux_only
@pytest.mark.guarantee("atomic-replacement", "safe-conversion")
@pytest.mark.parametrize("old", [b"old", None])
def test_killed_at_any_system_call_the_file_is_the_old_or_the_new_one(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "a"
    for number in range(1, 100):
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)
        with dies_at(number, tmp_path) as calls, suppress(KilledError):
            replace_bytes(path, b"new" * 1000)
        left = path.read_bytes() if path.exists() else None
        assert left in (old, b"new" * 1000)
        if len(calls) < number:
            assert left == b"new" * 1000
            return
    raise AssertionError("the file was never replaced")


@posix_only
def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kept").touch()
    assert "directory" in error_of(tmp_path / "a")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "kept"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    assert error_of(tmp_path / "missing" / "a") == "No such file or directory"
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_a_file_used_as_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert error_of(tmp_path / "file" / "a") == "Not a directory"


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_a_read_only_folder_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    tmp_path.chmod(0o555)
    try:
        assert error_of(tmp_path / "a") == "Permission denied"
    finally:
        tmp_path.chmod(0o755)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@linux_only
def test_a_system_folder_without_files_is_an_error() -> None:
    assert error_of(Path("/proc/levit"))
