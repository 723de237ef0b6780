"""The targets of the fuzzer over sound files, the same with some damage, and all that it ever found."""

from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.seeds import model_seeds, picture_seeds, spoilable_model
from tests.fuzz.targets import Model, picture
from tests.hostile.images import damaged

FINDS = sorted((Path(__file__).parent / "finds").glob("*"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return spoilable_model(tmp_path_factory.mktemp("model"))


def test_pictures_sound_and_damaged() -> None:
    dice = np.random.default_rng(1)
    for content in picture_seeds():
        picture(content)
        picture(damaged(content, dice))


def test_models_sound_and_damaged(model: Model, tmp_path: Path) -> None:
    dice = np.random.default_rng(2)
    for content in model_seeds(model, tmp_path):
        model(content)
        for _ in range(8):
            model(content[:1] + damaged(content[1:], dice))


def test_what_was_found_once(model: Model) -> None:
    for path in FINDS:
        (picture if path.name.startswith("picture") else model)(path.read_bytes())
