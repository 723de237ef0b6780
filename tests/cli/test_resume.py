"""``levit predict --resume``: a run that was killed, stopped or refused a record is completed by the next one."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.binary import LEVIT, environment, levit, records
from tests.support.extras import needs_torch
from tests.support.faulty_decoders import ask_for, faulty_decoders
from tests.support.foreign_systems import posix_only
from tests.support.random_weights import TINY, random_state, write_folder
from tests.support.sample_images import sample_image, write_images

IMAGES = 24


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TINY with other weights."""
    return write_folder(tmp_path_factory.mktemp("other") / "hf", random_state(TINY, seed=9))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two of them broken, of sizes whose crop offset the preprocessing variants round differently."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(IMAGES):
        sample_image(90 + number, 71, seed=number).save(folder / f"{number:03d}.jpg")
    for number in (4, 17):
        path = folder / f"{number:03d}.jpg"
        path.write_bytes(path.read_bytes()[:700])
    return folder


Whole = Callable[..., bytes]


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The output of an uninterrupted run for a suffix."""
    known: dict[str, bytes] = {}

    def uninterrupted(suffix: str) -> bytes:
        if suffix not in known:
            output = tmp_path_factory.mktemp("whole") / f"out.{suffix}"
            assert levit("predict", "-m", tiny_folder, photos, "-o", output, "-k", "3").returncode == 1
            known[suffix] = output.read_bytes()
        return known[suffix]

    return uninterrupted


def resume(
    model: Path, photos: Path | list[Path], output: Path, *options: str, **env: str
) -> "subprocess.CompletedProcess[bytes]":
    inputs = photos if isinstance(photos, list) else [photos]
    return levit("predict", "-m", model, *inputs, "-o", output, "-k", "3", "--resume", *options, env=environment(**env))


@pytest.mark.guarantee("resume-after-kill")
def test_killed_repeatedly_and_resumed_gives_the_same_file(
    tiny_folder: Path, photos: Path, whole: Whole, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    rng = random.Random(5)
    command = [LEVIT, "predict", "-m", tiny_folder, photos, "-o", output, "-k", "3", "-b", "2", "--resume", "-q"]
    for _ in range(4):
        with subprocess.Popen([*map(str, command)], env=environment()) as process:
            goal = (output.stat().st_size if output.exists() else 0) + rng.randrange(1, 1500)
            while process.poll() is None and not (output.exists() and output.stat().st_size >= goal):
                time.sleep(0.002)
            process.kill()
        left = output.read_bytes() if output.exists() else b""
        assert records(left[: left.rfind(b"\n") + 1]) == records(whole("jsonl"))[: left.count(b"\n")]
    done = resume(tiny_folder, photos, output)
    assert done.returncode == 1, done.stderr
    assert b"existing records kept" in done.stderr
    assert output.read_bytes() == whole("jsonl")
    assert os.listdir(tmp_path) == ["out.jsonl"]


@pytest.mark.guarantee("resume-after-kill")
@pytest.mark.parametrize(
    ("suffix", "share"), [("jsonl", 0.0), ("jsonl", 0.5), ("jsonl", 1.0), ("csv", 0.03), ("csv", 0.5), ("tsv", 0.7)]
)
def test_truncated_copy_of_an_output_is_completed(
    tiny_folder: Path, photos: Path, whole: Whole, tmp_path: Path, suffix: str, share: float
) -> None:
    output = tmp_path / f"part.{suffix}"
    output.write_bytes(whole(suffix)[: int(share * len(whole(suffix)))])
    done = resume(tiny_folder, photos, output)
    assert done.returncode == 1, done.stderr
    assert output.read_bytes() == whole(suffix)


@pytest.mark.guarantee("resume-after-kill")
def test_failed_images_are_retried_and_added_and_removed_images_are_merged(
    tiny_folder: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    output, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    assert resume(tiny_folder, folder, output).returncode == 1  # without a file, it is a first run
    sample_image(seed=99).save(folder / "004.jpg")
    sample_image(seed=98).save(folder / "010-new.png")
    (folder / "020.jpg").unlink()
    done = resume(tiny_folder, folder, output, "-v")
    assert done.returncode == 1
    assert b"3 images in" in done.stderr
    assert b"1 failed; 21 existing records kept" in done.stderr
    assert b"Removed 1 record of inputs" in done.stderr
    assert levit("predict", "-m", tiny_folder, folder, "-o", whole, "-k", "3").returncode == 1
    assert output.read_bytes() == whole.read_bytes()
    assert b"017.jpg,error" in output.read_bytes()


CHANGES: dict[str, tuple[list[str], bytes]] = {
    "model": ([], b"model: sha256 was "),
    "transform": (["--preprocessing", "fb"], b"preprocessing: "),
    "top-k": (["-k", "2"], b"top-k was 3 and is 2"),
    "format": (["--format", "csv"], b"format was jsonl and is csv"),
    "labels": (["--labels", "labels.txt"], b"labels was "),
    "decode": (["--decode", "fast"], b"preprocessing: decode was exact and is fast"),
    "resizer": (["--resizer", "pillow"], b"preprocessing: resizer was simd and is pillow"),
    "engine": (["--engine", "torch", "--precision", "fp32"], b"engine was openvino and is torch"),
}


@pytest.fixture(scope="module")
def noted(tiny_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an earlier run, with its fingerprint in an extended attribute."""
    output = tmp_path_factory.mktemp("noted") / "out.jsonl"
    done = levit("predict", "-m", tiny_folder, photos / "000.jpg", photos / "001.jpg", "-o", output, "-k", "3")
    assert done.returncode == 0, done.stderr
    if not hasattr(os, "listxattr") or "user.levit.run" not in os.listxattr(output):
        pytest.skip("this file system keeps no extended attributes")
    return output


