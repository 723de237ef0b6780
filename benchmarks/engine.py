"""Compare the speed of levit's engine with other engines on the same CPU, for the network alone.

python -m benchmarks.engine [--variant levit-128S] [--threads 1] [--batch-size 16] [--precision fp32] [--rounds 9]

The others are OpenVINO with timm's exported graph, ONNX Runtime with the same graph (fp32), and the paper's protocol
(torch, batch norms folded, traced, both heads). Weights are random. The extra ``bench`` installs the packages; an
engine whose package is missing is skipped with a message.
"""

import argparse
import os
import sys
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measuring import machine, ratios, versions
from levit_cli.bench.protocol import Protocol, Step, interleave
from levit_cli.system.text import count_noun

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # switches off OpenVINO's telemetry

TURN_S = 0.3  # of warm-up and of each turn


def our_engine(variant: str, threads: int, batch: int, precision: str) -> Step:
    import numpy as np

    from levit_cli.engines import EngineSpec
    from levit_cli.engines.openvino import OpenVinoEngine
    from levit_cli.images.transforms import transform_for

    config, state = random_network(variant)
    spec = EngineSpec("cpu", "openvino", precision, threads, batch_size=batch)  # type: ignore[arg-type]
    engine = OpenVinoEngine(state, config, transform_for("fb", config.image_size), spec)
    pixels = np.zeros((batch, *config.image_size, 3), np.uint8)
    return lambda: engine(pixels)


def random_network(variant: str) -> tuple[Any, dict[str, Any]]:
    from levit_cli.model.config import VARIANTS
    from levit_cli.model.tensors import random_state

    return VARIANTS[variant], random_state(VARIANTS[variant])


def timm_network(variant: str) -> Any:
    import timm

    return timm.create_model(variant.replace("-", "_").lower(), exportable=True).eval()


def openvino_on_timm(variant: str, threads: int, batch: int, precision: str) -> Step:
    import numpy as np
    import openvino as ov
    import torch
    from openvino.tools.ovc import convert_model

    graph = convert_model(timm_network(variant), example_input=torch.zeros(batch, 3, 224, 224))
    graph.reshape([batch, 3, 224, 224])
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    properties = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(graph, "CPU", properties).create_infer_request()
    images = np.zeros((batch, 3, 224, 224), np.float32)
    return lambda: request.infer([images], share_inputs=True)


def onnxruntime_on_timm(variant: str, threads: int, batch: int, precision: str) -> Step:
    import numpy as np
    import onnxruntime
    import torch

    if precision != "fp32":
        raise ImportError("its CPU provider does not support bf16")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    with TemporaryDirectory() as folder:
        path = f"{folder}/levit.onnx"
        torch.onnx.export(timm_network(variant), (torch.zeros(batch, 3, 224, 224),), path, dynamo=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.zeros((batch, 3, 224, 224), np.float32)}
    return lambda: session.run(None, feed)


def paper_protocol(variant: str, threads: int, batch: int, precision: str) -> Step:
    """Run as the authors' speed_test.py does: batch norms folded, both heads, torch.jit.trace, always fp32."""
    import torch

    del precision  # the paper measured fp32
    torch.set_num_threads(threads)
    network = timm_network(variant)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "fuse"):
                setattr(parent, name, child.fuse())
    images = torch.zeros(batch, 3, 224, 224)
    with torch.inference_mode():
        traced = torch.jit.trace(network, images)  # type: ignore[no-untyped-call]

    def step() -> object:
        with torch.inference_mode():
            return traced(images)

    return step


ENGINES: dict[str, Callable[[str, int, int, str], Step]] = {
    "levit": our_engine,
    "OpenVINO on timm's graph": openvino_on_timm,
    "ONNX Runtime on timm's graph": onnxruntime_on_timm,
    "paper's protocol (torch, traced, fp32)": paper_protocol,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="levit-128S")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    steps: dict[str, Step] = {}
    for name, make_step in ENGINES.items():
        try:
            steps[name] = make_step(options.variant, options.threads, options.batch_size, options.precision)
        except ImportError as error:
            print(f"skipped: {name} ({error})")
    protocol = Protocol("quick", TURN_S, TURN_S * options.rounds, options.rounds, average="median")
    timings = interleave(steps, protocol)
    print(
        f"\n{options.variant}, {options.precision}, batch {options.batch_size}, "
        f"{count_noun(options.threads, 'thread')}, {machine()}; {versions('torch', 'timm', 'openvino')}; "
        f"{count_noun(options.rounds, 'interleaved round')}\n"
    )
    print("| engine | images/s, median | levit is faster by, least / median / most |\n|---|---|---|")
    for name, timing in timings.items():
        low, middle, high = ratios(timings["levit"].medians_s(), timing.medians_s())
        print(f"| {name} | {options.batch_size / timing.median_s:.1f} | {low:.2f} / {middle:.2f} / {high:.2f} |")


if __name__ == "__main__":
    main()
