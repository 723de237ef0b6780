"""Whole runs on a small set, in this process: each way to train, going on after an interruption, and bad ends."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from levit_cli.checkpoints import load
from levit_cli.errors import ExitCode, RefusedError, TrainingStoppedError, UsageError
from levit_cli.finetune.run import Request, finetune
from levit_cli.finetune.step import normalised
from levit_cli.model.config import LevitConfig
from tests.finetune.sets import write_set, write_shape

TIMES = {"images_per_s", "epoch_s", "elapsed_s"}
QUICK = {
    "image_size": "48", "epochs": 2, "batch_size": 12, "learning_rate": 3e-3, "ema": 0.5, "precision": "fp32",
    "device": "cpu", "warmup_epochs": 0.0, "label_smoothing": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape(tmp_path_factory.mktemp("shape") / "config.json")


@pytest.fixture(scope="module")
def first(images: Path, shape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of four epochs from scratch."""
    out = tmp_path_factory.mktemp("first") / "run"
    run(images, out, from_scratch=str(shape), epochs=4)
    return out


def run(data: Path, out: Path, *, resume: bool = False, config: Path | None = None, **given: Any) -> list[str]:
    said: list[str] = []
    settings = given if resume or config else {**QUICK, **given}
    request = Request(data, out, "small", config, settings, resume=resume, overwrite=False, workers=0)
    assert finetune(request, said.append) == ExitCode.OK
    return said


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def arrays(folder: Path) -> dict[str, Any]:
    return dict(load(folder).state)


def test_the_loss_falls_and_the_folder_is_a_model(first: Path, images: Path) -> None:
    metrics = rows(first)
    assert [row["epoch"] for row in metrics] == [1, 2, 3, 4]
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"] < 1.4
    checkpoint = load(first)
    assert checkpoint.labels.names == ("blue", "green", "red")
    assert checkpoint.config.image_size == checkpoint.transform.crop_size == (48, 48)
    assert checkpoint.evaluation is not None
    assert checkpoint.evaluation.images == 12
    assert (first / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {"config.json", "preprocessor_config.json", "README.md", "state.pt"} <= {
        path.name for path in first.iterdir()
    }


def test_transformers_loads_the_folder(first: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network, report = transformers.LevitForImageClassificationWithTeacher.from_pretrained(
        first, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert network.config.id2label == {0: "blue", 1: "green", 2: "red"}
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    from levit_cli.model.levit import Levit

    ours = Levit(load(first).config).eval()
    ours.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in load(first).state.items()})
    with torch.no_grad():
        torch.testing.assert_close(network(x).logits, ours(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        {"freeze": "backbone"},
        {"image_size": "32x64"},
        {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.3, "rand_augment": 5, "repeated_augmentation": 2},
        {"grad_accum_steps": 3, "clip_grad": 0.05, "clip_mode": "agc", "ema": 0.0, "drop_path": 0.1},
        {"precision": "bf16"},
        {"teacher": "itself"},
        {"teacher": "itself", "distill": "soft", "alpha": 0.9, "distill_temperature": 3.0},
    ],
    ids=["frozen", "another size", "augmented", "parts and agc", "bf16", "hard teacher", "soft teacher"],
)
def test_each_way_to_train_lowers_the_loss(given: dict[str, Any], first: Path, images: Path, tmp_path: Path) -> None:
    given = {**given, **({"teacher": str(first)} if "teacher" in given else {})}
    before = arrays(first)
    run(images, tmp_path / "run", model=str(first), **{"epochs": 3, "learning_rate": 1e-3, **given})
    losses = [row["train_loss"] for row in rows(tmp_path / "run")]
    assert min(losses[1:]) < losses[0]
    if given.get("freeze"):
        after = arrays(tmp_path / "run")
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed <= {f"{head}.linear.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")}
        assert changed


