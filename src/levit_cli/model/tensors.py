"""List every tensor of a LeViT: its shape, its kind, and its name in the training form and in each published format.

Loading, saving, counting and the training form all use this list, ``tensors(config)``. The formats also differ in
structure: Meta (``fb``) numbers all blocks in one flat list, timm stores a shrink block at the start of the next
stage, and Hugging Face (``hf``) at the end of the previous stage. Modules are therefore mapped by name prefix and not
by their position in the file.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import CheckpointFormat
from levit_cli.model.config import MLP_RATIO, SHRINK_VALUE_RATIO, VALUE_RATIO, LevitConfig

RANDOM_GAIN = 0.7  # keeps the magnitude of activations constant across blocks
Kind = Literal["matrix", "vector", "attention_bias", "statistic", "counter"]
Shape = tuple[int, ...]

BIAS_INDEX = "attention_bias_idxs"  # Meta's files have one per attention bias; its content is recomputed, never read


class Names(NamedTuple):
    """The name or name prefix of a module or tensor: ``ours`` in the training form, and in each published format."""

    ours: str
    fb: str
    timm: str
    hf: str

    def __truediv__(self, child: "Names | str") -> "Names":
        parts = child if isinstance(child, Names) else (child,) * len(self)
        return Names(*(f"{parent}.{part}" for parent, part in zip(self, parts, strict=True)))

    def of(self, format: CheckpointFormat) -> str:
        return str(getattr(self, format))


class Tensor(NamedTuple):
    """One tensor of the training form."""

    names: Names
    shape: Shape
    kind: Kind


CONVOLUTION = Names("conv", "c", "linear", "convolution")
LINEAR = Names("linear", "c", "linear", "linear")
HEAD_LINEAR = Names("linear", "l", "linear", "linear")
NORM = Names("norm", "bn", "bn", "batch_norm")
QKV = Names("qkv", "qkv", "qkv", "queries_keys_values")
KV = Names("kv", "kv", "kv", "keys_values")
Q = Names("q", "q.1", "q.ln", "queries")
PROJ = Names("proj", "proj.1", "proj.ln", "projection")
UP = Names("up", "0", "ln1", "linear_up")
DOWN = Names("down", "2", "ln2", "linear_down")
BIASES = Names("biases", "attention_biases", "attention_biases", "attention_biases")
HEADS = {
    "head": Names("head", "head", "head", "classifier"),
    "head_dist": Names("head_dist", "head_dist", "head_dist", "classifier_distill"),
}


def stem_names(index: int) -> Names:
    return Names(
        f"stem.{index}",
        f"patch_embed.{2 * index}",
        f"stem.conv{index + 1}",
        f"levit.patch_embeddings.embedding_layer_{index + 1}",
    )


def block_names(depths: Sequence[int], stage: int, block: int) -> tuple[Names, Names]:
    """Return the prefixes of a block's attention and MLP. They depend only on the depths of earlier stages."""
    flat = _flat_index(depths, stage) + (2 if stage else 0) + 2 * block
    attention = Names(
        f"stages.{stage}.blocks.{block}.attention",
        f"blocks.{flat}.m",
        f"stages.{stage}.blocks.{block}.attn",
        f"levit.encoder.stages.{stage}.layers.{2 * block}.module",
    )
    mlp = Names(
        f"stages.{stage}.blocks.{block}.mlp",
        f"blocks.{flat + 1}.m",
        f"stages.{stage}.blocks.{block}.mlp",
        f"levit.encoder.stages.{stage}.layers.{2 * block + 1}.module",
    )
    return attention, mlp


def shrink_names(depths: Sequence[int], stage: int) -> tuple[Names, Names]:
    """Return the prefixes of attention and MLP in the shrink block before ``stage``, from the depths before it."""
    flat, layer = _flat_index(depths, stage), 2 * depths[stage - 1]
    attention = Names(
        f"stages.{stage}.shrink.attention",
        f"blocks.{flat}",
        f"stages.{stage}.downsample.attn_downsample",
        f"levit.encoder.stages.{stage - 1}.layers.{layer}",
    )
    mlp = Names(
        f"stages.{stage}.shrink.mlp",
        f"blocks.{flat + 1}.m",
        f"stages.{stage}.downsample.mlp",
        f"levit.encoder.stages.{stage - 1}.layers.{layer + 1}.module",
    )
    return attention, mlp


def _flat_index(depths: Sequence[int], stage: int) -> int:
    """Return the index in Meta's flat list of the first module of a stage, including its shrink block."""
    return sum(2 * depth for depth in depths[:stage]) + 2 * max(stage - 1, 0)


