"""matplotlib, made ready before its first import: nothing in the home folder, no word of what does not matter."""

import logging
import os

from levit_cli.system.cache import cache_folder


def prepare_matplotlib() -> None:
    """Let it keep its list of fonts in our cache, and not tell if it cannot."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
