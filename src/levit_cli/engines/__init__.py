"""Inference engines: callables that compute logits from pixels. ``make_engine`` chooses one from the spec.

An engine knows no files or image formats. It maps (B, H, W, 3) uint8 to (B, classes) float32, for any B. The engine of
a LeViT also computes the features (B, C) before the heads.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from levit_cli.engines.spec import Cache, EngineSpec
from levit_cli.errors import UsageError, raise_faults
from levit_cli.images.transforms import Transform
from levit_cli.model.config import LevitConfig
from levit_cli.system.cpu import usable_threads

if TYPE_CHECKING:
    from levit_cli.checkpoints.quantized import QuantizedGraph
    from levit_cli.engines.torch import BytesNetwork

__all__ = [
    "Engine",
    "EngineModel",
    "EngineSpec",
    "LevitEngine",
    "keep_until_exit",
    "make_engine",
    "make_engine_of_module",
    "require_int8_graph",
    "resolve_spec",
    "wrong_device",
    "wrong_precision",
]


CPU_DEVICES = ("auto", "cpu")  # values of ``device`` with which the engine ``auto`` is openvino


class Engine(Protocol):
    """A model ready for inference, with its resolved spec."""

    spec: EngineSpec

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits (B, classes), the mean of the two heads, for pixels (B, H, W, 3).

        B is at most ``spec.batch_size`` if that is set. ``spec.streams`` threads may call the engine at the same time.
        """

    def save_cache(self) -> None:
        """Save compiled data for the next run. The caller calls this after all results are written."""


class LevitEngine(Engine, Protocol):
    """An engine that also computes features. Logits and features are the two outputs of ``model.folded.forward``."""

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (B, C), the mean of the last stage's tokens, for pixels as in ``__call__``."""


class EngineModel(Protocol):
    """The part of a checkpoint that an engine needs."""

    @property
    def state(self) -> Mapping[str, NDArray[Any]]: ...
    @property
    def config(self) -> LevitConfig: ...
    @property
    def transform(self) -> Transform: ...
    @property
    def sha256(self) -> str: ...
    @property
    def int8(self) -> "QuantizedGraph | None": ...


def make_engine(
    checkpoint: EngineModel,
    spec: EngineSpec,
    cache: Cache | None = None,
    *,
    owns_process: bool = True,
    for_features: bool = False,
) -> LevitEngine:
    """Return the engine for a checkpoint.

    The default engine is OpenVINO on a CPU and torch on a GPU. The device ``auto`` selects a GPU only if a torch
    engine is requested: detecting a GPU requires importing torch, which takes longer than classifying hundreds of
    images.

    Args:
        cache: storage in which the engine may keep compiled data for the next run.
        owns_process: whether the engine may change torch's settings for the whole process, such as its number of
            threads. A command may, a library may not.
        for_features: the caller needs the features, not the logits, so only their graph is compiled now.

    Raises:
        RefusedError: the device is not available or does not support the precision, or the model's int8 graph is
            needed and cannot be used.
        UsageError: the engine does not run on that device, or torch is not installed.
    """
    spec = resolve_spec(spec)
    if spec.engine != "openvino":
        from levit_cli.engines import torch as torch_engine

        return torch_engine.TorchEngine(
            checkpoint.state, checkpoint.config, checkpoint.transform, spec, owns_process=owns_process
        )
    from levit_cli.engines import openvino as openvino_engine

    return openvino_engine.OpenVinoEngine(
        checkpoint.state, checkpoint.config, checkpoint.transform, spec, cache, checkpoint.sha256 if cache else "",
        checkpoint.int8, openvino_engine.FEATURES if for_features else openvino_engine.LOGITS,
    )  # fmt: skip


def require_int8_graph(checkpoint: EngineModel, spec: EngineSpec, name: str) -> None:
    """Check that a model can run in int8 if that is requested.

    Args:
        name: the model as the user named it.

    Raises:
        RefusedError: it has no int8 graph.
    """
    if spec.precision == "int8" and checkpoint.int8 is None:
        from levit_cli.checkpoints.quantized import no_graph

        raise no_graph(name)


def make_engine_of_module(network: "BytesNetwork", spec: EngineSpec) -> Engine:
    """Return the engine for a torch module that is not a LeViT, with the choice and the errors of ``make_engine``."""
    spec = resolve_spec(spec)
    if spec.engine == "openvino":
        from levit_cli.engines.openvino_converter import ConvertedEngine

        return ConvertedEngine(network, spec)
    from levit_cli.engines.torch import ModuleEngine

    return ModuleEngine(network, spec)


def resolve_spec(spec: EngineSpec) -> EngineSpec:
    """Resolve ``auto`` for engine, device and threads, and for the torch engines also for the precision.

    Raises:
        RefusedError: the device is not available, torch cannot be imported, or the precision is not supported.
        UsageError: the engine does not run on that device, or torch is not installed.
    """
    name = spec.engine if spec.engine != "auto" else "openvino" if spec.device in ("auto", "cpu") else "torch"
    spec = replace(spec, engine=name, threads=usable_threads(spec.threads))
    if name == "openvino":
        raise_faults(wrong_device(spec))
        return replace(spec, device="cpu")
    from levit_cli.system.extras import extra

    with extra("torch", f"The {name} engine"):
        from levit_cli.engines.torch import resolve_torch_spec
    return resolve_torch_spec(spec)


def wrong_precision(spec: EngineSpec) -> list[UsageError]:
    """Return the fault of int8 with a torch engine, which has no int8 kernels for these networks."""
    if spec.precision != "int8" or spec.engine == "openvino" or (spec.engine == "auto" and spec.device in CPU_DEVICES):
        return []
    requested = f"--device {spec.device}" if spec.engine == "auto" else f"--engine {spec.engine}"
    why = "int8 models run in the OpenVINO engine on a CPU"
    return [UsageError(f"--precision int8 cannot be used with {requested}", why=why, hint=f"leave {requested} out")]


def wrong_device(spec: EngineSpec) -> list[UsageError]:
    """Return the fault of a device on which the requested engine does not run."""
    if spec.engine != "openvino" or spec.device in ("auto", "cpu"):
        return []
    return [UsageError(f"The OpenVINO engine runs on the CPU, not on {spec.device}", hint="use --engine torch")]


_kept: list[object] = []


def keep_until_exit(engine: object) -> None:
    """Keep a reference to an engine until the process exits, because destroying it would delay the exit."""
    _kept.append(engine)
