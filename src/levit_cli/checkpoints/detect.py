"""Detect a checkpoint's format, infer its config, and convert its keys to the names of the training form.

The keys of the stem identify the format, and the number of blocks gives the depths. Each width and each number of heads
is the majority vote of several tensors, so one missing or mis-shaped tensor does not change the config, and the error
can name it. ``model.tensors.tensors`` lists the tensors that the config requires. The file must match that list.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import CHECKPOINT_FORMATS, CheckpointFormat
from levit_cli.errors import RefusedError
from levit_cli.model.config import PATCH_SIZE, STEM_CONVS, VALUE_RATIO, Grid, LevitConfig
from levit_cli.model.tensors import (
    BIAS_INDEX,
    BIASES,
    CONVOLUTION,
    HEAD_LINEAR,
    HEADS,
    KV,
    PROJ,
    QKV,
    Names,
    Shape,
    Tensor,
    block_names,
    shrink_names,
    stem_names,
    tensors,
)
from levit_cli.system.text import count_noun

Array = NDArray[Any]
SHOWN_KEYS = 5  # keys named in a message
STEM = tuple(stem_names(index) / CONVOLUTION / "weight" for index in range(STEM_CONVS))
# Key suffixes by which the error message names another architecture.
OTHER_ARCHITECTURES = {
    "patch_embed.proj.weight": "a vision transformer such as ViT or DeiT",
    "patch_embeddings.projection.weight": "a vision transformer such as ViT or DeiT",
    "layer1.0.conv1.weight": "a ResNet",
    "encoder.stages.0.layers.0.layer.0.convolution.weight": "a ResNet",
    "conv_stem.weight": "an EfficientNet or MobileNet",
    "features.0.0.weight": "a convolutional network from torchvision",
    "stem.0.conv.weight": "the training form of levit itself, which is not a published format",
    "embed_tokens.weight": "a language model",
}


@dataclass(frozen=True)
class StateDictConversion:
    """A state dict with the names of the training form, and a report on each key of the file.

    Args:
        mapped: number of tensors taken from the file.
        derived: names of the tensors that are not in the file and have a known value.
        dropped: keys of the file that are dropped on purpose.
    """

    state: Mapping[str, Array]
    config: LevitConfig
    format: CheckpointFormat
    mapped: int
    derived: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def convert_state_dict(
    arrays: Mapping[str, Array], path: Path, *, image_size: Grid | None = None, drop_path_rate: float = 0.0
) -> StateDictConversion:
    """Convert a state dict of any format to the names of the training form.

    Args:
        arrays: arrays under the names of one format.
        path: the file that error messages name.
        image_size: (height, width) from the model's config. If None, it is inferred from the attention bias tables.
        drop_path_rate: rate from the model's config. It cannot be inferred, because no tensor depends on it.

    Raises:
        RefusedError: keys are missing, unexpected or mis-shaped (all listed in one message), or a value is invalid.
    """
    format = _format(arrays, path)
    shapes = {name: array.shape for name, array in arrays.items()}
    config = _infer_config(shapes, format, path, image_size, drop_path_rate)
    expected = {tensor.names.of(format): tensor for tensor in tensors(config)}
    dropped = tuple(name for name in arrays if name.endswith(f".{BIAS_INDEX}"))
    known = {name: _linear_layout(array, expected[name].shape) for name, array in arrays.items() if name in expected}
    _require_match(known, expected, set(arrays) - set(known) - set(dropped), path)
    counters = {tensor.names.ours: np.zeros((), np.int64) for tensor in expected.values() if tensor.kind == "counter"}
    from_file = {expected[name].names.ours: array for name, array in known.items()}
    known_or_zero = counters | from_file
    state = {tensor.names.ours: known_or_zero[tensor.names.ours] for tensor in expected.values()}
    derived = tuple(name for name in state if name not in from_file)
    return StateDictConversion(_validated(state, path), config, format, len(from_file), derived, dropped)


def has_stem(names: Container[str]) -> bool:
    """Return whether the names include a convolution of a LeViT's stem in any format."""
    return _format_of(names) is not None


def _format_of(names: Container[str]) -> CheckpointFormat | None:
    for format in CHECKPOINT_FORMATS:
        if any(convolution.of(format) in names for convolution in STEM):
            return format
    return None


def _format(arrays: Mapping[str, Array], path: Path) -> CheckpointFormat:
    if format := _format_of(arrays):
        return format
    guess = next(
        (other for suffix, other in OTHER_ARCHITECTURES.items() for name in arrays if name.endswith(suffix)),
        "an unknown architecture",
    )
    raise RefusedError(
        f"{path} is not a LeViT checkpoint: it looks like {guess}",
        why=f"no convolution of the LeViT stem among {count_noun(len(arrays), 'key')}"
        + (f"; the first are {', '.join(name[:100] for name in list(arrays)[:SHOWN_KEYS])}" if arrays else ""),
    )


def _infer_config(
    shapes: Mapping[str, Shape], format: CheckpointFormat, path: Path, image_size: Grid | None, drop_path_rate: float
) -> LevitConfig:
    try:
        return replace(_Inference(shapes, format).config(image_size), drop_path_rate=drop_path_rate)
    except RefusedError as error:
        raise RefusedError(f"{path} is refused: {error.what}", why=error.why, hint=error.hint) from error
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        what = f"{path} is not a complete LeViT checkpoint"
        raise RefusedError(what, why=f"missing or mis-shaped: {error}") from error


