"""Run ``levit probe`` in this process, on images that differ by the color of their class."""

from pathlib import Path
from typing import Any

from levit_cli.engines import EngineSpec
from levit_cli.predict.model import ModelOptions
from levit_cli.probe import ProbeRequest, start
from tests.finetune.sets import COLORS, noisy_image

FP32 = EngineSpec("cpu", "openvino", "fp32", threads=1, batch_size=4)


def write_colors(root: Path, count: int = 8, names: tuple[str, ...] = tuple(COLORS)) -> Path:
    """Write ``count`` images for each class, in the colors of the first classes of ``COLORS``, and return ``root``."""
    for name, color in zip(names, COLORS, strict=False):
        (root / name).mkdir(parents=True)
        for number in range(count):
            noisy_image(color, number).save(root / name / f"{number:03d}.png")
    return root


def run(data: Path, output: Path, model: Path | str, **options: Any) -> tuple[str, list[str]]:
    """Run a probe; return its report and the lines of its log."""
    lines: list[str] = []
    request = ProbeRequest(data, output, ModelOptions(str(model)), options.pop("spec", FP32), **options)
    return start(request, lines.append), lines
