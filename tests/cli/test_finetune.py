"""The installed ``levit finetune``: exit codes, signals, kills, ``torchrun``, and the model that comes out."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from levit_cli.checkpoints import load
from tests.finetune.sets import write_set, write_shape
from tests.support.binary import LEVIT, TIMEOUT_S, environment, levit

TIMES = {"images_per_s", "epoch_s", "elapsed_s"}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    shape = write_shape(tmp_path_factory.mktemp("shape") / "config.json")
    return (
        f"--from-scratch {shape} --image-size 48 --epochs 3 --batch-size 12 --lr 3e-3 --ema 0.5 --warmup-epochs 0 "
        "--precision fp32 --device cpu --workers 0"
    ).split()


@pytest.fixture(scope="module")
def finished(images: Path, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    done = finetune(images, out, *options)
    assert done.returncode == 0, done.stderr.decode()
    assert b"epoch 3/3: loss" in done.stderr
    assert re.search(rb"Training on cpu in (bf16|fp32), \d+ threads", done.stderr)
    return out


def finetune(data: Path, out: Path, *options: str) -> "subprocess.CompletedProcess[bytes]":
    return levit("finetune", data, "-o", out, *options, env=environment(**ONE_THREAD))


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def test_predict_takes_the_run_folder(finished: Path, images: Path) -> None:
    done = levit("predict", images / "val", "-m", finished, "--format", "jsonl", "--precision", "fp32")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    right = sum(record["top"][0]["label"] == Path(record["path"]).parent.name for record in records)
    best = max(rows(finished), key=lambda row: float(row["val_top1"]))
    assert (right, len(records)) == (best["val_correct"], best["val_images"])


def test_eval_finds_what_the_training_found(finished: Path, images: Path) -> None:
    done = levit("eval", images / "val", "-m", finished, "--format", "json")
    assert done.returncode == 0, done.stderr.decode()
    evaluation = load(finished).evaluation
    assert evaluation is not None
    found = json.loads(done.stdout)["top1"]
    assert (found["correct"] / found["total"], found["total"]) == (evaluation.top1, evaluation.images)


@pytest.mark.guarantee("training-interrupted")
@pytest.mark.parametrize(
    ("sent", "code", "seconds"),
    [(signal.SIGKILL, -9, 0.5), (signal.SIGKILL, -9, 2.0), (signal.SIGINT, 130, 1.0), (signal.SIGTERM, 143, 2.0)],
)
def test_a_run_that_was_ended_resumes_to_the_same_end(
    sent: signal.Signals, code: int, seconds: float, finished: Path, images: Path, options: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    running = subprocess.Popen(
        [LEVIT, "finetune", images, "-o", out, *options],
        stderr=subprocess.PIPE, env=environment(**ONE_THREAD), text=True,
    )  # fmt: skip
    assert running.stderr is not None
    assert "3 classes" in running.stderr.readline()
    time.sleep(seconds)  # wherever that is
    running.send_signal(sent)
    _, said = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode in (code, 0), said  # 0: it was quicker
    if (out / "model.safetensors").exists():
        load(out)
    done = finetune(images, out, "--resume")
    assert done.returncode == 0, done.stderr.decode()
    assert rows(out) == rows(finished)
    assert (out / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.fixture
def endless(images: Path, options: list[str], tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run in its second epoch, with a process that reads images."""
    options = [*options, "--epochs", "10000", "--workers", "1"]
    running = subprocess.Popen(
        [LEVIT, "finetune", images, "-o", tmp_path / "run", *options],
        stderr=subprocess.PIPE, env=environment(**ONE_THREAD), text=True, start_new_session=True,
    )  # fmt: skip
    assert running.stderr is not None
    while "epoch 1/" not in running.stderr.readline():
        pass
    yield running
    running.kill()
    running.wait()


@pytest.mark.guarantee("training-interrupted")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_saves_and_says_how_to_go_on(
    sent: signal.Signals, code: int, endless: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    time.sleep(0.3)
    os.killpg(endless.pid, sent)  # as a terminal or a service manager does
    _, said = endless.communicate(timeout=TIMEOUT_S)
    assert endless.returncode == code
    assert "--resume" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "state.pt").exists()


