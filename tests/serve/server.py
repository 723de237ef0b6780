"""Start the installed ``levit serve`` and talk to it over real sockets."""

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.support.binary import LEVIT, environment

START_S = 60.0


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]  # by lower-case name
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running server.

    Attributes:
        lines: what it wrote to stderr so far.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.lines: list[str] = []
        self.host, self.port = "127.0.0.1", 0
        self._rest = b""

    def wait_for(self, text: str, seconds: float = START_S) -> str:
        """Read stderr until a line holds the text, and return that line."""
        deadline = time.monotonic() + seconds
        for line in self.lines:
            if text in line:
                return line
        while time.monotonic() < deadline:
            for line in self._read(deadline - time.monotonic()):
                if text in line:
                    return line
            if self.process.poll() is not None and not self._rest:
                break
        raise AssertionError(f"no {text!r} in {self.lines}, exit code {self.process.poll()}")

    def _read(self, seconds: float) -> list[str]:
        stream: IO[bytes] | None = self.process.stderr
        assert stream is not None
        if not select.select([stream], [], [], max(0, seconds))[0]:
            return []
        data = os.read(stream.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data:
            lines, self._rest = [*lines, self._rest], b""
        decoded = [line.decode() for line in lines]
        self.lines += decoded
        return decoded

    def connect(self, timeout_s: float = 30) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=timeout_s)

    def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30,
    ) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, target, body, dict(headers or {}))
            return answer_of(connection.getresponse())
        finally:
            connection.close()

    def post(self, content: bytes, target: str = "/predict", **headers: str) -> Answer:
        return self.ask("POST", target, content, {name.replace("_", "-"): value for name, value in headers.items()})

    def raw(self, data: bytes, timeout_s: float = 10) -> bytes:
        """Send bytes and return all that comes until the server closes the connection."""
        with self.connect(timeout_s) as connection:
            with suppress(OSError):  # the server may refuse before it has read everything
                connection.sendall(data)
            return received(connection)

    def metric(self, name: str) -> float:
        text = self.ask("GET", "/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


def answer_of(response: http.client.HTTPResponse) -> Answer:
    body = response.read()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def received(connection: socket.socket) -> bytes:
    """Return what a connection brings until it is closed."""
    data = bytearray()
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            data += part
    return bytes(data)


def form(parts: Mapping[str, bytes] | list[tuple[str, bytes]], boundary: str = "bound") -> tuple[bytes, str]:
    """Return a multipart body with a file for each part, and its content type."""
    pairs = parts.items() if isinstance(parts, Mapping) else parts
    chunks = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in pairs
    ]
    return b"".join(chunks) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@contextmanager
def serving(
    model: Path | str, *options: str | Path, env: Mapping[str, str] | None = None, is_ready: bool = True
) -> Iterator[Server]:
    """Run a server on a free port until the end of the block."""
    arguments = [LEVIT, "serve", "-m", str(model), "--port", "0", *map(str, options)]
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env or environment()
    )
    server = Server(process)
    try:
        listening = server.wait_for("Listening on")
        if address := re.search(r"http://(\[.*?\]|[^:/]+):(\d+)", listening):
            server.host, server.port = address[1].strip("[]"), int(address[2])
        if is_ready:
            server.wait_for("Ready:")
        yield server
    finally:
        process.kill()
        process.wait(30)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
