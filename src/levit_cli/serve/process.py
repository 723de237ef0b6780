"""What the process may open, and what it uses."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

NICENESS = 2  # of the threads that decode and run the network; see yield_to_event_loop
SPARE_DESCRIPTORS = 128  # for files, worker processes and libraries
MAX_CONNECTIONS = 8192


def max_connections() -> int:
    """Raise the limit of open files as far as allowed, and return how many connections leave some to spare."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    else:  # noqa: RET505  # mypy knows the platform only in branches
        import resource

        wanted = MAX_CONNECTIONS + SPARE_DESCRIPTORS
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return MAX_CONNECTIONS
        if soft < wanted:
            with suppress(ValueError, OSError):
                raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
                soft = raised
        return max(1, min(MAX_CONNECTIONS, soft - SPARE_DESCRIPTORS))


def yield_to_event_loop() -> None:
    """Let the event loop run before the calling thread when both can run.

    Refusals and health checks are then answered sooner when all cores are busy. Only Linux sets the priority of single
    threads.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)


def process_gauges() -> dict[str, tuple[str, float]]:
    """Return the memory and open files of the process, where the system tells them in /proc."""
    if sys.platform != "win32":
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            return {
                "process_resident_memory_bytes": ("Resident memory.", pages * os.sysconf("SC_PAGE_SIZE")),
                "process_open_fds": ("Open files and sockets.", len(os.listdir("/proc/self/fd"))),
            }
    return {}
