"""The engine for GPUs, and a second opinion on CPUs: the inference form as torch functions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from levit_cli import fused
from levit_cli.choices import Precision
from levit_cli.config import Grid, LevitConfig
from levit_cli.engines.spec import EngineSpec, require_precision
from levit_cli.errors import RefusedError
from levit_cli.recipes import Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchOps:
    """torch's side of ``fused.Ops``, on weights by name."""

    def __init__(self, weights: Mapping[str, Tensor], mean: Tensor, scale: Tensor) -> None:
        self.weights, self.mean, self.scale = weights, mean, scale

    def normalize(self, pixels: Tensor) -> Tensor:
        x = (pixels.permute(0, 3, 1, 2).to(torch.float32) - self.mean) * self.scale
        return x.to(self.weights["stem.0.weight"].dtype)  # channels last, as the pixels came

    def convolution(self, x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride=2, padding=1)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def hardswish(self, x: Tensor) -> Tensor:
        return F.hardswish(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def add_bias(self, logits: Tensor, name: str) -> Tensor:
        return logits + self.weights[name]

    def softmax(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)

    def matmul(self, x: Tensor, y: Tensor, *, transpose_y: bool) -> Tensor:
        return x @ (y.transpose(-2, -1) if transpose_y else y)

    def grid_to_tokens(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)

    def subsample(self, x: Tensor, grid: Grid) -> Tensor:
        return x.reshape(len(x), *grid, -1)[:, ::2, ::2].flatten(1, 2)

    def split_heads(self, x: Tensor, start: int, heads: int, dim: int) -> Tensor:
        part = x[..., start : start + heads * dim]
        return part.reshape(*part.shape[:2], heads, dim).transpose(1, 2)

    def merge_heads(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def token_mean(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class FoldedLevit(nn.Module):
    """The inference form as a module, for ``torch.compile``, ``torch.export`` and moving to a device."""

    mean: Tensor
    scale: Tensor

    def __init__(self, weights: Mapping[str, NDArray[Any]], config: LevitConfig, recipe: Recipe) -> None:
        super().__init__()
        self.config = config
        self._places = {name: name.replace(".", "_") for name in weights}  # a buffer's name takes no dots
        for name, array in weights.items():
            tensor = torch.from_numpy(np.array(array))
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self.register_buffer(self._places[name], tensor)
        mean, std = (255 * torch.tensor(values).reshape(3, 1, 1) for values in (recipe.mean, recipe.std))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) bytes -> (B, classes) logits."""
        weights = {name: self.get_buffer(place) for name, place in self._places.items()}
        return fused.forward(TorchOps(weights, self.mean, self.scale), self.config, pixels)

    def to_dtype(self, dtype: torch.dtype) -> "FoldedLevit":
        """Weights in another precision; the normalisation of the pixels stays in float32."""
        for place in self._places.values():
            setattr(self, place, self.get_buffer(place).to(dtype))
        return self


class TorchEngine:
    """Folded LeViT in eager torch."""

    def __init__(
        self, state: Mapping[str, NDArray[Any]], config: LevitConfig, recipe: Recipe, spec: EngineSpec
    ) -> None:
        self.spec = replace(_resolve(spec), streams=1, batch_size=0)  # torch spreads each batch over its threads itself
        if self.spec.device == "cpu":
            torch.set_num_threads(self.spec.threads)
        model = FoldedLevit(fused.fold(state, config), config, recipe).to_dtype(DTYPES[self.spec.precision])
        self._model = model.eval().to(self.spec.device)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = self._model(torch.from_numpy(np.array(pixels)).to(self.spec.device))
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def remember(self) -> None:
        """Nothing: eager torch makes nothing that would be worth it."""


def _resolve(spec: EngineSpec) -> EngineSpec:
    """Decide device and precision; ``auto`` is a GPU where there is one."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if spec.device == "auto":
        spec = replace(spec, device="cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    if not available[spec.device]:
        raise RefusedError(f"There is no {spec.device} device here", hint="--device cpu works everywhere")
    supported: tuple[Precision, ...] = ("fp32", "bf16") if spec.device == "cpu" else ("fp32", "bf16", "fp16")
    return require_precision(spec, supported, "fp32" if spec.device == "cpu" else "fp16")
