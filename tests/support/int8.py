"""Make int8 models for tests: with NNCF, or with a float graph in its place, which takes no time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from levit_cli.checkpoints import Checkpoint, load
from levit_cli.engines.openvino import build_both_outputs, save_graph
from levit_cli.model.folded import fold
from levit_cli.predict.model import ModelOptions
from levit_cli.quantize.run import Calibration, quantize
from levit_cli.system.progress import silent
from tests.support.random_weights import TINY

CLASSES = tuple(f"class {index}" for index in range(TINY.num_classes))
IMAGES_PER_CLASS = 15  # of seven classes: more than 100 images


def write_noise(root: Path, names: Sequence[str] = CLASSES, count: int = IMAGES_PER_CLASS) -> Path:
    """Write class folders of small PNG images with coarse random colors, and return their parent."""
    for number, name in enumerate(names):
        folder = root / name
        folder.mkdir(parents=True)
        for image in range(count):
            colors = np.random.default_rng([number, image]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(colors).resize((72, 72), Image.Resampling.NEAREST).save(folder / f"{image:03d}.png")
    return root


def replace_nncf(monkeypatch: pytest.MonkeyPatch, damage: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Write the float graph instead of a quantized one, and pretend that the extra is installed.

    Args:
        damage: changes the folded weights of the graph.
    """

    def write(checkpoint: Checkpoint, images: Sequence[Any], path: Path, on_image: Callable[[], None]) -> None:
        weights = fold(checkpoint.state, checkpoint.config)
        damage(weights)
        for _ in images:
            on_image()
        save_graph(build_both_outputs(weights, checkpoint.config, checkpoint.transform), path)

    monkeypatch.setattr("levit_cli.quantize.nncf_graph.quantize_graph", write)
    monkeypatch.setattr("levit_cli.quantize.nncf_graph.nncf_version", lambda: "3")
    monkeypatch.setattr("levit_cli.quantize.run.require_extra", lambda *_: None)


def quantized(model: Path, data: Path, output: Path, samples: int = 20, max_drop: float = 1.0) -> str:
    """Quantize a model in this process and return the report."""
    options = ModelOptions(str(model))
    return quantize(options, output, Calibration(data, samples, max_drop=max_drop), silent, quiet=True)


def loaded(folder: Path) -> Checkpoint:
    """Load a folder that must have an int8 graph."""
    checkpoint = load(folder)
    assert checkpoint.int8 is not None
    return checkpoint