@pytest.mark.exhaustive
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler")
def test_a_compiled_run_is_the_same_but_for_rounding(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    shape = str(write_shape(tmp_path / "config.json", LevitConfig((16,), (8,), (1,), (1,))))
    for name in ("eager", "compiled"):
        run(images, tmp_path / name, from_scratch=shape, epochs=1, compile=name == "compiled")
    (eager,), (compiled,) = rows(tmp_path / "eager"), rows(tmp_path / "compiled")
    assert compiled["train_loss"] == pytest.approx(eager["train_loss"], rel=1e-3)
    assert compiled["val_loss"] == pytest.approx(eager["val_loss"], rel=1e-3)


def test_a_resized_model_says_so_once(first: Path, images: Path, tmp_path: Path) -> None:
    said = run(images, tmp_path / "run", model=str(first), image_size="64", epochs=1)
    assert sum("interpolated" in line for line in said) == 1


def test_the_same_seed_is_the_same_run_and_config_toml_repeats_it(
    first: Path, images: Path, shape: Path, tmp_path: Path
) -> None:
    run(images, tmp_path / "run", config=first / "config.toml")
    assert rows(tmp_path / "run") == rows(first)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    run(images, tmp_path / "other", from_scratch=str(shape), epochs=1, seed=1)
    assert rows(tmp_path / "other")[0] != rows(first)[0]


@pytest.mark.guarantee("training-interrupted")
@pytest.mark.parametrize("after", [1, 4], ids=["in the first epoch", "in the second"])
def test_an_interrupted_run_goes_on_to_the_same_end(
    after: int, first: Path, images: Path, shape: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The note that a signal would leave is left by hand: what this process has loaded may mind real ones."""
    from levit_cli.finetune import loop, step

    original, steps = loop.train_epoch, []

    def noted(run: Any, signals: Any) -> None:
        def step_then_note(*arguments: Any) -> Any:
            steps.append(1)
            if len(steps) == after:
                signals.arrived = signal.SIGINT
            return step.train_step(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(loop, "train_step", step_then_note)
            original(run, signals)

    monkeypatch.setattr(loop, "train_epoch", noted)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", from_scratch=str(shape), epochs=4)
    assert len(steps) == after
    said = run(images, tmp_path / "run", resume=True)
    assert any("Resumed" in line for line in said)
    assert rows(tmp_path / "run") == rows(first)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_a_finished_run_resumes_to_nothing(first: Path, images: Path) -> None:
    before = rows(first)
    run(images, first, resume=True)
    assert rows(first) == before


@pytest.mark.guarantee("training-diverges")
def test_a_nan_loss_stops_and_keeps_the_best(first: Path, images: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from levit_cli.finetune import loop

    original = loop.train_epoch

    def spoiled(run: Any, signals: Any) -> None:
        if run.position.epoch == 1:
            torch.nn.init.constant_(run.network.head.linear.weight, float("nan"))
        original(run, signals)

    monkeypatch.setattr(loop, "train_epoch", spoiled)
    with pytest.raises(TrainingStoppedError, match="no number any more, in epoch 2 at step 1"):
        run(images, tmp_path / "run", model=str(first), epochs=3)
    assert load(tmp_path / "run").evaluation is not None
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["position"]["epoch"] == 1


@pytest.mark.guarantee("training-unreadable-images")
def test_unreadable_images_are_named_and_remembered(images: Path, shape: Path, tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", 6, 2)
    bad = data / "train" / "red" / "000.png"
    bad.write_bytes(bad.read_bytes()[:100])
    said = run(data, tmp_path / "run", from_scratch=str(shape), epochs=1, max_unreadable=0.1)
    assert any(f"Left out {bad}: truncated" in line for line in said)
    assert str(bad) in (tmp_path / "run" / "unreadable.tsv").read_text()
    bad.unlink()  # a resumed run does not look again
    run(data, tmp_path / "run", resume=True)


def test_what_a_folder_holds_is_not_overwritten(first: Path, images: Path, shape: Path) -> None:
    before = (first / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--resume continues it"):
        run(images, first, from_scratch=str(shape))
    with pytest.raises(UsageError, match="other settings · epochs 4, not 9"):
        run(images, first, resume=True, epochs=9)
    assert (first / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "unreadable.tsv", "state.pt", "config.toml"])
def test_a_damaged_file_of_a_run_is_named(name: str, first: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(b"\xffno[]")
    with pytest.raises(RefusedError, match=name):
        run(images, tmp_path / "run", resume=True)


def test_no_run_to_resume(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No run to resume"):
        run(images, tmp_path / "none", resume=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"from_scratch": "levit-1"}, "No LeViT to begin with"),
        ({"image_size": "50"}, "multiples of 16"),
        ({"image_size": "a"}, "No image size"),
        ({"model": "/nowhere/model.pth"}, "Unknown model"),
        ({"device": "cuda"}, "no cuda device"),
        ({"teacher": "nobody"}, "Unknown model|No LeViT"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    given: dict[str, Any], message: str, images: Path, first: Path, tmp_path: Path
) -> None:
    if given.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises((UsageError, RefusedError), match=message):
        run(images, tmp_path / "run", **{"model": str(first), **given})


def test_frozen_parts_learn_the_same_in_any_number_of_parts(first: Path, images: Path, tmp_path: Path) -> None:
    for parts in (1, 3):
        run(images, tmp_path / str(parts), model=str(first), freeze="backbone", grad_accum_steps=parts)
    whole, cut = (arrays(tmp_path / str(parts))["head.linear.weight"] for parts in (1, 3))
    np.testing.assert_allclose(whole, cut, atol=1e-5)


def test_images_are_normalised_by_the_transform() -> None:
    from levit_cli.images.transforms import transform_for

    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)])
    torch.testing.assert_close(normalised(pixels, transform_for("hf", (32, 32)))[0, :, 0, 0], expected)
