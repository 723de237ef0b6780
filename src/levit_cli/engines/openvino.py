"""Run the inference form on CPUs as an OpenVINO graph, which is built from opset calls without torch.

Importing openvino also imports its model converter. That takes a third of the import time, sends telemetry and writes
an id to the home folder. The graph does not need the converter, so this module imports openvino without it. Afterwards
other code of the process can import the converter as usual.
"""

import functools
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray


@contextmanager
def hidden_module(name: str) -> Iterator[None]:
    """Let imports of a module fail inside the block, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(name, None)


with hidden_module("openvino.tools.ovc"):
    import openvino as ov
    from openvino import opset15 as opset

from levit_cli import __version__
from levit_cli.choices import Precision
from levit_cli.engines.small_batches import Graph, SmallBatches
from levit_cli.engines.spec import Cache, EngineSpec, pad_batch, require_precision
from levit_cli.errors import OutputError
from levit_cli.images.transforms import Transform
from levit_cli.model.config import Grid, LevitConfig
from levit_cli.model.folded import fold, forward
from levit_cli.system.cpu import has_int8_instructions

if TYPE_CHECKING:
    from levit_cli.checkpoints.quantized import QuantizedGraph


def _import_converter(name: str) -> Any:
    """Return ``openvino.convert_model``, which openvino could not import while its converter was hidden."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    from openvino.tools.ovc import convert_model

    return convert_model


if not hasattr(ov, "convert_model"):
    ov.__getattr__ = _import_converter  # called for names that the module lacks

LOGITS, FEATURES = 0, 1  # the outputs of ``forward``
Node = Any  # openvino's opset functions are untyped
_cached_core = functools.cache(ov.Core)
OPENVINO_VERSION: str = ov.__version__
_core_lock = Lock()


def shared_core() -> ov.Core:
    """Return the only OpenVINO core of the process, which is never destroyed.

    OpenVINO's CPU plugin sets a signal stack for the thread that loads it, and unmaps the stack when the last reference
    to a core is dropped. With two cores, or if another thread drops the reference, the unmapped stack remains set, and
    the next signal crashes the process.
    """
    with _core_lock:
        return _cached_core()


@contextmanager
def only_shared_core() -> Iterator[None]:
    """Let other libraries use the shared core inside the block when they create one."""
    kind = ov.Core
    ov.Core = shared_core
    try:
        yield
    finally:
        ov.Core = kind


