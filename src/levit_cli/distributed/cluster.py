"""Start or join Ray, quietly, and translate its errors."""

import logging
import os
import re
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from levit_cli.errors import LevitError, RefusedError, Terminated, UnreachableError, UsageError
from levit_cli.system.cpu import usable_threads
from levit_cli.system.extras import extra
from levit_cli.system.signals import raise_on_signals

LOCAL, AUTO = "local", "auto"
ADDRESS = re.compile(r"[^\s/]+:[0-9]{1,5}")
# Ray reports usage to its makers, draws bars, and warns about its environment, unless it is told not to.
QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TQDM": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_open_telemetry": "0",
}
# Ray ends a process that waits for a second; a decoding task waits longer for the network, and its next process would
# import everything again. Nodes of a running cluster have their own setting.
LOCAL_ENVIRONMENT = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
# Ray would try to join a cluster that does not answer 20 times, for 40 seconds each.
JOIN_ENVIRONMENT = {"RAY_gcs_server_port_wait_time_s": "1", "RAY_py_gcs_connect_timeout_s": "5"}
MIN_STORE_BYTES, STORE_BYTES_PER_CPU = 200 << 20, 300 << 20  # with less, decoding stops and the networks wait
MAX_STORE_SHARE = 0.3  # of the memory that is free, as Ray's own default
CONNECT_TIMEOUT_S = 10
MAX_SOCKET_FOLDER_CHARS = 30  # Ray adds about 70 characters to the path of a socket, which may have 107


@contextmanager
def joined(address: str, *, debug: bool = False) -> Iterator[None]:
    """Start Ray on this machine, or join a running cluster, until the end of the block.

    Args:
        address: ``local``, ``auto`` or HOST:PORT.

    Raises:
        UsageError: the extra ``ray`` is not installed.
        RefusedError: Ray cannot be imported or started.
        UnreachableError: there is no cluster at this address.
    """
    environment = QUIET_ENVIRONMENT | (LOCAL_ENVIRONMENT if address == LOCAL else JOIN_ENVIRONMENT)
    os.environ.update({name: value for name, value in environment.items() if name not in os.environ})
    with extra("ray", "--ray"):
        import pandas  # noqa: F401
        import ray
        import ray.data
    folder = _short_temporary_folder() if address == LOCAL else None
    with nullcontext() if debug else _without_messages(ray):
        try:
            _start(ray, address, folder)
            raise_on_signals()  # Ray has installed its own handlers
            yield
        finally:
            with suppress(Exception):
                ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _without_messages(ray: Any) -> Iterator[None]:
    """Suppress what Ray logs, warns and prints, such as that there are fewer chunks than actors."""
    if hasattr(ray._private.worker, "print_to_stdstream"):  # prints the machines' messages, whatever log_to_driver is
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def require_address(address: str) -> None:
    """Check the value of ``--ray``.

    Raises:
        UsageError: it is not ``local``, ``auto`` or HOST:PORT.
    """
    if address not in (LOCAL, AUTO) and not ADDRESS.fullmatch(address):
        raise UsageError(f"--ray cannot be {address!r}", hint="use local, auto, or HOST:PORT such as 10.0.0.1:6379")


def _start(ray: Any, address: str, folder: Path | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if folder is not None:
        cpus = usable_threads()
        options |= {
            "num_cpus": cpus, "object_store_memory": _store_bytes(ray, cpus),
            "include_dashboard": False, "_temp_dir": str(folder),
        }  # fmt: skip
    try:
        _require_listener((os.environ.get("RAY_ADDRESS") if address == AUTO else None) or address)
        ray.init(address, **options)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        hint = "start one with: ray start --head, or use --ray local"
        why = first_line(error).partition(". Please")[0]  # Ray goes on with options of its own commands
        raise UnreachableError(f"Cannot join the Ray cluster {address}", why=why, hint=hint) from error
    except SystemExit:  # what Ray makes of SIGTERM
        raise Terminated from None
    except Exception as error:
        what = "Cannot start Ray" if folder is not None else f"Cannot join the Ray cluster {address}"
        raise RefusedError(what, why=first_line(error)) from error


def _store_bytes(ray: Any, cpus: int) -> int:
    """Return the size of the object store, in which decoded images wait for the networks."""
    wanted = cpus * STORE_BYTES_PER_CPU
    with suppress(AttributeError):  # Ray has no public function for it
        wanted = min(wanted, int(MAX_STORE_SHARE * ray._private.utils.estimate_available_memory()))
    return max(MIN_STORE_BYTES, wanted)


def _require_listener(address: str) -> None:
    """Check that something answers at HOST:PORT, because Ray would wait for minutes.

    Raises:
        OSError: nothing does.
    """
    host, _, port = address.rpartition(":")
    if "/" not in address and port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def _short_temporary_folder() -> Path:
    """Create a folder for the files and sockets of Ray."""
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="levit-", dir=base if len(base) <= MAX_SOCKET_FOLDER_CHARS else "/tmp"))


def cluster_resources() -> tuple[float, float]:
    """Return the numbers of CPUs and GPUs in the cluster that Ray has joined."""
    import ray

    total = ray.cluster_resources()
    return total.get("CPU", 0.0), total.get("GPU", 0.0)


def free_resources() -> tuple[float, float]:
    """Return the numbers of CPUs and GPUs in the cluster that nothing uses now."""
    import ray

    free = ray.available_resources()
    return free.get("CPU", 0.0), free.get("GPU", 0.0)


def is_failure_of_ray(error: BaseException) -> bool:
    """Whether Ray failed, such as by the loss of a machine, not our code in one of its workers."""
    from ray.exceptions import RayError, RayTaskError

    if any(isinstance(cause, RayTaskError) and not isinstance(cause.cause, RayError) for cause in _causes(error)):
        return False
    return any(isinstance(cause, RayError) for cause in _causes(error)) or type(error).__module__.startswith("ray.")


def our_error(error: BaseException) -> LevitError | None:
    """Return the error of levit that a worker raised; None if Ray itself failed."""
    from ray.exceptions import RayError

    # Ray wraps an error in one that is an instance of both classes.
    found = (cause for cause in _causes(error) if isinstance(cause, LevitError) and not isinstance(cause, RayError))
    if (ours := next(found, None)) is not None:
        return ours
    missing = next((cause for cause in _causes(error) if isinstance(cause, ImportError)), None)
    if missing is not None:
        hint = "install the same version of levit-cli[ray] on all machines of the cluster"
        return RefusedError("A worker cannot import what it needs", why=first_line(missing), hint=hint)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it was raised from; Ray's own links among them."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop()
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            links = (getattr(cause, "cause", None), cause.__cause__, cause.__context__)
            waiting += [link for link in links if isinstance(link, BaseException)]


def first_line(error: BaseException) -> str:
    """Return the first line of an error, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
