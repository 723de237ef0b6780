"""The output folder of ``levit predict --ray`` without Ray: parts, manifest, what is resumed and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levit_cli.distributed.done import Done, Key, Progress, hash_of
from levit_cli.distributed.folders import open_folder
from levit_cli.distributed.parts import PartFormat, Parts, Record, lines_of, parse_record, with_key
from levit_cli.errors import OutputError, UsageError
from tests.support.foreign_systems import posix_only
from tests.support.killed import KilledError, dies_at

JSONL = PartFormat("jsonl", bytes, lines_of)
SETTINGS = {"top_k": 5, "model": {"sha256": "0"}}


def record(source: int, item: int = 0, *, ok: bool = True) -> Record:
    error = {"kind": "truncated", "message": "cut"}
    content = {"path": f"{source}-{item}.jpg", "status": "ok" if ok else "error", **({} if ok else {"error": error})}
    key = Key(source, item)
    return parse_record(with_key(json.dumps(content).encode() + b"\n", key))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def parts_in(folder: Path, settings: dict[str, Any] = SETTINGS, size: int = 3, clock: Clock | None = None) -> Any:
    """Return a context that yields a folder's parts."""
    from contextlib import contextmanager

    @contextmanager
    def opened() -> Any:
        with open_folder(folder) as output:
            yield Parts(output, JSONL, settings, {}, size, clock or Clock())

    return opened()


def written(folder: Path) -> dict[str, list[tuple[int, int]]]:
    return {
        path.name: [(line["source"], line["item"]) for line in map(json.loads, path.read_bytes().splitlines())]
        for path in sorted(folder.glob("part-*"))
    }


def test_parts_are_written_when_they_are_full_or_old(tmp_path: Path) -> None:
    clock = Clock()
    with parts_in(tmp_path / "out", clock=clock) as parts:
        parts.begin()
        assert parts.add(map(record, range(4))) == 4
        assert written(tmp_path / "out") == {"part-00000.jsonl": [(0, 0), (1, 0), (2, 0)]}
        clock.now = 61
        assert parts.add([record(4, 0, ok=False)]) == 1
        assert written(tmp_path / "out")["part-00001.jsonl"] == [(3, 0), (4, 0)]
        parts.progress.end_list(5, 0)
        parts.finish()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert (manifest["status"], manifest["inputs"], manifest["failed"]) == ("complete", 5, 1)
    assert [part["records"] for part in manifest["parts"]] == [3, 2]
    assert (tmp_path / "out" / "_SUCCESS").read_bytes() == b""


def test_a_record_that_comes_twice_is_written_once(tmp_path: Path) -> None:
    with parts_in(tmp_path / "out") as parts:
        parts.begin()
        assert parts.add([record(0), record(1, 5), record(0), record(1, 5), record(1, 4)]) == 3
        assert written(tmp_path / "out") == {"part-00000.jsonl": [(0, 0), (1, 5), (1, 4)]}


