"""jsonl, csv and tsv are the same bytes in every environment, and a run respects the limits of the machine."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.binary import LEVIT, environment, levit, unprivileged
from tests.support.sample_images import sample_image, write_images

resource = pytest.importorskip("resource", reason="tests what only POSIX systems have")

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with names that are not ASCII or not UTF-8, and a broken one."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, 2)
    sample_image(seed=3).save(folder / "Bäume 猫.png")
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        sample_image(seed=4).save(file, "PNG")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, photos: Path) -> dict[str, bytes]:
    return {
        format: levit("predict", "-m", tiny_folder, photos, "-f", format, "-q").stdout
        for format in ("jsonl", "csv", "tsv")
    }


ENVIRONMENTS: dict[str, dict[str, str]] = {
    "C": {"LC_ALL": "C"},
    "C without UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "no home": {"HOME": "/nonexistent", "XDG_CACHE_HOME": ""},
    "no color": {"NO_COLOR": "1"},
    "forced color": {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-256color"},
    "dumb": {"TERM": "dumb"},
    "20 columns": {"COLUMNS": "20", "LINES": "3"},
    "warnings are errors": {"PYTHONWARNINGS": "error"},
    "without asserts": {"PYTHONOPTIMIZE": "2"},
    "development mode": {"PYTHONDEVMODE": "1"},
}


@pytest.mark.guarantee("terminal-independence", "python-flags")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_machine_formats_are_the_same_bytes_in_every_environment(
    tiny_folder: Path, photos: Path, expected: dict[str, bytes], name: str
) -> None:
    format = sorted(expected)[sorted(ENVIRONMENTS).index(name) % 3]
    done = levit("predict", "-m", tiny_folder, photos, "-f", format, env=environment(**ENVIRONMENTS[name]))
    assert done.returncode == 1, done.stderr
    assert done.stdout == expected[format]
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"Warning" not in done.stderr
    assert b"5 images in" in done.stderr


@pytest.mark.guarantee("terminal-independence")
def test_a_narrow_ascii_table_is_complete(tiny_folder: Path, photos: Path) -> None:
    env = environment(COLUMNS="20", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = levit("predict", "-m", tiny_folder, photos, "-f", "table", env=env)
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout
    assert b"truncated" in done.stdout
    assert b"caf\\udce9.png" in done.stdout.replace(b"\n", b"")


@pytest.mark.guarantee("terminal-independence")
def test_a_user_without_name_and_home_can_predict(tiny_folder: Path, photos: Path, expected: dict[str, bytes]) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can change the user")
    for folder in (tiny_folder, photos):
        for parent in (folder, *folder.parents[:3]):
            parent.chmod(parent.stat().st_mode | 0o755)
    env = {name: value for name, value in environment(XDG_CACHE_HOME="").items() if name != "HOME"}
    as_other_user = ["setpriv", "--reuid=54321", "--clear-groups"]
    if subprocess.run([*as_other_user, "test", "-r", LEVIT], check=False).returncode:
        pytest.skip("other users cannot read the folder of this environment")
    command = [*as_other_user, LEVIT, "predict", "-m", tiny_folder, "-f", "jsonl", "-q"]
    one = sorted(photos.iterdir())[0]
    done = subprocess.run([*map(str, command), str(one)], capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout in expected["jsonl"]


@pytest.mark.guarantee("terminal-independence")
def test_a_read_only_home_is_no_error(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    command = unprivileged(LEVIT, "predict", "-m", tiny_folder, photos / "000.jpg")
    env = environment(HOME=str(tmp_path), XDG_CACHE_HOME="")
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    tmp_path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == []


def shell(script: str, cwd: Path) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, env=environment(), cwd=cwd, timeout=120, check=False
    )


@pytest.mark.guarantee("closed-streams")
def test_a_closed_stdout_is_exit_4_and_a_closed_stderr_is_ignored(
    tiny_folder: Path, photos: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    command = f"{LEVIT} predict -m {tiny_folder} {photos} -f jsonl"
    closed = shell(f"{command} >&-", tmp_path)
    assert closed.returncode == 4
    assert b"Cannot write to standard output" in closed.stderr
    without_stderr = shell(f"{command} 2>&-", tmp_path)
    assert (without_stderr.returncode, without_stderr.stdout) == (1, expected["jsonl"])
    full = shell(f"{command} 2>/dev/full", tmp_path)
    assert (full.returncode, full.stdout) == (1, expected["jsonl"])


@pytest.mark.guarantee("closed-streams")
def test_with_all_streams_closed_the_file_holds_only_the_records(
    tiny_folder: Path, photos: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    done = shell(f"{LEVIT} predict -m {tiny_folder} {photos} -o out.jsonl <&- >&- 2>&-", tmp_path)
    assert done.returncode == 1
    assert (tmp_path / "out.jsonl").read_bytes() == expected["jsonl"]


@pytest.mark.guarantee("few-file-descriptors")
@pytest.mark.parametrize("options", [[], ["--isolate"]])
def test_ten_thousand_files_need_at_most_64_descriptors(tiny_folder: Path, tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    count = 1_000 if options else 10_000
    sample_image(8, 8).save(folder / "00000.png")
    for index in range(1, count):
        os.link(folder / "00000.png", folder / f"{index:05d}.png")
    command = [LEVIT, "predict", "-m", tiny_folder, folder, "-o", tmp_path / "out.csv", "-k", "1", *options]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, env=environment(), check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == [str(folder / f"{index:05d}.png") for index in range(count)]
    assert {line.split(",", 1)[1] for line in lines} == {lines[0].split(",", 1)[1]}


@pytest.mark.guarantee("cpu-limits")
def test_one_core_uses_one_thread_and_gives_the_same_records(
    tiny_folder: Path, photos: Path, expected: dict[str, bytes]
) -> None:
    core = min(os.sched_getaffinity(0))
    command = [LEVIT, "predict", "-m", str(tiny_folder), str(photos), "-f", "jsonl", "-v"]
    done = subprocess.run(
        command, capture_output=True, env=environment(), check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    assert done.stdout == expected["jsonl"]
    assert b"1 thread, 1 stream" in done.stderr


def test_an_image_larger_than_the_address_space_is_an_error_record(tiny_folder: Path, tmp_path: Path) -> None:
    """It is decoded last and alone, after the model has allocated its memory."""
    write_images(tmp_path, 8)
    sample_image(8, 8).resize((12_000, 12_000)).convert("1").save(tmp_path / "large.png")
    options = ["-f", "jsonl", "--threads", "1", "--workers", "1", "--batch-size", "1"]
    command = [LEVIT, "predict", "-m", str(tiny_folder), str(tmp_path), *options]
    limit = 1 << 30
    done = subprocess.run(
        command, capture_output=True, env=environment(OPENBLAS_NUM_THREADS="1"), check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    *small, large = (json.loads(line) for line in done.stdout.splitlines())
    assert large["error"]["kind"] == "too_large"
    assert [record["status"] for record in small] == ["ok"] * 8
