"""Fork ``levit`` from a process that has imported its libraries: a command takes half the time of a fresh process.

The server is ``python -m tests.support.fork_server FD MODULE...``. It takes one command at a time from a socket. Each
command runs in a child process of its own, with the streams, the folder and the environment that the client sends,
and ends as the installed ``levit`` does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
LIGHT = (
    *("levit_cli.cli", "levit_cli.checkpoints", "levit_cli.convert", "levit_cli.engines.openvino"),
    *("levit_cli.predict.run", "typer.rich_utils"),  # the last prints help texts and usage errors
)
TORCH = (*LIGHT, "levit_cli.finetune.run", "matplotlib.backends.backend_agg")
MAX_MESSAGE = 1 << 17


class ForkServer:
    """Client of a server that it starts.

    Args:
        env: of the server. Libraries read some variables when they are imported.
        modules: to import before the first fork.
    """

    def __init__(self, env: Mapping[str, str], modules: Sequence[str] = LIGHT) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno()), *modules]
        pipe = subprocess.PIPE  # not the terminal: the forked streams are those of a pipe, too
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, env=env, cwd=ROOT, pass_fds=[theirs.fileno()], start_new_session=True
            )

    def run(
        self, arguments: Sequence[str], stdin: bytes, cwd: Path | None, env: Mapping[str, str], timeout_s: float
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run ``levit`` to its end.

        Raises:
            TimeoutError: the command did not end in time. The server is killed with it.
        """
        message = json.dumps({"arguments": arguments, "cwd": str(cwd or Path.cwd()), "env": dict(env)}).encode()
        pipes = [os.pipe() for _ in range(3)]
        (stdin_read, stdin_write), (out_read, out_write), (err_read, err_write) = pipes
        socket.send_fds(self._connection, [message], [stdin_read, out_write, err_write])
        for descriptor in (stdin_read, out_write, err_write):
            os.close(descriptor)
        self._connection.settimeout(timeout_s)
        with ThreadPoolExecutor(3) as pool:
            outputs = [pool.submit(_read_all, descriptor) for descriptor in (out_read, err_read)]
            pool.submit(_write_all, stdin_write, stdin)
            try:
                code = int(self._connection.recv(16))
            except BaseException:
                self.close()
                raise
            return subprocess.CompletedProcess(["levit", *arguments], code, *(output.result() for output in outputs))

    def close(self) -> None:
        """Kill the server and the command that it runs."""
        self._connection.close()
        with suppress(ProcessLookupError):  # it was closed before
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def _read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def _write_all(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb", buffering=0) as file:
        file.write(content)


def serve(connection: socket.socket) -> None:
    """Fork a child for each message until the client leaves."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 3)
        if not message:
            return
        child = os.fork()
        if child == 0:
            connection.close()
            become_levit(descriptors=descriptors, **json.loads(message))
        for descriptor in descriptors:
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.send(str(code).encode())


def become_levit(*, arguments: list[str], cwd: str, env: dict[str, str], descriptors: list[int]) -> NoReturn:
    """Run the command ``levit`` in this process, and end the process with its exit code."""
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["levit", *arguments]
    from levit_cli.cli import main

    main()


if __name__ == "__main__":
    descriptor, *names = sys.argv[1:]
    del sys.path[0]  # this repository's root, which an installed command does not see
    for name in names:
        import_module(name)
    serve(socket.socket(fileno=int(descriptor)))
