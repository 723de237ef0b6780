"""Settings from presets, files and options, and their ``config.toml``."""

from pathlib import Path

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


def test_options_override_environment_variables() -> None:
    environment = {"LEVIT_MODEL": "demo", "LEVIT_DEVICE": ""}
    assert environment_defaults({"model": None, "device": None}, environment) == {"model": "demo", "device": None}
    assert environment_defaults({"model": "levit-128", "device": "cpu"}, environment) == {
        "model": "levit-128",
        "device": "cpu",
    }
