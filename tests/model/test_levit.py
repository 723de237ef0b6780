"""The training form: outputs, initialization, gradients and drop path."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from levit_cli.model.levit import DropPath, Levit
from tests.support.random_weights import TINY, random_state


def network(**changes: object) -> Levit:
    torch.manual_seed(0)
    return Levit(replace(TINY, **changes))  # type: ignore[arg-type]


def images(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, *TINY.image_size, generator=torch.Generator().manual_seed(1))


def test_training_and_evaluation_return_the_same_shape() -> None:
    model = network()
    for mode in (True, False):
        assert model.train(mode)(images()).shape == (3, TINY.num_classes)


def test_the_logits_are_the_mean_of_both_heads() -> None:
    model = network().eval()
    with torch.inference_mode():
        heads = model.forward_heads(images())
        torch.testing.assert_close(model(images()), (heads[0] + heads[1]) / 2)


def test_a_model_with_one_head_has_no_distillation_logits() -> None:
    model = network(distilled=False)
    assert model(images()).shape == (3, TINY.num_classes)
    with pytest.raises(ValueError, match="no distillation head"):
        model.forward_heads(images())


def test_residual_branches_start_at_zero_and_shrink_blocks_do_not() -> None:
    weights = {name: value for name, value in network().named_parameters() if name.endswith("norm.weight")}
    for name, value in weights.items():
        starts_at_zero = (
            name.endswith(("mlp.down.norm.weight", "attention.proj.norm.weight")) and ".shrink.attention" not in name
        )
        assert bool((value == (0 if starts_at_zero else 1)).all()), name


def test_every_parameter_gets_a_gradient() -> None:
    config = replace(TINY, image_size=(96, 96))  # at 64 the last grid has one token, whose bias has no effect
    model = Levit(config)
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in random_state(config).items()})
    model.train()(torch.randn(3, 3, 96, 96)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith(("qkv.norm.bias", "kv.norm.bias")):  # softmax ignores a constant added to every key
            assert bool(parameter.grad.abs().sum() > 0), name


def test_batch_norm_statistics_change_in_training_only() -> None:
    model = network()
    mean = model.get_buffer("stem.0.norm.running_mean")
    before = mean.clone()
    model.eval()(images())
    assert torch.equal(mean, before)
    model.train()(images())
    assert not torch.equal(mean, before)


def test_a_loaded_attention_bias_takes_effect() -> None:
    """The reference implementations cache gathered biases, which get stale after loading."""
    model = network().eval()
    model(images())
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in random_state(TINY, 1).items()})
    fresh = network().eval()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images()), fresh(images()), rtol=0, atol=0)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images of \(64, 64\)"):
        network()(torch.zeros(1, 3, 64, 80))


def test_drop_path_drops_whole_samples_in_training_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, branch = DropPath(0.25), torch.ones(4000, 2, 3)
    assert drop.eval()(branch) is branch
    dropped = drop.train()(branch)
    per_sample = dropped.flatten(1)
    assert bool((per_sample == per_sample[:, :1]).all())
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)


def test_the_folded_module_can_be_exported() -> None:
    from levit_cli.engines.torch import FoldedLevit
    from levit_cli.images.transforms import transform_for
    from levit_cli.model.folded import fold

    module = FoldedLevit(fold(random_state(TINY), TINY), TINY, transform_for("fb", TINY.image_size)).eval()
    pixels = torch.randint(0, 256, (2, *TINY.image_size, 3), dtype=torch.uint8)
    exported = torch.export.export(module, (pixels,)).module()
    torch.testing.assert_close(exported(pixels), module(pixels))
