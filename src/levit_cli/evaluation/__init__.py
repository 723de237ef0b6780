"""``levit eval``: how good a model is on pictures whose classes are known.

``evaluate`` and ``summarise`` are the way in for a library.
"""

from levit_cli.evaluation.figures import Summary
from levit_cli.evaluation.measuring import Evaluated, evaluate
from levit_cli.evaluation.summarising import summarise

__all__ = ["Evaluated", "Summary", "evaluate", "summarise"]
