"""Run ``levit``, as the installed command or in a process that is forked from one that has its libraries loaded."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from levit_cli.system.extras import missing_package
from tests.support.fork_server import LIGHT, TORCH, ForkServer

LEVIT = str(Path(sys.executable).with_name("levit"))
TIMEOUT_S = 120
CACHE = tempfile.mkdtemp(prefix="levit-test-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

# Prefixes of variables that the interpreter or a library reads once.
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MKL_", "OPENBLAS_", "FORCE_COLOR", "TERMINAL_WIDTH", "CXX", "TORCH")
NEEDS_TORCH = {"finetune", "torch", "compile", "cuda", "paper", "--against", "fb"}


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with changes.

    Variables that change levit's answers or its look are dropped. The cache is deleted when the tests end.
    """
    dropped = {"LEVIT_MODEL", "LEVIT_DEVICE", "LEVIT_ENGINE", "NO_COLOR", "FORCE_COLOR", "COLUMNS"}
    return {name: value for name, value in os.environ.items() if name not in dropped} | {
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": CACHE,
        **changes,
    }


def installed_levit(
    *arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run the installed ``levit`` to its end, in a fresh process as a shell does."""
    command = [LEVIT, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, cwd=cwd, env=env or environment(), timeout=TIMEOUT_S, check=False
    )


def levit(
    *arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run ``levit`` to its end in a forked process, which saves the imports.

    The installed command runs where the environment changes what happens at the start of a process, and on systems
    other than Linux.
    """
    env = env or environment()
    if sys.platform != "linux" or _at_start(env) != _at_start(environment()):
        return installed_levit(*arguments, stdin=stdin, cwd=cwd, env=env)
    names = [*map(str, arguments)]
    server = _server(env.get("OMP_NUM_THREADS"), not NEEDS_TORCH.isdisjoint(names))
    try:
        return server.run(names, stdin, cwd, env, TIMEOUT_S)
    except BaseException:
        _server.cache_clear()
        raise


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START)}


@cache
def _server(omp_num_threads: str | None, torch: bool) -> ForkServer:
    changes = {} if omp_num_threads is None else {"OMP_NUM_THREADS": omp_num_threads}
    server = ForkServer(environment(**changes), TORCH if torch and not missing_package("torch") else LIGHT)
    atexit.register(server.close)
    return server


def records(output: bytes) -> list[dict[str, Any]]:
    """Parse jsonl output."""
    return [json.loads(line) for line in output.splitlines()]


def unprivileged(*command: str | Path) -> list[str]:
    """Return the command with a prefix that takes root's right to ignore file modes away."""
    if os.geteuid() != 0:
        return [*map(str, command)]
    if not shutil.which("setpriv"):
        pytest.skip("root may read everything, and there is no setpriv to give that up")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *map(str, command)]