def tensors(config: LevitConfig) -> Iterator[Tensor]:
    """Yield all tensors of the training form in network order."""
    channels = 3
    for index, width in enumerate(config.stem_widths):
        yield Tensor(stem_names(index) / CONVOLUTION / "weight", (width, channels, 3, 3), "matrix")
        yield from _norm(stem_names(index), width)
        channels = width
    for stage in range(config.num_stages):
        if stage:
            yield from _shrink(config, stage)
        for block in range(config.depths[stage]):
            yield from _block(config, stage, block)
    for head in config.head_names:
        yield from _head(HEADS[head], config.hidden_sizes[-1], config.num_classes)


def _block(config: LevitConfig, stage: int, block: int) -> Iterator[Tensor]:
    width, heads, key_dim = config.hidden_sizes[stage], config.num_heads[stage], config.key_dims[stage]
    values = heads * VALUE_RATIO * key_dim
    attention, mlp = block_names(config.depths, stage, block)
    yield Tensor(attention / BIASES, (heads, prod(config.grids[stage])), "attention_bias")
    yield from _linear_norm(attention / QKV, width, 2 * heads * key_dim + values)
    yield from _linear_norm(attention / PROJ, values, width)
    yield from _mlp(mlp, width)


def _shrink(config: LevitConfig, stage: int) -> Iterator[Tensor]:
    in_width, width = config.hidden_sizes[stage - 1], config.hidden_sizes[stage]
    heads, key_dim = config.shrink_heads(stage), config.shrink_key_dim
    values = heads * SHRINK_VALUE_RATIO * key_dim
    attention, mlp = shrink_names(config.depths, stage)
    yield Tensor(attention / BIASES, (heads, prod(config.grids[stage - 1])), "attention_bias")
    yield from _linear_norm(attention / KV, in_width, heads * key_dim + values)
    yield from _linear_norm(attention / Q, in_width, heads * key_dim)
    yield from _linear_norm(attention / PROJ, values, width)
    yield from _mlp(mlp, width)


def _mlp(prefix: Names, width: int) -> Iterator[Tensor]:
    yield from _linear_norm(prefix / UP, width, MLP_RATIO * width)
    yield from _linear_norm(prefix / DOWN, MLP_RATIO * width, width)


def _head(prefix: Names, width: int, num_classes: int) -> Iterator[Tensor]:
    yield from _norm(prefix, width)
    yield Tensor(prefix / HEAD_LINEAR / "weight", (num_classes, width), "matrix")
    yield Tensor(prefix / HEAD_LINEAR / "bias", (num_classes,), "vector")


def _linear_norm(prefix: Names, in_width: int, out_width: int) -> Iterator[Tensor]:
    yield Tensor(prefix / LINEAR / "weight", (out_width, in_width), "matrix")
    yield from _norm(prefix, out_width)


def _norm(prefix: Names, width: int) -> Iterator[Tensor]:
    for leaf in ("weight", "bias"):
        yield Tensor(prefix / NORM / leaf, (width,), "vector")
    for leaf in ("running_mean", "running_var"):
        yield Tensor(prefix / NORM / leaf, (width,), "statistic")
    yield Tensor(prefix / NORM / "num_batches_tracked", (), "counter")


def count_parameters(config: LevitConfig) -> int:
    """Return the number of trainable parameters of the training form, without batch-norm statistics."""
    return sum(prod(tensor.shape) for tensor in tensors(config) if tensor.kind not in ("statistic", "counter"))


def count_folded_parameters(config: LevitConfig) -> int:
    """Return the number of parameters after folding the batch norms, with both heads kept separate.

    A batch norm after a layer becomes the bias of that layer. A batch norm before a head is absorbed by the head.
    """
    width = config.hidden_sizes[-1]
    norms = sum(prod(tensor.shape) for tensor in tensors(config) if tensor.names.ours.endswith("norm.weight"))
    heads = len(config.head_names) * width
    return count_parameters(config) - 2 * norms + (norms - heads)


def random_state(config: LevitConfig, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return random arrays of the training form by name, for tests and benchmarks: float32, counters int64.

    Batch norms and attention biases are random too. A newly initialized LeViT ends each residual branch in a batch
    norm with weight 0, which would hide any error before it. Activations stay near 1.
    """
    rng = np.random.default_rng(seed)
    return {tensor.names.ours: _random_array(tensor, rng) for tensor in tensors(config)}


# The annotation is a string: evaluated, it would import numpy.random, which costs every prediction 10 ms.
def _random_array(tensor: Tensor, rng: "np.random.Generator") -> NDArray[Any]:
    name, shape = tensor.names.ours, tensor.shape
    if tensor.kind == "counter":
        return np.array(rng.integers(1, 1000), np.int64)
    if tensor.kind == "matrix":
        return rng.standard_normal(shape, np.float32) * np.float32(RANDOM_GAIN * np.prod(shape[1:]) ** -0.5)
    if name.endswith(("running_var", "norm.weight")):
        return rng.random(shape, np.float32) + np.float32(0.5)
    return rng.standard_normal(shape, np.float32) * np.float32(0.5)
