"""Define the training form of LeViT (Graham et al. 2021, section 4), with batch norms and heads kept separate.

LeViT differs from other vision transformers. The mean of all tokens replaces the class token. Batch norm replaces layer
norm, so that it can be folded for inference. A learned bias per head and distance replaces position embeddings. An
attention layer (``ShrinkAttention``) halves the grid instead of pooling. A second head learns from a teacher.

The tensor names are those of ``model.tensors``, and ``load_state_dict`` accepts a checkpoint's arrays unchanged.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from levit_cli.model.attention_bias import bias_index
from levit_cli.model.config import (
    BATCH_NORM_EPS,
    MLP_RATIO,
    SHRINK_STRIDE,
    SHRINK_VALUE_RATIO,
    VALUE_RATIO,
    Grid,
    LevitConfig,
)


def to_tensor(array: NDArray[Any]) -> Tensor:
    """Copy an array to a tensor. The copy is needed because the array may be read-only or mapped from a file."""
    return torch.from_numpy(np.array(array))


def load_arrays(network: nn.Module, state: Mapping[str, NDArray[Any]]) -> None:
    """Load a checkpoint's arrays into a network. Their names must match those of the network exactly."""
    network.load_state_dict({name: to_tensor(array) for name, array in state.items()})


def from_arrays(config: LevitConfig, state: Mapping[str, NDArray[Any]]) -> "Levit":
    """Return the network with a checkpoint's arrays, in evaluation mode. torch's random state does not change."""
    with torch.random.fork_rng(devices=[]):  # a new network has random weights
        network = Levit(config)
    load_arrays(network, state)
    return network.eval()


class ConvNorm(nn.Module):
    """A 3x3 convolution with stride 2 and without bias, followed by a batch norm."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, out_width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_width, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


class LinearNorm(nn.Module):
    """A linear layer without bias on tokens (B, N, C), followed by a batch norm over all tokens."""

    def __init__(self, in_width: int, out_width: int, norm_weight: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(in_width, out_width, bias=False)
        self.norm = nn.BatchNorm1d(out_width, eps=BATCH_NORM_EPS)
        nn.init.constant_(self.norm.weight, norm_weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.norm(x.flatten(0, 1)).view_as(x)  # type: ignore[no-any-return]


class AttentionBase(nn.Module):
    """The parts shared by both kinds of attention: bias by distance, softmax, Hardswish and projection."""

    bias_index: Tensor

    def __init__(self, heads: int, key_dim: int, value_dim: int, out_width: int, key_grid: Grid, stride: int) -> None:
        super().__init__()
        self.heads, self.key_dim, self.value_dim = heads, key_dim, value_dim
        self.biases = nn.Parameter(torch.zeros(heads, key_grid[0] * key_grid[1]))
        self.register_buffer("bias_index", torch.from_numpy(bias_index(key_grid, stride)), persistent=False)
        # Initially a residual branch returns 0. A shrink block has no residual, so its output must not be 0.
        self.proj = LinearNorm(heads * value_dim, out_width, norm_weight=float(stride != 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k (B, heads, N, D) and v (B, heads, N, V) -> (B, N of q, out_width)."""
        bias = self.biases[:, self.bias_index]  # (heads, queries, keys); not cached, because biases are trained
        # The logits are the largest tensors of a training step. They are read and written as rarely as possible: q is
        # scaled in their place, the bias is added in place, and in autocast the bias takes their type first.
        logits = (q * self.key_dim**-0.5) @ k.transpose(-2, -1)  # (B, heads, queries, keys)
        logits += bias.to(logits.dtype)
        weights = logits.softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)  # (B, N, heads * V)
        return self.proj(F.hardswish(mixed))  # type: ignore[no-any-return]

    def split(self, x: Tensor, *dims: int) -> tuple[Tensor, ...]:
        """(B, N, heads * sum(dims)), laid out per head -> one (B, heads, N, dim) for each dim in dims."""
        per_head = x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        return torch.split(per_head, list(dims), dim=-1)


class Attention(AttentionBase):
    """Self-attention of the tokens of one grid: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int, key_dim: int, grid: Grid) -> None:
        super().__init__(heads, key_dim, VALUE_RATIO * key_dim, width, grid, stride=1)
        self.qkv = LinearNorm(width, heads * (2 * key_dim + self.value_dim))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.qkv(x), self.key_dim, self.key_dim, self.value_dim)
        return self.attend(q, k, v)


class ShrinkAttention(AttentionBase):
    """Attention whose queries are the tokens at even rows and columns: (B, N, C) -> (B, about N/4, next C)."""

    def __init__(self, in_width: int, out_width: int, heads: int, key_dim: int, key_grid: Grid) -> None:
        super().__init__(heads, key_dim, SHRINK_VALUE_RATIO * key_dim, out_width, key_grid, stride=SHRINK_STRIDE)
        self.key_grid = key_grid
        self.kv = LinearNorm(in_width, heads * (key_dim + self.value_dim))
        self.q = LinearNorm(in_width, heads * key_dim)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.split(self.kv(x), self.key_dim, self.value_dim)
        kept = x.view(len(x), *self.key_grid, -1)[:, ::SHRINK_STRIDE, ::SHRINK_STRIDE].flatten(1, 2)
        (q,) = self.split(self.q(kept), self.key_dim)
        return self.attend(q, k, v)


class Mlp(nn.Module):
    """Per-token MLP with a hidden layer of twice the width: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = LinearNorm(width, MLP_RATIO * width)
        self.down = LinearNorm(MLP_RATIO * width, width, norm_weight=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.hardswish(self.up(x)))  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a residual branch for random samples and scale up the other samples."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * kept.to(branch.dtype) / (1 - self.rate)


