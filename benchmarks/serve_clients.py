"""Closed-loop and open-loop clients of HTTP servers, on asyncio and without a client library.

A closed-loop client sends its next request when it has the answer to the last one, so it slows down with the server. An
open-loop client sends at a fixed rate, whatever the server does. Its latencies count from the time at which a request
was due, also if it could be sent only later; else the slowest moments would be left out (coordinated omission).
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles

BOUNDARY = "benchmark"


@dataclass
class Load:
    """The answers of a server.

    Args:
        seconds: the time that the requests took together.
        latencies_s: by status code.
        errors: requests without an answer.
        cpu_s: user and system time of the server.
    """

    seconds: float = 0.0
    latencies_s: dict[int, list[float]] = field(default_factory=dict)
    errors: int = 0
    cpu_s: float = 0.0

    def add(self, status: int, latency_s: float) -> None:
        self.latencies_s.setdefault(status, []).append(latency_s)

    def count(self, status: int = 200) -> int:
        return len(self.latencies_s.get(status, ()))

    @property
    def per_s(self) -> float:
        """Requests per second that were answered with 200."""
        return self.count() / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of the server per request."""
        return 1000 * self.cpu_s / max(self.count(), 1)

    def percentile_ms(self, percent: int, status: int = 200) -> float:
        values = self.latencies_s.get(status, [])
        if len(values) < 2:
            return 1000 * sum(values)
        return 1000 * quantiles(values, n=100, method="inclusive")[percent - 1]


def encoded(content: bytes, *, as_form: bool) -> bytes:
    """Return a request that posts an image to /predict, as the body or as the field ``content`` of a form."""
    kind = "application/octet-stream"
    if as_form:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="content"; filename="a.jpg"\r\n\r\n'
        content = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
    lines = ("POST /predict HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(content)}")
    return "\r\n".join((*lines, "", "")).encode() + content


class _Connection:
    """A connection that is opened again when the server closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status code of its answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let some clients send one request after the other for some time."""
    load, start, numbers = Load(), time.perf_counter(), iter(range(1 << 40))

    async def client() -> None:
        connection = _Connection(port)
        while time.perf_counter() < start + seconds:
            sent = time.perf_counter()
            status = await connection.ask(requests[next(numbers) % len(requests)])
            load.add(status, time.perf_counter() - sent)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Send requests at a fixed rate for some time."""
    load, start = Load(), time.perf_counter()
    idle: list[_Connection] = []

    async def one(number: int, due: float) -> None:
        connection = idle.pop() if idle else _Connection(port)
        try:
            status = await connection.ask(requests[number % len(requests)])
        except (OSError, asyncio.IncompleteReadError):
            load.errors += 1
            connection.close()
            return
        load.add(status, time.perf_counter() - due)
        idle.append(connection)

    tasks = []
    for number in range(round(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - start
    for connection in idle:
        connection.close()
    return load
