"""The training form and both engines equal transformers and timm, with random weights in all layers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from levit_cli.checkpoints.save import to_format
from levit_cli.engines import EngineSpec
from levit_cli.engines.openvino import OpenVinoEngine
from levit_cli.engines.torch import TorchEngine
from levit_cli.export.openvino_ir import named_graph, run_ir, write_ir
from levit_cli.export.reference import reference_logits
from levit_cli.images.transforms import transform_for
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.model.folded import fold
from levit_cli.model.levit import Levit
from tests.support.random_weights import random_pixels, random_state

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

FP32 = EngineSpec(device="cpu", precision="fp32", threads=2)
TORCH_TOLERANCE, OPENVINO_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 5e-5, 1e-3
Array = NDArray[Any]
EACH_VARIANT = [pytest.param(name, marks=[pytest.mark.exhaustive] * (name != "levit-128S")) for name in VARIANTS]


def tensors_of(state: dict[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


def hf_config(config: LevitConfig) -> Any:
    return transformers.LevitConfig(
        image_size=config.image_size[0],
        hidden_sizes=list(config.hidden_sizes),
        num_attention_heads=list(config.num_heads),
        depths=list(config.depths),
        key_dim=list(config.key_dims),
        num_labels=config.num_classes,
    )


def hf_network(config: LevitConfig, state: dict[str, Array]) -> Any:
    kind = "WithTeacher" if config.distilled else ""
    network = getattr(transformers, f"LevitForImageClassification{kind}")(hf_config(config))
    network.load_state_dict(tensors_of(to_format(state, config, "hf")))
    return network.eval()


def timm_network(config: LevitConfig, state: dict[str, Array], **options: Any) -> Any:
    network = (timm.models.levit.LevitDistilled if config.distilled else timm.models.levit.Levit)(
        img_size=config.image_size,
        embed_dim=config.hidden_sizes,
        key_dim=config.key_dims[0],
        depth=config.depths,
        num_heads=config.num_heads,
        num_classes=config.num_classes,
        **options,
    )
    network.load_state_dict(tensors_of(to_format(state, config, "timm")))
    return network.eval()


def our_network(config: LevitConfig, state: dict[str, Array]) -> Levit:
    network = Levit(config)
    network.load_state_dict(tensors_of(state))
    return network.eval()


def normalized(pixels: Array, config: LevitConfig) -> torch.Tensor:
    transform = transform_for("fb", config.image_size)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (transform.mean, transform.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def relative_error(ours: Any, reference: Any) -> float:
    ours, reference = (np.asarray(torch.as_tensor(values).detach()) for values in (ours, reference))
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def engines(config: LevitConfig, state: dict[str, Array]) -> tuple[TorchEngine, OpenVinoEngine]:
    transform = transform_for("fb", config.image_size)
    return (
        TorchEngine(state, config, transform, replace(FP32, engine="torch")),
        OpenVinoEngine(state, config, transform, replace(FP32, engine="openvino")),
    )


@pytest.mark.parametrize("distilled", [True, False], ids=["two heads", "one head"])
@pytest.mark.parametrize("variant", EACH_VARIANT)
@torch.inference_mode()
def test_logits_equal_those_of_the_references(variant: str, distilled: bool) -> None:
    config = replace(VARIANTS[variant], distilled=distilled)
    state, pixels = random_state(config), random_pixels(config)
    images = normalized(pixels, config)
    ours = our_network(config, state)(images)
    folded, graph = (engine(pixels) for engine in engines(config, state))
    references = {
        "transformers": hf_network(config, state)(images).logits,
        "timm": timm_network(config, state)(images),
    }
    for reference in references.values():
        assert relative_error(ours, reference) <= TORCH_TOLERANCE
        assert relative_error(folded, reference) <= TORCH_TOLERANCE
        assert relative_error(graph, reference) <= OPENVINO_TOLERANCE


@pytest.mark.parametrize("variant", ["levit-128S", pytest.param("levit-384", marks=pytest.mark.exhaustive)])
@torch.inference_mode()
def test_hidden_states_and_features_equal_those_of_the_references(variant: str) -> None:
    config = VARIANTS[variant]
    state = random_state(config)
    images = normalized(random_pixels(config), config)
    network = our_network(config, state)
    theirs = hf_network(config, state).levit(images, output_hidden_states=True)
    for ours, reference in zip(network.hidden_states(images), theirs.hidden_states, strict=True):
        assert relative_error(ours, reference) <= TORCH_TOLERANCE
    assert relative_error(network.forward_features(images), theirs.last_hidden_state) <= TORCH_TOLERANCE
    _, maps = timm_network(config, state).forward_intermediates(images)
    for ours, reference in zip(network.feature_maps(images), maps, strict=True):
        assert relative_error(ours, reference) <= TORCH_TOLERANCE


@torch.inference_mode()
def test_both_heads_equal_those_of_transformers() -> None:
    config = VARIANTS["levit-128S"]
    state = random_state(config)
    images = normalized(random_pixels(config), config)
    theirs = hf_network(config, state)(images)
    for ours, reference in zip(
        our_network(config, state).forward_heads(images), (theirs.cls_logits, theirs.distillation_logits), strict=True
    ):
        assert relative_error(ours, reference) <= TORCH_TOLERANCE


def gradients_of(network: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Train one step's worth: return the gradient of each parameter, and the statistics of the batch norms."""
    output = network.train()(images)
    logits = output.logits if hasattr(output, "logits") else output
    torch.nn.functional.cross_entropy(logits, torch.arange(len(images))).backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {**network.state_dict(), **gradients}


