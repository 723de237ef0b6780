"""Define the colors and the matplotlib style of all charts, and configure matplotlib before its first import."""

import logging
import os
from typing import Any

from levit_cli.system.cache import cache_folder

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


def prepare_matplotlib() -> None:
    """Store matplotlib's font list in levit's cache folder instead of the home folder, and silence its warnings."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
