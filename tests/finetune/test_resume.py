"""Resuming: what the run was is compared, the run folder alone is enough, and it is locked."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from levit_cli.checkpoints import load
from levit_cli.errors import OutputError, UsageError
from levit_cli.finetune import loop, step
from levit_cli.finetune.run_folder import RunFolder
from levit_cli.system.signals import DeferredSignals
from tests.finetune.sets import COLORS, noisy_image
from tests.finetune.test_run import metrics_of, run

SIGINT = 2


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders without a split: 3 classes with 6 images each."""
    root = tmp_path_factory.mktemp("classes") / "flowers"
    for name in COLORS:
        (root / name).mkdir(parents=True)
        for number in range(6):
            noisy_image(name, number).save(root / name / f"{number:03d}.png")
    return root


@contextmanager
def interrupted_after(steps: int) -> Iterator[None]:
    """Let the run be interrupted by SIGINT after this number of steps."""
    signals, taken = DeferredSignals(second_ends=True), []

    @contextmanager
    def simulated(**_: Any) -> Iterator[DeferredSignals]:
        yield signals

    def counted(*arguments: Any) -> Any:
        taken.append(1)
        if len(taken) == steps:
            signals.arrived = SIGINT
        return step.train_step(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "deferred_signals", simulated)
        patched.setattr(loop, "train_step", counted)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.fixture(scope="module")
