"""Weight decay, learning-rate schedule, gradient clipping and the moving average of the weights."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from levit_cli.finetune.optim import WARMUP_START_LR, clip_adaptively, lr_at, make_ema_model, make_optimizer
from levit_cli.model.levit import Levit
from tests.support.random_weights import TINY


def test_vectors_and_attention_biases_have_no_weight_decay() -> None:
    network = Levit(TINY)
    decay, no_decay = make_optimizer(network, 1e-3, 0.05).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(parameter)].rpartition(".")[2] for parameter in decay["params"]} == {"weight"}
    assert all(parameter.ndim > 1 for parameter in decay["params"])
    names_without_decay = {names[id(parameter)].rpartition(".")[2] for parameter in no_decay["params"]}
    assert names_without_decay == {"weight", "bias", "biases"}
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.05, 0.0)
    assert len(decay["params"]) + len(no_decay["params"]) == len(names)


def test_the_learning_rate_rises_linearly_and_falls_by_a_cosine() -> None:
    lrs = [lr_at(step, 100, 10, 1e-3, 1e-5) for step in range(101)]
    assert lrs[0] == pytest.approx(WARMUP_START_LR + (1e-3 - WARMUP_START_LR) / 10)
    assert lrs[9] == lrs[10] == pytest.approx(1e-3)
    assert lrs[55] == pytest.approx((1e-3 + 1e-5) / 2)
    assert lrs[100] == pytest.approx(1e-5)
    assert all(later <= earlier for earlier, later in pairwise(lrs[10:]))


def test_adaptive_clipping_limits_each_unit() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    weight.grad = torch.tensor([[30.0, 40.0], [1.0, 0.0]])
    bias = nn.Parameter(torch.tensor([1.0, 0.0]))
    bias.grad = torch.tensor([0.001, 0.0])
    clip_adaptively([weight, bias], 0.01)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.03, 0.04], [1e-5, 0.0]]))
    torch.testing.assert_close(bias.grad, torch.tensor([0.001, 0.0]))


def test_the_moving_average_covers_weights_and_batch_norm_statistics() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema_model = make_ema_model(network, 0.5)
    ema_model.update_parameters(network)  # the first update copies the network
    state = network.state_dict()
    start = state["0.weight"].clone()
    state["0.weight"] += 1
    state["1.running_mean"] += 10
    state["1.num_batches_tracked"] += 3
    ema_model.update_parameters(network)
    decay = 2 / 11  # at step 1; the decay is lower in the first steps
    averaged = ema_model.module.state_dict()
    torch.testing.assert_close(averaged["0.weight"], start + (1 - decay))
    torch.testing.assert_close(averaged["1.running_mean"], torch.full((2,), 10 * (1 - decay)))
    assert averaged["1.num_batches_tracked"] == 3
