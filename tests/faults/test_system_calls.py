"""Whatever call to the system fails, once or from then on: nothing is mixed up, and the next run puts it right.

By default some of the calls; ``make faults`` takes each.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.binary import environment

ROOT = Path(__file__).parent.parent.parent
STEP = os.environ.get("LEVIT_FAULT_STEP", "19")


@pytest.mark.guarantee(
    "resume-after-kill", "atomic-replacement", "no-traceback", "full-disk", "safe-conversion", "training-disk-full"
)
@pytest.mark.parametrize("how", ["once", "lasting"])
@pytest.mark.parametrize("scenario", ["predict", "resume", "document", "convert", "finetune"])
def test_any_call_to_the_system_may_fail(scenario: str, how: str, tiny_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.scenarios", scenario, str(tmp_path), str(tiny_folder), STEP, how]
    done = subprocess.run(command, capture_output=True, env=environment(), cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert int(done.stdout) > 0
