"""Folding keeps a baseline's logits, and its sizes are those of the paper."""

from typing import get_args

import pytest
import torch
from torch import nn

from levit_cli.bench.baselines import DESIGNS, Baseline, build_network, count_parameters_and_macs, fold_norms
from levit_cli.bench.jit import build_two_head_levit
from levit_cli.bench.models import RandomWeights
from levit_cli.bench.paper import PUBLISHED
from levit_cli.choices import BaselineName
from levit_cli.engines import EngineSpec, make_engine_of_module
from levit_cli.engines.torch import trace
from levit_cli.model.levit import Levit
from tests.support.random_weights import TINY, random_state

SMALL = 64  # convolutional networks take images of any size


def randomized_network(name: BaselineName) -> nn.Module:
    """Build a network with random batch norms, so that an error in folding changes its logits."""
    torch.manual_seed(0)
    network = DESIGNS[name].make().eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in (
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.5, 0.5),
                (norm.running_mean, -0.5, 0.5),
                (norm.running_var, 0.5, 1.5),
            ):
                assert values is not None
                nn.init.uniform_(values, low, high)
    return network


def count_activations(network: nn.Module) -> int:
    return sum(isinstance(module, (nn.SiLU, nn.ReLU)) for module in network.modules())


@pytest.mark.parametrize("name", ["efficientnet_b0", pytest.param("resnet50", marks=pytest.mark.exhaustive)])
def test_folding_keeps_the_logits_and_the_activations(name: BaselineName) -> None:
    network = randomized_network(name)
    images = torch.randn(2, 3, SMALL, SMALL)
    with torch.inference_mode():
        before = network(images)
        activations_before = count_activations(network)
        folded = fold_norms(network)
        after = folded(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert count_activations(folded) == activations_before
    assert before.std() > 1e-3
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * before.abs().max().item())


def test_folding_refuses_a_batch_norm_that_follows_no_convolution() -> None:
    with pytest.raises(ValueError, match="has no convolution before it"):
        fold_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval())


@pytest.mark.parametrize("name", get_args(BaselineName))
def test_parameters_macs_and_image_size_are_those_of_the_paper(name: BaselineName) -> None:
    parameters, macs = count_parameters_and_macs(name)
    if name == "resnet50":  # not in the paper; these are torchvision's figures
        assert (parameters, round(macs / 1e9, 2)) == (25_557_032, 4.09)
        return
    published = PUBLISHED[name]
    assert DESIGNS[name].side == published.image_size
    assert parameters / 1e6 == pytest.approx(published.params_m, rel=0.04)
    assert macs / 1e6 == pytest.approx(published.macs_m, rel=0.05)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: build_network(name) for name in ("efficientnet_b0", "deit_tiny")}


def test_activations_neither_vanish_nor_overflow(networks: dict[str, nn.Module]) -> None:
    images = (torch.rand(2, 3, 160, 160) - 0.45) / 0.225
    with torch.inference_mode():
        assert 1e-2 < networks["efficientnet_b0"](images).std() < 1e2


@pytest.mark.parametrize(("name", "side"), [("efficientnet_b0", SMALL), ("deit_tiny", 224)])
def test_openvino_gives_torchs_logits_for_a_batch_size_that_was_not_traced(
    networks: dict[str, nn.Module], name: BaselineName, side: int
) -> None:
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8).numpy()
    spec = EngineSpec("cpu", "openvino", "fp32", threads=1, batch_size=3)
    baseline = Baseline(networks[name], side)
    converted = make_engine_of_module(baseline, spec)(pixels)
    eager = make_engine_of_module(baseline, EngineSpec("cpu", "torch", "fp32", threads=1))(pixels)
    assert converted.shape == (2, 1000)
    torch.testing.assert_close(torch.from_numpy(converted), torch.from_numpy(eager), rtol=1e-3, atol=1e-4)


def test_a_baseline_in_bf16_normalizes_pixels_in_fp32() -> None:
    pixels = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
    normalized = Baseline(nn.Identity(), 4).to_dtype(torch.bfloat16)(pixels)
    expected = (pixels / 255 - torch.tensor((0.485, 0.456, 0.406))) / torch.tensor((0.229, 0.224, 0.225))
    assert normalized.dtype == torch.bfloat16
    torch.testing.assert_close(normalized, expected.permute(0, 3, 1, 2).to(torch.bfloat16), rtol=1e-2, atol=1e-2)


class TinyWeights(RandomWeights):
    state = random_state(TINY)


def test_the_model_of_the_paper_protocol_gives_the_logits_of_the_training_form() -> None:
    model = Levit(TINY).eval()
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in random_state(TINY).items()})
    network = build_two_head_levit(TinyWeights(TINY))
    images = torch.randn(3, 3, *TINY.image_size)
    with torch.inference_mode():
        traced = trace(network, images)
        torch.testing.assert_close(traced(images), model(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    assert "aten::index" not in str(traced.inlined_graph)  # biases were gathered before tracing
    assert str(traced.inlined_graph).count("aten::linear") == str(trace(model, images).inlined_graph).count(
        "aten::linear"
    )  # both heads run
