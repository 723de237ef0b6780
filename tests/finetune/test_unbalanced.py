"""Unbalanced classes, the best metric, early stopping and the log for TensorBoard."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from levit_cli.checkpoints import Threshold, load
from levit_cli.checkpoints.metadata import store_threshold
from levit_cli.finetune import loop
from levit_cli.finetune.loop import Trainer, Validation
from levit_cli.finetune.run import make_class_weights
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.split import find_images
from tests.finetune.sets import noisy_image
from tests.finetune.test_resume import interrupted_after
from tests.finetune.test_run import metrics_of, run
from tests.support.binary import environment, installed_levit
from tests.support.extras import hide_extra, names_pip_command, needs_tensorboard

COUNTS = {"blue": 14, "green": 7, "red": 3}
STILL: dict[str, Any] = {
    "learning_rate": 1e-9,
    "min_lr": 0.0,
    "ema": 0.0,
    "batch_size": 24,
}  # hardly changes the weights


@pytest.fixture(scope="module")
def unbalanced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose classes have 14, 7 and 3 training images, and 2 validation images each."""
    root = tmp_path_factory.mktemp("unbalanced")
    for name, count in COUNTS.items():
        for part, number in (("train", count), ("val", 2)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(number):
                noisy_image(name, index + 1000 * (part == "val")).save(folder / f"{index:03d}.png")
    return root


def test_the_class_weights_of_a_run_come_from_its_training_images(unbalanced: Path) -> None:
    split = find_images(unbalanced, 0.1, 0)
    assert make_class_weights(Settings(), split, torch.device("cpu")) is None
    weights = make_class_weights(Settings(class_weights="balanced"), split, torch.device("cpu"))
    assert weights is not None
    assert weights.tolist() == pytest.approx([24 / (3 * count) for count in COUNTS.values()])


@pytest.mark.guarantee("resume-alone")
@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "balanced", "mixup": 0.2, "patience": 2, "best_metric": "loss"},
        {"sampler": "balanced", "repeated_augmentation": 2, "best_metric": "balanced_accuracy"},
    ],
    ids=["weights", "sampler"],
)
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(
    options: dict[str, Any], unbalanced: Path, architecture: Path, tmp_path: Path
) -> None:
    options = {"from_scratch": str(architecture), "batch_size": 8, "epochs": 3, **options}
    run(unbalanced, tmp_path / "whole", **options)
    with interrupted_after(4):
        run(unbalanced, tmp_path / "run", **options)
    run(None, tmp_path / "run", resume=True)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    for name in ("model.safetensors", "README.md", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def validations(*values: tuple[float, tuple[int, int, int]]) -> Callable[..., Validation]:
    """Return a replacement of ``validate``: the loss and the correct ones of 8, 1 and 1 images, epoch by epoch."""
    images, remaining = torch.tensor([8, 1, 1]), list(values)

    def validate(*_: Any) -> Validation:
        loss, correct = remaining.pop(0)
        return Validation(loss, torch.tensor(correct), images)

    return validate


@pytest.mark.parametrize(
    ("metric", "best", "words"),
    [
        ("top1", 1, "Best epoch 1 of 3:"),
        ("balanced_accuracy", 2, "Best epoch by validation balanced accuracy 2 of 3:"),
        ("loss", 3, "Best epoch by validation loss 3 of 3:"),
    ],
)
def test_the_best_epoch_is_kept_by_the_chosen_metric(
    metric: str, best: int, words: str, unbalanced: Path, architecture: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    scripted = validations((0.9, (8, 0, 0)), (0.8, (4, 1, 1)), (0.7, (5, 0, 0)))
    monkeypatch.setattr(loop, "validate", scripted)
    options: dict[str, Any] = {"from_scratch": str(architecture), "epochs": 3, "best_metric": metric}
    lines = run(unbalanced, tmp_path / "run", **options)
    assert any(line.startswith(words) for line in lines)
    (marked,) = (line for line in lines if "(best)" in line and line.startswith(f"epoch {best}/"))
    name = {"top1": "top-1", "balanced_accuracy": "balanced accuracy", "loss": "validation loss"}[metric]
    assert name in marked.split(" (best)")[0].rsplit(", ", 1)[-1]
    card = (tmp_path / "run/README.md").read_text()
    assert f"| epoch | {best} of 3, with the best " in card
    assert ("| balanced accuracy | 0.8333 " in card) == (metric == "balanced_accuracy")
    assert [row["val_balanced_accuracy"] for row in metrics_of(tmp_path / "run")] == pytest.approx(
        [1 / 3, 5 / 6, 5 / 24]
    )


def test_a_validation_loss_that_is_no_number_is_the_worst_but_the_first_epoch_is_saved(
    unbalanced: Path, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = float("nan")
    monkeypatch.setattr(loop, "validate", validations((nan, (1, 1, 1)), (0.5, (1, 1, 1)), (nan, (8, 1, 1))))
    options: dict[str, Any] = {"from_scratch": str(architecture), "epochs": 3, "best_metric": "loss"}
    assert any("loss 2 of 3" in line for line in run(unbalanced, tmp_path / "run", **options))
    monkeypatch.setattr(loop, "validate", validations((nan, (1, 1, 1))))
    run(unbalanced, tmp_path / "one", **{**options, "epochs": 1})
    assert load(tmp_path / "one").evaluation is not None


def test_the_training_stops_when_it_does_not_improve_and_says_why(
    unbalanced: Path, architecture: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"from_scratch": str(architecture), "epochs": 9, "patience": 2, **STILL}
    lines = run(unbalanced, tmp_path / "run", **options)
    reason = "validation top-1 did not improve in 2 epochs (--patience 2)"
    assert f"Stopped after epoch 3 of 9: {reason}" in lines
    assert len(metrics_of(tmp_path / "run")) == 3
    card = (tmp_path / "run/README.md").read_text()
    assert "| epoch | 1 of 9, with the best validation top-1 |" in card
    assert f"| stopped | after epoch 3: {reason} |" in card
    assert (tmp_path / "run/curves.png").exists()
    before = (tmp_path / "run/model.safetensors").read_bytes()
    lines = run(None, tmp_path / "run", resume=True)
    assert f"Stopped after epoch 3 of 9: {reason}" in lines
    assert "The run is finished after 3 epochs" in lines
    assert len(metrics_of(tmp_path / "run")) == 3
    assert (tmp_path / "run/model.safetensors").read_bytes() == before
    with pytest.raises(Exception, match="patience is 2, not 3"):
        run(None, tmp_path / "run", resume=True, patience=3)


@pytest.mark.guarantee("stored-threshold")
def test_a_stored_threshold_stays_with_the_weights_and_is_not_inherited(
    unbalanced: Path, architecture: Path, tmp_path: Path
) -> None:
    threshold = Threshold(0.5, 1.0, 0.9, 100, 80, 80)
    run(unbalanced, tmp_path / "run", from_scratch=str(architecture), epochs=1)
    store_threshold(tmp_path / "run", threshold)
    run(None, tmp_path / "run", resume=True)  # evaluates the finished run again
    assert load(tmp_path / "run").threshold == threshold
    run(unbalanced, tmp_path / "next", model=str(tmp_path / "run"), epochs=1)
    assert load(tmp_path / "next").threshold is None


def test_an_improvement_restarts_the_patience(
    unbalanced: Path, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top1 = (1, 1, 2, 2, 2, 2)
    monkeypatch.setattr(loop, "validate", validations(*((0.5, (number, 0, 0)) for number in top1)))
    options: dict[str, Any] = {"from_scratch": str(architecture), "epochs": 6, "patience": 2, **STILL}
    assert any(line.startswith("Stopped after epoch 5 of 6") for line in run(unbalanced, tmp_path / "run", **options))


def events_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


@needs_tensorboard
def test_tensorboard_shows_each_epoch_once_after_a_kill_and_a_resume(
    unbalanced: Path, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    save_state, saved = Trainer.save_state, []

    def killed(trainer: Trainer) -> None:
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt  # after the second epoch was logged, before its state is saved
        save_state(trainer)

    monkeypatch.setattr(Trainer, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        run(unbalanced, folder, from_scratch=str(architecture), epochs=3, log="tensorboard")
    assert [step for step, _ in events_of(folder / "tensorboard")["loss/training"]] == [1, 2]
    monkeypatch.undo()
    run(None, folder, resume=True)
    run(None, folder, resume=True)  # of a finished run
    events, metrics = events_of(folder / "tensorboard"), metrics_of(folder)
    assert len([*(folder / "tensorboard").iterdir()]) == 2
    tags = {"loss/validation": "val_loss", "top1/validation": "val_top1", "learning_rate": "learning_rate"}
    for tag, name in tags.items():
        assert [epoch for epoch, _ in events[tag]] == [row["epoch"] for row in metrics]
        assert [value for _, value in events[tag]] == pytest.approx([row[name] for row in metrics], rel=1e-6)
    assert {"loss/training", "top1/training", "balanced_accuracy/validation", "images_per_s"} <= set(events)


@needs_tensorboard
def test_overwriting_a_run_removes_its_events(unbalanced: Path, architecture: Path, tmp_path: Path) -> None:
    from levit_cli.finetune import start
    from levit_cli.finetune.settings import FinetuneRequest, Runtime

    run(unbalanced, tmp_path / "run", from_scratch=str(architecture), epochs=1, log="tensorboard")
    options: dict[str, Any] = {"from_scratch": str(architecture), "epochs": 1, "image_size": "48", "device": "cpu"}
    request = FinetuneRequest(unbalanced, tmp_path / "run", None, None, options, overwrite=True)
    start(request, Runtime(threads=1), lambda _: None)
    assert not (tmp_path / "run/tensorboard").exists()


@pytest.mark.guarantee("missing-extra")
def test_without_tensorboard_its_log_is_refused_before_any_work(unbalanced: Path, tmp_path: Path) -> None:
    shutil.copytree(unbalanced, tmp_path / "data")
    env = environment(**hide_extra("tensorboard", tmp_path / "hidden"))
    command = ("finetune", tmp_path / "data", "-o", tmp_path / "run", "--log", "tensorboard")
    done = installed_levit(*command, env=env)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "--log tensorboard needs the extra 'tensorboard'" in line
    assert names_pip_command(line, "tensorboard")
    assert not (tmp_path / "run").exists()


def test_each_line_of_the_metrics_has_the_balanced_accuracy(
    unbalanced: Path, architecture: Path, tmp_path: Path
) -> None:
    run(unbalanced, tmp_path / "run", from_scratch=str(architecture), epochs=1)
    (metrics,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert metrics["val_balanced_accuracy"] == pytest.approx(metrics["val_top1"])  # each class has 2 images
