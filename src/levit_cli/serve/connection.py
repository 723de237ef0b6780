"""One HTTP/1.1 connection: parse requests, call their handlers one after the other, write the answers.

llhttp (the package httptools) parses. Its strict mode refuses the ambiguities of request smuggling: two lengths, a
length beside chunks, folded headers, bare line feeds. This module adds what a parser cannot know: limits on the size of
the head and the body, on the time a client may take, and on the memory of all bodies together.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Protocol

import httptools

from levit_cli.serve.messages import HttpError, Request, Response
from levit_cli.serve.settings import Limits

MAX_HEAD_BYTES, MAX_HEADERS = 32 << 10, 100
SLICE_BYTES = 16 << 10  # at most this much is parsed before the requests in it are answered
MAX_UNPARSED_BYTES = 64 << 10  # what a client may send ahead while its request is computed
MAX_SKIPPED_BYTES = 1 << 20  # a larger body of a refused request is not received; the connection is closed instead
MIN_BYTES_PER_S = 10 << 10  # each second of an upload must bring this much, besides the client timeout
KEEP_ALIVE_S = 75.0  # longer than proxies keep idle connections, so that they do not use one that is being closed
LINGER_S = 2.0  # closing at once could destroy an answer that the client has not read
IDLE_DRAIN_S = 0.5  # a request may be on its way while the server begins to stop
TARGET = re.compile(r"/[!-~]*")
# Statuses of requests that another server may have read differently: nothing after them is read.
CLOSING = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.EXPECTATION_FAILED,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
}

Handler = Callable[[Request], Awaitable[Response]]


class App(Protocol):
    """What a connection needs to know of the application."""

    def admit(self, request: Request) -> Handler:
        """Return the handler of a request whose headers are complete.

        Raises:
            HttpError: the request is refused, whatever its body is.
        """

    def answered(self, request: Request, response: Response, seconds: float) -> None:
        """Take note of an answer."""

    def failed(self, error: Exception) -> None:
        """Take note of a bug in a handler."""

    def dropped(self, reason: str) -> None:
        """Take note of a client that left or took too long."""


class Connections:
    """The open connections and what they share.

    Args:
        max_bytes: of the bodies that are in memory at a time.
        max_connections: more are refused.
    """

    def __init__(self, app: App, limits: Limits, max_bytes: int, max_connections: int) -> None:
        self.app, self.limits, self.max_connections = app, limits, max_connections
        self.open: set[Connection] = set()
        self.is_draining = False
        self._free_bytes = max_bytes
        self._all_closed = asyncio.Event()

    def take_bytes(self, count: int) -> bool:
        """Reserve memory for a part of a body; return whether there is room for it."""
        if count > self._free_bytes:
            return False
        self._free_bytes -= count
        return True

    def give_back_bytes(self, count: int) -> None:
        self._free_bytes += count

    def discard(self, connection: "Connection") -> None:
        self.open.discard(connection)
        if not self.open:
            self._all_closed.set()

    async def drain(self) -> None:
        """Answer the requests that were accepted, close the connections, and wait until all are closed."""
        self.is_draining = True
        for connection in [*self.open]:
            connection.drain()
        self._all_closed.clear()
        if self.open:
            await self._all_closed.wait()

    @property
    def num_unanswered(self) -> int:
        return sum(connection.is_busy for connection in self.open)


class _Exchange:
    """A request, its body as far as it was received, and its answer."""

    def __init__(self, request: Request, *, has_body: bool) -> None:
        self.request, self.has_body = request, has_body
        self.handler: Handler | None = None
        self.response: Response | None = None
        self.chunks: list[bytes] = []
        self.num_bytes = 0  # of the body, received
        self.num_reserved = 0  # of them, in memory
        self.is_complete = self.is_answered = False
        self.closes = False
        self.since = time.monotonic()  # when the head was complete, then when the body was

    def refuse(self, error: HttpError) -> None:
        """Set the answer. The rest of the body is not kept."""
        if self.response is None:
            self.response = error.response()
        self.closes = self.closes or error.status in CLOSING
        self.chunks.clear()

    @property
    def can_skip_the_rest(self) -> bool:
        """Whether the rest of the body is so short that the connection can be used again after it."""
        length = self.request.content_length
        return self.is_complete or (length is not None and length <= MAX_SKIPPED_BYTES)


class Connection(asyncio.Protocol):
    """One connection. All methods are called in the event loop's thread."""

    def __init__(self, connections: Connections) -> None:
        self._connections, self._app, self._limits = connections, connections.app, connections.limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[_Exchange] = deque()  # not yet answered, or not yet received to their end
        self._receiving: _Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unparsed = bytearray()
        self._fault: HttpError | None = None
        self._upgrading: Request | None = None
        self._is_reading, self._is_closing = True, False
        self._stalled_since: float | None = None  # the client does not receive its answer
        self._since = time.monotonic()  # when the connection was made, or the head began, or the last answer was sent
        self._has_served = self._is_local_socket = False
        self._clear_head(is_open=False)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(0)  # so that pause_writing is called when anything is left to send
        peer = transport.get_extra_info("peername")
        self._is_local_socket = not isinstance(peer, tuple)
        self._client = str(peer[0]) if isinstance(peer, tuple) else "local socket"
        self._connections.open.add(self)
        if len(self._connections.open) > self._connections.max_connections:
            self._app.dropped("too many connections")
            transport.abort()
            return
        self._schedule()

    def connection_lost(self, _: Exception | None) -> None:
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._app.dropped("client left")
            self._task.cancel()
        for exchange in self._exchanges:
            self._free(exchange)
        self._exchanges.clear()
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if self._unparsed or not self._can_parse:
            self._unparsed += data
            if len(self._unparsed) > MAX_UNPARSED_BYTES:
                self._transport.pause_reading()
                self._is_reading = False
        else:
            self._parse(data)
        self._schedule()

    def eof_received(self) -> bool:
        return False  # the client left: the transport closes

    def pause_writing(self) -> None:
        self._stalled_since = time.monotonic()
        self._schedule()

    def resume_writing(self) -> None:
        self._stalled_since = None
        self._advance()
        self._continue()

    # What the parser calls. An exception would become an error of the parser, so faults are kept for later.

    def on_message_begin(self) -> None:
        self._clear_head(is_open=True)
        self._since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        self._count_head(len(name) + len(value))
        if not self._in_head or self._fault is not None:  # a trailer after the last chunk has no meaning here
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        if key in self._headers:
            self._repeated.add(key)
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        self._in_head = False
        request = Request(
            self._parser.get_method().decode("latin-1"),
            self._target.decode("latin-1"),
            self._parser.get_http_version(),
            self._headers,
            self._client,
            frozenset(self._repeated),
            self._is_local_socket,
        )
        if self._parser.should_upgrade() and request.method != "CONNECT":
            self._upgrading = request
            return
        exchange = _Exchange(request, has_body=_has_body(request))
        try:
            if self._fault is not None:
                raise self._fault
            _require_known_framing(request)
            exchange.handler = self._app.admit(request)
        except HttpError as error:
            exchange.refuse(error)
        exchange.closes = exchange.closes or (exchange.response is not None and not exchange.can_skip_the_rest)
        self._exchanges.append(exchange)
        self._receiving = exchange
        if request.headers.get("expect") and exchange.response is None and len(self._exchanges) == 1:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:
        exchange = self._receiving
        if exchange is None:
            return
        exchange.num_bytes += len(chunk)
        if exchange.response is not None:
            exchange.closes = exchange.closes or exchange.num_bytes > MAX_SKIPPED_BYTES
        elif exchange.num_bytes > self._limits.max_body:
            self._stop_receiving(exchange, too_large(self._limits.max_body))
        elif not self._connections.take_bytes(len(chunk)):
            self._stop_receiving(exchange, overloaded("the memory for request bodies is used up"))
        else:
            exchange.num_reserved += len(chunk)
            exchange.chunks.append(chunk)

    def on_message_complete(self) -> None:
        exchange = self._receiving
        if exchange is None:
            return
        exchange.is_complete = True
        exchange.closes = exchange.closes or not self._parser.should_keep_alive() or exchange.request.version != "1.1"
        exchange.since = time.monotonic()
        self._receiving = None
        self._clear_head(is_open=False)

    # Parsing

    def _clear_head(self, *, is_open: bool) -> None:
        self._in_head = is_open
        self._target, self._headers = b"", dict[str, str]()
        self._repeated: set[str] = set()
        self._num_headers = self._head_bytes = 0

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAX_HEAD_BYTES or self._num_headers > MAX_HEADERS:
            self._fault = self._fault or HttpError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the headers exceed {MAX_HEAD_BYTES:,} bytes or {MAX_HEADERS} lines",
            )

    @property
    def _can_parse(self) -> bool:
        return self._task is None and self._stalled_since is None

    def _parse(self, data: "bytes | bytearray") -> None:
        view, start = memoryview(data), 0
        while start < len(view) and self._can_parse and not self._is_closing:
            self._feed(view[start : start + SLICE_BYTES])
            start += SLICE_BYTES
            self._advance()
        self._unparsed = bytearray() if self._is_closing else bytearray(view[start:])

    def _feed(self, data: memoryview) -> None:
        was_in_head = self._in_head
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._upgrading is None:  # CONNECT
                self._fault = HttpError(HTTPStatus.BAD_REQUEST, "the request is malformed")
            else:
                self._ignore_upgrade(self._upgrading, data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._fault = self._fault or HttpError(HTTPStatus.BAD_REQUEST, "the request is malformed")
        if was_in_head and self._in_head:  # one long line, of which the parser reports nothing yet
            self._count_head(len(data))
        if self._fault is not None:
            self._refuse_the_rest(self._fault)

    def _ignore_upgrade(self, request: Request, rest: memoryview) -> None:
        """Parse a request again without its offer of another protocol, such as HTTP/2, which some clients send.

        The parser would take the body for the other protocol.
        """
        self._parser, self._upgrading = httptools.HttpRequestParser(self), None
        headers = {name: value for name, value in request.headers.items() if name not in ("upgrade", "connection")}
        lines = [f"{request.method} {request.target} HTTP/{request.version}", "connection: close"]
        head = "\r\n".join((*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""))
        self._feed(memoryview(head.encode("latin-1")))
        if rest and self._fault is None:
            self._feed(rest)

    def _refuse_the_rest(self, error: HttpError) -> None:
        """Answer the request that is being received with an error, and close the connection after it."""
        exchange = self._receiving
        if exchange is None:
            if self._exchanges and self._exchanges[-1].closes:
                return  # what follows the last request of a connection is ignored
            exchange = _Exchange(Request("", "", "1.1", {}, self._client), has_body=True)
            self._exchanges.append(exchange)
        self._stop_receiving(exchange, error)

    def _stop_receiving(self, exchange: _Exchange, error: HttpError) -> None:
        exchange.refuse(error)
        exchange.closes = True
        self._free(exchange)

    def _continue(self) -> None:
        """Parse what was received while a request was computed."""
        if self._unparsed and self._can_parse and not self._is_closing:
            data, self._unparsed = self._unparsed, bytearray()
            self._parse(data)
        if not self._is_reading and self._can_parse and not self._is_closing:
            self._transport.resume_reading()
            self._is_reading = True
        if not self._is_closing:
            self._schedule()

    # Answering

    @property
    def is_busy(self) -> bool:
        """Whether a request was received or is being received."""
        return bool(self._exchanges) or self._in_head

    def _advance(self) -> None:
        """Answer the requests that can be answered, in order, and start the next handler."""
        while self._exchanges and self._can_parse and not self._is_closing:
            exchange = self._exchanges[0]
            if exchange.response is not None and not exchange.is_answered:
                self._answer(exchange, exchange.response)
            elif exchange.is_answered and exchange.is_complete:
                self._exchanges.popleft()
            elif exchange.is_complete:
                self._task = self._loop.create_task(self._run(exchange))
            elif exchange.is_answered and exchange.closes:
                self._close()
            else:
                return

    async def _run(self, exchange: _Exchange) -> None:
        assert exchange.handler is not None
        exchange.request.body = b"".join(exchange.chunks) if len(exchange.chunks) != 1 else exchange.chunks[0]
        exchange.chunks.clear()
        try:
            exchange.response = await exchange.handler(exchange.request)
        except HttpError as error:
            exchange.response = error.response()
        except Exception as error:
            self._app.failed(error)
            exchange.response = HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error").response()
        finally:
            exchange.request.body = b""
            self._free(exchange)
        self._task = None
        self._advance()
        self._continue()

    def _answer(self, exchange: _Exchange, response: Response) -> None:
        exchange.is_answered = self._has_served = True
        exchange.closes = exchange.closes or self._connections.is_draining
        self._since = time.monotonic()
        seconds = self._since - exchange.since
        self._transport.write(encode(response, closes=exchange.closes, is_head=exchange.request.method == "HEAD"))
        self._app.answered(exchange.request, response, seconds)
        if exchange.closes:
            self._close(lingers=not exchange.is_complete)

    def _free(self, exchange: _Exchange) -> None:
        self._connections.give_back_bytes(exchange.num_reserved)
        exchange.num_reserved = 0

    def _close(self, *, lingers: bool = False) -> None:
        self._is_closing = True
        self._unparsed.clear()
        if not lingers:
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()
        self._since = time.monotonic()
        self._schedule()

    # Timeouts

    def drain(self) -> None:
        """Close when the requests that are being received or computed are answered."""
        self._since = time.monotonic()
        self._schedule()

    def _schedule(self) -> None:
        """Set the timer. One that fires too early is set again, so it is only replaced by an earlier one."""
        deadline = self._deadline()
        if deadline is None:
            return
        when = self._loop.time() + deadline - time.monotonic()
        if self._timer is None or self._timer.when() > when:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(when, self._on_timer)

    def _deadline(self) -> float | None:
        """Return the ``time.monotonic`` until which the client must do something; None if it need not."""
        timeout_s = self._limits.client_timeout_s
        if self._stalled_since is not None:
            return self._stalled_since + timeout_s
        if self._is_closing:
            return self._since + LINGER_S
        if self._task is not None:
            return None
        if self._receiving is not None:
            return self._receiving.since + timeout_s + self._receiving.num_bytes / MIN_BYTES_PER_S
        if self._in_head:
            return self._since + timeout_s
        if self._connections.is_draining:
            return self._since + IDLE_DRAIN_S
        return self._since + (KEEP_ALIVE_S if self._has_served else timeout_s)

    def _on_timer(self) -> None:
        self._timer = None
        deadline = self._deadline()
        if deadline is not None and time.monotonic() >= deadline:
            self._time_out()
        else:
            self._schedule()

    def _time_out(self) -> None:
        if self._is_closing or self._stalled_since is not None:
            self._transport.abort()
        elif self._receiving is not None or self._in_head:
            self._app.dropped("slow body" if self._receiving is not None else "slow headers")
            self._refuse_the_rest(HttpError(HTTPStatus.REQUEST_TIMEOUT, "the request was sent too slowly"))
            self._advance()
        else:
            self._close()


def encode(response: Response, *, closes: bool, is_head: bool) -> bytes:
    """Return an answer as the bytes to send."""
    head = [
        f"HTTP/1.1 {int(response.status)} {HTTPStatus(response.status).phrase}",
        f"Date: {_now()}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        *(f"{name}: {value}" for name, value in response.headers),
        *(("Connection: close",) if closes else ()),
    ]
    return "\r\n".join((*head, "", "")).encode("latin-1") + (b"" if is_head else response.body)


def too_large(max_body: int) -> HttpError:
    """Return the refusal of a body that exceeds the limit."""
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body exceeds {max_body:,} bytes, the limit set by --max-body"
    )


