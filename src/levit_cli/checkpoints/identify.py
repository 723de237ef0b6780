"""Whose checkpoint is this, and of what shape? Read from the keys and shapes, then held against them strictly.

The dialect is known by its stem, the depths by which blocks exist, widths and heads by shapes. The result is a
``LevitConfig``, and from there ``names.tensors`` says exactly which tensors there must be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import names
from levit_cli.checkpoints.names import Names, Shape
from levit_cli.choices import DIALECTS, Dialect
from levit_cli.config import PATCH_SIZE, STEM_CONVS, VALUE_RATIO, Grid, LevitConfig
from levit_cli.errors import RefusedError

Array = NDArray[Any]
SHOWN = 5  # keys named in a message


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
    dialect: Dialect
    mapped: int
    derived: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def translate(
    arrays: Mapping[str, Array], path: Path, *, image_size: Grid | None = None, drop_path_rate: float = 0.0
) -> Translation:
    """Bring a file's arrays into our form.

    Args:
        arrays: by the names of any dialect.
        path: for messages.
        image_size: (height, width) where a config beside the file tells; else it is read from the bias tables.
        drop_path_rate: from a config beside the file; no tensor tells.

    Raises:
        RefusedError: missing, unexpected or mis-shaped keys, all in one message; values that no training leaves behind.
    """
    dialect = _dialect(arrays, path)
    shapes = {name: array.shape for name, array in arrays.items()}
    config = _infer_config(shapes, dialect, path, image_size)
    config = replace(config, drop_path_rate=drop_path_rate)
    expected = {tensor.names.of(dialect): tensor for tensor in names.tensors(config)}
    dropped = tuple(name for name in arrays if name.endswith("." + names.BIAS_INDEX))
    flat = {name: _linear_layout(array, expected[name].shape) for name, array in arrays.items() if name in expected}
    _require_fit(flat, expected, set(arrays) - set(flat) - set(dropped), path)
    counters = {tensor.names.ours: np.zeros((), np.int64) for tensor in expected.values() if tensor.kind == "counter"}
    given = {expected[name].names.ours: array for name, array in flat.items()}
    state = {tensor.names.ours: (counters | given)[tensor.names.ours] for tensor in expected.values()}
    derived = tuple(name for name in state if name not in given)
    _require_sound(state, path)
    return Translation(_float32(state), config, dialect, len(given), derived, dropped)


def _dialect(arrays: Mapping[str, Array], path: Path) -> Dialect:
    for dialect in DIALECTS:
        if (names.stem_names(0) / names.CONVOLUTION / "weight").of(dialect) in arrays:
            return dialect
    keys = ", ".join(list(arrays)[:SHOWN]) or "none"
    raise RefusedError(
        f"{path} is no LeViT checkpoint",
        why=f"none of its {len(arrays)} keys is the first convolution of a known dialect; it begins {keys}",
    )


def _infer_config(shapes: Mapping[str, Shape], dialect: Dialect, path: Path, image_size: Grid | None) -> LevitConfig:
    try:
        return _Inference(shapes, dialect).config(image_size)
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise RefusedError(f"{path} is not a whole LeViT checkpoint", why=f"missing or mis-shaped: {error}") from error


class _Inference:
    """Looks up shapes by place, without knowing yet how many places there are."""

    def __init__(self, shapes: Mapping[str, Shape], dialect: Dialect) -> None:
        self.shapes, self.dialect = shapes, dialect

    def has(self, place: Names) -> bool:
        return place.of(self.dialect) in self.shapes

    def shape(self, place: Names) -> Shape:
        return self.shapes[place.of(self.dialect)]

    def config(self, image_size: Grid | None) -> LevitConfig:
        depths = self._depths()
        biases = [self.shape(self._first(depths, stage) / names.BIASES) for stage in range(len(depths))]
        heads = tuple(bias[0] for bias in biases)
        qkv = [self._out_width(self._first(depths, stage) / names.QKV) for stage in range(len(depths))]
        shrinks = [names.shrink_names(depths, stage)[0] / names.PROJ for stage in range(1, len(depths))]
        stem = self.shape(names.stem_names(STEM_CONVS - 1) / names.CONVOLUTION / "weight")
        return LevitConfig(
            hidden_sizes=(stem[0], *(self._out_width(shrink) for shrink in shrinks)),
            key_dims=tuple(width // ((2 + VALUE_RATIO) * count) for width, count in zip(qkv, heads, strict=True)),
            num_heads=heads,
            depths=tuple(depths),
            num_classes=self.shape(names.HEADS["head"] / names.HEAD_LINEAR / "weight")[0],
            image_size=image_size or _square_image([bias[1] for bias in biases]),
            distilled=self.has(names.HEADS["head_dist"] / names.HEAD_LINEAR / "weight"),
        )

    def _depths(self) -> list[int]:
        depths: list[int] = []
        while not depths or self.has(names.shrink_names(depths, len(depths))[0] / names.KV / names.LINEAR / "weight"):
            block = 0
            while self.has(names.block_names(depths, len(depths), block)[0] / names.QKV / names.LINEAR / "weight"):
                block += 1
            depths.append(block)
        return depths

    def _first(self, depths: list[int], stage: int) -> Names:
        return names.block_names(depths, stage, 0)[0]

    def _out_width(self, layer: Names) -> int:
        return self.shape(layer / names.LINEAR / "weight")[0]


def _square_image(token_counts: list[int]) -> Grid:
    side = isqrt(token_counts[0])
    if side * side != token_counts[0]:
        raise RefusedError(
            f"The checkpoint is for pictures that are not square ({token_counts[0]} tokens)",
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


def _require_sound(state: Mapping[str, Array], path: Path) -> None:
    for name, array in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if array.dtype.kind != "f":
            raise RefusedError(f"{path} holds weights that are no real numbers", why=f"{name} is {array.dtype}")
        if not np.isfinite(array).all():
            raise RefusedError(f"{path} holds NaN or infinity", why=f"in {name}")
        if name.endswith("running_var") and not (array > 0).all():
            raise RefusedError(f"{path} holds a batch norm whose variance is not positive", why=f"in {name}")


def _float32(state: Mapping[str, Array]) -> dict[str, Array]:
    return {
        name: np.asarray(array, dtype=np.float32 if array.dtype.kind == "f" else np.int64)
        for name, array in state.items()
    }