class Block(nn.Module):
    """Attention and MLP, each with a residual."""

    def __init__(self, config: LevitConfig, stage: int) -> None:
        super().__init__()
        width, grid = config.hidden_sizes[stage], config.grids[stage]
        self.attention = Attention(width, config.num_heads[stage], config.key_dims[stage], grid)
        self.mlp = Mlp(width)
        self.drop_path = DropPath(config.drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(x))
        return x + self.drop_path(self.mlp(x))  # type: ignore[no-any-return]


class Shrink(nn.Module):
    """The block between two stages: shrink attention without a residual, and an MLP with one."""

    def __init__(self, config: LevitConfig, stage: int) -> None:
        super().__init__()
        heads, key_dim = config.shrink_heads(stage), config.shrink_key_dim
        self.attention = ShrinkAttention(
            config.hidden_sizes[stage - 1], config.hidden_sizes[stage], heads, key_dim, config.grids[stage - 1]
        )
        self.mlp = Mlp(config.hidden_sizes[stage])
        self.drop_path = DropPath(config.drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return x + self.drop_path(self.mlp(x))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """The blocks of one stage. Every stage except the first starts with a shrink block."""

    def __init__(self, config: LevitConfig, stage: int) -> None:
        super().__init__()
        self.shrink = Shrink(config, stage) if stage else None
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))

    def enter(self, x: Tensor) -> Tensor:
        return x if self.shrink is None else self.shrink(x)

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Head(nn.Module):
    """A batch norm and a linear layer on the mean token: (B, C) -> (B, classes)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=BATCH_NORM_EPS)
        self.linear = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))  # type: ignore[no-any-return]


class Levit(nn.Module):
    """The whole network, for normalized images (B, 3, H, W) of exactly ``config.image_size``."""

    def __init__(self, config: LevitConfig) -> None:
        super().__init__()
        self.config = config
        widths = (3, *config.stem_widths)
        self.stem = nn.ModuleList(ConvNorm(*pair) for pair in pairwise(widths))
        self.stages = nn.ModuleList(Stage(config, stage) for stage in range(config.num_stages))
        self.head = Head(config.hidden_sizes[-1], config.num_classes)
        self.head_dist = Head(config.hidden_sizes[-1], config.num_classes) if config.distilled else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes), the mean of the two heads, both in training and in evaluation."""
        features = self.forward_features(x).mean(dim=1)
        if self.head_dist is None:
            return self.head(features)  # type: ignore[no-any-return]
        return (self.head(features) + self.head_dist(features)) / 2  # type: ignore[no-any-return]

    def forward_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the classification head and of the distillation head, (B, classes) each.

        Raises:
            ValueError: the network has one head.
        """
        if self.head_dist is None:
            raise ValueError("this LeViT has no distillation head")
        features = self.forward_features(x).mean(dim=1)
        return self.head(features), self.head_dist(features)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens (B, N, C) of the last stage, whose mean is the input of the heads."""
        *_, tokens = self._stage_outputs(x)
        return tokens

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the output of each stage as (B, C, h, w), at 1/16, 1/32 and 1/64 of the image size.

        They equal timm's ``forward_intermediates``.
        """
        tokens = zip(self._stage_outputs(x), self.config.grids, strict=True)
        return tuple(output.transpose(1, 2).reshape(len(x), -1, *grid) for output, grid in tokens)

    def hidden_states(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the tokens (B, N, C) before the blocks of each stage and after the last block.

        They equal the ``hidden_states`` of ``transformers.LevitModel``.
        """
        states = []
        x = self.embed(x)
        for stage in self.stages:
            x = stage.enter(x)  # type: ignore[operator]
            states.append(x)
            x = stage.run(x)  # type: ignore[operator]
        return (*states, x)

    def embed(self, x: Tensor) -> Tensor:
        """Apply the four convolutions of the stem: (B, 3, H, W) -> (B, H/16 * W/16, C).

        Raises:
            ValueError: the images do not have the size of the config.
        """
        if x.shape[2:] != self.config.image_size:
            raise ValueError(f"expected images of {self.config.image_size}, got {tuple(x.shape[2:])}")
        for index, layer in enumerate(self.stem):
            x = layer(x if index == 0 else F.hardswish(x))
        return x.flatten(2).transpose(1, 2)

    def _stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        x = self.embed(x)
        for stage in self.stages:
            x = stage.run(stage.enter(x))  # type: ignore[operator]
            yield x
