"""``levit eval``: how good a model is on pictures whose classes are known.

``evaluate`` and ``summarise`` are the way in for a library.
"""

from levit_cli.evaluation.measuring import Evaluated, Summary, evaluate, summarise

__all__ = ["Evaluated", "Summary", "evaluate", "summarise"]
