"""The recipe ``hf-tensor`` against transformers' own tensor processor."""

import numpy as np
import pytest

from levit_cli.engines.torch_resize import preprocess_tensor
from levit_cli.errors import InputError
from levit_cli.recipes import recipe_for
from tests.pictures import picture

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchvision")


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (224, 224), (100, 90), (257, 1031), (256, 256)])
def test_pixels_equal_those_of_the_tensor_processor(size: tuple[int, int]) -> None:
    processor = transformers.LevitImageProcessor(do_rescale=False, do_normalize=False)
    image = picture(*size)
    (expected,) = processor(image, return_tensors="np")["pixel_values"]
    found = preprocess_tensor(image, recipe_for("hf-tensor", (224, 224)))
    np.testing.assert_array_equal(found, expected.transpose(1, 2, 0))


def test_a_picture_too_long_to_be_resized_whole_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        preprocess_tensor(picture(1, 60000), recipe_for("hf-tensor", (224, 224)))
    assert caught.value.kind == "extreme_aspect"