@pytest.mark.parametrize(("sources", "archives", "ended"), [(4, 0, {}), (3, 1, {}), (3, 1, {2: 4}), (2, 0, {})])
def test_an_output_with_missing_or_foreign_records_is_not_finished(
    tmp_path: Path, sources: int, archives: int, ended: dict[int, int]
) -> None:
    with parts_in(tmp_path / "out") as parts:
        parts.begin()
        parts.add([record(0), record(1), record(2, 0)])
        parts.progress.end_list(sources, archives)
        for source, count in ended.items():
            parts.progress.end_source(source, count)
        with pytest.raises(OutputError, match="incomplete"):
            parts.finish()
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_resume_keeps_predictions_and_drops_error_records(tmp_path: Path) -> None:
    with parts_in(tmp_path / "out") as parts:
        parts.begin()
        parts.add([record(0), record(1, ok=False), record(2), record(3, ok=False), record(4, ok=False), record(5, 7)])
        parts.add([record(6, ok=False)])
        parts.flush()
    with parts_in(tmp_path / "out") as parts:
        parts.resume()
        assert written(tmp_path / "out") == {"part-00000.jsonl": [(0, 0), (2, 0)], "part-00001.jsonl": [(5, 7)]}
        done = parts.progress.snapshot()
        assert done.of(5).hash_at(7) == hash_of(b"5-7.jpg")
        assert done.of(5).hash_at(0) is None
        assert done.of(1).hash_at(0) is None
        parts.add(record(number) for number in (1, 3, 4))
        assert written(tmp_path / "out")["part-00003.jsonl"] == [(1, 0), (3, 0), (4, 0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("part-00000.jsonl", b"{}\n", "part-00000.jsonl is damaged"),
        ("part-00000.jsonl", b"no json\n", "part-00000.jsonl is damaged"),
        ("part-00000.parquet", b"", "part-00000.parquet is damaged"),
        ("manifest.json", b"{", "its manifest is damaged"),
        ("manifest.json", b'{"settings": {"top_k": 3, "model": {"sha256": "0"}}}', "top-k was 3 and is 5"),
    ],
)
def test_what_cannot_be_resumed_is_not_touched(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = tmp_path / "out"
    with parts_in(folder) as parts:
        parts.begin()
        parts.add([record(0), record(1, ok=False), record(2)])
    (folder / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with parts_in(folder) as parts, pytest.raises(UsageError, match=message):
        parts.resume()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_parts_without_a_manifest_are_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "part-00000.jsonl").write_bytes(record(0).line)
    with parts_in(tmp_path) as parts, pytest.raises(UsageError, match="has no manifest"):
        parts.resume()


def test_a_new_output_replaces_the_files_of_the_old_one_only(tmp_path: Path) -> None:
    for name in ("part-00007.jsonl", "part-00001.parquet", "_SUCCESS", "manifest.json", "notes.txt", "part-x.jsonl"):
        (tmp_path / name).write_text("")
    with parts_in(tmp_path) as parts:
        parts.begin()
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "notes.txt", "part-x.jsonl"]


@posix_only
def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with parts_in(tmp_path / "out"), pytest.raises(OutputError, match="another run"), parts_in(tmp_path / "out"):
        pass


@pytest.mark.guarantee("ray-resume")
@posix_only
@pytest.mark.parametrize("first", range(1, 40))
def test_killed_at_any_system_call_and_resumed_each_input_has_one_record(tmp_path: Path, first: int) -> None:
    folder = tmp_path / "out"
    inputs = [record(number, ok=number % 3 > 0) for number in range(10)]

    def run(*, resumes: bool) -> None:
        with parts_in(folder) as parts:
            parts.resume() if resumes else parts.begin()
            done = parts.progress.snapshot()
            parts.add(item for item in inputs if done.of(item.key.source).hash_at(0) is None)
            parts.progress.end_list(len(inputs), 0)
            parts.finish()

    with dies_at(first, folder):
        try:
            run(resumes=False)
        except KilledError:
            assert not (folder / "_SUCCESS").exists() or _is_complete(folder)
    run(resumes=True)
    assert _is_complete(folder)
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def _is_complete(folder: Path) -> bool:
    found = sorted(key for keys in written(folder).values() for key in keys)
    return found == [(number, 0) for number in range(10)]


def test_progress_counts_each_input_once() -> None:
    progress, rng = Progress(), np.random.default_rng(0)
    keys = [Key(int(source), int(item)) for source, item in rng.integers(0, 40, (2000, 2))]
    assert [key for key in keys if progress.add(key, hash(key) & 0xFFFF)] == [*dict.fromkeys(keys)]
    done = progress.snapshot()
    for source in range(41):
        for item in range(41):
            key = Key(source, item)
            assert done.of(source).hash_at(item) == (hash(key) & 0xFFFF if key in keys else None)


def test_nothing_is_done_at_first() -> None:
    empty = np.empty(0, np.int64)
    assert Done(empty, empty, empty).of(3).hash_at(0) is None