@pytest.mark.guarantee("resume-mismatch")
@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=needs_torch) if name == "engine" else name for name in CHANGES]
)
def test_output_of_another_run_is_refused_and_the_difference_named(
    tiny_folder: Path, other_model: Path, photos: Path, noted: Path, tmp_path: Path, change: str
) -> None:
    output = Path(shutil.copy2(noted, tmp_path))
    before = output.read_bytes()
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    options, words = CHANGES[change]
    model = other_model if change == "model" else tiny_folder
    options = [str(tmp_path / option) if option == "labels.txt" else option for option in options]
    done = resume(model, photos, output, *options)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert b"was not touched" in done.stderr
    assert output.read_bytes() == before
    assert not done.stdout


@pytest.mark.guarantee("resume-mismatch")
@pytest.mark.parametrize(("change", "words"), [
    ("model", b"is different now, because the model"),
    ("transform", b"is different now, because the model"),
    ("top-k", b"top-k is 3, this run's is 2"),
    ("format", b"it begins with"),
    ("labels", b"this model and its labels would write it differently"),
])  # fmt: skip
def test_output_of_another_run_without_fingerprint_is_detected_by_its_records(
    tiny_folder: Path, other_model: Path, photos: Path, whole: Whole, tmp_path: Path, change: str, words: bytes
) -> None:
    output = tmp_path / "copy.jsonl"
    output.write_bytes(whole("jsonl")[:2000])
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    options = [str(tmp_path / option) if option == "labels.txt" else option for option in CHANGES[change][0]]
    done = resume(other_model if change == "model" else tiny_folder, photos, output, *options)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert output.read_bytes() == whole("jsonl")[:2000]


@pytest.mark.guarantee("resume-mismatch")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"mine\n", b"record 1: it is not a jsonl record"),
        (b"RECORDS\0\0\0\nRECORDS", b"it is not a jsonl record"),
        (b'RECORDS{"path": "x", "status": "ok", "top": []}\n', b"top-k is 0"),
    ],
)
def test_damaged_output_is_refused_and_the_record_named(
    tiny_folder: Path, photos: Path, whole: Whole, tmp_path: Path, content: bytes, words: bytes
) -> None:
    output = tmp_path / "out.jsonl"
    damaged = content.replace(b"RECORDS", b"".join(whole("jsonl").splitlines(keepends=True)[:3]))
    output.write_bytes(damaged)
    done = resume(tiny_folder, photos, output)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert output.read_bytes() == damaged


