"""Quantize our OpenVINO graph with NNCF, which chooses the int8 ranges from the activations of some images.

NNCF is kept from three things: from importing torch and onnx, which it does if they are installed and which takes
seconds; from sending telemetry; and from writing progress bars and messages to standard output.
"""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import Checkpoint
from levit_cli.engines.openvino import build_both_outputs, hidden_module, only_shared_core, save_graph
from levit_cli.model.folded import fold
from levit_cli.system.extras import import_errors, require_extra

Pixels = NDArray[np.uint8]
HIDDEN = ("torch", "onnx", "openvino_telemetry")


def quantize_graph(
    checkpoint: Checkpoint, images: Sequence[Pixels], path: Path, on_image: Callable[[], None] = lambda: None
) -> None:
    """Write the int8 graph of a model, from pixels (B, H, W, 3) to logits and features, for any B.

    Args:
        images: pixels (H, W, 3) for the calibration.
        path: the graph's file, which ends in .xml; its constants are written beside it.
        on_image: called each time an image was computed.
    """

    def batch_of_one(pixels: Pixels) -> Pixels:
        on_image()
        return pixels[None]

    graph = build_both_outputs(fold(checkpoint.state, checkpoint.config), checkpoint.config, checkpoint.transform)
    with quiet_nncf() as nncf:
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(images, batch_of_one),
            preset=nncf.QuantizationPreset.MIXED,  # symmetric weights, asymmetric activations
            subset_size=len(images),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
        )
    save_graph(quantized, path)


def nncf_version() -> str:
    with quiet_nncf() as nncf:
        return str(nncf.__version__)


@contextmanager
def quiet_nncf() -> Iterator[Any]:
    """Import NNCF, and keep torch, onnx, telemetry and output from it until the end of the block."""
    require_extra("export", "Quantizing")  # before its packages are hidden
    with ExitStack() as stack:
        for name in HIDDEN:
            stack.enter_context(hidden_module(name))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(only_shared_core())
        with import_errors("export", "Quantizing"):
            import nncf
        logging.getLogger("nncf").setLevel(logging.CRITICAL)
        yield nncf
