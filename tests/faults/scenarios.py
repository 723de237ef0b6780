"""Check what a command guarantees while system calls fail.

Usage: ``python -m tests.faults.scenarios NAME WORK MODEL STEP HOW``. WORK is an empty folder. Every STEPth system call
fails in a run of its own. HOW is ``once``, or ``lasting`` if all calls after it fail, too. Prints the number of runs.
"""

import json
import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from levit_cli.errors import ExitCode
from tests.faults.driver import Driver, Outcome
from tests.finetune.sets import write_set
from tests.support.fork_server import LIGHT, TORCH
from tests.support.sample_images import write_images
from tests.support.sorting import contents, tree, without_numbers, write_photos

ALLOWED = {code for code in ExitCode if code != ExitCode.BUG}
Attempt = Callable[[int], Outcome]


def tried(attempt: Attempt, step: int, check: Callable[[Outcome], None]) -> int:
    """Let one call after another fail until a run makes fewer calls, and return the number of runs.

    Every run must end with an allowed exit code and without a traceback, and must pass ``check``.
    """
    for number in count(1, step):
        outcome = attempt(number)
        where = f"call {number} of {len(outcome.calls)}, {outcome.calls[number - 1 : number]}: {outcome}"
        assert outcome.code in ALLOWED, where
        assert b"Traceback" not in outcome.stderr, where
        if len(outcome.calls) < number:
            return number // step
        try:
            check(outcome)
        except AssertionError as error:
            raise AssertionError(where) from error
    raise AssertionError("there is always another number")


