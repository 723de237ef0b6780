"""``levit probe``: logistic regression on the features of a model, for the user's own classes. ``start`` runs it."""

from levit_cli.probe.plan import ProbeRequest, make_plan
from levit_cli.system.extras import extra
from levit_cli.system.progress import Log

__all__ = ["ProbeRequest", "start"]


def start(request: ProbeRequest, log: Log) -> str:
    """Check the request, write the run folder, and return a report.

    Raises:
        LevitError: see ``make_plan`` and ``probe.run.probe``.
    """
    plan = make_plan(request)
    with extra("probe", "levit probe"):
        from levit_cli.probe.run import probe
    return probe(plan, log)
