"""The engine for GPUs, and a second opinion on CPUs: the inference form as torch functions."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from levit_cli.choices import Precision
from levit_cli.engines.spec import EngineSpec, pad_batch, require_precision
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform
from levit_cli.model import folded as fused
from levit_cli.model.config import Grid, LevitConfig
from levit_cli.model.levit import to_tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GPU_STREAMS, GPU_BATCH = 2, 64
Module = Callable[[Tensor], Tensor]


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

    def __init__(self, weights: Mapping[str, NDArray[Any]], config: LevitConfig, transform: Transform) -> None:
        super().__init__()
        self.config = config
        self._places = {name: name.replace(".", "_") for name in weights}  # a buffer's name takes no dots
        for name, array in weights.items():
            tensor = to_tensor(array)
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self.register_buffer(self._places[name], tensor)
        mean, std = (255 * torch.tensor(values).reshape(3, 1, 1) for values in (transform.mean, transform.std))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std)

    @property
    def image_size(self) -> Grid:
        return self.config.image_size

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) bytes -> (B, classes) logits."""
        weights = {name: self.get_buffer(place) for name, place in self._places.items()}
        return fused.forward(TorchOps(weights, self.mean, self.scale), self.config, pixels)

    def to_dtype(self, dtype: torch.dtype) -> "FoldedLevit":
        """Weights in another precision; the normalisation of the pixels stays in float32."""
        for place in self._places.values():
            setattr(self, place, self.get_buffer(place).to(dtype))
        return self


class BytesNetwork(Protocol):
    """A module from (B, H, W, 3) bytes to (B, classes) logits, of a precision that can be changed."""

    @property
    def image_size(self) -> Grid: ...
    def to_dtype(self, dtype: torch.dtype) -> nn.Module: ...


class ModuleEngine:
    """Any network from bytes to logits in torch: as it is, or compiled where the spec says so; on CUDA as graphs."""

    def __init__(self, network: BytesNetwork, spec: EngineSpec) -> None:
        self.spec = _with_streams(resolve_torch_spec(spec))
        if self.spec.device == "cpu":
            torch.set_num_threads(self.spec.threads)
        module: Module = network.to_dtype(DTYPES[self.spec.precision]).eval().to(self.spec.device)
        shape = (self.spec.batch_size, *network.image_size, 3)
        if self.spec.engine == "compile":
            from levit_cli.engines.torch_compile import compiled

            module = compiled(module, torch.zeros(shape, dtype=torch.uint8, device=self.spec.device))
        self._run: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = Eager(module, self.spec.device)
        if self.spec.device == "cuda":
            from levit_cli.engines.cuda_graphs import CudaGraphs

            self._run = CudaGraphs(module, shape, self.spec.streams)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._run(pad_batch(pixels, self.spec.batch_size))[: len(pixels)]

    def save_cache(self) -> None:
        """Nothing: eager torch makes nothing that would be worth it, and what torch.compile makes, torch keeps."""


class TorchEngine(ModuleEngine):
    """Folded LeViT in torch."""

    def __init__(
        self, state: Mapping[str, NDArray[Any]], config: LevitConfig, transform: Transform, spec: EngineSpec
    ) -> None:
        super().__init__(FoldedLevit(fused.fold(state, config), config, transform), spec)


class Eager:
    """A module called with each batch as it comes."""

    def __init__(self, module: Module, device: str) -> None:
        self._module, self._device = module, device

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = self._module(to_tensor(pixels).to(self._device))
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result


def resolve_torch_spec(spec: EngineSpec) -> EngineSpec:
    """The spec with device and precision decided; ``auto`` is a GPU where there is one.

    Raises:
        RefusedError: no such device here, or it does not compute in that precision.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if spec.device == "auto":
        spec = replace(spec, device="cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    if not available[spec.device]:
        raise RefusedError(f"There is no {spec.device} device here", hint="--device cpu works everywhere")
    supported: tuple[Precision, ...] = ("fp32", "bf16") if spec.device == "cpu" else ("fp32", "bf16", "fp16")
    return require_precision(spec, supported, "fp32" if spec.device == "cpu" else "fp16")


def _with_streams(spec: EngineSpec) -> EngineSpec:
    """The spec with its streams, and with a batch size only where the network is made for one size.

    torch spreads a batch over its threads itself, so a CPU takes one at a time. A GPU takes two: while one is
    computed, the next is copied.
    """
    fixed = spec.batch_size if spec.device == "cuda" or spec.engine == "compile" else 0
    if spec.device == "cuda":
        return replace(spec, streams=GPU_STREAMS, batch_size=fixed or GPU_BATCH)
    return replace(spec, streams=1, batch_size=fixed)


def gpu_name() -> str:
    """The model of the GPU that ``cuda`` means."""
    return torch.cuda.get_device_name()


def trace(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """The module as a recorded graph. Constants that it computes from the shape of ``example`` are kept."""
    with torch.no_grad(), _plain_attention(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated, and that shapes become constants
        # without the check, which runs the module thrice more and takes three quarters of the time
        traced: torch.jit.ScriptModule = torch.jit.trace(module.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention of torch.nn as products and softmax instead of one operation of torch's own."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