def test_gradients_and_statistics_equal_those_of_the_references() -> None:
    config = replace(VARIANTS["levit-128S"], distilled=False, num_classes=10)
    state = random_state(config)
    images = normalized(random_pixels(config, 4), config)
    arrays = {name: tensor.numpy() for name, tensor in gradients_of(our_network(config, state), images).items()}
    for style, build in (("hf", hf_network), ("timm", timm_network)):
        theirs = gradients_of(build(config, state), images)
        ours = tensors_of(to_format(arrays, config, style))  # type: ignore[arg-type]
        largest = max(float(gradient.abs().max()) for gradient in theirs.values() if gradient.is_floating_point())
        for name, gradient in ours.items():
            error = float((gradient - theirs[name]).abs().max())
            scale = max(float(theirs[name].abs().max()), 1e-3 * largest)  # some gradients are 0 up to rounding
            assert error <= GRADIENT_TOLERANCE * scale, (style, name, error, scale)


@pytest.mark.parametrize("image_size", [(96, 160), (224, 128), (112, 112), (16, 32)])
@torch.inference_mode()
def test_logits_at_other_image_sizes_equal_those_of_timm(image_size: tuple[int, int]) -> None:
    config = replace(VARIANTS["levit-192"], image_size=image_size, num_classes=11)
    state, pixels = random_state(config), random_pixels(config)
    images = normalized(pixels, config)
    reference = timm_network(config, state)(images)
    assert relative_error(our_network(config, state)(images), reference) <= TORCH_TOLERANCE
    folded, graph = (engine(pixels) for engine in engines(config, state))
    assert relative_error(folded, reference) <= TORCH_TOLERANCE
    assert relative_error(graph, reference) <= OPENVINO_TOLERANCE


@pytest.mark.parametrize("stages", [1, 2, 4])
@torch.inference_mode()
def test_logits_with_other_numbers_of_stages_equal_those_of_timm(stages: int) -> None:
    config = LevitConfig(
        (32, 48, 64, 80)[:stages], (16,) * stages, (2, 3, 4, 5)[:stages], (1, 2, 1, 1)[:stages],
        num_classes=5, image_size=(80, 64),
    )  # fmt: skip
    state, pixels = random_state(config), random_pixels(config)
    reference = timm_network(config, state)(normalized(pixels, config))
    for engine in engines(config, state):
        assert relative_error(engine(pixels), reference) <= OPENVINO_TOLERANCE


@pytest.mark.parametrize("distilled", [True, False], ids=["two heads", "one head"])
@pytest.mark.parametrize("variant", EACH_VARIANT)
@torch.inference_mode()
def test_logits_of_the_exported_graphs_equal_those_of_transformers(
    variant: str, distilled: bool, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from levit_cli.export.onnx_graph import build_graph, run_onnx, write_onnx

    config = replace(VARIANTS[variant], distilled=distilled)
    state, pixels, transform = random_state(config), random_pixels(config), transform_for("hf", config.image_size)
    theirs = hf_network(config, state)(normalized(pixels, config)).logits
    weights = fold(state, config)
    write_onnx(tmp_path / "model.onnx", build_graph(weights, config, transform, {}))
    write_ir(tmp_path / "model.xml", named_graph(weights, config, transform, {}))
    (onnx,), (ir,) = run_onnx(tmp_path / "model.onnx", [pixels]), run_ir(tmp_path / "model.xml", [pixels])
    assert relative_error(onnx, theirs) <= OPENVINO_TOLERANCE
    assert relative_error(ir, theirs) <= OPENVINO_TOLERANCE
    assert relative_error(reference_logits(weights, config, transform, pixels), theirs) <= TORCH_TOLERANCE