def overloaded(reason: str) -> HttpError:
    """Return the refusal of a request for which there is no room now."""
    return HttpError(HTTPStatus.TOO_MANY_REQUESTS, f"{reason}; try again later", (("Retry-After", "1"),))


def _now() -> str:
    global _date
    second = int(time.time())
    if second != _date[0]:
        from email.utils import formatdate

        _date = (second, formatdate(second, usegmt=True))
    return _date[1]


_date = (0, "")


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _require_known_framing(request: Request) -> None:
    """Refuse what the parser admits, but another server in front of this one might read differently.

    Raises:
        HttpError: the version, the target or the transfer encoding is not one that this server knows.
    """
    headers = request.headers
    if request.version not in ("1.0", "1.1"):
        raise HttpError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is supported")
    if "transfer-encoding" in headers and (
        headers["transfer-encoding"].lower() != "chunked" or request.version == "1.0"
    ):
        raise HttpError(HTTPStatus.BAD_REQUEST, "the transfer encoding is not supported")
    if "transfer-encoding" in headers and "content-length" in headers:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the request has two lengths")
    if "content-length" in request.repeated or not re.fullmatch("[0-9]{1,18}", headers.get("content-length", "0")):
        raise HttpError(HTTPStatus.BAD_REQUEST, "the length is malformed")
    if not TARGET.fullmatch(request.target) or "#" in request.target:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the target is not a path")
    if headers.get("expect", "100-continue").lower() != "100-continue":
        raise HttpError(HTTPStatus.EXPECTATION_FAILED, "the expectation is not supported")
