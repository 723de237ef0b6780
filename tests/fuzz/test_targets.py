"""Run the fuzz targets on valid files, on randomly damaged ones, and on all inputs that once violated a guarantee."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.seeds import image_seeds, model_seeds, model_target
from tests.fuzz.targets import Model, image
from tests.hostile.images import damaged

FINDS = sorted((Path(__file__).parent / "finds").glob("*"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_target(tmp_path_factory.mktemp("model"))


def test_valid_and_damaged_images() -> None:
    rng = np.random.default_rng(1)
    for content in image_seeds():
        image(content)
        image(damaged(content, rng))


def test_valid_and_damaged_models(model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for content in model_seeds(model, tmp_path):
        model(content)
        for _ in range(8):
            model(content[:1] + damaged(content[1:], rng))


def test_inputs_found_by_fuzzing(model: Model) -> None:
    targets: dict[str, Callable[[bytes], None]] = {"image": image, "model": model}
    for path in FINDS:
        targets[path.name.partition(" ")[0]](path.read_bytes())