class OpenVinoOps:
    """``model.folded.Ops`` for OpenVINO. Each method adds nodes to the graph."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], transform: Transform) -> None:
        self.weights = weights
        # in the pixels' range of 0 to 255
        mean, std = (255 * np.array(values).reshape(1, 1, 1, 3) for values in (transform.mean, transform.std))
        self.mean, self.scale = mean.astype(np.float32), (1 / std).astype(np.float32)

    def _weight(self, name: str) -> Node:
        return opset.constant(self.weights[name], shared_memory=True)

    def normalize(self, pixels: Node) -> Node:
        x = opset.multiply(opset.subtract(opset.convert(pixels, "f32"), self.mean), self.scale)
        return opset.transpose(x, [0, 3, 1, 2])  # as the last step, this changes a layout label and copies no data

    def convolution(self, x: Node, name: str) -> Node:
        x = opset.convolution(
            x, self._weight(f"{name}.weight"), strides=[2, 2], pads_begin=[1, 1], pads_end=[1, 1], dilations=[1, 1]
        )
        return opset.add(x, self.weights[f"{name}.bias"].reshape(1, -1, 1, 1))

    def linear(self, x: Node, name: str) -> Node:
        product = opset.matmul(x, self._weight(f"{name}.weight"), False, True)
        return opset.add(product, self._weight(f"{name}.bias"))

    def hardswish(self, x: Node) -> Node:
        return opset.hswish(x)

    def add(self, x: Node, y: Node) -> Node:
        return opset.add(x, y)

    def add_bias(self, logits: Node, name: str) -> Node:
        return opset.add(logits, self.weights[name][None])

    def softmax(self, logits: Node) -> Node:
        return opset.softmax(logits, -1)

    def matmul(self, x: Node, y: Node, *, transpose_y: bool) -> Node:
        return opset.matmul(x, y, False, transpose_y)

    def grid_to_tokens(self, x: Node) -> Node:
        channels = x.get_output_partial_shape(0)[1].get_length()
        return opset.transpose(opset.reshape(x, [0, channels, -1], special_zero=True), [0, 2, 1])

    def subsample(self, x: Node, grid: Grid) -> Node:
        channels = x.get_output_partial_shape(0)[2].get_length()
        x = opset.reshape(x, [0, *grid, channels], special_zero=True)
        x = opset.slice(x, [0, 0], list(grid), [2, 2], [1, 2])
        return opset.reshape(x, [0, -1, channels], special_zero=True)

    def split_heads(self, x: Node, start: int, heads: int, dim: int) -> Node:
        x = opset.slice(x, [start], [start + heads * dim], [1], [2])
        return opset.transpose(opset.reshape(x, [0, 0, heads, dim], special_zero=True), [0, 2, 1, 3])

    def merge_heads(self, x: Node) -> Node:
        x = opset.transpose(x, [0, 2, 1, 3])
        return opset.reshape(x, [0, 0, -1], special_zero=True)

    def token_mean(self, x: Node) -> Node:
        return opset.reduce_mean(x, 1, False)


def build_graph(
    weights: Mapping[str, NDArray[Any]],
    config: LevitConfig,
    transform: Transform,
    batch_size: int = 0,
    output: int = LOGITS,
) -> ov.Model:
    """Build the graph from pixels (B, H, W, 3) uint8 to one output in float32.

    A graph with both outputs would be 2 % slower in bf16: OpenVINO computes all layers between the last matrix product
    and an output in float32, which for the features includes the additions of the last stage.

    Args:
        weights: folded weights.
        batch_size: fixed B; 0 allows any B, which is a few percent slower.
        output: ``LOGITS``, (B, classes), or ``FEATURES``, (B, C).
    """
    pixels, outputs = _nodes(weights, config, transform, batch_size)
    return ov.Model([outputs[output]], [pixels], "levit")


def build_both_outputs(weights: Mapping[str, NDArray[Any]], config: LevitConfig, transform: Transform) -> ov.Model:
    """Build the graph from pixels (B, H, W, 3) uint8, for any B, to logits and features."""
    pixels, outputs = _nodes(weights, config, transform, batch_size=0)
    return ov.Model([*outputs], [pixels], "levit")


def _nodes(
    weights: Mapping[str, NDArray[Any]], config: LevitConfig, transform: Transform, batch_size: int
) -> tuple[Node, tuple[Node, Node]]:
    pixels = opset.parameter([batch_size or -1, *config.image_size, 3], np.uint8, name="pixels")
    return pixels, forward(OpenVinoOps(weights, transform), config, pixels)


def save_graph(graph: ov.Model, path: Path) -> None:
    """Write a graph in OpenVINO's IR format: ``path``, which ends in .xml, and its constants in a .bin file.

    OpenVINO does not notice that a disk is full, so the files are read again.

    Raises:
        OutputError: they cannot be written.
    """
    try:
        ov.save_model(graph, path, compress_to_fp16=False)
        shared_core().read_model(path)
    except RuntimeError as error:
        raise OutputError(f"Cannot write {path.parent}", why="the disk is full or the folder is read-only") from error


def read_graph(xml: bytes, constants: bytes, batch_size: int = 0, output: int = LOGITS) -> ov.Model:
    """Read a graph of both outputs in the IR format, and return one of them for a batch size as in ``build_graph``."""
    whole = shared_core().read_model(xml, constants)
    graph = ov.Model([whole.output(output).get_node().input_value(0)], whole.get_parameters(), "levit")
    graph.reshape([batch_size or -1, *graph.input(0).get_partial_shape()[1:]])
    return graph


class OpenVinoEngine:
    """A LeViT as a compiled OpenVINO graph.

    The precision ``auto`` is int8 if the model has a graph for it and the CPU has instructions for it; otherwise bf16
    if the CPU has instructions for it. Each output has its own graph, which shares the weights. The graph of the other
    output is compiled when it is first requested.

    Args:
        cache: storage for the compiled graphs between runs.
        weights_id: identifier of the weights in the cache, such as their hash.
        int8: the model's int8 graph, if it has one.
        output: the output whose graph is compiled now: ``LOGITS`` or ``FEATURES``.
    """

    def __init__(
        self,
        state: Mapping[str, NDArray[Any]],
        config: LevitConfig,
        transform: Transform,
        spec: EngineSpec,
        cache: Cache | None = None,
        weights_id: str = "",
        int8: "QuantizedGraph | None" = None,
        output: int = LOGITS,
    ) -> None:
        core = shared_core()
        int8 = _useful_int8(int8, config, transform, spec.precision)
        self.spec = with_precision(core, spec, has_int8=int8 is not None)
        self._int8 = int8.read(OPENVINO_VERSION) if int8 else None
        weights_id = int8.sha256 if int8 else weights_id
        self._state, self._config, self._transform = state, config, transform
        self._weights: dict[str, NDArray[Any]] = {}  # folded; the graphs share their memory
        self._lock = Lock()
        self._cache = cache
        self._key = _cache_key(core, transform, self.spec, weights_id)
        self._outputs = {output: self._prepare(output)}

    def _prepare(self, output: int) -> "_Output":
        start = time.perf_counter()
        cached = self._from_cache(output)
        compiled = self._compile(output, self.spec.batch_size) if cached is None else cached
        call = self._with_small_batches(output, compiled, time.perf_counter() - start)
        return _Output(compiled, call, is_cached=cached is not None)

    def _with_small_batches(self, output: int, compiled: Any, compile_s: float) -> Graph:
        pool = InferRequestPool(compiled, self.spec)
        if self.spec.batch_size <= 1:  # 1 needs no padding, and 0 allows any size
            return pool
        return SmallBatches(
            pool,
            lambda size: InferRequestPool(self._compile(output, size), replace(self.spec, batch_size=size)),
            batch_size=self.spec.batch_size,
            compile_s=compile_s,
            image_size=self._config.image_size,
        )

    def _compile(self, output: int, batch_size: int) -> Any:
        return shared_core().compile_model(self._graph(output, batch_size), "CPU", properties(self.spec))

    def _graph(self, output: int, batch_size: int) -> ov.Model:
        if self._int8 is not None:
            return read_graph(*self._int8, batch_size, output)
        if not self._weights:
            self._weights, self._state = fold(self._state, self._config), {}
        return build_graph(self._weights, self._config, self._transform, batch_size, output)

    def _from_cache(self, output: int) -> Any | None:
        blob = self._cache.load(self._key_of(output)) if self._cache else None
        if blob is None:
            return None
        try:
            return shared_core().import_model(
                ov.Tensor(np.frombuffer(blob, np.uint8)), "CPU", properties(self.spec)
            )  # fmt: skip
        except RuntimeError:  # written by another build of openvino
            return None

    def _key_of(self, output: int) -> str:
        return self._key if output == LOGITS else f"{self._key} features"

    def save_cache(self) -> None:
        """Save the compiled graphs for the next run, unless they came from the cache."""
        for output, graph in self._outputs.items():
            if self._cache and not graph.is_cached:
                self._cache.store(self._key_of(output), graph.compiled.export_model().getvalue())
                graph.is_cached = True

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._output(LOGITS).call(pixels)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._output(FEATURES).call(pixels)

    def _output(self, output: int) -> "_Output":
        if output not in self._outputs:
            with self._lock:
                if output not in self._outputs:
                    self._outputs = {**self._outputs, output: self._prepare(output)}
        return self._outputs[output]

    def resized(self, output: int, batch_size: int, *, streams: int) -> "InferRequestPool":
        """Compile one output for another batch size and number of streams. The weights are shared with this engine."""
        spec = replace(self.spec, batch_size=batch_size, streams=streams)
        with self._lock:
            graph = self._graph(output, batch_size)
        return InferRequestPool(shared_core().compile_model(graph, "CPU", properties(spec)), spec)


@dataclass
class _Output:
    """The compiled graph of one output of the network.

    Args:
        call: the graph, with graphs for smaller batches.
        is_cached: whether it is in the cache.
    """

    compiled: Any
    call: Graph
    is_cached: bool


class InferRequestPool:
    """A pool of infer requests of a compiled graph, one per stream."""

    def __init__(self, compiled: Any, spec: EngineSpec) -> None:
        self._batch_size = spec.batch_size
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(spec.streams):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) uint8 -> (B, any), the output of the graph."""
        padded = pad_batch(pixels, self._batch_size)
        request = self._idle.get()
        try:
            request.infer([padded], share_inputs=True)
            result: NDArray[np.float32] = request.get_output_tensor(0).data[: len(pixels)].copy()
        finally:
            self._idle.put(request)
        return result


