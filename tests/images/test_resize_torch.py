import pytest

from levit_cli.errors import InputError
from levit_cli.images.resize_torch import preprocess_tensor
from levit_cli.images.transforms import recipe_for
from tests.support.sample_images import picture


def test_a_picture_too_long_to_be_resized_whole_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        preprocess_tensor(picture(1, 60000), recipe_for("hf-tensor", (224, 224)))
    assert caught.value.kind == "extreme_aspect"
