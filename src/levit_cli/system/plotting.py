"""Configure matplotlib, and define the colors, the style and the encoding of all charts.

Charts import the parts of matplotlib from here, because it must be configured before it is imported. They use its
``Figure`` instead of ``pyplot``, which keeps global state.
"""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from levit_cli.system.cache import cache_folder

# matplotlib reads the variable when it is imported. Without it, the list of fonts is stored in the home folder.
os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns about folders that it cannot write

try:
    from matplotlib import colormaps, rc_context, rcdefaults, rcParams
except ValueError as error:  # for example, its text is not UTF-8
    raise ImportError(f"matplotlib cannot read a matplotlibrc file: {error}") from error
from matplotlib.artist import Artist  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.container import Container  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter  # noqa: E402

__all__ = [
    "BLUE",
    "INK",
    "MUTED",
    "ORANGE",
    "PALE_BLUE",
    "RULE",
    "Artist",
    "Axes",
    "Container",
    "Figure",
    "FuncFormatter",
    "LogLocator",
    "MaxNLocator",
    "NullFormatter",
    "PercentFormatter",
    "Rectangle",
    "chart_style",
    "colormaps",
    "encode",
    "withStroke",
]

INK, MUTED, RULE = "#1b2733", "#5a6978", "#d5dce3"  # text, secondary text, lines
BLUE, PALE_BLUE, ORANGE = "#2563a8", "#a9c6e8", "#d9730d"
STYLE: Any = {  # matplotlib types the keys as a literal of several hundred names
    "svg.fonttype": "none",  # keep text as text: the reader's fonts may have characters that ours lack
    "text.parse_math": False,  # a class name with dollar signs is not a formula
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@contextmanager
def chart_style(salt: str) -> Iterator[None]:
    """Draw and encode charts in one style inside the block, whatever the user's ``matplotlibrc`` says.

    Warnings are ignored. They are about characters that our fonts lack.

    Args:
        salt: makes the ids in an SVG the same in every run, and different from those of other charts on a page.
    """
    with rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rcdefaults()
        rcParams.update({**STYLE, "svg.hashsalt": salt})
        yield


def encode(figure: Figure, format: str, **options: Any) -> bytes:
    """Return a figure as a PNG or SVG file, without a date, so that the same figure gives the same file.

    Args:
        format: ``png`` or ``svg``.
        options: of ``Figure.savefig``.
    """
    content = io.BytesIO()
    figure.savefig(content, format=format, metadata={"Date": None} if format == "svg" else {}, **options)
    return content.getvalue()