def properties(spec: EngineSpec) -> dict[str, Any]:
    """Return the OpenVINO properties that implement a spec. What an int8 graph leaves in float is bf16 if possible."""
    uses_bf16 = spec.precision == "bf16" or (spec.precision == "int8" and _computes_bf16(shared_core()))
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if uses_bf16 else "f32",
        "INFERENCE_NUM_THREADS": spec.threads,
        "NUM_STREAMS": spec.streams,
        "ENABLE_CPU_PINNING": False,  # decoding threads share the cores
    }


def _cache_key(core: ov.Core, transform: Transform, spec: EngineSpec, weights_id: str) -> str:
    """Return a cache key that contains everything on which the compiled graph depends."""
    cpu = [core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    return repr((__version__, ov.__version__, cpu, weights_id, transform, spec))


def _useful_int8(
    int8: "QuantizedGraph | None", config: LevitConfig, transform: Transform, precision: Precision
) -> "QuantizedGraph | None":
    """Return the int8 graph if it is requested, or if it is faster than the original weights on this CPU.

    Raises:
        RefusedError: it is requested, and was made for another preprocessing.
    """
    if int8 is None or not (precision == "int8" or (precision == "auto" and has_int8_instructions())):
        return None
    if int8.matches(config, transform):
        return int8
    if precision == "int8":
        raise int8.other_preprocessing()
    return None


def with_precision(core: ov.Core, spec: EngineSpec, *, has_int8: bool = False) -> EngineSpec:
    """Resolve the precision: ``auto`` becomes the fastest one for which the CPU has instructions.

    Args:
        has_int8: whether the model has an int8 graph that shall be used.

    Raises:
        RefusedError: the precision is not supported.
    """
    supported: tuple[Precision, ...] = ("fp32", "bf16") if _computes_bf16(core) else ("fp32",)
    if has_int8:
        supported += ("int8",)
    return require_precision(spec, supported, supported[-1])


def _computes_bf16(core: ov.Core) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
