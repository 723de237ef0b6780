"""Write the inference form as an ONNX file: node by node from the folded weights, without torch and without tracing."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli import __version__
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform
from levit_cli.model.config import Grid, LevitConfig
from levit_cli.model.folded import forward
from levit_cli.system.cpu import usable_threads
from levit_cli.system.extras import extra

with extra("export", "Exporting to ONNX"):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # the version of the file format that belongs to the opset; newer ones are refused by older runtimes
MAX_BYTES = (1 << 31) - (1 << 24)  # a protobuf message is below 2 GiB; the rest is for the graph
INPUT, OUTPUT = "pixels", "logits"


class OnnxOps:
    """``model.folded.Ops`` for ONNX. Each method adds nodes to the graph; a value is the name of a node's output."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], transform: Transform) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._numbers = count()
        mean, std = (255 * np.array(values) for values in (transform.mean, transform.std))  # for pixels of 0 to 255
        self.mean, self.scale = mean.astype(np.float32), (1 / std).astype(np.float32)

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _integers(self, *values: int) -> str:
        return self._constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def normalize(self, pixels: str) -> str:
        x = self._node("Cast", pixels, to=TensorProto.FLOAT)
        x = self._node("Sub", x, self._constant("mean", self.mean))
        x = self._node("Mul", x, self._constant("scale", self.scale))
        return self._node("Transpose", x, perm=[0, 3, 1, 2])

    def convolution(self, x: str, name: str) -> str:
        weight, bias = (self._constant(f"{name}.{part}", self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self._node("Conv", x, weight, bias, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def linear(self, x: str, name: str) -> str:
        product = self._node("MatMul", x, self._constant(f"{name}.weight", self.weights[f"{name}.weight"].T))
        return self._node("Add", product, self._constant(f"{name}.bias", self.weights[f"{name}.bias"]))

    def hardswish(self, x: str) -> str:
        return self._node("HardSwish", x)

    def add(self, x: str, y: str) -> str:
        return self._node("Add", x, y)

    def add_bias(self, logits: str, name: str) -> str:
        return self._node("Add", logits, self._constant(name, self.weights[name]))

    def softmax(self, logits: str) -> str:
        return self._node("Softmax", logits, axis=-1)

    def matmul(self, x: str, y: str, *, transpose_y: bool) -> str:
        return self._node("MatMul", x, self._node("Transpose", y, perm=[0, 1, 3, 2]) if transpose_y else y)

    def grid_to_tokens(self, x: str) -> str:
        return self._node("Transpose", self._node("Reshape", x, self._integers(0, 0, -1)), perm=[0, 2, 1])

    def subsample(self, x: str, grid: Grid) -> str:
        tokens = np.arange(grid[0] * grid[1]).reshape(grid)[::2, ::2].ravel()
        return self._node("Gather", x, self._constant(f"tokens_{grid[0]}x{grid[1]}", tokens), axis=1)

    def split_heads(self, x: str, start: int, heads: int, dim: int) -> str:
        x = self._node("Slice", x, self._integers(start), self._integers(start + heads * dim), self._integers(2))
        return self._node("Transpose", self._node("Reshape", x, self._integers(0, 0, heads, dim)), perm=[0, 2, 1, 3])

    def merge_heads(self, x: str) -> str:
        return self._node("Reshape", self._node("Transpose", x, perm=[0, 2, 1, 3]), self._integers(0, 0, -1))

    def token_mean(self, x: str) -> str:
        return self._node("ReduceMean", x, axes=[1], keepdims=0)


def build_graph(
    weights: Mapping[str, NDArray[Any]], config: LevitConfig, transform: Transform, facts: Mapping[str, str]
) -> Any:
    """Build the ``onnx.ModelProto`` from pixels (B, H, W, 3) uint8 to logits (B, classes) float32, for any B.

    Args:
        weights: folded weights.
        facts: stored in the file as its metadata.

    Raises:
        RefusedError: the weights do not fit in one ONNX file.
    """
    size = sum(array.nbytes for array in weights.values())
    if size > MAX_BYTES:
        raise RefusedError(
            f"The weights of {size:,} bytes do not fit in one ONNX file",
            why="such a file holds less than 2 GiB",
            hint="use --to openvino",
        )
    ops = OnnxOps(weights, transform)
    logits, _ = forward(ops, config, INPUT)
    ops.nodes.append(helper.make_node("Identity", [logits], [OUTPUT], name=OUTPUT))
    graph = helper.make_graph(
        ops.nodes,
        "levit",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", *config.image_size, 3])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", config.num_classes])],
        [*ops.constants.values()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="levit", producer_version=__version__,
    )  # fmt: skip
    helper.set_model_props(model, dict(facts))
    return model


def write_onnx(path: Path, model: Any) -> None:
    """Check a model and write it to one file.

    Raises:
        OSError: the file cannot be written.
    """
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def run_onnx(path: Path, batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Return the logits of batches of pixels, computed by onnxruntime from the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run([OUTPUT], {INPUT: pixels})[0] for pixels in batches]
