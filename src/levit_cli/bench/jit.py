"""The paper's way to measure, as in the authors' ``speed_test.py``: torch, batch norms folded, ``torch.jit.trace``.

Both heads run, attention biases are gathered beforehand, nothing is frozen and nothing is put channels-last; the input
is random and stays where it is. In another precision than fp32 autocast casts, as it did on the paper's GPU. What
differs: the script makes a baseline's batch norms identities, which gives wrong answers at the right speed; here they
are folded.
"""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from levit_cli.bench.protocol import Step
from levit_cli.choices import Baseline
from levit_cli.engines import EngineSpec, Weights
from levit_cli.engines.torch import DTYPES, trace
from levit_cli.model.levit import AttentionBase, ConvNorm, Head, Levit, LinearNorm, load_arrays


def step(made_of: Weights | Baseline, shape: tuple[int, ...], spec: EngineSpec) -> Step:
    """One forward pass to its end.

    Args:
        shape: (B, 3, H, W) of the input.
        spec: as ``engines.settled`` gives it.
    """
    if spec.device == "cpu":
        torch.set_num_threads(spec.threads)
    images = torch.randn(shape, device=spec.device)
    traced = trace(_module(made_of).to(spec.device), images)

    def run() -> None:
        with torch.inference_mode(), _autocast(spec):
            traced(images)
        if spec.device != "cpu":
            torch.accelerator.synchronize()

    run()
    return run


def _module(made_of: Weights | Baseline) -> nn.Module:
    if not isinstance(made_of, str):
        return both_heads(made_of)
    from levit_cli.bench.baselines import build

    return build(made_of)


def _autocast(spec: EngineSpec) -> torch.autocast:
    return torch.autocast(spec.device, DTYPES[spec.precision], enabled=spec.precision != "fp32")


def both_heads(weights: Weights) -> nn.Module:
    """The training form in evaluation, its batch norms folded: (B, 3, H, W) -> (B, classes), the mean of two heads."""
    model = Levit(weights.config)
    load_arrays(model, weights.state)
    for module in model.eval().modules():
        if isinstance(module, ConvNorm):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
        elif isinstance(module, LinearNorm):
            module.linear = fuse_linear_bn_eval(module.linear, module.norm)
        elif isinstance(module, Head):
            _fold_head(module)
        elif isinstance(module, AttentionBase):
            _gather_biases(module)
        if isinstance(module, (ConvNorm, LinearNorm, Head)):
            module.register_module("norm", nn.Identity())
    return model


@torch.no_grad()
def _fold_head(head: Head) -> None:
    """Here the batch norm comes first."""
    mean, variance = (head.norm.get_buffer(name) for name in ("running_mean", "running_var"))
    scale = head.norm.weight / torch.sqrt(variance + head.norm.eps)
    shift = head.norm.bias - mean * scale
    head.linear.bias.add_(head.linear.weight @ shift)
    head.linear.weight.mul_(scale)


def _gather_biases(attention: AttentionBase) -> None:
    """Leave for each pair of tokens what ``attend`` would look up, and make its look-up take all of that."""
    gathered = attention.biases.detach()[:, attention.bias_index]  # (heads, queries, keys)
    del attention.biases, attention.bias_index
    attention.register_buffer("biases", gathered)
    attention.bias_index = slice(None)  # type: ignore[assignment]