def test_output_of_other_inputs_is_not_replaced(tiny_folder: Path, photos: Path, whole: Whole, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(whole("jsonl"))
    write_images(tmp_path / "others", 2)
    done = resume(tiny_folder, tmp_path / "others", output)
    assert done.returncode == 2, done.stderr
    assert b"only records of other inputs" in done.stderr
    assert output.read_bytes() == whole("jsonl")


def test_output_without_fingerprint_needs_an_existing_image_to_be_checked(
    tiny_folder: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    write_images(folder, 2)
    assert levit("predict", "-m", tiny_folder, folder, "-o", tmp_path / "out.jsonl", "-k", "3").returncode == 0
    shutil.copyfile(tmp_path / "out.jsonl", tmp_path / "copy.jsonl")
    for path in folder.iterdir():
        path.unlink()
    sample_image(seed=5).save(folder / "new.png")
    done = resume(tiny_folder, [folder / "000.jpg", folder / "new.png"], tmp_path / "copy.jsonl")
    assert done.returncode == 2, done.stderr
    assert b"none of its images can be read" in done.stderr
    assert resume(tiny_folder, [folder / "000.jpg", folder / "new.png"], tmp_path / "out.jsonl").returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume"], b"no --output is given"),
        (["--resume", "-o", "out.json"], b"json is one document"),
        (["--resume", "-o", "out.csv", "--overwrite"], b"use only one of them"),
    ],
)
def test_resume_without_a_resumable_output_is_a_usage_error(
    tiny_folder: Path, tmp_path: Path, options: list[str], words: bytes
) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", tiny_folder, path, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert os.listdir(tmp_path) == [path.name]


# Crashes and hangs


@posix_only
@pytest.mark.guarantee("decoder-crash")
def test_decoder_crash_leaves_an_output_that_resume_completes(tiny_folder: Path, tmp_path: Path) -> None:
    folder, output, isolated = tmp_path / "photos", tmp_path / "out.jsonl", tmp_path / "isolated.jsonl"
    write_images(folder, 60)
    ask_for("abort", folder / "055.jpg")
    faults = faulty_decoders(tmp_path / "site")
    command: tuple[str | Path, ...] = ("predict", "-m", tiny_folder, folder, "-k", "3", "-b", "1", "--workers", "1")
    crashed = levit(*command, "-o", output, env=environment(**faults))
    assert crashed.returncode == -signal.SIGABRT
    before = output.read_bytes()
    assert before.endswith(b"\n")
    done = resume(tiny_folder, folder, output, **faults)
    assert done.returncode == 1, done.stderr
    assert output.read_bytes().startswith(before)
    (error,) = [record["error"] for record in records(output.read_bytes()) if record["status"] == "error"]
    assert error == {"kind": "decoder_crashed", "message": "the decoder was killed by SIGABRT"}
    survived = levit(*command, "-o", isolated, "--isolate", env=environment(**faults))
    assert survived.returncode == 1, survived.stderr
    assert isolated.read_bytes() == output.read_bytes()


