"""What is refused before any work: all faults at once, and nothing is written."""

import os
from pathlib import Path
from typing import Any

import pytest

from levit_cli.errors import LevitError, OutputError, UsageError
from levit_cli.finetune.plan import Plan, make_plan, require_batches
from levit_cli.finetune.run_folder import RunFolder
from levit_cli.finetune.settings import FinetuneRequest, Settings
from tests.finetune.test_run import run
from tests.support.sample_images import write_class_folders, write_images


def plan(data: Path | None, output: Path, **options: Any) -> Plan:
    return make_plan(FinetuneRequest(data, output, None, None, options), RunFolder(output), {})


@pytest.mark.guarantee("impossible-training")
@pytest.mark.parametrize(
    ("settings", "num_images", "world_size", "message"),
    [
        ({"batch_size": 1}, 100, 1, "with --batch-size 1, a part has 1 image"),
        (
            {"batch_size": 4, "grad_accum_steps": 4},
            100,
            1,
            "and --grad-accum-steps 4, a part has 1 image",
        ),
        ({"batch_size": 2}, 100, 2, "--batch-size 2 and 2 processes, a part has 1 image"),
        ({"batch_size": 64, "grad_accum_steps": 4}, 7, 1, "--grad-accum-steps 4 and 7 training images, a part has 1"),
        ({"batch_size": 64, "freeze": "backbone"}, 1, 2, "a part has 0 images"),
    ],
)
def test_batches_that_are_too_small_are_refused(
    settings: dict[str, Any], num_images: int, world_size: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        require_batches(Settings(**settings), num_images, world_size)


@pytest.mark.parametrize(
    ("settings", "num_images"),
    [
        ({"batch_size": 2}, 100),
        ({"batch_size": 1, "freeze": "backbone"}, 100),
        ({"batch_size": 64, "grad_accum_steps": 4}, 9),
    ],
)
def test_batches_that_are_large_enough_are_not(settings: dict[str, Any], num_images: int) -> None:
    require_batches(Settings(**settings), num_images, 1)


@pytest.mark.guarantee("impossible-training")
def test_faults_of_options_images_and_output_are_named_at_once(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "data", ("a", "b"), 3)
    (tmp_path / "data" / "empty").mkdir()
    write_images(tmp_path / "run", 1)
    with pytest.raises(UsageError) as caught:
        plan(tmp_path / "data", tmp_path / "run", epochs=0, alpha=0.3)
    for part in ("3 problems", "--epochs 0", "--alpha needs --teacher", "No images in", "empty", "run exists"):
        assert part in str(caught.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["000.jpg"]


@pytest.mark.guarantee("impossible-training")
def test_all_faults_of_the_images_are_named_at_once(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("train/a", "train/b", "val/a", "val/c", "val/d"), 2)
    for name in ("train/e", "train/f", "val/g"):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError) as caught:
        plan(tmp_path, tmp_path / "run")
    assert "classes that are missing from" in str(caught.value)
    for name in ("e", "f", "g"):
        assert str(tmp_path / ("val" if name == "g" else "train") / name) in str(caught.value)
    for name in ("train/e", "train/f", "val/g"):
        (tmp_path / name).rmdir()
    with pytest.raises(UsageError, match=r"classes that are missing from .* · c, d"):
        plan(tmp_path, tmp_path / "run")


@pytest.mark.guarantee("impossible-training")
def test_missing_files_are_named_together_with_other_faults(dataset: Path, tmp_path: Path) -> None:
    options = {"from_scratch": "levit-1", "teacher": "t.onnx", "batch_size": 1}
    with pytest.raises(UsageError, match=r"3 problems.*too small.*Unknown architecture levit-1.*No file t\.onnx"):
        plan(dataset, tmp_path / "run", **options)


def test_only_the_main_process_checks_the_run_folder(dataset: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "run", 1)
    request = FinetuneRequest(dataset, tmp_path / "run", None, None, {"batch_size": 4})
    make_plan(request, RunFolder(tmp_path / "run"), {"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.raises(UsageError, match="exists"):
        make_plan(request, RunFolder(tmp_path / "run"), {"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.guarantee("skipped-training-files")
def test_an_empty_run_folder_in_the_class_folders_is_no_empty_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a", "b"), 3)
    (tmp_path / "run").mkdir()
    assert plan(tmp_path, tmp_path / "run").split.classes == ("a", "b")


@pytest.mark.guarantee("impossible-training")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_class_folder_is_no_run_folder(tmp_path: Path, overwrite: bool) -> None:
    write_class_folders(tmp_path, ("a", "b", "c"), 3)
    request = FinetuneRequest(tmp_path, tmp_path / "c", None, None, {}, overwrite=overwrite)
    with pytest.raises(UsageError, match="c is a folder of images"):
        make_plan(request, RunFolder(tmp_path / "c"), {})


def test_all_classes_with_one_image_are_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a", "b"), 1)
    write_class_folders(tmp_path, ("c",), 3)
    with pytest.raises(UsageError, match=r"a, .*b have only 1 image each"):
        plan(tmp_path, tmp_path.parent / "run")


@pytest.mark.guarantee("impossible-training")
def test_val_split_is_refused_with_a_validation_folder(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--val-split has no effect · .* has a folder of validation images"):
        plan(dataset, tmp_path / "run", val_split=0.2, batch_size=4)


def test_the_folder_of_images_is_needed_for_a_new_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FOLDER is missing"):
        plan(None, tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_cannot_be_written_is_refused_before_training(dataset: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not writable"):
        plan(dataset, tmp_path / "deep" / "run", batch_size=4)


@pytest.mark.guarantee("impossible-training")
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1},
        {"image_size": "5"},
        {"max_unreadable": 0.0},
        {"model": "/nowhere/model.pth"},
        {"teacher": "/nowhere/teacher.onnx"},
        {"resize_to": 32},
        {"teacher": "alexnet", "teacher_weights": "alexnet", "teacher_size": 16},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_refused_run_leaves_nothing_and_the_mended_command_runs(
    options: dict[str, Any], dataset: Path, architecture: Path, tmp_path: Path
) -> None:
    (dataset / "train" / "red" / "003.png").write_bytes(b"")
    start: dict[str, Any] = {} if "model" in options else {"from_scratch": str(architecture)}
    if options.get("teacher") == "alexnet":
        from safetensors.torch import save_file
        from torchvision.models import squeezenet1_1

        save_file(squeezenet1_1(weights=None, num_classes=3).state_dict(), tmp_path / "w.safetensors")
        options = {**options, "teacher": "squeezenet1_1", "teacher_weights": str(tmp_path / "w.safetensors")}
    right: dict[str, Any] = {"epochs": 1, "batch_size": 4, "max_unreadable": 0.5}
    with pytest.raises(LevitError):
        run(dataset, tmp_path / "deep" / "run", **{**right, **start, **options})
    assert not (tmp_path / "deep").exists()
    if "max_unreadable" in options:
        run(dataset, tmp_path / "deep" / "run", **right, **start)
        assert (tmp_path / "deep" / "run" / "model.safetensors").exists()


class FullDiskError(Exception):
    """Stands for any error while the run folder is written."""


@pytest.mark.guarantee("impossible-training")
@pytest.mark.parametrize("parent", ["", "other"], ids=["new parents", "a parent that another run uses"])
def test_a_run_folder_that_cannot_be_completed_is_removed(
    parent: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = plan(dataset, tmp_path / "deep" / "er" / "run", batch_size=4)

    def fail(*_: Any) -> None:
        if parent:
            (tmp_path / "deep" / parent).mkdir()
        raise FullDiskError

    monkeypatch.setattr(RunFolder, "save_state", fail)
    with pytest.raises(FullDiskError):
        new.folder.create(new.settings, new.split, {})
    assert [path.name for path in tmp_path.glob("deep/*")] == [parent] * bool(parent)
    assert (tmp_path / "deep").exists() == bool(parent)


@pytest.mark.guarantee("run-folder-lock")
def test_a_run_that_another_process_started_meanwhile_is_kept(dataset: Path, tmp_path: Path) -> None:
    first, second = (plan(dataset, tmp_path / "run", batch_size=4) for _ in range(2))
    first.folder.create(first.settings, first.split, {"a": 1})
    before = {path.name for path in (tmp_path / "run").iterdir()}
    with pytest.raises(LevitError, match="run exists"):
        second.folder.create(second.settings, second.split, {})
    with pytest.raises(OutputError, match="another process works"):
        second.folder.create(second.settings, second.split, {}, overwrite=True)
    assert before == {path.name for path in (tmp_path / "run").iterdir()}
    first.folder.lock.release()


@pytest.mark.guarantee("impossible-training")
def test_a_refused_run_keeps_the_run_that_it_would_have_replaced(
    dataset: Path, architecture: Path, tmp_path: Path
) -> None:
    from levit_cli.finetune import start
    from levit_cli.finetune.settings import Runtime

    folder = tmp_path / "run"
    run(dataset, folder, from_scratch=str(architecture), epochs=1, batch_size=4)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    options = {"from_scratch": str(architecture), "teacher": "/nowhere/teacher.onnx", "batch_size": 4}
    with pytest.raises(LevitError, match=r"No file /nowhere/teacher\.onnx"):
        start(FinetuneRequest(dataset, folder, None, None, options, overwrite=True), Runtime(threads=1), lambda _: None)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
