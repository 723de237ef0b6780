"""Settings: presets, files and options, and the file that repeats a run."""

from pathlib import Path

import pytest

from levit_cli.errors import LevitError, RefusedError, UsageError
from levit_cli.finetune.settings import Settings, as_toml, read_toml, settle


def test_later_ones_win(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("epochs = 7\nema = 0\n")
    settings = settle("paper", file, {"ema": 0.5, "mixup": None})
    assert (settings.epochs, settings.ema, settings.mixup, settings.repeated_augmentation) == (7, 0.5, 0.8, 3)


def test_the_papers_rate_is_in_proportion_to_the_batch() -> None:
    assert settle("paper", None, {}).peak_rate() == pytest.approx(5e-4 * 8192 / 512)
    assert Settings(batch_size=128).peak_rate() == pytest.approx(2.5e-4)
    assert Settings(batch_size=128, from_scratch="levit-128S").peak_rate() == pytest.approx(1e-3)
    assert Settings(batch_size=128, freeze="backbone").peak_rate() == pytest.approx(2.5e-3)
    assert Settings(learning_rate=0.1).peak_rate() == 0.1


def test_the_file_reads_back(tmp_path: Path) -> None:
    settings = Settings(data='a "b"\n\x7fü', epochs=3, ema=0.5, flip=False, clip_mode="agc")
    file = tmp_path / "config.toml"
    file.write_text(as_toml(settings), encoding="utf-8")
    assert Settings(**read_toml(file)) == settings


@pytest.mark.parametrize(
    "text",
    ["epoch = 3", "epochs = '3'", "epochs = 3.5", "flip = 1", "clip_mode = 'x'", "epochs =", "= 1", "[a]\nb = 1"],
)
def test_what_is_no_setting_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(RefusedError, match=r"config\.toml"):
        settle("small", file, {})


@pytest.mark.parametrize(
    "given", [{"epochs": 0}, {"alpha": 1.5}, {"batch_size": 10, "grad_accum_steps": 3}, {"ema": 1.0}]
)
def test_what_is_out_of_range_is_a_usage_error(given: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        settle("small", None, given)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LevitError, match="Cannot read"):
        settle("small", tmp_path / "none.toml", {})
