"""``levit sort`` as a process: options, output, exit codes, permissions, other systems and kills."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.binary import LEVIT, environment, installed_levit, levit, records, unprivileged
from tests.support.foreign_systems import linux_only, posix_only, without_posix
from tests.support.sample_images import write_images
from tests.support.sorting import Photos, tree, write_photos

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return write_photos(tmp_path / "work")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "json"])
def test_results_of_predict_are_sorted_and_put_back(suffix: str, tiny_folder: Path, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "photos", 3)
    paths[2].rename(tmp_path / "photos" / os.fsdecode(b"caf\xe9.png"))
    (tmp_path / "photos/cut.jpg").write_bytes(b"")
    done = levit("predict", "-m", tiny_folder, "photos", "-o", f"out.{suffix}", "-q", cwd=tmp_path)
    assert done.returncode == 1
    before = tree(tmp_path)
    done = levit("sort", f"out.{suffix}", "--to", "sorted", "--mode", "move", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert b"Sorted 3 images" in done.stderr
    assert b"1 result is an error" in done.stderr
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cut.jpg"]
    done = levit("sort", "--undo", "sorted", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert tree(tmp_path) == before


def test_a_dry_run_prints_what_would_be_done(photos: Photos) -> None:
    photos.list(photos.photos / "gone.jpg", "cat")
    before = tree(photos.folder)
    command = ("sort", photos.results, "--to", photos.sorted, "--dry-run")
    done = levit(*command)
    assert done.returncode == 1
    first, *_, last = records(done.stdout)
    assert first == {
        "path": str(photos.photos / "a.jpg"), "status": "ok", "action": "copy", "to": str(photos.sorted / "cat/a.jpg"),
        "label": "cat", "prob": 0.9, "sidecars": [
            {"path": str(photos.photos / "a.jpg.json"), "to": str(photos.sorted / "cat/a.jpg.json")}
        ],
    }  # fmt: skip
    assert last["status"] == "error"
    assert b"Not sorted: " in done.stderr
    table = levit(*command, "--format", "table").stdout.decode().splitlines()
    assert table[0] == f"copy {photos.photos / 'a.jpg'} → {photos.sorted / 'cat/a.jpg'}"
    assert tree(photos.folder) == before


def test_each_file_is_printed_with_format(photos: Photos) -> None:
    done = levit("sort", photos.results, "--to", photos.sorted, "--format", "jsonl", "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    assert [record["status"] for record in records(done.stdout)] == ["ok"] * 5
    done = levit("sort", "--undo", photos.sorted, "--format", "jsonl", "-q")
    assert {record["action"] for record in records(done.stdout)} == {"undo copy"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], b"RESULTS is missing"),
        (["results.jsonl"], b"--to DIR is missing"),
        (["--undo", "sorted", "--to", "other"], b"--undo takes no RESULTS"),
        (["results.jsonl", "--to", "sorted", "--min-prob", "2"], b"min-prob"),
        (["results.jsonl", "--to", "sorted", "--mode", "burn"], b"burn"),
        (["missing.jsonl", "--to", "sorted"], b"no such file"),
        (["results.jsonl", "--to", "results.jsonl"], b"it is not a folder"),
        (["--undo", "photos"], b"nothing to undo"),
    ],
)
def test_usage_errors(arguments: list[str], message: bytes, photos: Photos) -> None:
    before = tree(photos.folder)
    done = levit("sort", *arguments, cwd=photos.folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert tree(photos.folder) == before


@posix_only
def test_folders_without_permission(photos: Photos) -> None:
    photos.photos.chmod(0o500)
    command = unprivileged(LEVIT, "sort", photos.results, "--to", photos.sorted, "--mode", "move")
    done = subprocess.run(command, capture_output=True, env=environment(), check=False)
    assert done.returncode == 1
    assert done.stderr.count(b"its folder is read-only") == 3
    photos.photos.chmod(0o700)
    photos.sorted.chmod(0o500)
    done = subprocess.run(command, capture_output=True, env=environment(), check=False)
    photos.sorted.chmod(0o700)
    assert done.returncode == 4
    assert b"Permission denied" in done.stderr


@linux_only
def test_sorting_without_posix(photos: Photos, tmp_path: Path) -> None:
    removed = environment(**without_posix(tmp_path / "site"))
    before = tree(photos.folder)
    for mode in ("copy", "move"):
        done = installed_levit("sort", photos.results, "--to", photos.sorted, "--mode", mode, env=removed)
        assert done.returncode == 0, done.stderr
        done = installed_levit("sort", "--undo", photos.sorted, env=removed)
        assert done.returncode == 0, done.stderr
        assert tree(photos.folder) == before


@linux_only
@pytest.mark.guarantee("sort-undo")
def test_killed_runs_are_completed_and_put_back() -> None:
    command = [sys.executable, "-m", "tests.hostile.kills_sort", "--kills", "5"]
    done = subprocess.run(command, capture_output=True, env=environment(), cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert b"nothing lost" in done.stdout


def test_hostile_names_reach_the_terminal_escaped(photos: Photos) -> None:
    photos.list("\x1b[2Jred.jpg", "cat")
    done = levit("sort", photos.results, "--to", photos.sorted, "--format", "table")
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"\\x1b[2Jred.jpg" in done.stderr


def test_no_engine_is_imported(photos: Photos) -> None:
    script = "import sys; sys.argv[0] = 'levit'\nfrom levit_cli.cli import app\n"
    script += "try: app(prog_name='levit')\nfinally: print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", script, "sort", str(photos.results), "--to", str(photos.sorted)]
    done = subprocess.run(command, capture_output=True, env=environment(), check=True)
    assert {"openvino", "torch", "pyarrow"}.isdisjoint(done.stderr.decode().split())
