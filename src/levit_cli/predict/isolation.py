"""Decode in worker processes, so that a decoder that crashes or hangs fails one image and does not end the run.

A worker is a separate Python process. It reads inputs from its standard input and writes replies to its standard
output, one at a time. A reply is a kind, a length and that many bytes; the main process unpickles nothing. A thread of
the main process waits for them, because not every system can wait for a pipe with a time limit. A worker exits when the
main process exits, because that closes the worker's standard input. If its decoder hangs at that time, a timer ends the
worker.
"""

import faulthandler
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import BinaryIO, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError, InputErrorKind, RefusedError, is_broken_pipe
from levit_cli.predict.reader import ImageReader
from levit_cli.system.atomic import write_all
from levit_cli.system.signals import blocked_signals, ignore_signals

# Pass this process's import path: the default one begins with the working folder, which may contain any module.
COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from levit_cli.predict.isolation import serve; serve()"
HEADER = struct.Struct("<cQ")  # the kind of a reply, and the number of bytes that follow
READY, PIXELS, ERROR, BUG = b"R", b"P", b"E", b"B"
START_TIMEOUT_S = 120.0
GRACE_S = 5.0  # a worker ends itself this long after a timeout if the main process has not killed it
KINDS: tuple[InputErrorKind, ...] = get_args(InputErrorKind)

Reply = tuple[bytes, bytes]  # the kind and the content


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

    def __init__(self, reader: ImageReader, timeout_s: float) -> None:
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
            worker = _Worker(self._timeout_s, self._reader.shape)
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

    def __init__(self, timeout_s: float, shape: tuple[int, ...]) -> None:
        self._timeout_s, self._shape = timeout_s, shape
        # Do not start NumPy's threads: they take time and memory, and decoding does not use them.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            with blocked_signals():  # until the worker ignores them
                self._process = subprocess.Popen(
                    [sys.executable, "-c", COMMAND, *sys.path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                )
        except OSError as error:
            raise _not_started(error) from error
        assert self._process.stdout is not None
        self._replies: SimpleQueue[Reply | None] = SimpleQueue()
        self._receiver = Thread(target=_receive_all, args=(self._process.stdout, self._replies), daemon=True)
        self._receiver.start()

    def start(self, reader: ImageReader) -> None:
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
        assert self._process.stdin is not None
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it may hang in the kernel, as on a dead network file system
            self._process.wait(GRACE_S)
            self._receiver.join(GRACE_S)
        with suppress(OSError):
            self._process.stdin.close()

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            write_all(self._process.stdin.fileno(), pickle.dumps(message))
        except OSError as error:
            if is_broken_pipe(error):
                raise self._exit_error() from None
            raise

    def _receive(self, timeout_s: float) -> Reply:
        deadline = time.monotonic() + timeout_s
        try:
            reply = self._replies.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError("the process did not respond in time") from None
        if reply is not None:
            return reply
        if time.monotonic() >= deadline:  # this process was stopped meanwhile, and the worker's timer ended it
            raise TimeoutError
        raise self._exit_error()

    def _exit_error(self) -> _WorkerExitError:
        code = self._process.wait()
        # Windows reports an access violation, for example, as exit code 0xc0000005.
        exited = f"exited with code {code if code < 1 << 8 else hex(code)}"
        return _WorkerExitError(f"the decoder {f'was killed by {signal.Signals(-code).name}' if code < 0 else exited}")


def _receive_all(stream: BinaryIO, replies: "SimpleQueue[Reply | None]") -> None:
    """Put each reply of a worker into a queue, and None when the worker has exited."""
    with stream:
        while len(header := stream.read(HEADER.size)) == HEADER.size:
            kind, length = HEADER.unpack(header)
            content = stream.read(length)
            if len(content) < length:
                break
            replies.put((kind, content))
    replies.put(None)


NEEDED_FOR = "--isolate, --resume and images that exceed --timeout need one; free memory or allow more processes"


def _not_started(error: Exception) -> RefusedError:
    return RefusedError("Cannot start a decoder process", why=str(error), hint=NEEDED_FOR)


def serve() -> NoReturn:
    """Run a worker: read inputs from standard input and write replies until standard input ends."""
    ignore_signals()  # Ctrl-C and systemd's stop reach all processes; the main process handles them
    if hasattr(signal, "SIGHUP"):  # levit serve loads its model again
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _leave_no_trace_of_a_crash()
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
        _exit_after(timeout_s + GRACE_S)
        _reply(replies, *_read(reader, item))
        _exit_after(None)


def _leave_no_trace_of_a_crash() -> None:
    """Let a crash write no core file, or on Windows show no window."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.SetErrorMode(msvcrt.SEM_FAILCRITICALERRORS | msvcrt.SEM_NOGPFAULTERRORBOX)
    else:
        with suppress(ImportError, ValueError, OSError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _exit_after(seconds: float | None) -> None:
    """End this process after some seconds, even if a decoder never returns to Python; None cancels that."""
    if sys.platform != "win32" and hasattr(signal, "setitimer"):  # 50 times as fast as a thread
        signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    elif seconds is None:
        faulthandler.cancel_dump_traceback_later()
    else:
        faulthandler.dump_traceback_later(seconds, exit=True)  # to standard error, which is discarded


def _read(reader: ImageReader, item: Input) -> tuple[bytes, bytes]:
    try:
        return PIXELS, reader(item).tobytes()
    except InputError as error:
        return ERROR, bytes([KINDS.index(error.kind)]) + error.message.encode("utf-8", "replace")
    except Exception as error:
        return BUG, f"{type(error).__name__}: {error}".encode("utf-8", "replace")


def _reply(descriptor: int, kind: bytes, content: bytes) -> None:
    write_all(descriptor, HEADER.pack(kind, len(content)) + content)
