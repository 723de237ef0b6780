"""``levit eval``: how good a model is on pictures whose classes are known.

``evaluate`` and ``summarise`` are the way in for a library.
"""

from levit_cli.eval.evaluate import Evaluated, evaluate
from levit_cli.eval.results import Summary
from levit_cli.eval.summarize import summarise

__all__ = ["Evaluated", "Summary", "evaluate", "summarise"]
