"""Run the inference form in torch, on GPUs and CPUs, and trace torch modules."""

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
from levit_cli.model.config import Grid, LevitConfig
from levit_cli.model.folded import fold, forward
from levit_cli.model.levit import to_tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GPU_STREAMS, GPU_BATCH = 2, 64
LOGITS, FEATURES = 0, 1  # the outputs of the network
Module = Callable[[Tensor], Tensor | tuple[Tensor, ...]]
Outputs = Callable[[Tensor], tuple[Tensor, ...]]
Run = Callable[[NDArray[np.uint8], int], NDArray[np.float32]]


class TorchOps:
    """``model.folded.Ops`` for torch, on weights by name."""

    def __init__(self, weights: Mapping[str, Tensor], mean: Tensor, scale: Tensor) -> None:
        self.weights, self.mean, self.scale = weights, mean, scale

    def normalize(self, pixels: Tensor) -> Tensor:
        x = (pixels.permute(0, 3, 1, 2).to(torch.float32) - self.mean) * self.scale
        return x.to(self.weights["stem.0.weight"].dtype)  # keeps the channels-last layout of the pixels

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
    """The inference form as a module, which can be compiled, exported and moved to a device."""

    mean: Tensor
    scale: Tensor

    def __init__(self, weights: Mapping[str, NDArray[Any]], config: LevitConfig, transform: Transform) -> None:
        super().__init__()
        self.config = config
        self._buffer_names = {name: name.replace(".", "_") for name in weights}  # buffer names cannot contain dots
        for name, array in weights.items():
            tensor = to_tensor(array)
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self.register_buffer(self._buffer_names[name], tensor)
        mean, std = (255 * torch.tensor(values).reshape(3, 1, 1) for values in (transform.mean, transform.std))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std)

    @property
    def image_size(self) -> Grid:
        return self.config.image_size

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, 3) uint8 -> (B, classes) logits and (B, C) features."""
        weights = {name: self.get_buffer(buffer_name) for name, buffer_name in self._buffer_names.items()}
        return forward(TorchOps(weights, self.mean, self.scale), self.config, pixels)

    def to_dtype(self, dtype: torch.dtype) -> "FoldedLevit":
        """Convert the weights to another precision. The normalization of the pixels stays in float32."""
        for buffer_name in self._buffer_names.values():
            setattr(self, buffer_name, self.get_buffer(buffer_name).to(dtype))
        return self


class BytesNetwork(Protocol):
    """A module whose precision can be changed.

    It maps pixels (B, H, W, 3) uint8 to logits (B, classes), or to a tuple that begins with the logits.
    """

    @property
    def image_size(self) -> Grid: ...
    def to_dtype(self, dtype: torch.dtype) -> nn.Module: ...


class ModuleEngine:
    """Run a torch network from pixels to logits: eager or compiled as the spec requests, on CUDA as a CUDA graph.

    Args:
        owns_process: whether to set torch's number of threads and the options of ``torch.compile``, both for the whole
            process.
    """

    def __init__(self, network: BytesNetwork, spec: EngineSpec, *, owns_process: bool = True) -> None:
        self.spec = _with_streams(resolve_torch_spec(spec))
        if self.spec.device == "cpu" and owns_process:
            torch.set_num_threads(self.spec.threads)
        module: Module = network.to_dtype(DTYPES[self.spec.precision]).eval().to(self.spec.device)
        shape = (self.spec.batch_size, *network.image_size, 3)
        if self.spec.engine == "compile":
            from levit_cli.engines.torch_compile import compiled

            example = torch.zeros(shape, dtype=torch.uint8, device=self.spec.device)
            module = compiled(module, example, owns_process=owns_process)
        outputs = _as_tuple(module)
        self._run: Run = Eager(outputs, self.spec.device)
        if self.spec.device == "cuda":
            from levit_cli.engines.cuda_graphs import CudaGraphs

            self._run = CudaGraphs(outputs, shape, self.spec.streams)

    def __call__(self, pixels: NDArray[np.uint8], output: int = LOGITS) -> NDArray[np.float32]:
        return self._run(pad_batch(pixels, self.spec.batch_size), output)[: len(pixels)]

    def save_cache(self) -> None:
        """Do nothing: eager torch has no compiled data, and torch.compile has its own cache."""


class TorchEngine(ModuleEngine):
    """Folded LeViT in torch."""

    def __init__(
        self,
        state: Mapping[str, NDArray[Any]],
        config: LevitConfig,
        transform: Transform,
        spec: EngineSpec,
        *,
        owns_process: bool = True,
    ) -> None:
        super().__init__(FoldedLevit(fold(state, config), config, transform), spec, owns_process=owns_process)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self(pixels, FEATURES)


def _as_tuple(module: Module) -> Outputs:
    """Return the module with a tuple of outputs: a baseline returns its logits, a LeViT logits and features."""

    def outputs(pixels: Tensor) -> tuple[Tensor, ...]:
        result = module(pixels)
        return result if isinstance(result, tuple) else (result,)

    return outputs


class Eager:
    """Call a module directly, without a graph."""

    def __init__(self, module: Outputs, device: str) -> None:
        self._module, self._device = module, device

    def __call__(self, pixels: NDArray[np.uint8], output: int) -> NDArray[np.float32]:
        with torch.inference_mode():
            tensor = self._module(to_tensor(pixels).to(self._device))[output]
        result: NDArray[np.float32] = tensor.float().cpu().numpy()
        return result


def resolve_torch_spec(spec: EngineSpec) -> EngineSpec:
    """Resolve the device and the precision. The device ``auto`` becomes a GPU if there is one.

    Raises:
        RefusedError: the device is not available, or does not support the precision.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if spec.device == "auto":
        spec = replace(spec, device="cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    if not available[spec.device]:
        raise RefusedError(f"There is no {spec.device} device on this machine", hint="use --device cpu")
    supported: tuple[Precision, ...] = ("fp32", "bf16") if spec.device == "cpu" else ("fp32", "bf16", "fp16")
    return require_precision(spec, supported, "fp32" if spec.device == "cpu" else "fp16")


def _with_streams(spec: EngineSpec) -> EngineSpec:
    """Set the number of streams, and keep the batch size only if the network is built for a fixed size.

    A CPU uses one stream, because torch distributes each batch over its threads. A GPU uses two streams, so that one
    batch is copied while another is computed.
    """
    fixed = spec.batch_size if spec.device == "cuda" or spec.engine == "compile" else 0
    if spec.device == "cuda":
        return replace(spec, streams=GPU_STREAMS, batch_size=fixed or GPU_BATCH)
    return replace(spec, streams=1, batch_size=fixed)


def gpu_name() -> str:
    """Return the model name of the default CUDA device."""
    return torch.cuda.get_device_name()


def trace(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Trace a module with ``torch.jit.trace``, with its warnings suppressed.

    The paper measured traced modules, and OpenVINO's converter reads them. Values that the module computes from the
    shape of ``example`` become constants.
    """
    with torch.no_grad(), _unfused_attention(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that tracing is deprecated and that shapes become constants
        # check_trace would run the module three more times, three times as long as the trace
        traced: torch.jit.ScriptModule = torch.jit.trace(module.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Make torch.nn compute attention with matrix products and softmax, not with its fused fast path."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
