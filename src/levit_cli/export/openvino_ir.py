"""Write the graph of the OpenVINO engine as OpenVINO IR, and run such files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.engines.openvino import build_graph, shared_core
from levit_cli.images.transforms import Transform
from levit_cli.model.config import LevitConfig
from levit_cli.system.cpu import usable_threads

INPUT, OUTPUT = "pixels", "logits"


def named_graph(
    weights: Mapping[str, NDArray[Any]],
    config: LevitConfig,
    transform: Transform,
    facts: Mapping[str, str],
) -> Any:
    """Build the graph from pixels (B, H, W, 3) uint8 to logits (B, classes) float32, for any B.

    Args:
        weights: folded weights, which the graph shares.
        facts: stored in the graph as its runtime information.
    """
    graph = build_graph(weights, config, transform)
    graph.input().get_tensor().set_names({INPUT})
    graph.output().get_tensor().set_names({OUTPUT})
    for name, value in facts.items():
        graph.set_rt_info(value, ["levit", name])
    return graph


def write_ir(path: Path, graph: Any) -> None:
    """Write a ``.xml`` file and the ``.bin`` file of its weights, in float32.

    Raises:
        OSError: a file cannot be written.
    """
    import openvino as ov  # not before the engine, which imports it without its model converter

    try:
        ov.save_model(graph, path, compress_to_fp16=False)
    except RuntimeError as error:  # it gives no reason
        raise OSError("OpenVINO could not write it; the disk may be full") from error


def run_ir(path: Path, batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Return the logits of batches of pixels, computed by OpenVINO in fp32 from the files."""
    core = shared_core()
    # from bytes, because Windows renames no folder with a file that is mapped into memory
    graph = core.read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": usable_threads()}
    compiled = core.compile_model(graph, "CPU", properties)
    return [compiled({INPUT: pixels})[OUTPUT].copy() for pixels in batches]
