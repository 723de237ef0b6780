"""Whole runs on a small data set in this process: the ways to train, resuming, and refusals."""

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from levit_cli.checkpoints import load
from levit_cli.errors import ExitCode, RefusedError, TrainingStoppedError, UsageError
from levit_cli.finetune import loop, run_folder, start, step
from levit_cli.finetune import run as run_module
from levit_cli.finetune.settings import FinetuneRequest, Runtime
from levit_cli.images.transforms import transform_for
from levit_cli.model.config import LevitConfig
from levit_cli.model.levit import Levit, load_arrays
from levit_cli.system.signals import DeferredSignals
from tests.finetune.sets import write_architecture

TIMES = {"images_per_s", "epoch_s", "elapsed_s"}
QUICK = {
    "image_size": "48", "epochs": 2, "batch_size": 12, "learning_rate": 3e-3, "ema": 0.5, "precision": "fp32",
    "device": "cpu", "warmup_epochs": 0.0, "label_smoothing": 0.0,
}  # fmt: skip
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def finished(images: Path, architecture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of four epochs from scratch."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(images, folder, from_scratch=str(architecture), epochs=4)
    return folder


def run(
    data: Path | None, folder: Path, *, resume: bool = False, config: Path | None = None, **options: Any
) -> list[str]:
    """Train, and return the log lines."""
    lines: list[str] = []
    options = options if resume or config else {**QUICK, **options}
    request = FinetuneRequest(data, folder, None, config, options, resume)
    assert start(request, Runtime(threads=1), lines.append) == ExitCode.OK
    return lines


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of each epoch, without the times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def weights_of(folder: Path) -> dict[str, Any]:
    return dict(load(folder).state)


def test_the_loss_falls_and_the_run_folder_is_a_model(finished: Path, images: Path) -> None:
    metrics = metrics_of(finished)
    assert [row["epoch"] for row in metrics] == [1, 2, 3, 4]
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"] < 1.4
    checkpoint = load(finished)
    assert checkpoint.labels.names == ("blue", "green", "red")
    assert checkpoint.config.image_size == checkpoint.transform.crop_size == (48, 48)
    assert checkpoint.evaluation is not None
    assert checkpoint.evaluation.images == 12
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {"config.json", "preprocessor_config.json", "README.md", "state.pt"} <= {
        path.name for path in finished.iterdir()
    }


def test_transformers_loads_the_run_folder(finished: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network, report = transformers.LevitForImageClassificationWithTeacher.from_pretrained(
        finished, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert network.config.id2label == {0: "blue", 1: "green", 2: "red"}
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    ours = Levit(load(finished).config)
    load_arrays(ours, load(finished).state)
    ours.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(x).logits, ours(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"freeze": "backbone"},
        {"image_size": "32x64"},
        {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.3, "rand_augment": 5, "repeated_augmentation": 2},
        {"grad_accum_steps": 3, "clip_grad": 0.05, "clip_mode": "agc", "ema": 0.0, "drop_path": 0.1},
        {"precision": "bf16"},
        {"teacher": "itself"},
        {"teacher": "itself", "distill": "soft", "alpha": 0.9, "distill_temperature": 3.0},
    ],
    ids=["frozen backbone", "image size", "augmentation", "accumulation and agc", "bf16", "hard", "soft"],
)
def test_each_training_option_lowers_the_loss(
    options: dict[str, Any], finished: Path, images: Path, tmp_path: Path
) -> None:
    options = {**options, **({"teacher": str(finished)} if "teacher" in options else {})}
    before = weights_of(finished)
    run(images, tmp_path / "run", model=str(finished), **{"epochs": 3, "learning_rate": 1e-3, **options})
    losses = [row["train_loss"] for row in metrics_of(tmp_path / "run")]
    assert min(losses[1:]) < losses[0]
    if options.get("freeze"):
        after = weights_of(tmp_path / "run")
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed <= {f"{head}.linear.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")}
        assert changed


