"""The installed ``levit finetune``: exit codes, signals, kills, ``torchrun``, and the resulting model."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from levit_cli.checkpoints import load
from levit_cli.finetune.run_folder import RunFolder
from tests.cli.test_startup import HEAVY, modules_after
from tests.data.test_labeled_files import write_rows
from tests.finetune.sets import write_architecture, write_set
from tests.support.archives import tar_of_folder, write_tar
from tests.support.binary import LEVIT, TIMEOUT_S, environment, levit
from tests.support.extras import needs_parquet, needs_torch

resource = pytest.importorskip("resource", reason="tests what only POSIX systems have")

pytestmark = needs_torch
TIMES = {"images_per_s", "epoch_s", "elapsed_s"}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    architecture = write_architecture(tmp_path_factory.mktemp("architecture") / "config.json")
    return (
        f"--from-scratch {architecture} --image-size 48 --epochs 4 --batch-size 12 --lr 3e-3 --ema 0.5 "
        "--warmup-epochs 0 --precision fp32 --device cpu --workers 0"
    ).split()


@pytest.fixture(scope="module")
def finished(images: Path, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = finetune(images, folder, *options)
    assert done.returncode == 0, done.stderr.decode()
    assert b"epoch 4/4: loss" in done.stderr
    assert re.search(rb"Training on cpu in fp32, 1 thread\n", done.stderr)
    return folder


def finetune(data: Path, folder: Path, *options: str) -> "subprocess.CompletedProcess[bytes]":
    return levit("finetune", data, "-o", folder, *options, env=environment(**ONE_THREAD))


def start(data: Path, folder: Path, *options: str, **more: Any) -> "subprocess.Popen[str]":
    """Start ``levit finetune`` without waiting for its end."""
    command = [LEVIT, "finetune", str(data), "-o", str(folder), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment(**ONE_THREAD), text=True, **more)


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> None:
    """Read the log until a line contains the text."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} is not in the log: {lines}")


def children(process: "subprocess.Popen[str]") -> list[int]:
    """Return the process ids of the data-loader workers."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in text.split()]


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of each epoch, without the times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def test_predict_reaches_the_validation_accuracy_of_the_run(finished: Path, images: Path) -> None:
    done = levit("predict", images / "val", "-m", finished, "--format", "jsonl", "--precision", "fp32")
    assert done.returncode == 0, done.stderr.decode()
    records = [json.loads(line) for line in done.stdout.splitlines()]
    num_correct = sum(record["top"][0]["label"] == Path(record["path"]).parent.name for record in records)
    best = max(metrics_of(finished), key=lambda metrics: float(metrics["val_top1"]))
    assert (num_correct, len(records)) == (best["val_correct"], best["val_images"])


def test_eval_reports_the_accuracy_stored_in_the_model(finished: Path, images: Path) -> None:
    done = levit("eval", images / "val", "-m", finished, "--format", "json")
    assert done.returncode == 0, done.stderr.decode()
    evaluation = load(finished).evaluation
    assert evaluation is not None
    top1 = json.loads(done.stdout)["top1"]
    assert (top1["correct"] / top1["total"], top1["total"]) == (evaluation.top1, evaluation.images)


@pytest.mark.guarantee("training-interrupted")
@pytest.mark.parametrize(
    ("signum", "code", "log_line"),
    [
        (signal.SIGKILL, -9, "Training on"),
        (signal.SIGKILL, -9, "epoch 2/4"),
        (signal.SIGINT, 130, "epoch 1/4"),
        (signal.SIGTERM, 143, "epoch 2/4"),
    ],
)
def test_a_run_ended_by_a_signal_resumes_to_the_same_result(
    signum: signal.Signals, code: int, log_line: str, finished: Path, images: Path, options: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start(images, folder, *options)
    wait_for_line(process, log_line)
    process.send_signal(signum)
    _, rest_of_log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, rest_of_log
    if (folder / "model.safetensors").exists():
        load(folder)
    done = finetune(images, folder, "--resume")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Resumed at epoch" in done.stderr or log_line == "Training on"  # no state was saved yet
    assert metrics_of(folder) == metrics_of(finished)
    assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.mark.guarantee("labeled-files", "training-interrupted", "resume-data")
def test_an_archive_trains_the_same_model_as_its_folder_and_can_be_resumed(
    finished: Path, images: Path, options: list[str], tmp_path: Path
) -> None:
    data = tar_of_folder(tmp_path / "images.tar", images)
    process = start(data, tmp_path / "run", *options)
    wait_for_line(process, "epoch 2/4")
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    moved = data.rename(tmp_path / "moved.tar")
    done = finetune(moved, tmp_path / "run", "--resume")
    assert done.returncode == 0, done.stderr.decode()
    assert metrics_of(tmp_path / "run") == metrics_of(finished)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    first = next((images / "train").rglob("*.png"))
    write_tar(moved, {first.relative_to(images).as_posix(): b"other"})
    refused = finetune(moved, tmp_path / "run", "--resume")
    assert refused.returncode == 2
    assert b"was changed" in refused.stderr


@needs_parquet
@pytest.mark.guarantee("labeled-files", "training-interrupted", "resume-data")
def test_a_parquet_file_trains_and_can_be_resumed(images: Path, options: list[str], tmp_path: Path) -> None:
    files = sorted((images / "train").rglob("*.png"))
    data = write_rows(tmp_path / "images.parquet", [(file.read_bytes(), file.parent.name) for file in files])
    whole = finetune(data, tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr.decode()
    process = start(data, tmp_path / "run", *options)
    wait_for_line(process, "epoch 2/4")
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    done = finetune(data, tmp_path / "run", "--resume")
    assert done.returncode == 0, done.stderr.decode()
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    write_rows(data, [(file.read_bytes(), file.parent.name) for file in files[1:]])
    assert finetune(data, tmp_path / "run", "--resume").returncode == 2


@pytest.fixture
def long_run(images: Path, options: list[str], tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run of many epochs with one data-loader worker, after its first epoch."""
    more = ["--epochs", "10000", "--workers", "1"]
    process = start(images, tmp_path / "run", *options, *more, start_new_session=True)
    wait_for_line(process, "epoch 1/")
    yield process
    process.kill()
    process.wait()


