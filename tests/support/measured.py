"""Make benchmark rows from given speeds, without a measurement, to check what is computed from them."""

from dataclasses import replace
from typing import Any

from levit_cli.bench.models import Net, baselines, levits
from levit_cli.bench.protocol import Timing
from levit_cli.bench.results import Row
from levit_cli.bench.runners import Contestant
from levit_cli.engines import EngineSpec

SPEC = EngineSpec("cpu", "openvino", "fp32", threads=2, batch_size=16)
META = {
    "machine": "Linux",
    "cpu": "a processor",
    "device": "cpu",
    "threads": 2,
    "versions": {"levit": "0.1.0"},
    "protocol": "quick",
    "warmup_s": 0.3,
    "duration_s": 2.5,
    "rounds": 2,
}


def net(name: str) -> Net:
    """Return a variant or a baseline by its name."""
    (found,) = levits((name,), load=_never) if name.startswith("levit") else baselines(name, [])
    return found


def row(name: str, *images_per_s: float, spec: EngineSpec = SPEC, hardware: str = "xeon") -> Row:
    """Make the row of a model with one speed for each round."""
    turns = tuple((spec.batch_size / speed,) for speed in images_per_s)
    contestant = Contestant(net(name), replace(spec), spec.batch_size, params=1, macs=2, step=lambda: None)
    return Row(contestant, Timing(turns), "median", hardware)


def _never(name: str) -> Any:
    raise AssertionError(f"{name} would be loaded")