@pytest.mark.guarantee("decoder-hang")
@pytest.mark.parametrize("options", [[], ["--isolate"]])
def test_each_hanging_decoder_is_a_timeout_record(tiny_folder: Path, tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "photos"
    paths = write_images(folder, 20)
    for number in (3, 9, 10):
        ask_for("hang", paths[number])
    faults = faulty_decoders(tmp_path / "site")
    command = ["predict", "-m", str(tiny_folder), str(folder), "-f", "jsonl", "--timeout", "3", *options]
    done = levit(*command, env=environment(**faults))
    assert done.returncode == 1, done.stderr
    found = records(done.stdout)
    assert [record["path"] for record in found] == [*map(str, paths)]
    errors = {record["path"]: record["error"] for record in found if record["status"] == "error"}
    assert [*errors] == [str(paths[number]) for number in (3, 9, 10)]
    assert {(error["kind"], error["message"]) for error in errors.values()} == {("timeout", "not decoded within 3 s")}


def test_isolation_changes_no_byte(tiny_folder: Path, photos: Path, whole: Whole, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert levit("predict", "-m", tiny_folder, photos, "-o", output, "-k", "3", "--isolate").returncode == 1
    assert output.read_bytes() == whole("jsonl")


# Interrupted runs


@posix_only
@pytest.mark.guarantee("full-disk")
def test_full_disk_leaves_whole_records_and_resume_adds_the_rest(
    tiny_folder: Path, photos: Path, whole: Whole, tmp_path: Path
) -> None:
    import resource

    output = tmp_path / "out.jsonl"
    limit = len(whole("jsonl")) // 2
    command = [LEVIT, "predict", "-m", tiny_folder, photos, "-o", output, "-k", "3", "-b", "2"]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, env=environment(), check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert str(output).encode() in done.stderr
    assert b"File too large" in done.stderr
    left = output.read_bytes()
    assert left.endswith(b"\n")
    assert whole("jsonl").startswith(left)
    assert resume(tiny_folder, photos, output).returncode == 1
    assert output.read_bytes() == whole("jsonl")


@pytest.mark.guarantee("concurrent-runs")
@pytest.mark.parametrize("options", [[], ["--overwrite"], ["--resume"]])
def test_second_run_with_the_same_output_is_refused(tiny_folder: Path, tmp_path: Path, options: list[str]) -> None:
    first, second = write_images(tmp_path / "photos", 2)
    output = tmp_path / "out.jsonl"
    command = [LEVIT, "predict", "-m", str(tiny_folder), "-o", str(output), "-q", "--files-from", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None
        process.stdin.write(f"{first}\n".encode())
        process.stdin.flush()
        while not output.exists() or not output.stat().st_size:
            time.sleep(0.01)
        refused = levit("predict", "-m", tiny_folder, second, "-o", output, *options)
        assert refused.returncode == 4, refused.stderr
        assert b"another run is writing to it" in refused.stderr
        process.stdin.write(f"{second}\n".encode())
        process.stdin.close()
        assert process.wait(60) == 0
    assert [record["path"] for record in records(output.read_bytes())] == [str(first), str(second)]


@posix_only
@pytest.mark.guarantee("signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("options", [[], ["--isolate"]])
def test_signal_keeps_finished_records_names_resume_and_leaves_no_process(
    tiny_folder: Path, tmp_path: Path, sent: signal.Signals, code: int, options: list[str]
) -> None:
    first, second = write_images(tmp_path / "photos", 2)
    ask_for("hang", tmp_path / "photos" / "hang.jpg")
    output = tmp_path / "out.jsonl"
    command = [LEVIT, "predict", "-m", str(tiny_folder), "-o", str(output), "--files-from", "-", *options]
    env = environment(**faulty_decoders(tmp_path / "site"))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(f"{first}\n".encode())
        process.stdin.flush()
        while not output.exists() or not output.read_bytes().endswith(b"\n"):
            time.sleep(0.01)
        process.stdin.write(f"{tmp_path}/photos/hang.jpg\n{second}\n".encode())
        process.stdin.flush()
        time.sleep(0.3)
        os.killpg(process.pid, sent)  # as a terminal does
        assert process.wait(20) == code
        message = process.stderr.read()
    assert b"--resume" in message
    assert b"Traceback" not in message
    assert [record["path"] for record in records(output.read_bytes())] == [str(first)]
    deadline = time.monotonic() + 10
    while has_processes(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@posix_only
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_json_document_is_the_old_or_the_new_one(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    sent = signal.Signals[name]
    (first,) = write_images(tmp_path / "photos", 1)
    output = tmp_path / "out.json"
    output.write_text("old")
    options = ["-m", str(tiny_folder), "-o", str(output), "--overwrite"]
    command = [LEVIT, "predict", *options, "--files-from", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None
        process.stdin.write(f"{first}\n".encode())
        process.stdin.flush()
        while not any(b'"status"' in path.read_bytes() for path in tmp_path.glob(".levit-*")):
            time.sleep(0.01)
        assert output.read_text() == "old"
        process.send_signal(sent)
        process.wait(20)
    if name == "SIGKILL":
        assert output.read_text() == "old"
        assert levit("predict", first, *options).returncode == 0
    assert [record["path"] for record in json.loads(output.read_bytes())["results"]] == [str(first)]
    assert sorted(os.listdir(tmp_path)) == ["out.json", "photos"]


def test_refused_model_leaves_the_output_unchanged(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "photos", 1)
    (tmp_path / "old.csv").write_text("old")
    for name in ("old.csv", "new.csv"):
        done = levit("predict", "-m", "./nowhere.pth", path, "-o", tmp_path / name, "--overwrite")
        assert done.returncode == 3
    assert (tmp_path / "old.csv").read_text() == "old"
    assert not (tmp_path / "new.csv").exists()
