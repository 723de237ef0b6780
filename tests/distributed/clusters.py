"""A Ray cluster of several nodes on this machine, and the folders that a run on it writes."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from levit_cli.distributed.cluster import QUIET_ENVIRONMENT
from tests.support.binary import LEVIT, TIMEOUT_S, environment

STORE_BYTES = 100 << 20


@contextmanager
def running_cluster(num_nodes: int, **env: str) -> Iterator[Any]:
    """Start a Ray cluster whose nodes have one CPU each.

    Yields:
        A ``ray.cluster_utils.Cluster``.
    """
    before = dict(os.environ)
    os.environ.update({**QUIET_ENVIRONMENT, **env})
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short, because Ray adds the paths of sockets
    cluster = None
    try:
        options = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={**options, "temp_dir": folder})
        for _ in range(num_nodes - 1):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        if cluster is not None:
            cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)


def command(*arguments: str | Path) -> list[str]:
    return [LEVIT, "predict", *map(str, arguments)]


def predict(*arguments: str | Path, **env: str) -> "subprocess.CompletedProcess[bytes]":
    """Run the installed ``levit predict`` to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, env=environment(**env), timeout=TIMEOUT_S * 2, check=False
    )


@contextmanager
def started(*arguments: str | Path, **env: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the installed ``levit predict``; it is killed at the end of the block."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**env)
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], limit_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Return all records in the jsonl parts of an output, in the order of their sort keys, which are removed."""
    found = [json.loads(line) for part in parts_of(folder) for line in part.read_bytes().splitlines()]
    found.sort(key=lambda record: (record["source"], record["item"]))
    return [{name: value for name, value in record.items() if name not in ("source", "item")} for record in found]
