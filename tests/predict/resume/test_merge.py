"""A run that was killed at any point and resumed writes the same bytes as an uninterrupted run."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.choices import Format
from levit_cli.data.inputs import Input
from levit_cli.data.labels import Labels
from levit_cli.errors import InputError, OutputError
from levit_cli.predict.pipeline import Prediction, Prefetcher, predict
from levit_cli.predict.records import RESUMABLE, RecordFormat, record_format
from levit_cli.predict.resume.merge import COMMIT_EVERY_S, Merger
from levit_cli.predict.resume.plan import ExistingRecords, Plan
from levit_cli.predict.writers import Records
from levit_cli.system.output import OutputFile, Target
from tests.support.foreign_systems import linux_only
from tests.support.killed import KilledError, dies_at

LABELS = Labels(("zero", "one, or first", 'two\n"quoted"', "three"))
NAMES = ["0", "1 comma,", '2 "quoted"', "3 new\nline", "4", "5 caf\udce9", "6"]


def format_of(name: Format) -> RecordFormat[Prediction]:
    format = record_format(name, LABELS, 2)
    assert format is not None
    return format


def network(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[pixels[:, 0, 0, 0] % 4] * 3


def run(
    path: Path,
    name: Format,
    paths: Iterable[str],
    bad: str = "",
    unlisted: str = "none",
    clock: Callable[[], float] = lambda: 0.0,
) -> None:
    """Do what ``predict -o path --resume`` does, with a fake network.

    Args:
        bad: first characters of the inputs that fail.
        unlisted: a folder that cannot be listed.
    """

    def prepare(item: Input) -> NDArray[np.uint8]:
        if item.path[0] in bad:
            raise InputError("truncated", f"cut\nshort, {item.path}")
        return np.full((1, 1, 3), int(item.path[0]), np.uint8)

    shut = InputError("permission", "the folder is not readable")
    inputs: Iterable[Input] = (Input(path, shut if path == unlisted else None) for path in paths)
    with OutputFile(path, may_exist=True) as output:
        target: Target = output
        with os.fdopen(os.dup(output.descriptor), "rb") as file:
            file.seek(0)
            existing = ExistingRecords(file, format_of(name))
        if len(existing):
            inputs = plan = Plan(existing, inputs)
            target = Merger(output, plan, clock=clock)
        ahead = Prefetcher(inputs, prepare, batch_size=2, workers=1)
        writer = Records(target, format_of(name), continues=len(existing) > 0)
        try:
            for prediction in predict(ahead, network, top_k=2):
                writer.write(prediction)
        except KilledError:
            raise
        except OutputError:
            target.discard()
            raise
        except BaseException:
            target.stop()
            raise
        target.finish()


def uninterrupted(folder: Path, name: Format, paths: Iterable[str], bad: str = "") -> bytes:
    path = folder / f"uninterrupted {'-'.join(paths)!r} {bad}"[:80]
    run(path, name, paths, bad)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.guarantee("resume-after-kill")
@pytest.mark.parametrize("name", RESUMABLE)
def test_file_truncated_at_any_byte_is_completed(tmp_path: Path, name: Format) -> None:
    names = ['2 "quoted"', "3 new\nline", "4, comma", "5 caf\udce9"]
    whole = uninterrupted(tmp_path, name, names, bad="4")
    path = tmp_path / "out"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        run(path, name, names, bad="4")
        assert path.read_bytes() == whole, cut
        assert os.listdir(tmp_path) == ["out"]


@linux_only
@pytest.mark.guarantee("resume-after-kill")
@pytest.mark.parametrize("name", RESUMABLE)
@pytest.mark.parametrize(
    ("old", "old_bad", "new"),
    [
        ([], "", NAMES),
        (NAMES, "", NAMES),
        (NAMES[:4], "", NAMES),
        (NAMES, "03", NAMES),
        (NAMES, "0123456", NAMES),
        (NAMES[:5], "14", NAMES),
        ([NAMES[0], *NAMES[2:4]], "2", NAMES),
        (NAMES, "1", [NAMES[0], *NAMES[2:]]),
        (NAMES[::-1], "36", NAMES),
        ([*NAMES, *NAMES], "", NAMES),
        (NAMES, "", [*NAMES, *NAMES]),
    ],
)
def test_run_killed_at_any_system_call_is_completed(
    tmp_path: Path, name: Format, old: list[str], old_bad: str, new: list[str]
) -> None:
    before = uninterrupted(tmp_path, name, old, old_bad) if old else b""
    whole = uninterrupted(tmp_path, name, new)
    path = tmp_path / "out"
    for number in range(1, 1000):
        path.write_bytes(before)
        with dies_at(number, tmp_path) as calls, suppress(KilledError):
            run(path, name, new)
        left = path.read_bytes()
        ExistingRecords(BytesIO(left), format_of(name))  # valid up to its last complete record
        run(path, name, new)
        assert path.read_bytes() == whole, (number, calls, left)
        assert os.listdir(tmp_path) == ["out"]
        if len(calls) < number:
            return
    raise AssertionError("the run did not finish")


def test_failed_inputs_are_tried_again_and_may_fail_again(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for bad in ("0246", "24", "4", "14", ""):
        run(path, "jsonl", NAMES, bad)
        assert path.read_bytes() == uninterrupted(tmp_path, "jsonl", NAMES, bad.replace("1", ""))


def test_missing_end_is_appended_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, "csv", NAMES[:4])
    inode = path.stat().st_ino
    run(path, "csv", NAMES)
    assert path.stat().st_ino == inode


@linux_only
def test_replaced_file_keeps_its_permissions_and_symlink(tmp_path: Path) -> None:
    path, link = tmp_path / "out", tmp_path / "link"
    run(path, "jsonl", NAMES, bad="3")
    path.chmod(0o640)
    link.symlink_to(path)
    run(link, "jsonl", NAMES)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes() == uninterrupted(tmp_path, "jsonl", NAMES)


@linux_only
def test_merged_records_are_committed_every_minute_and_when_the_run_stops(tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, "jsonl", NAMES, bad="135")
    failing = path.read_bytes()
    times = iter(np.arange(0, 10_000, COMMIT_EVERY_S + 1).tolist())
    with dies_at(10_000, tmp_path) as calls:
        run(path, "jsonl", NAMES, clock=lambda: next(times))
    assert calls.count("replace") == 4  # after each of the three replaced records, and at the end
    assert path.read_bytes() == uninterrupted(tmp_path, "jsonl", NAMES)

    def stopping() -> Iterator[str]:
        yield from NAMES[:4]
        raise KeyboardInterrupt

    path.write_bytes(failing)
    with pytest.raises(KeyboardInterrupt):
        run(path, "jsonl", stopping())
    records = path.read_bytes().splitlines()
    assert [b'"error"' in record for record in records] == [False] * 5 + [True, False]


def test_records_of_a_folder_that_can_no_longer_be_listed_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, "jsonl", NAMES)
    lines = path.read_bytes().splitlines()
    run(path, "jsonl", [NAMES[0], "shut"], unlisted="shut")
    first, shut, *rest = path.read_bytes().splitlines()
    assert [first, *rest] == lines
    assert b"permission" in shut
    run(path, "jsonl", NAMES)
    assert path.read_bytes().splitlines() == lines


@pytest.mark.guarantee("resume-after-kill")
def test_error_record_of_a_folder_is_removed_once_it_can_be_listed(tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, "jsonl", ["shut"], unlisted="shut")
    run(path, "jsonl", NAMES)
    assert path.read_bytes() == uninterrupted(tmp_path, "jsonl", NAMES)


def test_records_of_other_inputs_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, "jsonl", NAMES[:3])
    lines = path.read_bytes().splitlines()
    run(path, "jsonl", NAMES[4:])
    assert path.read_bytes().splitlines()[3:] == lines


def test_full_disk_leaves_the_existing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    run(path, "jsonl", NAMES, bad="3")
    before = path.read_bytes()
    real_write = os.write

    def write(descriptor: int, data: bytes) -> int:
        if len(data) >= 200:
            raise OSError(28, "No space left on device")
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OutputError, match="No space left"):
        run(path, "jsonl", NAMES)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["out"]
