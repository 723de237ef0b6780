"""Who decays, how the rate runs, how gradients are cut, what the moving average is."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from levit_cli.finetune.optim import FIRST_RATE, clip_adaptively, make_optimizer, moving_average, rate_at
from levit_cli.model.levit import Levit
from tests.support.random_weights import TINY


def test_vectors_and_attention_biases_do_not_decay() -> None:
    network = Levit(TINY)
    decayed, plain = make_optimizer(network, 1e-3, 0.05).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(parameter)].rpartition(".")[2] for parameter in decayed["params"]} == {"weight"}
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    undecayed = {names[id(parameter)].rpartition(".")[2] for parameter in plain["params"]}
    assert undecayed == {"weight", "bias", "biases"}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_the_rate_rises_straight_and_falls_by_a_cosine() -> None:
    rates = [rate_at(step, 100, 10, 1e-3, 1e-5) for step in range(101)]
    assert rates[0] == pytest.approx(FIRST_RATE + (1e-3 - FIRST_RATE) / 10)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[100] == pytest.approx(1e-5)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_adaptive_clipping_goes_by_units() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    weight.grad = torch.tensor([[30.0, 40.0], [1.0, 0.0]])
    bias = nn.Parameter(torch.tensor([1.0, 0.0]))
    bias.grad = torch.tensor([0.001, 0.0])
    clip_adaptively([weight, bias], 0.01)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.03, 0.04], [1e-5, 0.0]]))
    torch.testing.assert_close(bias.grad, torch.tensor([0.001, 0.0]))


def test_the_average_follows_weights_and_statistics() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = moving_average(network, 0.5)
    average.update_parameters(network)  # the first is a copy
    state = network.state_dict()
    start = state["0.weight"].clone()
    state["0.weight"] += 1
    state["1.running_mean"] += 10
    state["1.num_batches_tracked"] += 3
    average.update_parameters(network)
    memory = 2 / 11  # of step 1, while the run is young
    averaged = average.module.state_dict()
    torch.testing.assert_close(averaged["0.weight"], start + (1 - memory))
    torch.testing.assert_close(averaged["1.running_mean"], torch.full((2,), 10 * (1 - memory)))
    assert averaged["1.num_batches_tracked"] == 3
