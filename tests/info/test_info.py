"""The text of ``levit info``."""

from dataclasses import replace
from pathlib import Path

import pytest

from levit_cli.checkpoints import Evaluation, load
from levit_cli.info import as_text, describe


@pytest.mark.parametrize(("images", "words"), [(1, "on 1 image of"), (5000, "on 5,000 images of")])
def test_the_noun_agrees_with_the_number_of_images(tiny_folder: Path, images: int, words: str) -> None:
    checkpoint = replace(load(tiny_folder), evaluation=Evaluation("the test set", images, 0.8))
    assert f"{words} the test set" in as_text(describe(checkpoint))
