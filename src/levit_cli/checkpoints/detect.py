"""Whose checkpoint is this, and of what shape? Read from the keys and shapes, then held against them strictly.

The format is known by its stem, the depths by which blocks exist, widths and heads by the shapes of most of the
tensors that have them: so one that is missing or mis-shaped is found, and named, as the odd one out. The result is a
``LevitConfig``, and from there ``names.tensors`` says exactly which tensors there must be.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import CHECKPOINT_FORMATS, CheckpointFormat
from levit_cli.errors import RefusedError
from levit_cli.model import tensors as names
from levit_cli.model.config import PATCH_SIZE, STEM_CONVS, VALUE_RATIO, Grid, LevitConfig
from levit_cli.model.tensors import Names, Shape

Array = NDArray[Any]
SHOWN = 5  # keys named in a message
STEM = tuple(names.stem_names(index) / names.CONVOLUTION / "weight" for index in range(STEM_CONVS))
# How the keys of other networks end, for the message.
OTHERS = {
    "patch_embed.proj.weight": "a vision transformer, as ViT or DeiT",
    "patch_embeddings.projection.weight": "a vision transformer, as ViT or DeiT",
    "layer1.0.conv1.weight": "a ResNet",
    "encoder.stages.0.layers.0.layer.0.convolution.weight": "a ResNet",
    "conv_stem.weight": "an EfficientNet or MobileNet",
    "features.0.0.weight": "a convolutional network of torchvision",
    "stem.0.conv.weight": "our own training form, which no format is",
    "embed_tokens.weight": "a language model",
}


@dataclass(frozen=True)
class Translation:
    """Arrays under our names, and what became of every key of the file.

    Args:
        mapped: how many tensors the file gave.
        derived: our names of tensors that the file lacked and that follow from others.
        dropped: keys of the file that are not taken over, on purpose.
    """

    state: dict[str, Array]
    config: LevitConfig
    format: CheckpointFormat
    mapped: int
    derived: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def translate(
    arrays: Mapping[str, Array], path: Path, *, image_size: Grid | None = None, drop_path_rate: float = 0.0
) -> Translation:
    """Bring a file's arrays into our form.

    Args:
        arrays: by the names of any format.
        path: for messages.
        image_size: (height, width) where a config beside the file tells; else it is read from the bias tables.
        drop_path_rate: from a config beside the file; no tensor tells.

    Raises:
        RefusedError: missing, unexpected or mis-shaped keys, all in one message; values that no training leaves behind.
    """
    format = _format(arrays, path)
    shapes = {name: array.shape for name, array in arrays.items()}
    config = _infer_config(shapes, format, path, image_size, drop_path_rate)
    expected = {tensor.names.of(format): tensor for tensor in names.tensors(config)}
    dropped = tuple(name for name in arrays if name.endswith("." + names.BIAS_INDEX))
    flat = {name: _linear_layout(array, expected[name].shape) for name, array in arrays.items() if name in expected}
    _require_fit(flat, expected, set(arrays) - set(flat) - set(dropped), path)
    counters = {tensor.names.ours: np.zeros((), np.int64) for tensor in expected.values() if tensor.kind == "counter"}
    given = {expected[name].names.ours: array for name, array in flat.items()}
    state = {tensor.names.ours: (counters | given)[tensor.names.ours] for tensor in expected.values()}
    derived = tuple(name for name in state if name not in given)
    return Translation(_sound(state, path), config, format, len(given), derived, dropped)


def _format(arrays: Mapping[str, Array], path: Path) -> CheckpointFormat:
    for format in CHECKPOINT_FORMATS:
        if any(convolution.of(format) in arrays for convolution in STEM):
            return format
    likeness = next((other for end, other in OTHERS.items() for name in arrays if name.endswith(end)), "nothing known")
    raise RefusedError(
        f"{path} is no LeViT checkpoint: it looks like {likeness}",
        why=f"none of its {len(arrays)} keys is a convolution of LeViT's stem; "
        f"it begins {', '.join(list(arrays)[:SHOWN]) or 'with nothing'}",
    )


def _infer_config(
    shapes: Mapping[str, Shape], format: CheckpointFormat, path: Path, image_size: Grid | None, drop_path_rate: float
) -> LevitConfig:
    try:
        return replace(_Inference(shapes, format).config(image_size), drop_path_rate=drop_path_rate)
    except RefusedError as error:
        raise RefusedError(f"{path} is refused: {error.what}", why=error.why, hint=error.hint) from error
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise RefusedError(f"{path} is not a whole LeViT checkpoint", why=f"missing or mis-shaped: {error}") from error


class _Inference:
    """Reads sizes off the tensors that there are; on each size, all that have it vote."""

    def __init__(self, shapes: Mapping[str, Shape], format: CheckpointFormat) -> None:
        self.shapes, self.format = shapes, format

    def config(self, image_size: Grid | None) -> LevitConfig:
        depths = self._depths()
        stages = [_attentions(depths, stage) for stage in range(len(depths))]
        num_heads = [self.size(stage, names.BIASES) for stage in stages]
        qkv_widths = [self.size(stage, names.QKV) for stage in stages]
        return LevitConfig(
            hidden_sizes=tuple(self.size(stage, names.PROJ) for stage in stages),
            key_dims=tuple(
                width // ((2 + VALUE_RATIO) * heads) for width, heads in zip(qkv_widths, num_heads, strict=True)
            ),
            num_heads=tuple(num_heads),
            depths=tuple(depths),
            num_classes=self.size(list(names.HEADS.values()), names.HEAD_LINEAR),
            image_size=image_size or _square_image(self._first_tokens(depths)),
            distilled=any(self._under(names.HEADS["head_dist"])),
        )

    def size(self, places: Sequence[Names], child: Names, axis: int = 0) -> int:
        """The length of an axis on which most tensors of a layer, in any of these places, agree."""
        found = [self.shapes[name] for place in places for name in self._under(place / child)]
        votes = Counter(shape[axis] for shape in found if len(shape) > axis)
        if not votes:
            raise KeyError((places[0] / child).of(self.format) if places else "the blocks of a stage")
        return votes.most_common(1)[0][0]

    def _first_tokens(self, depths: Sequence[int]) -> int:
        """Tokens of the first stage, for which the shrink block behind it has a table too."""
        return self.size([*_attentions(depths, 0), names.shrink_names(depths, 1)[0]], names.BIASES, axis=1)

    def _under(self, place: Names) -> Iterator[str]:
        """The keys at a place or below it."""
        parent = place.of(self.format) + "."
        return (name for name in self.shapes if f"{name}.".startswith(parent))

    def _has(self, attention: Names, *layers: Names) -> bool:
        return any(name for layer in layers for name in self._under(attention / layer))

    def _depths(self) -> list[int]:
        depths: list[int] = []
        while not depths or self._has(names.shrink_names(depths, len(depths))[0], names.KV, names.PROJ):
            block = 0
            while self._has(names.block_names(depths, len(depths), block)[0], names.QKV, names.PROJ):
                block += 1
            depths.append(block)
        return depths


def _attentions(depths: Sequence[int], stage: int) -> list[Names]:
    return [names.block_names(depths, stage, block)[0] for block in range(depths[stage])]


def _square_image(tokens: int) -> Grid:
    side = isqrt(tokens)
    if side * side != tokens:
        raise RefusedError(
            f"it is for images that are not square ({tokens} tokens)",
            hint="which way round, only its config.json can tell: keep it beside the weights, with its image size",
        )
    return side * PATCH_SIZE, side * PATCH_SIZE


def _linear_layout(array: Array, shape: Shape) -> Array:
    """timm's ``levit_conv_*`` hold the same matrices as 1x1 convolutions (out, in, 1, 1)."""
    return array.reshape(shape) if array.shape == (*shape, 1, 1) else array


