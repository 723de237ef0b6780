"""The targets of the fuzzer over sound files, the same with some damage, and all that it ever found."""

from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.seeds import image_seeds, model_seeds, spoilable_model
from tests.fuzz.targets import Model, image
from tests.hostile.images import damaged

FINDS = sorted((Path(__file__).parent / "finds").glob("*"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return spoilable_model(tmp_path_factory.mktemp("model"))


def test_images_sound_and_damaged() -> None:
    dice = np.random.default_rng(1)
    for content in image_seeds():
        image(content)
        image(damaged(content, dice))


def test_models_sound_and_damaged(model: Model, tmp_path: Path) -> None:
    dice = np.random.default_rng(2)
    for content in model_seeds(model, tmp_path):
        model(content)
        for _ in range(8):
            model(content[:1] + damaged(content[1:], dice))


def test_what_was_found_once(model: Model) -> None:
    for path in FINDS:
        (image if path.name.startswith("image") else model)(path.read_bytes())