class Predicting:
    """Images, their model and the output, in the folder where calls fail."""

    def __init__(self, work: Path, model: Path, suffix: str) -> None:
        self.folder = work / "folder"
        self.photos = write_images(self.folder / "photos", 3)
        shutil.copytree(model, self.folder / "model")
        (work / "scratch").mkdir()
        modules = (*LIGHT, *["levit_cli.predict.parquet_output"] * (suffix == "parquet"))
        self.driver = Driver(self.folder, work / "scratch", modules)
        self.output = self.folder / f"out.{suffix}"
        options = ("-b", "1", "--workers", "1", "-o", str(self.output))
        self.command = ("predict", "-m", str(self.folder / "model"), str(self.folder / "photos"), *options)

    def check(self, outcome: Outcome, whole: bytes, old: bytes = b"") -> None:
        """Check that the output is a part of the whole one and that resuming completes it."""
        left = self.output.read_bytes() if self.output.exists() else b""
        if self.output.suffix == ".parquet":
            self._check_parquet(left, whole, old, is_done=outcome.code == ExitCode.OK)
        elif left != old:
            self._check_records(left, whole, old, is_done=outcome.code in (ExitCode.OK, ExitCode.SOME_FAILED))
        again = self.driver.run(*self.command, "--resume")
        assert again.code == 0, again
        assert self.output.read_bytes() == whole
        assert {path.name for path in self.folder.iterdir()} == {"photos", "model", self.output.name}

    def _check_parquet(self, left: bytes, whole: bytes, old: bytes, *, is_done: bool) -> None:
        """The output is the old one or a complete new one, which has error records if images could not be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert not is_done or left == whole
        if left in (old, whole):
            return
        expected, found = (
            pq.read_table(pa.BufferReader(content)).column("path").to_pylist() for content in (whole, left)
        )
        if found[0] == str(self.folder / "photos"):  # the folder could not be listed
            found, expected = found[1:], [path for path in expected if path in found]
        assert found == expected

    def _check_records(self, left: bytes, whole: bytes, old: bytes, *, is_done: bool) -> None:
        if self.output.suffix != ".jsonl":
            return
        expected = [json.loads(line) for line in whole.splitlines()]
        found = [json.loads(line) for line in left[: left.rfind(b"\n") + 1].splitlines()]
        if found and found[0]["path"] == str(self.folder / "photos"):  # the folder could not be listed
            assert found[0]["status"] == "error"
            assert all(record in [*expected, *map(json.loads, old.splitlines())] for record in found[1:])
            return
        assert [record["path"] for record in found] == [record["path"] for record in expected[: len(found)]]
        for record, correct in zip(found, expected, strict=False):
            assert record == correct or (record["status"] == "error" and "top" not in record)
        assert len(found) == len(expected) or not is_done


def predict(work: Path, model: Path, step: int, *, lasting: bool, suffix: str = "jsonl") -> int:
    """A first run."""
    case = Predicting(work, model, suffix)
    case.driver.run(*case.command)
    whole = case.output.read_bytes()

    def attempt(number: int) -> Outcome:
        case.output.unlink(missing_ok=True)
        return case.driver.run(*case.command, fail=number, lasting=lasting)

    return tried(attempt, step, lambda outcome: case.check(outcome, whole))


def resume(work: Path, model: Path, step: int, *, lasting: bool, suffix: str = "jsonl") -> int:
    """A resumed run that retries a failed image and adds a missing one."""
    case = Predicting(work, model, suffix)
    content = case.photos[1].read_bytes()
    case.photos[1].write_bytes(b"")
    case.photos[2].rename(work / "last")
    case.driver.run(*case.command)
    old = case.output.read_bytes()
    case.photos[1].write_bytes(content)
    (work / "last").rename(case.photos[2])
    case.driver.run(*case.command, "--overwrite")
    whole = case.output.read_bytes()

    def attempt(number: int) -> Outcome:
        case.output.unlink()
        case.output.write_bytes(old)
        return case.driver.run(*case.command, "--resume", fail=number, lasting=lasting)

    return tried(attempt, step, lambda outcome: case.check(outcome, whole, old))


def parquet(work: Path, model: Path, step: int, *, lasting: bool) -> int:
    """A first run whose records are converted at the end."""
    return predict(work, model, step, lasting=lasting, suffix="parquet")


def parquet_resume(work: Path, model: Path, step: int, *, lasting: bool) -> int:
    """A resumed run whose journal is restored from the finished output."""
    return resume(work, model, step, lasting=lasting, suffix="parquet")


def document(work: Path, model: Path, step: int, *, lasting: bool) -> int:
    """Overwriting a json file leaves the old or the new one."""
    case = Predicting(work, model, "json")
    case.driver.run(*case.command)
    whole = json.loads(case.output.read_bytes())

    def attempt(number: int) -> Outcome:
        case.output.write_bytes(b"old")
        return case.driver.run(*case.command, "--overwrite", fail=number, lasting=lasting)

    def check(_: Outcome) -> None:
        left = case.output.read_bytes()
        found = [] if left == b"old" else json.loads(left)["results"]
        unlisted = len(found) == 1 and found[0]["path"] == str(case.folder / "photos")
        assert left == b"old" or unlisted or len(found) == len(whole["results"])

    return tried(attempt, step, check)


def convert(work: Path, model: Path, step: int, *, lasting: bool) -> int:
    """Converting leaves the source unchanged and the old or the new result."""
    folder = work / "folder"
    shutil.copytree(model, folder / "source")
    source = {path: path.read_bytes() for path in (folder / "source").iterdir()}
    (work / "scratch").mkdir()
    driver, result = Driver(folder, work / "scratch"), folder / "result.safetensors"
    command = ("convert-checkpoint", folder / "source", "-o", result, "--to", "timm", "--overwrite")
    assert driver.run(*command).code == 0
    new = result.read_bytes()

    def attempt(number: int) -> Outcome:
        result.write_bytes(b"old")
        return driver.run(*command, fail=number, lasting=lasting)

    def check(outcome: Outcome) -> None:
        assert {path: path.read_bytes() for path in (folder / "source").iterdir()} == source
        assert result.read_bytes() in (b"old", new)
        assert result.read_bytes() == new or outcome.code != 0

    return tried(attempt, step, check)


def export(work: Path, model: Path, step: int, *, lasting: bool) -> int:
    """Exporting creates the whole folder or none, and the next run creates the same one."""
    folder = work / "folder"
    shutil.copytree(model, folder / "source")
    (work / "scratch").mkdir()
    driver, result = Driver(folder, work / "scratch"), folder / "result"
    command = ("export", folder / "source", "-o", result, "--to", "openvino")
    done = driver.run(*command)
    assert done.code == 0, done
    whole = contents_of(result)

    def attempt(number: int) -> Outcome:
        shutil.rmtree(result, ignore_errors=True)
        return driver.run(*command, fail=number, lasting=lasting)

    def check(outcome: Outcome) -> None:
        assert contents_of(result) == whole if result.exists() else outcome.code != 0
        if not result.exists():
            again = driver.run(*command)
            assert again.code == 0, again
        assert contents_of(result) == whole
        assert {path.name for path in folder.iterdir()} == {"source", "result"}

    return tried(attempt, step, check)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def finetune(work: Path, model: Path, step: int, *, lasting: bool) -> int:
    """A training that is resumed, or restarted if it had not begun, ends as an uninterrupted one."""
    folder = work / "folder"
    folder.mkdir()
    (work / "scratch").mkdir()
    driver, run = Driver(folder, work / "scratch", TORCH), folder / "run"
    options = ("--image-size", "48", "--epochs", "2", "--warmup-epochs", "0", "--batch-size", "12", "--workers", "0")
    fixed = ("--precision", "fp32", "--device", "cpu", "--threads", "1")
    command = ("finetune", write_set(work / "set"), "-m", model, "-o", run, *options, *fixed)
    done = driver.run(*command)
    assert done.code == 0, done
    whole = results_of(run)

    def attempt(number: int) -> Outcome:
        shutil.rmtree(run, ignore_errors=True)
        return driver.run(*command, fail=number, lasting=lasting)

    def check(outcome: Outcome) -> None:
        assert results_of(run) == whole or outcome.code != 0
        has_begun = (run / "config.toml").exists()
        again = driver.run(*command, "--resume" if has_begun else "--overwrite")
        assert again.code == 0, again
        assert results_of(run) == whole

    return tried(attempt, step, check)


def results_of(run: Path) -> tuple[list[dict[str, object]], bytes]:
    """Return the metrics without times, and the model."""
    if not (run / "metrics.jsonl").exists():
        return [], b""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = ("images_per_s", "epoch_s", "elapsed_s")
    kept = [{name: value for name, value in row.items() if name not in times} for row in rows]
    return kept, (run / "model.safetensors").read_bytes()


class Sorting:
    """Photos that are sorted, in the folder where calls fail."""

    def __init__(self, work: Path, mode: str) -> None:
        self.photos = write_photos(work / "folder")
        (work / "scratch").mkdir()
        modules = ("levit_cli.cli", "levit_cli.sort.run")
        self.driver = Driver(self.photos.folder, work / "scratch", modules, looks=True)
        self.sort = ("sort", self.photos.results, "--to", self.photos.sorted, "--mode", mode, "--min-prob", "0.5")
        self.undo = ("sort", "--undo", self.photos.sorted)
        self.original, self.contents = tree(self.photos.folder), contents(self.photos.photos)
        self.final: dict[str, tuple[object, ...]] = {}
        self.run(*self.sort)
        self.final = tree(self.photos.folder, link_times=False)
        self.run(*self.undo)
        self.require(self.original)

    def run(self, *command: str | Path) -> None:
        done = self.driver.run(*command)
        assert done.code == 0, done

    def require(self, state: dict[str, tuple[object, ...]]) -> None:
        found = tree(self.photos.folder, link_times=state is not self.final)
        assert found == state, [found.items() ^ state.items()]

    def check(self, outcome: Outcome) -> None:
        """Nothing is lost, running again gives the final state, and undoing gives the original one.

        A file that could not be sorted at first may get another number than in a run without a fault.
        """
        assert contents(self.photos.folder) >= self.contents
        self.run(*self.sort)
        if outcome.code == ExitCode.SOME_FAILED:
            assert without_numbers(tree(self.photos.folder, link_times=False)) == without_numbers(self.final)
        else:
            self.require(self.final)
        self.run(*self.undo)
        self.require(self.original)


def sort(work: Path, step: int, *, lasting: bool, mode: str) -> int:
    """Sort while a call fails."""
    case = Sorting(work, mode)
    return tried(lambda number: case.driver.run(*case.sort, fail=number, lasting=lasting), step, case.check)


def sort_copy(work: Path, _: Path, step: int, *, lasting: bool) -> int:
    """Copies are made."""
    return sort(work, step, lasting=lasting, mode="copy")


def sort_move(work: Path, _: Path, step: int, *, lasting: bool) -> int:
    """Files are moved."""
    return sort(work, step, lasting=lasting, mode="move")


def sort_link(work: Path, _: Path, step: int, *, lasting: bool) -> int:
    """Hard links are made."""
    return sort(work, step, lasting=lasting, mode="link")


def sort_symlink(work: Path, _: Path, step: int, *, lasting: bool) -> int:
    """Symbolic links are made."""
    return sort(work, step, lasting=lasting, mode="symlink")


def undo(work: Path, step: int, *, lasting: bool, mode: str) -> int:
    """Put back what was sorted while a call fails; every other time sort again, and not undo again."""
    case = Sorting(work, mode)

    def attempt(number: int) -> Outcome:
        case.run(*case.sort)
        return case.driver.run(*case.undo, fail=number, lasting=lasting)

    def check(outcome: Outcome) -> None:
        assert contents(case.photos.folder) >= case.contents
        if outcome.code == ExitCode.OK:
            case.require(case.original)
        elif len(outcome.calls) % 2:
            case.check(outcome)
        else:
            case.run(*case.undo)
            case.require(case.original)

    return tried(attempt, step, check)


def undo_copy(work: Path, _: Path, step: int, *, lasting: bool) -> int:
    """Copies are removed."""
    return undo(work, step, lasting=lasting, mode="copy")


def undo_move(work: Path, _: Path, step: int, *, lasting: bool) -> int:
    """Files are moved back."""
    return undo(work, step, lasting=lasting, mode="move")


if __name__ == "__main__":
    name, work, model, step, how = sys.argv[1:]
    print(globals()[name](Path(work), Path(model), int(step), lasting=how == "lasting"))
