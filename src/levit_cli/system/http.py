"""Download a URL with a limit on its size and on the total time.

A socket's timeout restarts with every byte received, so a server that sends slowly could block a reader indefinitely.
Here every read, including those of the headers, waits at most for the rest of the total time.
"""

import socket
import string
import time
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Any
from urllib import request
from urllib.error import HTTPError
from urllib.parse import quote

from levit_cli import __version__

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 16
READ_TIMEOUT_S = 30.0  # maximum time without any data


class FetchError(Exception):
    """A download failed. The message is one printable line, whatever the server sent."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(character if character.isprintable() else " " for character in message)[:300])


def fetch(url: str, *, max_bytes: int, timeout_s: float) -> bytes:
    """Return the body of an http(s) URL.

    Args:
        max_bytes: maximum size of the body. If the server declares a larger one, the body is not read.
        timeout_s: total time for redirects, headers and body.

    Raises:
        FetchError: the download was refused, too large, too slow or cut off.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with _opener(deadline).open(_request(url)) as response:
            return _read(response, max_bytes)
    except HTTPError as error:
        error.close()
        raise FetchError(f"the server returned {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # urllib's errors wrap the original
        if isinstance(reason, TimeoutError):
            raise FetchError(_timeout_message(timeout_s, overdue=time.monotonic() >= deadline)) from error
        raise FetchError(str(reason) or type(reason).__name__) from error


def _timeout_message(timeout_s: float, *, overdue: bool) -> str:
    if overdue:
        return f"the download did not finish within {timeout_s:g} s"
    return f"the server sent no data for {READ_TIMEOUT_S:g} s"


def _request(url: str) -> request.Request:
    escaped = quote(url, safe=string.punctuation)  # as a browser does with spaces and non-ASCII letters
    return request.Request(escaped, headers={"User-Agent": f"levit-cli/{__version__}"})


def _read(response: HTTPResponse, max_bytes: int) -> bytes:
    declared = response.length
    if declared is not None and declared > max_bytes:
        raise FetchError(f"the file has {declared:,} bytes; the limit is {max_bytes:,}")
    body = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise FetchError(f"the file is larger than the limit of {max_bytes:,} bytes")
    if declared is not None and len(body) < declared:
        raise FetchError(f"the download was cut off after {len(body):,} of {declared:,} bytes")
    return bytes(body)


def _opener(deadline: float) -> request.OpenerDirector:
    """Return an opener for http and https only, so that no redirect can lead to a local file."""
    opener = request.OpenerDirector()
    opener.add_handler(request.ProxyHandler())
    opener.add_handler(_Handler(deadline))
    opener.add_handler(_Redirects())
    opener.add_handler(request.HTTPErrorProcessor())
    opener.add_handler(request.HTTPDefaultErrorHandler())
    opener.add_handler(request.UnknownHandler())
    return opener


class _Redirects(request.HTTPRedirectHandler):
    """Follow redirects without the proxy's password, which urllib would send to a host that needs no proxy."""

    def redirect_request(self, *arguments: Any) -> request.Request | None:
        target = super().redirect_request(*arguments)
        if target is not None:
            target.remove_header("Proxy-authorization")
        return target


class _Handler(request.AbstractHTTPHandler):
    """Open http and https connections that time out at a deadline."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, target: request.Request) -> HTTPResponse:
        return self.do_open(partial(self._connection, HTTPConnection), target)

    def https_open(self, target: request.Request) -> HTTPResponse:
        return self.do_open(partial(self._connection, HTTPSConnection), target)

    http_request = https_request = request.AbstractHTTPHandler.do_request_

    def _connection(self, scheme: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        connection = scheme(host, **{**options, "timeout": _time_left(self._deadline)})
        connection._create_connection = partial(_connect, deadline=self._deadline)  # type: ignore[attr-defined]
        connection.response_class = partial(_Response, deadline=self._deadline)  # type: ignore[assignment]
        return connection


def _connect(address: tuple[str, int], *_: object, deadline: float) -> socket.socket:
    """Connect to the first address of a host that answers.

    ``socket.create_connection`` would wait for each address as long as for the first.
    """
    failure = OSError("the host has no address")
    for found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        host, port = found[4][:2]
        time_left = _time_left(deadline)
        try:
            return socket.create_connection((str(host), int(port)), time_left)
        except OSError as error:
            failure = error
    raise failure


class _Response(HTTPResponse):
    """A response whose reads time out at a deadline, beginning with the status line."""

    def __init__(self, sock: socket.socket, *arguments: Any, deadline: float, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = BufferedReader(_TimedReads(sock, deadline))


class _TimedReads(RawIOBase):
    """A raw stream that reads from a socket until a deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket, self._file, self._deadline = sock, sock.makefile("rb", buffering=0), deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._socket.settimeout(_time_left(self._deadline))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _time_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, READ_TIMEOUT_S)
