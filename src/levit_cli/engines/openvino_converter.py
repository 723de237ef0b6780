"""OpenVINO for networks that are torch modules: converted, where our own are built from opset calls.

The converter reports to its makers; its telemetry is out of reach, because ``engines.openvino``, imported first, has
taken the package's place.
"""

import torch

from levit_cli.engines.openvino import Requests, properties, shared_core, with_precision
from levit_cli.engines.spec import EngineSpec
from levit_cli.engines.torch import BytesNetwork, trace

import openvino as ov  # isort: skip  # behind our engine, which keeps the telemetry out


class ConvertedEngine(Requests):
    """A torch network from bytes to logits, as an OpenVINO graph with the settings of ``OpenVinoEngine``."""

    def __init__(self, network: BytesNetwork, spec: EngineSpec) -> None:
        core = shared_core()
        self.spec = with_precision(core, spec)
        graph = convert(network)
        graph.reshape([self.spec.batch_size or -1, *network.image_size, 3])
        super().__init__(core.compile_model(graph, "CPU", properties(self.spec)), self.spec)

    def save_cache(self) -> None:
        """Nothing: what is converted is only measured."""


def convert(network: BytesNetwork) -> ov.Model:
    """The graph pixels (?, H, W, 3) uint8 -> logits of a torch network."""
    from openvino.tools.ovc import convert_model  # not at the top: importing it would look for its telemetry

    example = torch.zeros((1, *network.image_size, 3), dtype=torch.uint8)
    return convert_model(trace(network.to_dtype(torch.float32), example), example_input=example)
