"""The colors and the matplotlib style of all charts, and the set-up that matplotlib needs before its first import."""

import logging
import os
from typing import Any

from levit_cli.system.cache import cache_folder

INK, MUTED, RULE = "#1b2733", "#5a6978", "#d5dce3"  # text, secondary text, lines
BLUE, PALE_BLUE, ORANGE = "#2563a8", "#a9c6e8", "#d9730d"
STYLE: Any = {  # matplotlib types the keys as a literal of several hundred names
    "svg.fonttype": "none",  # text stays text: the reader's fonts can show characters that ours lack
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
    """Keep matplotlib's font list in our cache folder instead of the home folder, and silence its warnings."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
