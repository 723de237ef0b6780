"""``torch.jit.trace`` without its talk: what the paper measured with, and what OpenVINO's converter reads."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def trace(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """The module as a recorded graph. Constants that it computes from the shape of ``example`` are kept."""
    with torch.no_grad(), _plain_attention(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated, and that shapes become constants
        # without the check, which runs the module thrice more and takes three quarters of the time
        traced: torch.jit.ScriptModule = torch.jit.trace(module.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention of torch.nn as products and softmax instead of one operation of torch's own."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
