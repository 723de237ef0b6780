"""How many threads this process may use."""

import pytest

from levit_cli.system import cpu
from levit_cli.system.cpu import usable_threads


@pytest.mark.guarantee("cpu-limits")
@pytest.mark.parametrize(
    ("affinity", "quota", "requested", "expected"),
    [(8, 0, 0, 8), (8, 2, 0, 2), (2, 4, 0, 2), (8, 4, 1, 1), (4, 0, 9, 4)],
)
def test_threads_are_the_minimum_of_affinity_quota_and_request(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: int, requested: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cpu, "_quota", lambda: quota)
    assert usable_threads(requested) == expected