@pytest.mark.exhaustive
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
def test_a_compiled_run_gives_the_same_losses_up_to_rounding(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    architecture = str(write_architecture(tmp_path / "config.json", LevitConfig((16,), (8,), (1,), (1,))))
    for name in ("eager", "compiled"):
        run(images, tmp_path / name, from_scratch=architecture, epochs=1, compile=name == "compiled")
    (eager,), (compiled,) = metrics_of(tmp_path / "eager"), metrics_of(tmp_path / "compiled")
    assert compiled["train_loss"] == pytest.approx(eager["train_loss"], rel=1e-3)
    assert compiled["val_loss"] == pytest.approx(eager["val_loss"], rel=1e-3)


@pytest.mark.guarantee("known-classes")
def test_a_run_reports_how_many_classes_the_start_model_knows(finished: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "data")
    for part in ("train", "val"):
        (tmp_path / "data" / part / "red").rename(tmp_path / "data" / part / "a rose")
    lines = run(tmp_path / "data", tmp_path / "run", model=str(finished), epochs=1, learning_rate=1e-9, min_lr=0.0)
    assert "The head weights of 2 of 3 classes are kept; those of the others start at random" in lines
    before, after = weights_of(finished)["head.linear.weight"], weights_of(tmp_path / "run")["head.linear.weight"]
    assert load(tmp_path / "run").labels.names == ("a rose", "blue", "green")
    np.testing.assert_allclose(after[1:], before[:2], atol=1e-5)
    assert not np.allclose(after[0], before[2], atol=1e-2)


@pytest.mark.guarantee("worker-errors")
def test_curves_that_cannot_be_drawn_do_not_stop_the_training(
    dataset: Path, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise ValueError("no fonts\nlong explanation")

    monkeypatch.setattr(run_folder, "load_curves", lambda *_: fail)
    lines = run(dataset, tmp_path / "run", from_scratch=str(architecture), epochs=1, batch_size=4)
    assert f"Cannot draw {tmp_path / 'run' / 'curves.png'} · no fonts" in lines


@pytest.mark.guarantee("worker-errors")
def test_an_engine_that_fails_at_the_end_is_one_line(
    dataset: Path, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("Exception from src/inference/core.cpp:1:\nno memory\n")

    monkeypatch.setattr(run_module, "evaluate", fail)
    with pytest.raises(TrainingStoppedError, match=r"Cannot evaluate the best model in .*run · Exception from [^\n]*$"):
        run(dataset, tmp_path / "run", from_scratch=str(architecture), epochs=1, batch_size=4)
    monkeypatch.undo()
    assert load(tmp_path / "run").labels.names == ("blue", "green", "red")


def test_interpolated_attention_biases_are_logged_once(finished: Path, images: Path, tmp_path: Path) -> None:
    lines = run(images, tmp_path / "run", model=str(finished), image_size="64", epochs=1)
    assert sum(line.startswith("Attention biases interpolated") for line in lines) == 1


def test_config_toml_repeats_the_run_and_another_seed_does_not(
    finished: Path, images: Path, architecture: Path, tmp_path: Path
) -> None:
    run(images, tmp_path / "run", config=finished / "config.toml")
    assert metrics_of(tmp_path / "run") == metrics_of(finished)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    run(images, tmp_path / "other", from_scratch=str(architecture), epochs=1, seed=1)
    assert metrics_of(tmp_path / "other")[0] != metrics_of(finished)[0]


@pytest.mark.guarantee("training-interrupted")
@pytest.mark.parametrize("steps", [1, 4], ids=["in the first epoch", "in the second epoch"])
def test_an_interrupted_run_resumes_to_the_same_result(
    steps: int, finished: Path, images: Path, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arrival of SIGINT is simulated: libraries in the test process may have their own signal handlers."""
    signals = DeferredSignals(second_ends=True)
    steps_taken = []

    @contextmanager
    def simulated(**_: Any) -> Iterator[DeferredSignals]:
        yield signals

    def interrupted_step(*arguments: Any) -> Any:
        steps_taken.append(1)
        if len(steps_taken) == steps:
            signals.arrived = signal.SIGINT
        return step.train_step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "deferred_signals", simulated)
        patched.setattr(loop, "train_step", interrupted_step)
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path / "run", from_scratch=str(architecture), epochs=4)
    assert len(steps_taken) == steps
    lines = run(images, tmp_path / "run", resume=True)
    epoch, epoch_steps = divmod(steps, STEPS_PER_EPOCH)
    assert f"Resumed at epoch {epoch + 1}, step {epoch_steps + 1}" in lines
    assert metrics_of(tmp_path / "run") == metrics_of(finished)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_resuming_a_finished_run_trains_no_epoch(finished: Path, images: Path) -> None:
    before = metrics_of(finished)
    run(images, finished, resume=True)
    assert metrics_of(finished) == before


@pytest.mark.guarantee("training-diverges")
def test_a_nan_loss_stops_the_run_and_keeps_the_best_model(
    finished: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_with_nan_weights(state: Any, context: Any, number: int, *batch: Any) -> Any:
        if number == STEPS_PER_EPOCH:
            torch.nn.init.constant_(state.network.head.linear.weight, float("nan"))
        return step.train_step(state, context, number, *batch)

    monkeypatch.setattr(loop, "train_step", step_with_nan_weights)
    with pytest.raises(TrainingStoppedError, match="The loss became NaN or infinite in epoch 2 at step 1"):
        run(images, tmp_path / "run", model=str(finished), epochs=3)
    assert load(tmp_path / "run").evaluation is not None
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["position"]["epoch"] == 1


@pytest.mark.guarantee("training-unreadable-images")
def test_unreadable_images_are_logged_and_listed_for_resuming(
    dataset: Path, architecture: Path, tmp_path: Path
) -> None:
    truncated = dataset / "train" / "red" / "000.png"
    truncated.write_bytes(truncated.read_bytes()[:100])
    lines = run(dataset, tmp_path / "run", from_scratch=str(architecture), epochs=1, max_unreadable=0.1)
    assert any(f"Skipped {truncated}: truncated" in line for line in lines)
    assert '"train/red/000.png"' in (tmp_path / "run" / "unreadable.tsv").read_text()
    truncated.unlink()  # a resumed run does not scan again
    run(dataset, tmp_path / "run", resume=True)


def test_an_existing_run_is_not_overwritten(finished: Path, images: Path, architecture: Path) -> None:
    before = (finished / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--resume continues it"):
        run(images, finished, from_scratch=str(architecture))
    with pytest.raises(UsageError, match="other settings · epochs is 4, not 9"):
        run(images, finished, resume=True, epochs=9)
    assert (finished / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "unreadable.tsv", "images.jsonl", "state.pt", "config.toml"])
def test_the_error_names_the_damaged_file_of_a_run(name: str, finished: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(b"\xffno[]")
    with pytest.raises(RefusedError, match=name):
        run(images, tmp_path / "run", resume=True)


def test_resume_needs_a_run_folder(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No run to resume"):
        run(images, tmp_path / "none", resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from_scratch": "levit-1"}, "Unknown architecture levit-1"),
        ({"image_size": "50"}, "multiples of 16"),
        ({"image_size": "a"}, "--image-size a is invalid"),
        ({"model": "/nowhere/model.pth"}, "Unknown model"),
        ({"device": "cuda"}, "No cuda device"),
        ({"teacher": "no-such-teacher"}, "no-such-teacher"),
    ],
)
def test_invalid_options_are_refused_before_training(
    options: dict[str, Any], message: str, images: Path, finished: Path, tmp_path: Path
) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("a GPU is available")
    model = {} if "from_scratch" in options else {"model": str(finished)}
    with pytest.raises((UsageError, RefusedError), match=message):
        run(images, tmp_path / "run", **{**model, **options})
    assert not (tmp_path / "run").exists()


def test_gradient_accumulation_gives_the_same_weights_with_a_frozen_backbone(
    finished: Path, images: Path, tmp_path: Path
) -> None:
    for parts in (1, 3):
        run(images, tmp_path / str(parts), model=str(finished), freeze="backbone", grad_accum_steps=parts)
    whole, cut = (weights_of(tmp_path / str(parts))["head.linear.weight"] for parts in (1, 3))
    np.testing.assert_allclose(whole, cut, atol=1e-5)


def test_images_are_normalized_with_the_transforms_mean_and_std() -> None:
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)])
    torch.testing.assert_close(step.normalize(pixels, transform_for("hf", (32, 32)))[0, :, 0, 0], expected)
