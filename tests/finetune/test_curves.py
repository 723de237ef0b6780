"""The learning curves of a run: drawn for any name, and left out where matplotlib is missing."""

import json
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.finetune.test_run import run

HISTORY = [
    {"epoch": epoch, "train_loss": 2 / epoch, "val_loss": 3 / epoch, "val_top1": 0.5 + epoch / 10} for epoch in (1, 2)
]


@pytest.mark.parametrize("title", ["run", "日本 $\\frac{a}{$ \x1b[31m\udce9"])
def test_curves_are_drawn_for_a_run_folder_of_any_name(title: str) -> None:
    pytest.importorskip("matplotlib")
    from levit_cli.finetune.curves import draw_curves

    image = Image.open(BytesIO(draw_curves(HISTORY, title))).convert("RGB")
    colors = {color for _, color in image.getcolors(maxcolors=1 << 20) or []}
    assert {(37, 99, 168), (169, 198, 232), (217, 115, 13)} <= colors  # validation, training, accuracy


@pytest.mark.guarantee("missing-extra")
@pytest.mark.parametrize("package", ["matplotlib", "matplotlib.axes"], ids=["missing", "broken"])
def test_without_matplotlib_the_run_is_trained_and_one_line_says_that_no_curves_are_drawn(
    package: str, images: Path, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("levit_cli.finetune.curves", "levit_cli.system.plotting"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # an import of it fails
    lines = run(images, tmp_path / "run", from_scratch=str(architecture), epochs=1)
    (line,) = (line for line in lines if "curves" in line)
    assert "will not be drawn · curves.png needs" in line
    assert "pip install 'levit-cli[plot]'" in line
    assert not (tmp_path / "run/curves.png").exists()
    (metrics,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert metrics["epoch"] == 1
