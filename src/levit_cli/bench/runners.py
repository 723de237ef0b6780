"""Nets made ready to be timed: each becomes one step that runs a batch to its end.

LeViTs and baselines go the same way: the same engine, precision and threads, bytes in, logits out. Under the paper's
protocol torch runs them as the authors' ``speed_test.py`` does, see ``speed.traced``.
"""

from dataclasses import dataclass, replace

import numpy as np

from levit_cli.bench.models import Net
from levit_cli.bench.protocol import Step
from levit_cli.engines import Engine, EngineSpec, make_engine, make_engine_of_module
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
class Contestant:
    """A net made ready.

    Args:
        spec: what was chosen; nothing in it is ``auto``.
        params, macs: of the training form, for one image.
        step: runs one batch to its end.
    """

    net: Net
    spec: EngineSpec
    batch_size: int
    params: int
    macs: int
    step: Step


def ready(net: Net, spec: EngineSpec, batch_size: int | None, *, as_paper: bool) -> Contestant:
    """A net, built, compiled and run for the first time.

    Args:
        spec: as ``engines.settled`` gives it.
        batch_size: None for the usual one of the device, or the paper's.
        as_paper: as the authors' script where the engine is torch.

    Raises:
        LevitError: the engine does not run here, or not so.
    """
    batch_size = batch_size or _usual_batch(net, spec.device, as_paper=as_paper)
    if as_paper and spec.engine == "torch":
        return _traced(net, spec, batch_size)
    engine = _engine(net, replace(spec, batch_size=batch_size))
    image_size, params, macs = _facts(net)
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *image_size, 3), np.uint8)
    engine(pixels)
    return Contestant(net, engine.spec, batch_size, params, macs, lambda: engine(pixels))


def _engine(net: Net, spec: EngineSpec) -> Engine:
    if not isinstance(net.made_of, str):
        return make_engine(net.made_of, spec)
    from levit_cli.bench.baselines import yardstick

    return make_engine_of_module(yardstick(net.made_of), spec)


def _facts(net: Net) -> tuple[Grid, int, int]:
    """Size of its images, parameters, multiply-accumulates."""
    if not isinstance(net.made_of, str):
        config = net.made_of.config
        return config.image_size, count_parameters(config), config.macs
    from levit_cli.bench.baselines import DESIGNS, count

    side = DESIGNS[net.made_of].side
    return (side, side), *count(net.made_of)


def _traced(net: Net, spec: EngineSpec, batch_size: int) -> Contestant:
    from levit_cli.bench import jit as traced

    image_size, params, macs = _facts(net)
    step = traced.step(net.made_of, (batch_size, 3, *image_size), spec)
    return Contestant(net, spec, batch_size, params, macs, step)


def _usual_batch(net: Net, device: str, *, as_paper: bool) -> int:
    if device == "cpu":
        return CPU_BATCH
    return PAPER_GPU_BATCHES.get(net.published or "", GPU_BATCH) if as_paper else GPU_BATCH
