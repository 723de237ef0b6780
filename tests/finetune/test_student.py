"""Adapting checkpoints to other classes and image sizes, and freezing the backbone."""

import unicodedata
from dataclasses import replace

import pytest
import torch

from levit_cli.data.labels import Labels, imagenet1k
from levit_cli.finetune.student import Heads, adapt, freeze_backbone, resample_biases, source_indices, train_mode
from levit_cli.model.levit import Levit
from tests.support.random_weights import TINY, random_state


def test_the_same_config_keeps_all_weights() -> None:
    state = random_state(TINY)
    network = adapt(state, TINY, TINY)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, torch.from_numpy(state[name]), rtol=0, atol=0)


def test_other_classes_get_new_linear_layers_and_keep_the_batch_norms() -> None:
    state = random_state(TINY)
    network = adapt(state, TINY, replace(TINY, num_classes=3))
    assert network.head.linear.weight.shape == (3, 32)
    assert network.head.linear.bias.abs().sum() == 0
    assert network.head_dist is not None
    torch.testing.assert_close(
        network.head_dist.norm.running_mean, torch.from_numpy(state["head_dist.norm.running_mean"])
    )


@pytest.mark.guarantee("known-classes")
def test_head_weights_are_matched_by_name_and_not_by_number() -> None:
    """The same number of classes: some have other names, the others another order."""
    state, names = random_state(TINY), tuple("abcdefg")
    sources = source_indices(("g", "new", "c", "a", "x", "y", "z"), Labels(names))
    assert sources == [6, None, 2, 0, None, None, None]
    network = adapt(state, TINY, TINY, sources)
    for head, linear in (("head", network.head.linear), ("head_dist", network.head_dist.linear)):  # type: ignore[union-attr]
        old = torch.from_numpy(state[f"{head}.linear.weight"])
        for new_index, old_index in enumerate(sources):
            same = torch.equal(linear.weight[new_index], old[new_index if old_index is None else old_index])
            assert same == (old_index is not None)
        assert linear.bias[2] == torch.from_numpy(state[f"{head}.linear.bias"])[2]
        assert linear.bias[1] == 0


@pytest.mark.guarantee("known-classes")
def test_a_name_is_matched_only_if_it_is_unambiguous() -> None:
    imagenet = imagenet1k()
    classes = ("crane", "n02012849", unicodedata.normalize("NFC", "café"), "tench")
    assert source_indices(classes, imagenet) == [None, imagenet.wnids.index("n02012849"), None, 0]  # type: ignore[union-attr]
    assert source_indices(classes[2:3], Labels((unicodedata.normalize("NFD", "café"),))) == [0]


def test_the_distillation_head_can_be_added_and_removed() -> None:
    single = replace(TINY, distilled=False)
    state = random_state(single)
    network = adapt(state, single, TINY)
    assert network.head_dist is not None
    torch.testing.assert_close(network.head_dist.norm.weight, torch.from_numpy(state["head.norm.weight"]))
    assert adapt(random_state(TINY), TINY, single).head_dist is None


def test_another_image_size_resamples_all_attention_biases() -> None:
    new_config = replace(TINY, image_size=(96, 128))
    network = adapt(random_state(TINY), TINY, new_config)
    assert network(torch.zeros(2, 3, 96, 128)).shape == (2, 7)
    state, tables = network.state_dict(), [name for name in network.state_dict() if name.endswith("biases")]
    initial = Levit(new_config).state_dict()
    assert len(tables) == 6
    assert all(state[name].shape == initial[name].shape for name in tables)


def test_resampled_biases_agree_at_equal_distances() -> None:
    biases = torch.arange(9.0).view(1, 9)  # 3 x 3: 3 * dy + dx
    doubled = resample_biases(biases, (3, 3), (5, 5)).view(5, 5)
    rows = torch.arange(5.0) / 2
    torch.testing.assert_close(doubled, 3 * rows[:, None] + rows[None, :])
    assert resample_biases(biases, (3, 3), (1, 1)).tolist() == [[0.0]]
    torch.testing.assert_close(resample_biases(torch.ones(2, 1), (1, 1), (2, 2)), torch.ones(2, 4))


def test_every_parameter_gets_a_gradient() -> None:
    network = adapt(random_state(TINY), TINY, replace(TINY, image_size=(128, 128)))  # 2 x 2 tokens in the last stage
    heads = Heads(network)(torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    sum((head.square().mean() for head in heads), torch.zeros(())).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().sum() > 0] == []


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_statistics_change_only_if_the_backbone_is_trained(frozen: bool) -> None:
    network = adapt(random_state(TINY), TINY, TINY)
    if frozen:
        freeze_backbone(network)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    train_mode(network, frozen=frozen)
    Heads(network)(torch.randn(4, 3, 64, 64))
    changed = [name for name, value in before.items() if not torch.equal(network.state_dict()[name], value)]
    assert len(changed) == (0 if frozen else len(before))
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    if frozen:
        assert trainable == {f"{head}.linear.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")}