@pytest.mark.guarantee("training-interrupted")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_saves_the_state_and_logs_how_to_continue(
    signum: signal.Signals, code: int, long_run: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    while not children(long_run):  # between two epochs there is no worker
        assert long_run.poll() is None
    os.killpg(long_run.pid, signum)  # as a terminal or a service manager does
    _, log = long_run.communicate(timeout=TIMEOUT_S)
    assert long_run.returncode == code
    assert "Saved the state at epoch" in log
    assert "--resume" in log
    assert "Traceback" not in log
    assert (tmp_path / "run" / "state.pt").exists()


@pytest.mark.guarantee("training-interrupted")
def test_a_killed_data_loader_worker_stops_the_run_with_exit_code_1(
    long_run: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    killed = False
    while not killed:  # an epoch's worker may exit before the signal arrives
        with suppress(ProcessLookupError):
            for child in children(long_run):
                os.kill(child, signal.SIGKILL)
                killed = True
    _, log = long_run.communicate(timeout=TIMEOUT_S)
    assert long_run.returncode == 1
    assert "A data-loader worker was killed" in log
    assert "--resume" in log
    assert load(tmp_path / "run").labels.names == ("blue", "green", "red")


@pytest.mark.guarantee("run-folder-lock")
def test_a_second_process_is_refused_and_a_killed_one_releases_the_folder(
    long_run: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = levit("finetune", "-o", folder, "--resume", env=environment(**ONE_THREAD))
    assert done.returncode == 4, done.stderr.decode()
    assert b"another process works in this run folder" in done.stderr
    assert long_run.poll() is None
    while not children(long_run):  # between two epochs there is no worker
        assert long_run.poll() is None
    long_run.kill()
    long_run.wait()
    assert long_run.stderr is not None
    long_run.stderr.close()  # the worker keeps the other end open for a moment
    lock = RunFolder(folder).lock
    lock.acquire()  # the data-loader worker may still run, but holds no lock
    lock.release()


def test_faults_of_the_command_line_import_no_torch(images: Path, tmp_path: Path) -> None:
    options = ["--epochs", "0", "--batch-size", "1", "--alpha", "0.2"]
    assert modules_after("finetune", images, "-o", tmp_path / "run", *options).isdisjoint(HEAVY)


def test_two_processes_give_the_same_result_as_one(finished: Path, images: Path, tmp_path: Path) -> None:
    """With a frozen backbone, batch norms do not depend on the batch: two half batches give the gradient of one."""
    options = [
        "-m", str(finished), "--freeze", "backbone", "--epochs", "2", "--batch-size", "12", "--lr", "1e-2",
        "--precision", "fp32", "--device", "cpu", "--workers", "0",
    ]  # fmt: skip
    assert finetune(images, tmp_path / "one", *options).returncode == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "levit_cli", "finetune", str(images), "-o", str(tmp_path / "two"), *options]
    done = subprocess.run(command, capture_output=True, env=environment(**ONE_THREAD), timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"epoch 2/2") == 1
    for one, two in zip(metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two"), strict=True):
        assert (one["val_correct"], one["val_images"]) == (two["val_correct"], two["val_images"])
        assert one["val_loss"] == pytest.approx(two["val_loss"], abs=1e-5)
        assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-5)


@pytest.mark.guarantee("training-disk-full")
def test_a_full_disk_stops_the_run_and_keeps_the_best_model(images: Path, options: list[str], tmp_path: Path) -> None:
    """A limit on the file size simulates a full disk: the best model fits, the state does not."""
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
        (["--epochs", "0"], 2, "--epochs 0 is out of range"),
        (["--batch-size", "64", "--grad-accum-steps", "3"], 2, "not divisible by --grad-accum-steps 3"),
        (["--max-unreadable", "many"], 2, "is not a fraction"),
        (["--resume"], 2, "No run to resume"),
        (["--resume", "--overwrite"], 2, "cannot be combined with --overwrite, --config"),
        (["--distill", "loud"], 2, "loud"),
        (["-m", "/nowhere/model.pth"], 3, "Unknown model"),
        (["--config", "/nowhere.toml"], 2, "Cannot read the settings"),
    ],
)
def test_invalid_options_are_refused(options: list[str], code: int, message: str, images: Path, tmp_path: Path) -> None:
    done = finetune(images, tmp_path / "run", *options)
    assert done.returncode == code, done.stderr.decode()
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_compile_without_a_compiler_is_refused(images: Path, options: list[str], tmp_path: Path) -> None:
    no_compiler = environment(CXX=str(tmp_path / "no-compiler"), XDG_CACHE_HOME=str(tmp_path / "cache"))
    done = levit("finetune", images, "-o", tmp_path / "run", *options, "--compile", env=no_compiler)
    assert done.returncode == 3
    assert b"run without --compile" in done.stderr


def test_missing_unwritable_and_identical_folders_are_refused(images: Path, options: list[str], tmp_path: Path) -> None:
    assert finetune(tmp_path / "none", tmp_path / "run", *options).returncode == 2
    (tmp_path / "file").write_text("")
    done = finetune(images, tmp_path / "file" / "run", *options)
    assert done.returncode == 4, done.stderr.decode()
    assert finetune(images, images, *options).returncode == 2
