"""Running the installed ``levit``, as a shell would."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

LEVIT = str(Path(sys.executable).with_name("levit"))
TIMEOUT_S = 120
CACHE = tempfile.mkdtemp(prefix="levit-test-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what would change an answer or a look, and with a cache that goes when the tests end."""
    dropped = {"LEVIT_MODEL", "LEVIT_DEVICE", "LEVIT_ENGINE", "NO_COLOR", "FORCE_COLOR", "COLUMNS"}
    return {name: value for name, value in os.environ.items() if name not in dropped} | {
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": CACHE,
        **changes,
    }


def levit(
    *arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run ``levit`` to its end and keep what it says."""
    command = [LEVIT, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, cwd=cwd, env=env or environment(), timeout=TIMEOUT_S, check=False
    )


def unprivileged(*command: str | Path) -> list[str]:
    """The command, such that file modes apply to it even for root."""
    if os.geteuid() != 0:
        return [*map(str, command)]
    if not shutil.which("setpriv"):
        pytest.skip("root may read everything, and there is no setpriv to give that up")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *map(str, command)]
