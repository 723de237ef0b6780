"""``levit eval``: measure how well a model classifies images whose classes are known.

Library code calls ``evaluate``, then ``summarize``.
"""

from levit_cli.eval.evaluate import Evaluated, evaluate
from levit_cli.eval.results import Summary
from levit_cli.eval.summarize import summarize

__all__ = ["Evaluated", "Summary", "evaluate", "summarize"]
