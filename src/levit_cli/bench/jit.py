"""Run a model as the authors' ``speed_test.py`` does: in torch, traced, with its batch norms folded.

Both heads run. Attention biases are gathered in advance. The traced graph is not frozen, and tensors are not
channels-last. The input is random and stays on the device. A precision other than fp32 uses autocast, as on the paper's
GPU. There is one difference: the script replaces the batch norms of a baseline by identities, which gives the right
speed but wrong logits; here they are folded.
"""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from levit_cli.bench.protocol import Step
from levit_cli.choices import BaselineName
from levit_cli.engines import EngineModel, EngineSpec
from levit_cli.engines.torch import DTYPES, trace
from levit_cli.model.levit import AttentionBase, ConvNorm, Head, Levit, LinearNorm, load_arrays


def make_step(weights: EngineModel | BaselineName, shape: tuple[int, ...], spec: EngineSpec) -> Step:
    """Return a function that runs one forward pass and waits until it is finished.

    Args:
        weights: a LeViT's weights or the name of a baseline.
        shape: (B, 3, H, W) of the input.
        spec: as ``engines.resolve_spec`` returns it.
    """
    if spec.device == "cpu":
        torch.set_num_threads(spec.threads)
    images = torch.randn(shape, device=spec.device)
    traced = trace(_network(weights).to(spec.device), images)

    def run() -> None:
        with torch.inference_mode(), _autocast(spec):
            traced(images)
        if spec.device != "cpu":
            torch.accelerator.synchronize()

    run()
    return run


def _network(weights: EngineModel | BaselineName) -> nn.Module:
    if not isinstance(weights, str):
        return build_two_head_levit(weights)
    from levit_cli.bench.baselines import build_network

    return build_network(weights)


def _autocast(spec: EngineSpec) -> torch.autocast:
    return torch.autocast(spec.device, DTYPES[spec.precision], enabled=spec.precision != "fp32")


def build_two_head_levit(weights: EngineModel) -> nn.Module:
    """Build the training form in evaluation mode with its batch norms folded.

    It maps (B, 3, H, W) images to (B, classes) logits, the mean of the two heads.
    """
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
    """Fold the batch norm of a head, which precedes the linear layer."""
    mean, variance = (head.norm.get_buffer(name) for name in ("running_mean", "running_var"))
    scale = head.norm.weight / torch.sqrt(variance + head.norm.eps)
    shift = head.norm.bias - mean * scale
    head.linear.bias.add_(head.linear.weight @ shift)
    head.linear.weight.mul_(scale)


def _gather_biases(attention: AttentionBase) -> None:
    """Store the bias of every pair of tokens, and make the indexing in ``attend`` select all of them."""
    gathered = attention.biases.detach()[:, attention.bias_index]  # (heads, queries, keys)
    del attention.biases, attention.bias_index
    attention.register_buffer("biases", gathered)
    attention.bias_index = slice(None)  # type: ignore[assignment]
