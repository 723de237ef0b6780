"""Decode in worker processes, so that a decoder that crashes or hangs fails one image and does not end the run.

A worker is a separate Python process. It reads inputs from its standard input and writes replies to its standard
output, one at a time. A reply is a kind, a length and that many bytes; the main process unpickles nothing. A worker
exits when the main process exits, because that closes the worker's standard input. If its decoder hangs at that time,
SIGALRM kills the worker.
"""

import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock
from typing import NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError, InputErrorKind, RefusedError
from levit_cli.images.transforms import Size
from levit_cli.predict.reader import Reader
from levit_cli.system.atomic import write_all

# Pass this process's import path: the default one begins with the working folder, which may contain any module.
COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from levit_cli.predict.isolation import serve; serve()"
HEADER = struct.Struct("<cQ")  # the kind of a reply, and the number of bytes that follow
READY, PIXELS, ERROR, BUG = b"R", b"P", b"E", b"B"
START_TIMEOUT_S = 120.0
GRACE_S = 5.0  # SIGALRM kills a worker this long after a timeout if the main process has not killed it
KINDS: tuple[InputErrorKind, ...] = get_args(InputErrorKind)


class _WorkerExitError(Exception):
    """The worker process exited or was killed; the message says how."""


class IsolatedReader:
    """Reads inputs as ``Reader`` does, but in worker processes. Each calling thread uses one worker at a time.

    Args:
        timeout_s: wall-clock limit for one image.

    Raises (when called):
        InputError: as for ``Reader``; also ``timeout`` and ``decoder_crashed``.
        RefusedError: a worker cannot be started.
        CancelledError: the reader was closed.
    """

    def __init__(self, reader: Reader, timeout_s: float) -> None:
        self._reader, self._timeout_s = reader, timeout_s
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._all: set[_Worker] = set()
        self._is_closed = False
        self._lock = Lock()

    def __call__(self, item: Input) -> NDArray[np.uint8]:
        worker = self._take()
        try:
            return worker.read(item)
        finally:
            self._give_back(worker)

    def close(self) -> None:
        """Kill all workers at once, even those that are decoding."""
        with self._lock:
            self._is_closed = True
            workers = [*self._all]
        for worker in workers:
            worker.kill()

    def _take(self) -> "_Worker":
        with suppress(Empty):
            while True:
                worker = self._idle.get_nowait()
                if worker.is_alive:
                    return worker
                self._give_back(worker)  # the system may have killed it because memory ran out
        with self._lock:
            if self._is_closed:
                raise CancelledError
            worker = _Worker(self._timeout_s, self._reader.transform.crop_size)
            self._all.add(worker)
        worker.start(self._reader)
        return worker

    def _give_back(self, worker: "_Worker") -> None:
        if worker.is_alive:
            self._idle.put(worker)
            return
        with self._lock:
            self._all.discard(worker)
        worker.kill()


class _Worker:
    """One worker process and the pipes to it."""

    def __init__(self, timeout_s: float, size: Size) -> None:
        self._timeout_s, self._shape = timeout_s, (*size, 3)
        # Do not start NumPy's threads: they take time and memory, and decoding does not use them.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            raise _not_started(error) from error

    def start(self, reader: Reader) -> None:
        """Send the reader and wait until the worker has imported its modules, which no image's timeout includes."""
        try:
            self._send((reader, self._timeout_s))
            self._receive(START_TIMEOUT_S)
        except (OSError, _WorkerExitError) as error:  # TimeoutError is an OSError
            raise _not_started(error) from error

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def read(self, item: Input) -> NDArray[np.uint8]:
        try:
            self._send(item)
            kind, content = self._receive(self._timeout_s)
        except TimeoutError:
            self.kill()
            raise InputError("timeout", f"not decoded within {self._timeout_s:g} s") from None
        except _WorkerExitError as error:
            raise InputError("decoder_crashed", str(error)) from None
        if kind == BUG:
            raise RuntimeError(content.decode("utf-8", "replace"))
        if kind == ERROR:
            raise InputError(KINDS[content[0]], content[1:].decode("utf-8"))
        return np.frombuffer(content, np.uint8).reshape(self._shape)

    def kill(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it may hang in the kernel, as on a dead network file system
            self._process.wait(GRACE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            write_all(self._process.stdin.fileno(), pickle.dumps(message))
        except BrokenPipeError:
            raise self._exit_error() from None

    def _receive(self, timeout_s: float) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + timeout_s
        kind, length = HEADER.unpack(self._read(HEADER.size, deadline))
        return kind, self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        content = bytearray()
        poll = select.poll()  # not select, which fails for descriptors above 1023
        poll.register(descriptor, select.POLLIN)
        while len(content) < length:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError("the process did not respond in time")
            chunk = os.read(descriptor, length - len(content))
            if not chunk:
                raise self._exit_error()
            content += chunk
        return bytes(content)

    def _exit_error(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return TimeoutError()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return _WorkerExitError(f"the decoder {how}")


NEEDED_FOR = "--isolate, --resume and images that exceed --timeout need one; free memory or allow more processes"


def _not_started(error: Exception) -> RefusedError:
    return RefusedError("Cannot start a decoder process", why=str(error), hint=NEEDED_FOR)


def serve() -> NoReturn:
    """Run a worker: read inputs from standard input and write replies until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main process handles it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # write no core file after a crash
    replies = os.dup(1)
    os.dup2(2, 1)  # text that libraries print must not mix with the replies
    requests = sys.stdin.buffer
    reader, timeout_s = pickle.load(requests)
    _reply(replies, READY, b"")
    while True:
        try:
            item = pickle.load(requests)
        except EOFError:
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, timeout_s + GRACE_S)
        _reply(replies, *_read(reader, item))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _read(reader: Reader, item: Input) -> tuple[bytes, bytes]:
    try:
        return PIXELS, reader(item).tobytes()
    except InputError as error:
        return ERROR, bytes([KINDS.index(error.kind)]) + error.message.encode("utf-8", "replace")
    except Exception as error:
        return BUG, f"{type(error).__name__}: {error}".encode("utf-8", "replace")


def _reply(descriptor: int, kind: bytes, content: bytes) -> None:
    write_all(descriptor, HEADER.pack(kind, len(content)) + content)
