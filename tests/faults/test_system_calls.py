"""Any system call may fail, once or from then on: results are never mixed up, and the next run completes them.

``make test`` lets some calls fail, ``make test-all`` and ``make faults`` each. ``LEVIT_FAULT_STEP=N`` is every Nth.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.binary import environment
from tests.support.extras import needs_parquet, needs_torch
from tests.support.foreign_systems import linux_only

pytestmark = linux_only  # the driver forks processes
ROOT = Path(__file__).parents[2]
SORTING = ("sort_copy", "sort_move", "sort_link", "sort_symlink", "undo_copy", "undo_move")
SCENARIOS = (
    *("predict", "resume", "document", "convert", "export"),
    *(pytest.param(name, marks=needs_parquet) for name in ("parquet", "parquet_resume")),
    *SORTING,
    pytest.param("finetune", marks=needs_torch),
)
FEW, FEWER = 19, 61  # steps; fewer where there are many calls, and for Parquet, whose libraries load slowly
EACH = int(os.environ.get("LEVIT_FAULT_STEP", "1"))


def run_scenario(scenario: str, how: str, step: int, model: Path, work: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.scenarios", scenario, str(work), str(model), str(step), how]
    done = subprocess.run(command, capture_output=True, env=environment(), cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert int(done.stdout) > 0


@pytest.mark.guarantee(
    *("resume-after-kill", "atomic-replacement", "no-traceback", "full-disk", "safe-conversion", "training-disk-full"),
    "sort-undo",
)
@pytest.mark.parametrize("how", ["once", "lasting"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_some_system_calls_fail(scenario: str, how: str, tiny_folder: Path, tmp_path: Path) -> None:
    is_slow = scenario in ("finetune", "parquet", "parquet_resume", *SORTING)
    run_scenario(scenario, how, FEWER if is_slow else FEW, tiny_folder, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["once", "lasting"])
@pytest.mark.parametrize("scenario", SCENARIOS[::-1])  # the longest first
def test_each_system_call_fails(scenario: str, how: str, tiny_folder: Path, tmp_path: Path) -> None:
    run_scenario(scenario, how, EACH, tiny_folder, tmp_path)
