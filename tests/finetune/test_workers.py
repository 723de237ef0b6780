"""Errors in data-loader workers, and errors and warnings of torch, become one line with the cause."""

import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from levit_cli.errors import TrainingStoppedError
from levit_cli.finetune import data
from levit_cli.finetune.data import (
    EpochBatches,
    LostImageError,
    TrainingImages,
    ValidationImages,
    batches_of,
    training_loader,
    validation_loader,
)
from levit_cli.finetune.loop import errors_reported, quiet_libraries, stopped
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.split import find_images
from levit_cli.images.transforms import transform_for
from levit_cli.system.signals import DeferredSignals
from tests.support.binary import LEVIT, environment


@pytest.fixture
def images(dataset: Path) -> TrainingImages:
    return TrainingImages(find_images(dataset, 0.1, 0).train, Settings(), (32, 32))


def load_all(images: TrainingImages, workers: int) -> None:
    batches = EpochBatches(len(images), Settings(batch_size=4), 0, 0)
    for _ in batches_of(training_loader(images, batches, workers)):
        pass


@pytest.mark.guarantee("worker-errors")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_deleted_while_workers_read_is_named_in_one_line(images: TrainingImages, workers: int) -> None:
    path = Path(images.samples[3][0].path)
    path.unlink()
    with pytest.raises(LostImageError) as caught:
        load_all(images, workers)
    assert str(caught.value) == f"Cannot read {path} any more · no such file"


@pytest.mark.guarantee("worker-errors")
def test_a_deleted_validation_image_is_named_in_one_line(dataset: Path) -> None:
    images = ValidationImages(find_images(dataset, 0.1, 0).val, transform_for("hf", (32, 32)))
    path = Path(images.samples[2][0].path)
    path.unlink()
    with pytest.raises(LostImageError) as caught:
        list(batches_of(validation_loader(images, 2, 1)))
    assert str(caught.value) == f"Cannot read {path} any more · no such file"


@pytest.mark.guarantee("worker-errors")
@pytest.mark.parametrize("workers", [0, 1])
def test_any_other_error_in_a_worker_names_the_image_and_the_cause(images: TrainingImages, workers: int) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("size mismatch\nTraceback of a library\n  more")

    images.transform = fail
    with pytest.raises(LostImageError, match=r"^Cannot load .*\.png · size mismatch$"):
        load_all(images, workers)


@pytest.mark.guarantee("worker-errors")
def test_what_a_worker_prints_is_discarded(images: TrainingImages, capfd: pytest.CaptureFixture[str]) -> None:
    transform = images.transform

    def print_and_transform(image: torch.Tensor) -> Any:
        os.write(2, b"noise of a library\n")
        return transform(image)

    images.transform = print_and_transform
    load_all(images, 1)
    assert capfd.readouterr().err == ""


@pytest.mark.guarantee("worker-errors")
def test_a_worker_without_shared_memory_says_so(images: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"
        )

    monkeypatch.setattr(data, "default_collate", fail)
    with pytest.raises(TrainingStoppedError, match=r"/dev/shm is full.*No space left.*--workers 0.*larger /dev/shm"):
        load_all(images, 1)


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    return (
        bool(unshare)
        and subprocess.run([str(unshare), "-rm", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.guarantee("worker-errors")
@pytest.mark.skipif(not can_mount(), reason="needs a user namespace to mount a small /dev/shm")
def test_a_full_dev_shm_is_named(dataset: Path, architecture: Path, tmp_path: Path) -> None:
    command = [
        LEVIT, "finetune", dataset, "-o", tmp_path / "run", "--from-scratch", architecture, "--image-size", "64", "-q",
        "--epochs", "1", "-b", "12", "--device", "cpu", "--precision", "fp32", "--workers", "1",
    ]  # fmt: skip
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *map(str, command)],
        capture_output=True, env=environment(OMP_NUM_THREADS="1"), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr.decode()
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: ")
    for part in ("/dev/shm is full, which holds 64 KB", "--workers 0", "larger /dev/shm"):
        assert part in line


@pytest.mark.guarantee("worker-errors")
@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. …"),
            ["/dev/shm", "--workers 0"],
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), ["Killed", "--workers 0"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried …\nSee documentation"), ["memory", "--batch-size"]),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), ["--batch-size"]),
        (MemoryError(), ["memory", "--grad-accum-steps"]),
        (OSError(24, "Too many open files"), ["Too many open files", "--workers 0"]),
        (RuntimeError("CUDA error: an illegal access\nCUDA kernel errors might …"), ["CUDA error", "--resume"]),
    ],
)
def test_errors_of_torch_are_one_line_with_the_next_step(error: Exception, parts: list[str]) -> None:
    with pytest.raises(TrainingStoppedError) as caught, errors_reported(DeferredSignals(second_ends=True)):
        raise error
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts)
    assert str(stopped(error)) == str(caught.value)


@pytest.mark.guarantee("worker-errors")
def test_warnings_of_torch_are_not_printed(images: TrainingImages) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        training_loader(images, EpochBatches(len(images), Settings(), 0, 0), 10_000)
        assert ["worker processes" in str(warning.message) for warning in shown] == [True]
        with quiet_libraries():
            training_loader(images, EpochBatches(len(images), Settings(), 0, 0), 10_000)
        assert len(shown) == 1