def _require_fit(
    flat: Mapping[str, Array], expected: Mapping[str, names.Tensor], unexpected: set[str], path: Path
) -> None:
    missing = [name for name, tensor in expected.items() if name not in flat and tensor.kind != "counter"]
    misshaped = [
        f"{name} (expected {expected[name].shape}, found {array.shape})"
        for name, array in flat.items()
        if array.shape != expected[name].shape
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}{' …' if len(keys) > SHOWN else ''}"
        for what, keys in (("missing", missing), ("unexpected", sorted(unexpected)), ("mis-shaped", misshaped))
        if keys
    ]
    if problems:
        raise RefusedError(f"{path} does not fit the LeViT that its shapes describe", why="; ".join(problems))


def _sound(state: Mapping[str, Array], path: Path) -> dict[str, Array]:
    """The state in float32, its counters in int64, if a training can have left it behind."""
    sound: dict[str, Array] = {}
    for name, array in state.items():
        counter = name.endswith("num_batches_tracked")
        if array.dtype.kind not in ("iuf" if counter else "f"):
            raise RefusedError(f"{path} holds weights that are no real numbers", why=f"{name} is {array.dtype}")
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # of float64; what comes of it is looked at
            sound[name] = np.asarray(array, dtype=np.int64 if counter else np.float32)
        if not np.isfinite(array if counter else sound[name]).all():
            raise RefusedError(f"{path} holds NaN or infinity", why=f"in {name}")
        if name.endswith("running_var") and not np.all(sound[name] > 0):
            raise RefusedError(f"{path} holds a batch norm whose variance is not positive", why=f"in {name}")
    return sound
