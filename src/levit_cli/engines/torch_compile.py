"""Compile networks with ``torch.compile``, for the ``compile`` engine and for training.

The kernels are compiled for this machine and usually for one batch size. That takes tens of seconds per network, and
on a CPU it needs a C++ compiler. torch caches the kernels in our cache folder.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor, nn

from levit_cli.errors import RefusedError
from levit_cli.system.cache import cache_folder

T = TypeVar("T")
# torch counts networks with the same ``forward`` as recompilations of one function, and allows 8 by default.
RECOMPILE_LIMIT = 64
EXAMPLE_BATCH = 2  # torch treats a batch of 1 as a fixed size


def compiled(module: Callable[[Tensor], T], pixels: Tensor, *, owns_process: bool = True) -> Callable[[Tensor], T]:
    """Return the module as one compiled function.

    Args:
        pixels: (B, H, W, 3) uint8 on the module's device; B is the batch size to compile for, 0 for any.
        owns_process: whether to set the cache folder and the limits of ``torch.compile`` for the whole process.

    Raises:
        RefusedError: the compilation fails, usually because there is no compiler.
    """
    if owns_process:
        _prepare()
    function: Callable[[Tensor], T] = torch.compile(
        module,
        fullgraph=True,
        dynamic=False if len(pixels) else None,
        options={"freezing": True} if pixels.device.type == "cpu" else None,
    )
    try:
        _find_compiler(pixels.device.type)
        with torch.inference_mode():
            function(pixels if len(pixels) else pixels.new_zeros((EXAMPLE_BATCH, *pixels.shape[1:])))
    except Exception as error:  # the compiler backends raise many types
        raise RefusedError(
            "torch.compile does not work on this machine",
            why=_reason(error),
            hint="it needs a C++ compiler; --engine openvino and --engine torch do not",
        ) from error
    return function


def compiled_for_training(module: nn.Module, device: str) -> nn.Module:
    """Return the module with compiled forward and backward passes.

    The first call compiles them, for its batch size.

    Raises:
        RefusedError: there is no compiler.
    """
    _prepare()
    try:
        _find_compiler(device)
    except Exception as error:
        raise RefusedError(
            "torch.compile does not work on this machine",
            why=_reason(error),
            hint="it needs a C++ compiler; run without --compile",
        ) from error
    function: nn.Module = torch.compile(module, dynamic=False)  # type: ignore[assignment]
    return function


def _prepare() -> None:
    _use_our_cache()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # suppresses warnings of a missing CUDA
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT


def _find_compiler(device: str) -> None:
    """Raise an error at once if there is no compiler. torch itself fails only after half a minute."""
    if device == "cpu":
        with suppress(ImportError):  # the function is private and may move
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()


def _use_our_cache() -> None:
    folder = cache_folder() / "inductor"
    with suppress(OSError):  # torch then uses a temporary folder
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]
