"""Run a teacher network from an ONNX file, or from OpenVINO's own XML format, with OpenVINO."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levit_cli.engines.openvino import shared_core
from levit_cli.errors import RefusedError


class OnnxNetwork:
    """Callable from float32 images (B, 3, H, W) to float32 logits (B, classes), for any B.

    Raises:
        RefusedError: the file is missing, or is not a network with one such input and one such output.
    """

    def __init__(self, path: Path, threads: int) -> None:
        if not path.is_file():
            raise RefusedError(f"Cannot read the network {path}", why="there is no such file")
        core = shared_core()
        try:
            graph = core.read_model(path)
            ((_, channels, height, width), (_, classes)) = (
                port.partial_shape for port in (graph.input(), graph.output())
            )
            self.image_size = (height.get_length(), width.get_length())
            self.num_classes: int = classes.get_length()
            if channels.get_length() != 3:
                raise ValueError(f"its input has {channels} channels, not 3")
            graph.reshape([-1, 3, *self.image_size])
            self._compiled = core.compile_model(
                graph, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
            )
        except (RuntimeError, ValueError) as error:
            why = (str(error).strip().splitlines() or ["no reason given"])[-1][:300]
            raise RefusedError(
                f"{path} is not a network from images (B, 3, H, W) to logits (B, classes)", why=why
            ) from error

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._compiled([np.ascontiguousarray(pixels)])[0]
        return logits.copy()
