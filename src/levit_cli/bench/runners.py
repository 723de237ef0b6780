"""Prepare models for timing. Each becomes a function that runs one batch and waits for the result.

LeViTs and baselines run in the same engine, precision and number of threads, from uint8 pixels to logits. Under the
paper's protocol, the torch engine runs them as the authors' ``speed_test.py`` does; see ``bench.jit``.
"""

from dataclasses import dataclass, replace

import numpy as np

from levit_cli.bench.models import BenchModel
from levit_cli.bench.protocol import Step
from levit_cli.choices import BenchProtocol
from levit_cli.engines import Engine, EngineSpec, make_engine, make_engine_of_module, require_int8_graph
from levit_cli.model.config import Grid
from levit_cli.model.tensors import count_parameters

CPU_BATCH, GPU_BATCH = 16, 256
PAPER_GPU_BATCHES = {
    **dict.fromkeys(("levit-128S", "levit-128", "levit-192", "levit-256", "deit_tiny", "deit_small"), 2048),
    **dict.fromkeys(("levit-384", "efficientnet_b0", "efficientnet_b1"), 1024),
    **dict.fromkeys(("efficientnet_b2", "efficientnet_b3"), 512),
    "efficientnet_b4": 256,
}


@dataclass(frozen=True)
class ModelRunner:
    """A model that is ready to be timed.

    Args:
        spec: the resolved spec, in which no setting is ``auto``.
        params, macs: parameters of the training form and its multiply-accumulates for one image.
        step: runs one batch and waits until it is finished.
    """

    model: BenchModel
    spec: EngineSpec
    batch_size: int
    params: int
    macs: int
    step: Step


def protocol_spec(spec: EngineSpec, protocol: BenchProtocol) -> EngineSpec:
    """Return the spec with the protocol's defaults; those of ``paper`` are torch, one thread and fp32."""
    if protocol == "quick":
        return spec
    if spec.engine == "auto":
        spec = replace(spec, engine="torch", device="cpu" if spec.device == "auto" else spec.device)
    if spec.precision == "auto" and spec.engine == "openvino":
        spec = replace(spec, precision="fp32")  # torch's auto is fp32 on a CPU and fp16 on a GPU already
    return replace(spec, threads=spec.threads or 1)


def make_runner(model: BenchModel, spec: EngineSpec, batch_size: int | None, *, as_paper: bool) -> ModelRunner:
    """Build and compile a model and run it once.

    Args:
        spec: as ``engines.resolve_spec`` returns it.
        batch_size: None for the default of the device or of the paper.
        as_paper: if the engine is torch, run the model as the authors' script does.

    Raises:
        LevitError: the engine does not run on this machine, or does not support the precision.
    """
    batch_size = batch_size or _default_batch_size(model, spec.device, as_paper=as_paper)
    image_size, params, macs = _size(model)
    if as_paper and spec.engine == "torch":
        from levit_cli.bench import jit

        step = jit.make_step(model.weights, (batch_size, 3, *image_size), spec)
        return ModelRunner(model, spec, batch_size, params, macs, step)
    engine = _make_engine(model, replace(spec, batch_size=batch_size))
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *image_size, 3), np.uint8)
    engine(pixels)
    return ModelRunner(model, engine.spec, batch_size, params, macs, lambda: engine(pixels))


def _make_engine(model: BenchModel, spec: EngineSpec) -> Engine:
    if not isinstance(model.weights, str):
        require_int8_graph(model.weights, spec, model.name)
        return make_engine(model.weights, spec)
    from levit_cli.bench.baselines import make_baseline

    return make_engine_of_module(make_baseline(model.weights), spec)


def _size(model: BenchModel) -> tuple[Grid, int, int]:
    """Return the image size, the number of parameters and the MACs."""
    if not isinstance(model.weights, str):
        config = model.weights.config
        return config.image_size, count_parameters(config), config.macs
    from levit_cli.bench.baselines import DESIGNS, count_parameters_and_macs

    side = DESIGNS[model.weights].side
    return (side, side), *count_parameters_and_macs(model.weights)


def _default_batch_size(model: BenchModel, device: str, *, as_paper: bool) -> int:
    if device == "cpu":
        return CPU_BATCH
    return PAPER_GPU_BATCHES.get(model.published or "", GPU_BATCH) if as_paper else GPU_BATCH