def model(classes: Path, architecture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from: a run of one epoch."""
    folder = tmp_path_factory.mktemp("model") / "start"
    run(classes, folder, from_scratch=str(architecture), epochs=1, batch_size=5, val_split=0.2)
    return folder


OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 5, "val_split": 0.2}


@pytest.fixture(scope="module")
def finished(classes: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(classes, folder, model=str(model), **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def stopped(classes: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in its first epoch. Tests copy it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with interrupted_after(1):
        run(classes, folder, model=str(model), **OPTIONS)
    return folder


def same_result(folder: Path, other: Path) -> bool:
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, other)]
    return metrics_of(folder) == metrics_of(other) and weights[0] == weights[1]


@pytest.mark.guarantee("resume-alone")
def test_the_run_folder_alone_continues_without_the_start_model_in_any_working_directory(
    classes: Path, model: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "start")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with interrupted_after(1):
        run(classes, tmp_path / "run", model="start", **OPTIONS)
    shutil.rmtree(tmp_path / "start")
    monkeypatch.chdir(tmp_path / "elsewhere")
    lines = run(None, tmp_path / "run", resume=True)
    assert "Resumed at epoch 1, step 2" in lines
    assert same_result(tmp_path / "run", finished)


@pytest.mark.guarantee("resume-alone")
def test_a_run_that_was_killed_before_its_first_step_continues_from_its_start(
    classes: Path, model: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "start")

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(classes, tmp_path / "run", model=str(tmp_path / "start"), **OPTIONS)
    shutil.rmtree(tmp_path / "start")
    monkeypatch.undo()
    run(classes, tmp_path / "run", resume=True)
    assert same_result(tmp_path / "run", finished)


@pytest.mark.guarantee("resume-alone")
@pytest.mark.parametrize("kind", ["model", "torchvision", "network"])
def test_a_run_continues_without_its_teacher(kind: str, classes: Path, model: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    options = {"model": str(model), **OPTIONS, "distill": "soft", "epochs": 1}
    if kind == "model":
        shutil.copytree(model, teacher)
        options |= {"teacher": str(teacher)}
    elif kind == "network":
        import openvino
        from openvino import opset13 as ops

        x = ops.parameter([1, 3, 48, 48], name="x")
        means = ops.reduce_mean(x, ops.constant([2, 3]), keep_dims=False)  # one logit for each color
        openvino.save_model(openvino.Model([means], [x]), teacher / "colors.xml")
        options |= {"teacher": str(teacher / "colors.xml")}
    else:
        from safetensors.torch import save_file
        from torchvision.models import squeezenet1_1

        teacher.mkdir()
        save_file(squeezenet1_1(weights=None, num_classes=3).state_dict(), teacher / "w.safetensors")
        options |= {"teacher": "squeezenet1_1", "teacher_weights": str(teacher / "w.safetensors")}
    run(classes, tmp_path / "whole", **options)
    with interrupted_after(1):
        run(classes, tmp_path / "run", **options)
    shutil.rmtree(teacher)
    (tmp_path / "run").rename(tmp_path / "moved")
    run(None, tmp_path / "moved", resume=True)
    assert same_result(tmp_path / "moved", tmp_path / "whole")


@pytest.mark.guarantee("resume-alone")
def test_a_run_continues_after_the_images_were_moved(
    classes: Path, stopped: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    shutil.copytree(classes, tmp_path / "moved")
    run(tmp_path / "moved", tmp_path / "run", resume=True)
    assert f'data = "{tmp_path / "moved"}"' in (tmp_path / "run" / "config.toml").read_text()
    assert load(tmp_path / "run").evaluation is not None
    assert metrics_of(tmp_path / "run") == metrics_of(finished)
    shutil.rmtree(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"No folder .*moved · give the folder where the images are now"):
        run(None, tmp_path / "run", resume=True)


def add_images(root: Path) -> None:
    for number in (6, 7):
        noisy_image("red", number).save(root / "red" / f"{number:03d}.png")


def rename_class(root: Path) -> None:
    (root / "red").rename(root / "pink")


def change_image(root: Path) -> None:
    noisy_image("red", 99, 60).save(root / "red" / "000.png")


def move_image(root: Path) -> None:
    (root / "red" / "000.png").rename(root / "blue" / "100.png")


def remove_class(root: Path) -> None:
    shutil.rmtree(root / "red")


def copy_class(root: Path) -> None:
    shutil.copytree(root / "red", root / "rot")


@pytest.mark.guarantee("resume-data")
@pytest.mark.parametrize(
    ("change", "differences"),
    [
        (add_images, ["2 images were added: red/006.png, red/007.png"]),
        (rename_class, ["1 class was added: pink", "1 class was removed: red", "6 images were added"]),
        (change_image, ["1 image was changed: red/000.png"]),
        (move_image, ["1 image was added: blue/100.png", "1 image was removed: red/000.png"]),
        (remove_class, ["1 class was removed: red", "6 images were removed"]),
        (copy_class, ["1 class was added: rot", "6 images were added"]),
    ],
)
def test_other_images_than_those_of_the_run_are_refused_with_the_difference(
    change: Any, differences: list[str], classes: Path, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    shutil.copytree(classes, tmp_path / "data")
    change(tmp_path / "data")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="are not those of the run") as caught:
        run(tmp_path / "data", tmp_path / "run", resume=True)
    assert all(difference in str(caught.value) for difference in differences)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


@pytest.mark.guarantee("resume-data")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_split": 0.5}, "val_split is 0.2, not 0.5"),
        ({"seed": 7}, "seed is 0, not 7"),
        ({"model": "demo"}, "not 'demo'"),
    ],
)
def test_another_split_or_start_than_the_runs_is_refused(
    options: dict[str, Any], message: str, classes: Path, stopped: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run(classes, stopped, resume=True, **options)


@pytest.mark.guarantee("resume-data")
def test_differences_of_options_and_images_are_named_at_once(classes: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    shutil.copytree(classes, tmp_path / "data")
    remove_class(tmp_path / "data")
    with pytest.raises(UsageError, match=r"2 problems · .*seed is 0, not 7.*1 class was removed: red"):
        run(tmp_path / "data", tmp_path / "run", resume=True, seed=7)


def test_skipped_files_may_come_and_go(classes: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    shutil.copytree(classes, tmp_path / "data")
    (tmp_path / "data" / "red" / "notes.txt").write_text("x")
    (tmp_path / "data" / ".cache").mkdir()
    run(tmp_path / "data", tmp_path / "run", resume=True)


@pytest.mark.guarantee("run-folder-lock")
def test_a_second_process_in_the_run_folder_is_refused(classes: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    lock = RunFolder(tmp_path / "run").lock
    lock.acquire()
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match="another process works in this run folder"):
            run_with(classes, tmp_path / "run", **options)
    lock.release()
    assert not (tmp_path / "run" / ".lock").exists()
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"config.toml", "state.pt", "images.jsonl"}
    run(classes, tmp_path / "run", resume=True)


def run_with(data: Path, folder: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    from levit_cli.finetune import start
    from levit_cli.finetune.settings import FinetuneRequest, Runtime

    request = FinetuneRequest(data, folder, None, None, {}, resume=resume, overwrite=overwrite)
    start(request, Runtime(threads=1), lambda _: None)


def test_the_model_card_names_the_start_without_its_folders(finished: Path, model: Path) -> None:
    card = (finished / "README.md").read_text()
    assert "| started from | start |" in card
    assert str(model.parent) not in card


def test_a_finished_run_says_so(finished: Path) -> None:
    lines = run(None, finished, resume=True)
    assert "The run is finished: all 2 epochs are trained" in lines
    assert not any("Resumed" in line for line in lines)


def test_the_stored_images_are_one_json_list_per_line(stopped: Path) -> None:
    lines = [json.loads(line) for line in (stopped / "images.jsonl").read_text().splitlines()]
    assert sorted({line[0] for line in lines}) == ["train", "val"]
    assert len(lines) == 18
    assert all(line[3].startswith(f"{line[1]}/") for line in lines)