@pytest.mark.guarantee("training-interrupted")
def test_a_reader_that_the_system_ends_is_no_bug_of_ours(endless: "subprocess.Popen[str]", tmp_path: Path) -> None:
    ended = False
    while not ended:  # an epoch's reader may be gone before it is hit
        children = Path(f"/proc/{endless.pid}/task/{endless.pid}/children").read_text().split()
        with suppress(ProcessLookupError):
            for child in children:
                os.kill(int(child), signal.SIGKILL)
                ended = True
    _, said = endless.communicate(timeout=TIMEOUT_S)
    assert endless.returncode == 1
    assert "was ended by the system" in said
    assert "--resume" in said
    assert load(tmp_path / "run").labels.names == ("blue", "green", "red")


def test_two_processes_do_what_one_does(finished: Path, images: Path, tmp_path: Path) -> None:
    """With batch norms at rest the gradients of two halves are those of the whole."""
    options = [
        "-m", str(finished), "--freeze", "backbone", "--epochs", "2", "--batch-size", "12", "--lr", "1e-2",
        "--precision", "fp32", "--device", "cpu", "--workers", "0",
    ]  # fmt: skip
    assert finetune(images, tmp_path / "one", *options).returncode == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "levit_cli", "finetune", str(images), "-o", str(tmp_path / "two"), *options]
    done = subprocess.run(command, capture_output=True, env=environment(**ONE_THREAD), timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"epoch 2/2") == 1
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert (one["val_correct"], one["val_images"]) == (two["val_correct"], two["val_images"])
        assert one["val_loss"] == pytest.approx(two["val_loss"], abs=1e-5)
        assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-5)


@pytest.mark.guarantee("training-disk-full")
def test_a_full_disk_ends_the_run_and_leaves_what_was_written(images: Path, options: list[str], tmp_path: Path) -> None:
    """No file may grow beyond the weights: the best model fits, the state does not."""
    limit = 600_000
    done = subprocess.run(
        [LEVIT, "finetune", images, "-o", tmp_path / "run", *options],
        capture_output=True, env=environment(**ONE_THREAD), timeout=TIMEOUT_S, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 4, done.stderr.decode()
    assert b"Cannot write" in done.stderr
    assert load(tmp_path / "run").labels.names == ("blue", "green", "red")
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--epochs", "0"], 2, "out of range"),
        (["--max-unreadable", "many"], 2, "no share"),
        (["--resume"], 2, "No run to resume"),
        (["--resume", "--overwrite"], 2, "goes on with what is there"),
        (["--distill", "loud"], 2, "loud"),
        (["-m", "/nowhere/model.pth"], 3, "Unknown model"),
        (["--config", "/nowhere.toml"], 3, "Cannot read the settings"),
    ],
)
def test_bad_options(options: list[str], code: int, message: str, images: Path, tmp_path: Path) -> None:
    done = finetune(images, tmp_path / "run", *options)
    assert done.returncode == code, done.stderr.decode()
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_without_a_compiler_there_is_no_compiled_run(images: Path, options: list[str], tmp_path: Path) -> None:
    without = environment(CXX=str(tmp_path / "no-compiler"), XDG_CACHE_HOME=str(tmp_path / "cache"))
    done = levit("finetune", images, "-o", tmp_path / "run", *options, "--compile", env=without)
    assert done.returncode == 3
    assert b"leave --compile away" in done.stderr


def test_no_folder_and_an_unwritable_one(images: Path, options: list[str], tmp_path: Path) -> None:
    assert finetune(tmp_path / "none", tmp_path / "run", *options).returncode == 2
    (tmp_path / "file").write_text("")
    done = finetune(images, tmp_path / "file" / "run", *options)
    assert done.returncode == 4, done.stderr.decode()
    assert finetune(images, images, *options).returncode == 2
