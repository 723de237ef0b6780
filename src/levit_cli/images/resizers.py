"""Choose what resizes the images: the package ``cykooz-resizer``, Pillow, or torch for ``hf-tensor``.

The modules that resize are imported when they are chosen.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from levit_cli.choices import PreprocessingName, Resizer
from levit_cli.errors import RefusedError, UsageError
from levit_cli.images import preprocess as with_pillow
from levit_cli.images.transforms import Transform
from levit_cli.system.extras import extra, is_installed, pip_install

PACKAGE, MODULE = "cykooz-resizer", "cykooz_resizer"
CANNOT_RESIZE = "Cannot resize with SIMD instructions"
ResizerName = Literal["simd", "pillow", "torch"]
Preprocess = Callable[[Image, Transform], NDArray[np.uint8]]


class ChosenResizer(NamedTuple):
    """What resizes the images of a run.

    Args:
        preprocess: returns the (height, width, 3) uint8 crop of a transform from an RGB image.
        reason: why ``auto`` did not choose ``simd``; empty if there was no choice.
    """

    name: ResizerName
    preprocess: Preprocess
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def choose_resizer(transform: Transform, wanted: Resizer = "auto") -> ChosenResizer:
    """Return what resizes images for a transform. ``auto`` is ``simd`` if its package can be imported, else Pillow.

    Raises:
        UsageError: the package, or torch for ``hf-tensor``, is not installed, or the transform needs another resizer.
        RefusedError: ``simd`` is wanted, and its package cannot be imported.
    """
    if transform.resizer == "torch":
        if wanted != "auto":
            raise _no_effect(transform.name, wanted)
        return ChosenResizer("torch", _with_torch(transform.name))
    if wanted == "pillow":
        return ChosenResizer("pillow", with_pillow.preprocess)
    if fault := _missing_filter(transform) or _simd()[1]:
        if wanted == "simd":
            raise fault
        return ChosenResizer("pillow", with_pillow.preprocess, fault.why)
    preprocess = _simd()[0]
    assert preprocess is not None
    return ChosenResizer("simd", preprocess)


def resizer_faults(preprocessing: PreprocessingName | None, wanted: Resizer) -> list[UsageError]:
    """Return the faults of these options that are known without loading the model."""
    if preprocessing == "hf-tensor" and wanted != "auto":
        return [_no_effect(preprocessing, wanted)]
    return [_not_installed()] if wanted == "simd" and not is_installed(MODULE) else []


def _no_effect(preprocessing: str, wanted: Resizer) -> UsageError:
    return UsageError(
        f"The resizer {wanted} has no effect on the preprocessing {preprocessing}",
        why="that resizes with torch",
        hint="leave out the resizer, or choose another preprocessing",
    )


def _not_installed() -> UsageError:
    return UsageError(
        CANNOT_RESIZE,
        why=f"the package {PACKAGE} is not installed",
        hint=f"{pip_install(PACKAGE)}, or use the resizer pillow",
    )


def _missing_filter(transform: Transform) -> UsageError | None:
    if transform.filter in ("nearest", "hamming"):
        why = f"{PACKAGE} has no filter {transform.filter!r}, which the model's preprocessing uses"
        return UsageError(CANNOT_RESIZE, why=why, hint="use the resizer pillow")
    return None


@cache
def _simd() -> tuple[Preprocess | None, UsageError | RefusedError | None]:
    """Return the preprocessing with SIMD, or why there is none."""
    if not is_installed(MODULE):
        return None, _not_installed()
    try:
        from levit_cli.images import resize_simd
    except Exception as error:  # a package that is broken raises any exception
        why = f"the package {PACKAGE} cannot be imported: {error}"
        hint = f"reinstall it: {pip_install(PACKAGE)} --force-reinstall, or use the resizer pillow"
        return None, RefusedError(CANNOT_RESIZE, why=why, hint=hint)
    return resize_simd.preprocess, None


def _with_torch(preprocessing: str) -> Preprocess:
    with extra("torch", f"The preprocessing {preprocessing}"):
        from levit_cli.images.resize_torch import preprocess_tensor

    return preprocess_tensor
