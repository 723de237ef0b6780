"""``levit eval``: how good a model is on images whose classes are known.

``evaluate`` and ``summarize`` are the way in for a library.
"""

from levit_cli.eval.evaluate import Evaluated, evaluate
from levit_cli.eval.results import Summary
from levit_cli.eval.summarize import summarize

__all__ = ["Evaluated", "Summary", "evaluate", "summarize"]
