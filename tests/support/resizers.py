"""The resizers that are compared with Pillow; tests of SIMD skip where its package is not installed."""

import pytest

from levit_cli.images.resizers import MODULE, Preprocess, choose_resizer
from levit_cli.images.transforms import transform_for
from levit_cli.system.extras import is_installed

needs_simd = pytest.mark.skipif(not is_installed(MODULE), reason=f"needs {MODULE}")
RESIZERS = [pytest.param("simd", marks=needs_simd), "pillow"]
AVAILABLE = ("simd", "pillow") if is_installed(MODULE) else ("pillow",)


def preprocess_with(resizer: str) -> Preprocess:
    """Return the preprocessing of a resizer."""
    chosen = choose_resizer(transform_for("hf", (224, 224)), "simd" if resizer == "simd" else "pillow")
    assert chosen.name == resizer
    return chosen.preprocess
