"""Decoding in processes that may die of it: a crash or a hang costs one image and never the run.

A worker is a Python of its own. It reads inputs from its standard input and answers on its standard output, one after
another; what comes back is a length and bytes, and nothing that is unpickled. It ends when this process does, as its
standard input then ends, or by its own alarm, should it hang at that moment.
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

# The search path of this process; Python's own would begin with the working folder, where there may be anything.
COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from levit_cli.predict.isolation import serve; serve()"
HEAD = struct.Struct("<cQ")  # what comes, and how many bytes of it
READY, PIXELS, ERROR, BUG = b"R", b"P", b"E", b"B"
START_LIMIT_S = 120.0
GRACE_S = 5.0  # beyond the limit, after which a worker that nobody ends ends itself
KINDS: tuple[InputErrorKind, ...] = get_args(InputErrorKind)


class _DeathError(Exception):
    """The worker is gone."""


class IsolatedReader:
    """Callable like a ``Reader``; may be called from several threads, each of which has a worker for that time.

    Args:
        limit_s: wall clock for one image.
    """

    def __init__(self, reader: Reader, limit_s: float) -> None:
        self._reader, self._limit_s = reader, limit_s
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._all: set[_Worker] = set()
        self._is_closed = False
        self._changing = Lock()

    def __call__(self, item: Input) -> NDArray[np.uint8]:
        worker = self._take()
        try:
            return worker.read(item)
        finally:
            self._give_back(worker)

    def close(self) -> None:
        """End all workers, whatever they are at."""
        with self._changing:
            self._is_closed = True
            workers = [*self._all]
        for worker in workers:
            worker.end()

    def _take(self) -> "_Worker":
        with suppress(Empty):
            while True:
                worker = self._idle.get_nowait()
                if worker.is_alive:
                    return worker
                self._give_back(worker)  # the system may have ended it, for want of memory
        with self._changing:
            if self._is_closed:
                raise CancelledError
            worker = _Worker(self._limit_s, self._reader.transform.crop_size)
            self._all.add(worker)
        worker.start(self._reader)
        return worker

    def _give_back(self, worker: "_Worker") -> None:
        if worker.is_alive:
            self._idle.put(worker)
            return
        with self._changing:
            self._all.discard(worker)
        worker.end()


class _Worker:
    """One process, and how to talk to it."""

    def __init__(self, limit_s: float, size: Size) -> None:
        self._limit_s, self._shape = limit_s, (*size, 3)
        # one thread: more of NumPy's would take time and memory to start, and do nothing
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
        """Let it import what it needs, which counts for no image."""
        try:
            self._send((reader, self._limit_s))
            self._receive(START_LIMIT_S)
        except (OSError, _DeathError) as error:  # TimeoutError is an OSError
            raise _not_started(error) from error

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def read(self, item: Input) -> NDArray[np.uint8]:
        try:
            self._send(item)
            kind, content = self._receive(self._limit_s)
        except TimeoutError:
            self.end()
            raise InputError("timeout", f"not decoded within {self._limit_s:g} s") from None
        except _DeathError as error:
            raise InputError("decoder_crashed", f"the decoder {error}") from None
        if kind == BUG:
            raise RuntimeError(content.decode("utf-8", "replace"))
        if kind == ERROR:
            raise InputError(KINDS[content[0]], content[1:].decode("utf-8"))
        return np.frombuffer(content, np.uint8).reshape(self._shape)

    def end(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it may hang in the kernel, on a dead network file system
            self._process.wait(GRACE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _send(self, what: object) -> None:
        assert self._process.stdin is not None
        try:
            write_all(self._process.stdin.fileno(), pickle.dumps(what))
        except BrokenPipeError:
            raise self._death() from None

    def _receive(self, limit_s: float) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + limit_s
        kind, length = HEAD.unpack(self._read(HEAD.size, deadline))
        return kind, self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        content = bytearray()
        poll = select.poll()  # not select, which knows no descriptor beyond 1023
        poll.register(descriptor, select.POLLIN)
        while len(content) < length:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError("it does not answer")
            chunk = os.read(descriptor, length - len(content))
            if not chunk:
                raise self._death()
            content += chunk
        return bytes(content)

    def _death(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return TimeoutError()
        return _DeathError(f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}")


def _not_started(error: Exception) -> RefusedError:
    return RefusedError("Cannot start a process to decode in", why=str(error), hint="try without --isolate")


def serve() -> NoReturn:
    """What a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C, which all hear, only the main process makes something
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no file
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    requests = sys.stdin.buffer
    reader, limit_s = pickle.load(requests)
    _answer(answers, READY, b"")
    while True:
        try:
            item = pickle.load(requests)
        except EOFError:
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, limit_s + GRACE_S)
        _answer(answers, *_read(reader, item))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _read(reader: Reader, item: Input) -> tuple[bytes, bytes]:
    try:
        return PIXELS, reader(item).tobytes()
    except InputError as error:
        return ERROR, bytes([KINDS.index(error.kind)]) + error.message.encode("utf-8", "replace")
    except Exception as error:
        return BUG, f"{type(error).__name__}: {error}".encode("utf-8", "replace")


def _answer(descriptor: int, kind: bytes, content: bytes) -> None:
    write_all(descriptor, HEAD.pack(kind, len(content)) + content)
