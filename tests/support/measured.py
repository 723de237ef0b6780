"""Make rows of a benchmark with given speeds, for tests of what is computed from them."""

from dataclasses import replace
from typing import Any

from levit_cli.bench.models import BenchModel, baselines, levits
from levit_cli.bench.protocol import Timing
from levit_cli.bench.results import Row
from levit_cli.bench.runners import ModelRunner
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


def bench_model(name: str) -> BenchModel:
    """Return a variant or a baseline by its name."""
    (model,) = levits((name,), _load_nothing) if name.startswith("levit") else baselines(name, [])
    return model


def row(name: str, *images_per_s: float, spec: EngineSpec = SPEC, hardware: str = "xeon") -> Row:
    """Return the row of a model that ran at these speeds, one per round."""
    turns = tuple((spec.batch_size / speed,) for speed in images_per_s)
    runner = ModelRunner(bench_model(name), replace(spec), spec.batch_size, params=1, macs=2, step=lambda: None)
    return Row(runner, Timing(turns), "median", hardware)


def _load_nothing(name: str) -> Any:
    raise AssertionError(f"{name} would be loaded")