class _Inference:
    """Infers the config from tensor shapes. Each size is decided by a majority vote."""

    def __init__(self, shapes: Mapping[str, Shape], format: CheckpointFormat) -> None:
        self.shapes, self.format = shapes, format

    def config(self, image_size: Grid | None) -> LevitConfig:
        depths = self._depths()
        stages = [_attentions(depths, stage) for stage in range(len(depths))]
        num_heads = [self.size(stage, BIASES) for stage in stages]
        qkv_widths = [self.size(stage, QKV) for stage in stages]
        return LevitConfig(
            hidden_sizes=tuple(self.size(stage, PROJ) for stage in stages),
            key_dims=tuple(
                width // ((2 + VALUE_RATIO) * heads) for width, heads in zip(qkv_widths, num_heads, strict=True)
            ),
            num_heads=tuple(num_heads),
            depths=tuple(depths),
            num_classes=self.size(list(HEADS.values()), HEAD_LINEAR),
            image_size=image_size or _square_image(self._first_tokens(depths)),
            distilled=any(self._under(HEADS["head_dist"])),
        )

    def size(self, prefixes: Sequence[Names], child: Names, axis: int = 0) -> int:
        """Return the most frequent length of ``axis`` among the tensors of layer ``child`` under all ``prefixes``.

        Raises:
            KeyError: there is no such tensor.
        """
        shapes = [self.shapes[name] for prefix in prefixes for name in self._under(prefix / child)]
        votes = Counter(shape[axis] for shape in shapes if len(shape) > axis)
        if not votes:
            raise KeyError((prefixes[0] / child).of(self.format) if prefixes else "the blocks of a stage")
        return votes.most_common(1)[0][0]

    def _first_tokens(self, depths: Sequence[int]) -> int:
        """Return the number of tokens in the first stage. The next shrink block has a bias table of that length too."""
        return self.size([*_attentions(depths, 0), shrink_names(depths, 1)[0]], BIASES, axis=1)

    def _under(self, prefix: Names) -> Iterator[str]:
        """Yield the keys that equal the prefix or start with it and a dot."""
        parent = prefix.of(self.format) + "."
        return (name for name in self.shapes if f"{name}.".startswith(parent))

    def _has(self, attention: Names, *layers: Names) -> bool:
        return any(name for layer in layers for name in self._under(attention / layer))

    def _depths(self) -> list[int]:
        depths: list[int] = []
        while not depths or self._has(shrink_names(depths, len(depths))[0], KV, PROJ):
            block = 0
            while self._has(block_names(depths, len(depths), block)[0], QKV, PROJ):
                block += 1
            depths.append(block)
        return depths


def _attentions(depths: Sequence[int], stage: int) -> list[Names]:
    return [block_names(depths, stage, block)[0] for block in range(depths[stage])]


def _square_image(tokens: int) -> Grid:
    side = isqrt(tokens)
    if side * side != tokens:
        raise RefusedError(
            f"the model expects images that are not square ({tokens} tokens)",
            hint='the weights do not determine height and width: add a config.json with "image_size" to their folder',
        )
    return side * PATCH_SIZE, side * PATCH_SIZE


def _linear_layout(array: Array, shape: Shape) -> Array:
    """Reshape a 1x1 convolution (out, in, 1, 1) to a matrix (out, in); timm's ``levit_conv_*`` store it that way."""
    return array.reshape(shape) if array.shape == (*shape, 1, 1) else array


def _require_match(
    known: Mapping[str, Array], expected: Mapping[str, Tensor], unexpected: set[str], path: Path
) -> None:
    missing = [name for name, tensor in expected.items() if name not in known and tensor.kind != "counter"]
    misshaped = [
        f"{name} (expected {expected[name].shape}, found {array.shape})"
        for name, array in known.items()
        if array.shape != expected[name].shape
    ]
    problems = [
        f"{len(keys)} {problem}: {', '.join(keys[:SHOWN_KEYS])}{' …' if len(keys) > SHOWN_KEYS else ''}"
        for problem, keys in (("missing", missing), ("unexpected", sorted(unexpected)), ("mis-shaped", misshaped))
        if keys
    ]
    if problems:
        raise RefusedError(f"{path} does not match the LeViT config inferred from its shapes", why="; ".join(problems))


def _validated(state: Mapping[str, Array], path: Path) -> dict[str, Array]:
    """Return the state in float32, with counters in int64, after checking its values.

    Raises:
        RefusedError: a weight is not floating-point, NaN or infinite, or a variance is not positive.
    """
    validated: dict[str, Array] = {}
    for name, array in state.items():
        counter = name.endswith("num_batches_tracked")
        if array.dtype.kind not in ("iuf" if counter else "f"):
            what = f"{path} holds weights that are not floating-point numbers"
            raise RefusedError(what, why=f"{name} is {array.dtype}")
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # float64 may overflow; checked below
            validated[name] = np.asarray(array, dtype=np.int64 if counter else np.float32)
        if not np.isfinite(array if counter else validated[name]).all():
            raise RefusedError(f"{path} holds NaN or infinity", why=f"in {name}")
        if name.endswith("running_var") and not np.all(validated[name] > 0):
            raise RefusedError(f"{path} holds a batch norm whose variance is not positive", why=f"in {name}")
    return validated
