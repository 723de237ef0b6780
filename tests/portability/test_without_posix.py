"""Without the modules and names that only POSIX systems have, the commands write the same bytes.

Each test runs the installed command, and the processes that it starts, with a ``sitecustomize`` that removes them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.binary import LEVIT, environment, installed_levit, records
from tests.support.faulty_decoders import SITECUSTOMIZE, ask_for
from tests.support.foreign_systems import MODULES, NAMES, linux_only, without_posix
from tests.support.sample_images import sample_image, write_images

pytestmark = linux_only
IMAGES = 12
TOOK_EFFECT = f"""
import importlib, os, select, signal, sys
for module, names in {NAMES!r}.items():
    assert not any(hasattr(sys.modules[module], name) for name in names), module
for name in {MODULES!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
"""


@pytest.fixture(scope="module")
def removed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(**without_posix(tmp_path_factory.mktemp("removed") / "site"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images; the fifth is cut, and the name of the last is not UTF-8."""
    folder = tmp_path_factory.mktemp("photos")
    paths = write_images(folder, IMAGES)
    paths[4].write_bytes(paths[4].read_bytes()[:700])
    paths[-1].rename(folder / "z caf\udce9.png")
    return folder


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The output of each format with everything in place."""
    folder = tmp_path_factory.mktemp("whole")
    for suffix in ("jsonl", "json", "csv"):
        done = installed_levit("predict", "-m", tiny_folder, photos, "-o", folder / f"out.{suffix}", "-q")
        assert done.returncode == 1, done.stderr
    return {path.suffix[1:]: path.read_bytes() for path in folder.iterdir()}


def test_the_names_are_removed_in_processes_that_a_process_starts(removed: dict[str, str]) -> None:
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TOOK_EFFECT!r}], check=True)"
    for code in (TOOK_EFFECT, start):
        subprocess.run([sys.executable, "-c", code], env=removed, check=True)


@pytest.mark.parametrize("options", [[], ["--timeout", "20"], ["--isolate"]])
def test_predict_to_stdout(
    tiny_folder: Path, photos: Path, whole: dict[str, bytes], removed: dict[str, str], options: list[str]
) -> None:
    done = installed_levit("predict", "-m", tiny_folder, photos, "-f", "jsonl", "-q", *options, env=removed)
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout == whole["jsonl"]


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("jsonl", []), ("csv", ["--overwrite", "--isolate"]), ("json", []), ("json", ["--overwrite"])],
)
def test_predict_to_a_new_file_and_over_an_old_one(
    tiny_folder: Path,
    photos: Path,
    whole: dict[str, bytes],
    removed: dict[str, str],
    tmp_path: Path,
    suffix: str,
    options: list[str],
) -> None:
    output = tmp_path / f"out.{suffix}"
    if options:
        output.write_text("old")
    done = installed_levit("predict", "-m", tiny_folder, photos, "-o", output, "-q", *options, env=removed)
    assert (done.returncode, done.stderr) == (1, b"")
    assert output.read_bytes() == whole[suffix]
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize(
    ("suffix", "kept"),
    [("jsonl", "all"), ("jsonl", "torn"), ("jsonl", "last half"), ("csv", "torn"), ("csv", "last half")],
)
def test_resume_completes_an_output(
    tiny_folder: Path,
    photos: Path,
    whole: dict[str, bytes],
    removed: dict[str, str],
    tmp_path: Path,
    suffix: str,
    kept: str,
) -> None:
    output = tmp_path / f"out.{suffix}"
    head, *lines = whole[suffix].splitlines(keepends=True)
    parts = {"all": lines, "torn": [*lines[:6], lines[6][:9]], "last half": lines[6:]}
    output.write_bytes(b"".join([head, *parts[kept]]))
    done = installed_levit("predict", "-m", tiny_folder, photos, "-o", output, "-q", "--resume", env=removed)
    assert (done.returncode, done.stderr) == (1, b"")
    assert output.read_bytes() == whole[suffix]
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.guarantee("resume-after-kill")
def test_resume_completes_the_output_of_a_killed_run(
    tiny_folder: Path, photos: Path, whole: dict[str, bytes], removed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    command = [LEVIT, "predict", "-m", str(tiny_folder), str(photos), "-o", str(output), "-q", "--resume", "-b", "1"]
    with subprocess.Popen(command, env=removed) as process:
        while process.poll() is None and not (output.exists() and output.stat().st_size > 400):
            time.sleep(0.002)
        process.kill()
    assert whole["jsonl"].startswith(output.read_bytes())
    done = installed_levit(*command[1:], env=removed)
    assert (done.returncode, done.stderr) == (1, b"")
    assert output.read_bytes() == whole["jsonl"]


@pytest.mark.guarantee("resume-mismatch")
def test_resume_refuses_the_output_of_another_model(
    photos: Path, whole: dict[str, bytes], removed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(whole["jsonl"][:2000])
    done = installed_levit("predict", "-m", "demo", photos, "-o", output, "-q", "--resume", env=removed)
    assert done.returncode == 2
    assert output.read_bytes() == whole["jsonl"][:2000]


@pytest.mark.guarantee("decoder-hang", "decoder-crash")
@pytest.mark.parametrize("options", [["--isolate"], []])
def test_hanging_and_crashing_decoders_fail_one_image_each(
    tiny_folder: Path, tmp_path: Path, options: list[str]
) -> None:
    env = environment(**without_posix(tmp_path / "site", SITECUSTOMIZE))
    paths = write_images(tmp_path / "photos", 6)
    ask_for("hang", paths[1])
    faults = {1: "timeout"}
    if options:
        ask_for("abort", paths[3])
        faults[3] = "decoder_crashed"
    done = installed_levit(
        "predict", "-m", tiny_folder, tmp_path / "photos", "-f", "jsonl", "-q", "--timeout", "2", *options, env=env
    )
    assert (done.returncode, done.stderr) == (1, b"")
    kinds = [record.get("error", {}).get("kind") for record in records(done.stdout)]
    assert kinds == [faults.get(number) for number in range(6)]


@pytest.mark.guarantee("not-regular-file")
def test_a_pipe_is_an_error_at_once(tiny_folder: Path, removed: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    command = ["predict", "-m", str(tiny_folder), str(tmp_path / "pipe.jpg"), "-f", "jsonl"]
    for options in ([], ["--isolate"]):
        done = installed_levit(*command, *options, env=removed)
        (record,) = records(done.stdout)
        assert record["error"]["kind"] == "not_regular"


@pytest.mark.guarantee("signals")
def test_a_signal_keeps_the_finished_records(tiny_folder: Path, removed: dict[str, str], tmp_path: Path) -> None:
    (first,) = write_images(tmp_path / "photos", 1)
    output = tmp_path / "out.json"
    command = [LEVIT, "predict", "-m", str(tiny_folder), "-o", str(output), "--files-from", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=removed) as process:
        assert process.stdin is not None
        process.stdin.write(f"{first}\n".encode())
        process.stdin.flush()
        while not any(b'"status"' in path.read_bytes() for path in tmp_path.glob(".levit-*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert [record["path"] for record in json.loads(output.read_bytes())["results"]] == [str(first)]


def test_info(tiny_folder: Path, removed: dict[str, str]) -> None:
    for model in (tiny_folder, "demo"):
        done = installed_levit("info", model, env=removed)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == installed_levit("info", model).stdout


@pytest.mark.parametrize("to", ["hf", "timm"])
def test_convert_checkpoint(tiny_folder: Path, removed: dict[str, str], tmp_path: Path, to: str) -> None:
    name = "result" if to == "hf" else "result.safetensors"
    for folder, env in ((tmp_path / "with", environment()), (tmp_path / "without", removed)):
        folder.mkdir()
        done = installed_levit("convert-checkpoint", tiny_folder, "-o", name, "--to", to, cwd=folder, env=env)
        assert done.returncode == 0, done.stderr
        again = installed_levit(
            "convert-checkpoint", tiny_folder, "-o", name, "--to", to, "--overwrite", cwd=folder, env=env
        )
        assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "with") == contents(tmp_path / "without") != {}


def test_eval(tiny_folder: Path, removed: dict[str, str], tmp_path: Path) -> None:
    labels = json.loads((tiny_folder / "config.json").read_text(encoding="utf-8"))["id2label"].values()
    for number, label in enumerate(labels):
        (tmp_path / "set" / label).mkdir(parents=True)
        sample_image(seed=number).save(tmp_path / "set" / label / "image.png")
    for name, env in (("with.json", environment()), ("without.json", removed)):
        done = installed_levit("eval", "-m", tiny_folder, "set", "-o", name, "-q", cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
    assert timeless(tmp_path / "with.json") == timeless(tmp_path / "without.json")


def timeless(path: Path) -> object:
    """Return the results of an evaluation without the times."""
    content = json.loads(path.read_bytes())
    return {key: value for key, value in content.items() if "_s" not in key}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
