"""Engines: callables from pixels to logits. Choosing one is a look at the spec and at the machine.

An engine knows nothing of files and images: it takes (B, H, W, 3) bytes, any B, and gives (B, classes) float32.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from levit_cli.engines.spec import Cache, EngineSpec, usable_threads
from levit_cli.errors import RefusedError, UsageError
from levit_cli.images.transforms import Transform
from levit_cli.model.config import LevitConfig

if TYPE_CHECKING:
    from levit_cli.engines.torch import BytesNetwork

__all__ = [
    "Engine",
    "EngineSpec",
    "Weights",
    "keep_until_exit",
    "make_engine",
    "make_engine_of_module",
    "resolve_spec",
    "usable_threads",
]


class Engine(Protocol):
    spec: EngineSpec

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) bytes -> (B, classes) logits, the mean of the two heads.

        B is at most ``spec.batch_size``, where that is set. May be called from ``spec.streams`` threads at once.
        """

    def save_cache(self) -> None:
        """Leave for the next run what took long to make; called when the answers are out."""


class Weights(Protocol):
    """What an engine needs of a checkpoint."""

    @property
    def state(self) -> Mapping[str, NDArray[Any]]: ...
    @property
    def config(self) -> LevitConfig: ...
    @property
    def transform(self) -> Transform: ...
    @property
    def sha256(self) -> str: ...


def make_engine(checkpoint: Weights, spec: EngineSpec, cache: Cache | None = None) -> Engine:
    """The engine for a checkpoint.

    Args:
        cache: where the engine may keep what took long to make, for the next run.

    On a CPU that is OpenVINO unless torch is named; on a GPU it is torch. ``auto`` takes a GPU only where torch is
    asked for: looking for one means importing torch, which takes longer than classifying hundreds of images.

    Raises:
        RefusedError: no such device, or it lacks the precision.
        UsageError: the engine does not run on that device.
    """
    spec = resolve_spec(spec)
    if spec.engine != "openvino":
        from levit_cli.engines import torch as torch_engine

        return torch_engine.TorchEngine(checkpoint.state, checkpoint.config, checkpoint.transform, spec)
    from levit_cli.engines import openvino as openvino_engine

    return openvino_engine.OpenVinoEngine(
        checkpoint.state, checkpoint.config, checkpoint.transform, spec, cache, checkpoint.sha256 if cache else ""
    )


def make_engine_of_module(network: "BytesNetwork", spec: EngineSpec) -> Engine:
    """The engine for a torch module that is none of ours; the same choice, refused for the same reasons."""
    spec = resolve_spec(spec)
    if spec.engine == "openvino":
        from levit_cli.engines.openvino_converter import ConvertedEngine

        return ConvertedEngine(network, spec)
    from levit_cli.engines.torch import ModuleEngine

    return ModuleEngine(network, spec)


def resolve_spec(spec: EngineSpec) -> EngineSpec:
    """The spec with engine, device and threads decided, and its precision where that is torch's.

    Raises:
        RefusedError: no such device, torch does not import, or it lacks the precision there.
        UsageError: the engine does not run on that device.
    """
    name = spec.engine if spec.engine != "auto" else "openvino" if spec.device in ("auto", "cpu") else "torch"
    spec = replace(spec, engine=name, threads=usable_threads(spec.threads))
    if name == "openvino":
        if spec.device not in ("auto", "cpu"):
            raise UsageError(f"The OpenVINO engine runs on the CPU, not on {spec.device}", hint="--engine torch")
        return replace(spec, device="cpu")
    try:
        from levit_cli.engines.torch import resolve_torch_spec
    except (ImportError, OSError) as error:  # OSError: a library of torch's that does not load
        raise RefusedError(f"The {name} engine cannot be used", why=str(error), hint="install torch again") from error
    return resolve_torch_spec(spec)


_kept: list[object] = []


def keep_until_exit(engine: object) -> None:
    """Hold on to an engine until the process ends: taking it down takes longer than leaving the process does."""
    _kept.append(engine)
