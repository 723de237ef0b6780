"""The ``hf-tensor`` preprocessing limits the memory for the resized image."""

import pytest

from levit_cli.errors import InputError
from levit_cli.images.resize_torch import preprocess_tensor
from levit_cli.images.transforms import transform_for
from tests.support.sample_images import sample_image


def test_an_image_with_an_extreme_aspect_ratio_is_an_error() -> None:
    with pytest.raises(InputError) as caught:
        preprocess_tensor(sample_image(1, 60000), transform_for("hf-tensor", (224, 224)))
    assert caught.value.kind == "extreme_aspect"
