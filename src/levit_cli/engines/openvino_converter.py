"""Run torch modules other than LeViTs in OpenVINO, with its model converter. LeViTs are built from opset calls.

The converter sends telemetry if it can import the package ``openvino_telemetry``, so that package is hidden from it.
"""

import torch

from levit_cli.engines.openvino import InferRequestPool, hidden_module, properties, shared_core, with_precision
from levit_cli.engines.spec import EngineSpec
from levit_cli.engines.torch import BytesNetwork, trace

import openvino as ov  # isort: skip  # after engines.openvino, which imports it without the converter


class ConvertedEngine(InferRequestPool):
    """A torch network from pixels to logits as an OpenVINO graph, with the settings of ``OpenVinoEngine``."""

    def __init__(self, network: BytesNetwork, spec: EngineSpec) -> None:
        core = shared_core()
        self.spec = with_precision(core, spec)
        graph = convert(network)
        graph.reshape([self.spec.batch_size or -1, *network.image_size, 3])
        super().__init__(core.compile_model(graph, "CPU", properties(self.spec)), self.spec)

    def save_cache(self) -> None:
        """Do nothing: converted networks are only used by benchmarks."""


def convert(network: BytesNetwork) -> ov.Model:
    """Convert a torch network to a graph from pixels (B, H, W, 3) uint8, any B, to logits (B, classes)."""
    with hidden_module("openvino_telemetry"):
        from openvino.tools.ovc import convert_model

    example = torch.zeros((1, *network.image_size, 3), dtype=torch.uint8)
    return convert_model(trace(network.to_dtype(torch.float32), example), example_input=example)
