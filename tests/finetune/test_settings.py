"""Settings from presets, files and options, and their ``config.toml``."""

from pathlib import Path
from typing import Any

import pytest

from levit_cli.errors import LevitError, RefusedError, UsageError
from levit_cli.finetune.settings import (
    Settings,
    as_toml,
    environment_defaults,
    read_toml,
    resolve_settings,
)


def test_options_override_the_file_and_the_file_overrides_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("epochs = 7\nema = 0\n")
    settings = resolve_settings("paper", file, {"ema": 0.5, "mixup": None})
    assert (settings.epochs, settings.ema, settings.mixup, settings.repeated_augmentation) == (7, 0.5, 0.8, 3)


def test_the_default_learning_rate_depends_on_the_batch_size() -> None:
    assert resolve_settings("paper", None, {}).peak_lr() == pytest.approx(5e-4 * 8192 / 512)
    assert Settings(batch_size=128).peak_lr() == pytest.approx(2.5e-4)
    assert Settings(batch_size=128, from_scratch="levit-128S").peak_lr() == pytest.approx(1e-3)
    assert Settings(batch_size=128, freeze="backbone").peak_lr() == pytest.approx(2.5e-3)
    assert Settings(learning_rate=0.1).peak_lr() == 0.1


def test_config_toml_round_trip(tmp_path: Path) -> None:
    settings = Settings(data='a "b"\n\x7fü', epochs=3, ema=0.5, flip=False, clip_mode="agc")
    file = tmp_path / "config.toml"
    file.write_text(as_toml(settings), encoding="utf-8")
    assert Settings(**read_toml(file)) == settings


@pytest.mark.parametrize(
    "text",
    ["epoch = 3", "epochs = '3'", "epochs = 3.5", "flip = 1", "clip_mode = 'x'", "epochs =", "= 1", "[a]\nb = 1"],
)
def test_invalid_config_toml_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(RefusedError, match=r"config\.toml"):
        resolve_settings("small", file, {})


@pytest.mark.parametrize(
    "given", [{"epochs": 0}, {"alpha": 1.5}, {"batch_size": 10, "grad_accum_steps": 3}, {"ema": 1.0}]
)
def test_values_out_of_range_are_usage_errors(given: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        resolve_settings("small", None, given)


def test_missing_config_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LevitError, match="Cannot read"):
        resolve_settings("small", tmp_path / "none.toml", {})


def test_batch_size_must_be_divisible_by_grad_accum_steps() -> None:
    with pytest.raises(UsageError, match="--batch-size 64 is not divisible by --grad-accum-steps 3"):
        Settings(batch_size=64, grad_accum_steps=3)


@pytest.mark.parametrize(("text", "fraction"), [("1%", 0.01), ("0.02", 0.02), ("100%", 1.0)])
def test_max_unreadable_is_a_fraction_or_a_percentage(text: str, fraction: float) -> None:
    assert resolve_settings("small", None, {"max_unreadable": text}).max_unreadable == pytest.approx(fraction)


def test_the_file_and_options_override_environment_variables(tmp_path: Path) -> None:
    environment = {"LEVIT_MODEL": "demo", "LEVIT_DEVICE": ""}
    assert environment_defaults(environment) == {"model": "demo"}
    assert resolve_settings("small", None, {"epochs": 3}, environment).model == "demo"
    assert resolve_settings("small", None, {"model": "levit-128"}, environment).model == "levit-128"
    file = tmp_path / "config.toml"
    file.write_text(as_toml(Settings(model="levit-192", device="cpu")))
    assert resolve_settings("small", file, {}, {"LEVIT_MODEL": "demo", "LEVIT_DEVICE": "cuda"}).model == "levit-192"
    with pytest.raises(UsageError, match="--device tpu is not one of auto, cpu, cuda, mps"):
        resolve_settings("small", None, {}, {"LEVIT_DEVICE": "tpu"})


def test_all_faults_of_the_settings_are_named_at_once() -> None:
    options = {"epochs": 0, "alpha": 1.5, "max_unreadable": "many", "image_size": "5", "batch_size": 10}
    with pytest.raises(UsageError) as caught:
        resolve_settings("small", None, {**options, "grad_accum_steps": 3, "distill_temperature": 2.0})
    for part in (
        "6 settings are invalid",
        "--epochs 0 is out of range: it must be from 1 to 100000",
        "--alpha 1.5 is out of range: it must be from 0 to 1",
        "--max-unreadable many is not a fraction: write 0.01 or 1%",
        "--image-size 5 is invalid: both sides must be multiples of 16",
        "--batch-size 10 is not divisible by --grad-accum-steps 3",
        "--alpha and --distill-temperature need --teacher",
    ):
        assert part in str(caught.value)


def test_all_faults_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("epochs = '3'\nflip = 1\nclip_mode = 'x'\nalpha = nan\n")
    with pytest.raises(RefusedError) as caught:
        resolve_settings("small", file, {})
    for part in (
        "--epochs 3 is not a whole number",
        "--flip 1 is not true or false",
        "--clip-mode x is not one of norm, agc",
        "--alpha nan is out of range",
    ):
        assert part in str(caught.value)
    file.write_text("epoch = 3\nb = 1")
    with pytest.raises(RefusedError, match=r"Unknown settings in .*: b, epoch"):
        resolve_settings("small", file, {})


@pytest.mark.guarantee("impossible-training")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "demo", "from_scratch": "levit-128S"}, "--model and --from-scratch contradict each other"),
        ({"distill": "soft"}, "--distill needs --teacher"),
        ({"teacher_weights": "x"}, "--teacher-weights needs --teacher"),
        ({"teacher": "demo", "distill_temperature": 2.0}, "--distill-temperature needs --distill soft"),
        ({"teacher": "demo", "teacher_size": 128}, "--teacher-size needs a torchvision network"),
        ({"teacher": "t.onnx", "teacher_weights": "w"}, "--teacher-weights needs a torchvision network"),
        ({"teacher": "demo", "alpha": 0.0}, "--alpha 0 leaves --teacher without effect"),
        ({"clip_grad": 0.0, "clip_mode": "agc"}, "--clip-mode has no effect with --clip-grad 0"),
        ({"learning_rate": 1e-6}, "--min-lr 1e-05 is larger than --learning-rate 1e-06"),
        ({"warmup_epochs": 5.0, "epochs": 2}, "--warmup-epochs 5 is larger than --epochs 2"),
        ({"patience": 20}, "--patience 20 has no effect with --epochs 20"),
        ({"class_weights": "balanced", "sampler": "balanced"}, "both balance the classes: use one of them"),
        ({"class_weights": "inverse"}, "--class-weights inverse is not one of none, balanced"),
        ({"best_metric": "f1"}, "--best-metric f1 is not one of top1, balanced_accuracy, loss"),
        ({"patience": -1}, "--patience -1 is out of range"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_settings("small", None, options)


def test_the_start_of_the_command_line_replaces_the_start_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(as_toml(Settings(from_scratch="levit-128S")))
    assert resolve_settings("small", file, {"model": "demo"}).from_scratch == ""
    assert resolve_settings("small", file, {}, {"LEVIT_MODEL": "demo"}).from_scratch == "levit-128S"
