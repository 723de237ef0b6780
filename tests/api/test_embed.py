"""``embed`` and ``to_torch`` equal ``transformers.LevitModel`` with random weights in all layers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import levit_cli
from levit_cli.choices import EngineName
from levit_cli.model.config import VARIANTS, LevitConfig
from tests.support.random_weights import TINY, random_pixels, random_state, write_folder
from tests.support.sample_images import write_images

TOLERANCES: tuple[tuple[EngineName, float], ...] = (("torch", 1e-5), ("openvino", 5e-5))
EACH_VARIANT = [pytest.param(name, marks=[pytest.mark.exhaustive] * (name != "levit-128S")) for name in VARIANTS]


def relative_error(ours: Any, reference: Any) -> float:
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def folder_of(config: LevitConfig, folder: Path) -> Path:
    return write_folder(folder, random_state(config), config)


@pytest.mark.parametrize("distilled", [True, False], ids=["two heads", "one head"])
@pytest.mark.parametrize("variant", EACH_VARIANT)
def test_features_and_hidden_states_equal_those_of_transformers(tmp_path: Path, variant: str, distilled: bool) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = replace(VARIANTS[variant], distilled=distilled)
    folder = folder_of(config, tmp_path / "hf")
    # not LevitModel, which would drop the heads with a warning
    kind = "WithTeacher" if distilled else ""
    theirs = getattr(transformers, f"LevitForImageClassification{kind}").from_pretrained(folder).levit.eval()
    images = random_pixels(config, 3)
    for engine, tolerance in TOLERANCES:
        model = levit_cli.load(folder, engine=engine, precision="fp32", device="cpu")
        pixels = np.stack([model.preprocess(image) for image in images])
        mean, std = (np.array(values, np.float32) for values in (model.transform.mean, model.transform.std))
        normalized = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.inference_mode():
            expected = theirs(normalized, output_hidden_states=True)
            hidden_states = model.to_torch().hidden_states(normalized)
        features = model.embed(images)
        assert features.dtype == np.float32
        assert relative_error(features, expected.pooler_output) <= tolerance
        assert relative_error(model.embed(images[:1]), expected.pooler_output[:1]) <= tolerance
        for ours, reference in zip(hidden_states, expected.hidden_states, strict=True):
            assert relative_error(ours, reference) <= 1e-5


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_features_of_other_shapes_equal_those_of_the_training_form(tmp_path: Path, stages: int) -> None:
    torch = pytest.importorskip("torch")
    config = LevitConfig(
        (32, 48, 64, 80)[:stages], (16,) * stages, (2, 3, 4, 5)[:stages], (1, 2, 1, 1)[:stages], num_classes=5,
        image_size=(80, 64),
    )  # fmt: skip
    from levit_cli.engines import EngineSpec, make_engine
    from levit_cli.images.transforms import transform_for
    from levit_cli.model.levit import from_arrays

    class Weights:
        state, transform, sha256, int8 = random_state(config), transform_for("fb", config.image_size), "", None

    Weights.config = config  # type: ignore[attr-defined]
    pixels = random_pixels(config, 2)
    mean, std = (np.array(values, np.float32) for values in (Weights.transform.mean, Weights.transform.std))
    normalized = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = from_arrays(config, Weights.state).forward_features(normalized).mean(dim=1)
    for engine, tolerance in TOLERANCES:
        spec = EngineSpec("cpu", engine, "fp32")
        assert relative_error(make_engine(Weights, spec).features(pixels), expected) <= tolerance  # type: ignore[arg-type]


def test_the_module_of_to_torch_is_new_and_in_evaluation_mode(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = levit_cli.load(folder_of(TINY, tmp_path / "hf"), precision="fp32")
    first, second = model.to_torch(), model.to_torch()
    assert not first.training
    with torch.no_grad():
        first.head.linear.weight.zero_()
    (path,) = write_images(tmp_path / "images", 1)
    pixels = model.preprocess(path)[None]
    mean, std = (np.array(values, np.float32) for values in (model.transform.mean, model.transform.std))
    normalized = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        assert relative_error(second(normalized), model.logits(pixels)) <= 5e-5


def test_features_do_not_depend_on_how_many_images_there_are(tmp_path: Path) -> None:
    model = levit_cli.load(folder_of(TINY, tmp_path / "hf"), precision="fp32")
    paths = write_images(tmp_path / "images", 70)
    features = model.embed(iter(paths))
    assert features.shape == (70, TINY.hidden_sizes[-1])
    for size in (1, 2, 16, 33):
        np.testing.assert_array_equal(model.embed(paths[:size]), features[:size])
    with pytest.raises(levit_cli.InputError) as raised:
        model.embed([*paths[:2], b"no image at all", paths[3]])
    assert (raised.value.kind, raised.value.path) == ("not_an_image", "images[2]")
