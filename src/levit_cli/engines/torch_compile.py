"""torch.compile, for the engine of that name and for training: kernels made for this machine and one batch size.

Making them takes tens of seconds for each network, and on a CPU a C++ compiler; torch keeps them in our cache folder.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from levit_cli.errors import RefusedError
from levit_cli.system.cache import cache_folder

NETWORKS_AT_ONCE = 64  # torch counts the networks that share a forward as variants of one, and stops compiling at eight
SOME_BATCH = 2  # a batch of one would be compiled for one only


def compiled(module: Callable[[Tensor], Tensor], pixels: Tensor) -> Callable[[Tensor], Tensor]:
    """The module as one compiled function.

    Args:
        pixels: (B, H, W, 3) bytes on the module's device; B is the batch size to compile for, 0 for any.

    Raises:
        RefusedError: it cannot be compiled here, most often because there is no compiler.
    """
    _prepare()
    function: Callable[[Tensor], Tensor] = torch.compile(
        module,
        fullgraph=True,
        dynamic=False if len(pixels) else None,
        options={"freezing": True} if pixels.device.type == "cpu" else None,
    )
    try:
        _find_compiler(pixels.device.type)
        with torch.inference_mode():
            function(pixels if len(pixels) else pixels.new_zeros((SOME_BATCH, *pixels.shape[1:])))
    except Exception as error:  # whatever the compiler under it raises
        raise RefusedError(
            "torch.compile does not work here",
            why=_reason(error),
            hint="it needs a C++ compiler; --engine openvino and --engine torch do not",
        ) from error
    return function


def compiled_for_training(module: nn.Module, device: str) -> nn.Module:
    """The module with its forward and backward compiled; they are when it is first called, for that batch size.

    Raises:
        RefusedError: there is no compiler.
    """
    _prepare()
    try:
        _find_compiler(device)
    except Exception as error:
        raise RefusedError(
            "torch.compile does not work here", why=_reason(error), hint="it needs a C++ compiler; leave --compile away"
        ) from error
    function: nn.Module = torch.compile(module, dynamic=False)  # type: ignore[assignment]
    return function


def _prepare() -> None:
    _keep_kernels_in_our_cache()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of CUDA on machines without
    torch._dynamo.config.recompile_limit = NETWORKS_AT_ONCE


def _find_compiler(device: str) -> None:
    """Fail at once where there is none; torch would find out behind half a minute of preparations."""
    if device == "cpu":
        with suppress(ImportError):  # it is torch's own affair where that function lives
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()


def _keep_kernels_in_our_cache() -> None:
    folder = cache_folder() / "inductor"
    with suppress(OSError):  # then torch takes a temporary folder
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]
