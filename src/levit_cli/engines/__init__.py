"""Engines: callables from pixels to logits. Choosing one is a look at the spec and at the machine.

An engine knows nothing of files and pictures: it takes (B, H, W, 3) bytes, any B, and gives (B, classes) float32.
"""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import Device, EngineName, Precision
from levit_cli.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from levit_cli.checkpoints import Checkpoint


@dataclass(frozen=True)
class EngineSpec:
    """What is asked for, or, as ``Engine.spec``, what was chosen: then nothing is ``auto``.

    Args:
        threads: of the network on a CPU; 0 for as many as this process may use.
    """

    device: Device = "auto"
    engine: EngineName = "auto"
    precision: Precision = "auto"
    threads: int = 0


class Engine(Protocol):
    spec: EngineSpec

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) bytes -> (B, classes) logits, the mean of the two heads."""


def make_engine(checkpoint: "Checkpoint", spec: EngineSpec) -> Engine:
    """The engine for a checkpoint.

    On a CPU that is OpenVINO unless torch is named; on a GPU it is torch. ``auto`` takes a GPU only where torch is
    asked for: looking for one means importing torch, which takes longer than classifying hundreds of pictures.

    Raises:
        RefusedError: no such device, or it lacks the precision.
        UsageError: the engine does not run on that device.
    """
    threads = usable_threads(spec.threads)
    name = spec.engine if spec.engine != "auto" else "openvino" if spec.device in ("auto", "cpu") else "torch"
    spec = replace(spec, engine=name, threads=threads)
    if name == "torch":
        from levit_cli.engines import torch as torch_engine

        return torch_engine.TorchEngine(checkpoint.state, checkpoint.config, checkpoint.recipe, spec)
    if spec.device not in ("auto", "cpu"):
        raise UsageError(f"The OpenVINO engine runs on the CPU, not on {spec.device}", hint="--engine torch")
    from levit_cli.engines import openvino as openvino_engine

    spec = replace(spec, device="cpu")
    return openvino_engine.OpenVinoEngine(checkpoint.state, checkpoint.config, checkpoint.recipe, spec)


def usable_threads(asked: int = 0) -> int:
    """min(CPU affinity, cgroup quota, what was asked for)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, _quota(), asked]
    return max(1, min(limit for limit in limits if limit))


def _quota() -> int:
    """Whole cores that the control group grants, rounded up; 0 where it does not limit (cgroups v2, then v1)."""
    for path, separator in (("/sys/fs/cgroup/cpu.max", " "), ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", None)):
        try:
            with open(path) as file:
                text = file.read().strip()
            if separator is None:
                with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                    text = f"{text} {file.read().strip()}"
            quota, period = text.split()
            return -(-int(quota) // int(period)) if quota not in ("max", "-1") else 0
        except (OSError, ValueError):
            continue
    return 0


def require_precision(spec: EngineSpec, supported: tuple[Precision, ...], preferred: Precision) -> EngineSpec:
    """The spec with its precision decided.

    Raises:
        RefusedError: the one asked for is not supported there.
    """
    if spec.precision == "auto":
        return replace(spec, precision=preferred)
    if spec.precision not in supported:
        raise RefusedError(
            f"The {spec.engine} engine on this {spec.device} does not compute in {spec.precision}",
            hint=f"it does in {', '.join(supported)}",
        )
    return spec
