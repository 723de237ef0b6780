"""Fetching one address: bounded in bytes and in time, nothing else.

A socket's own timeout begins anew at every byte, so that a server which drips holds its reader for as long as it likes.
Here every read waits only for what is left of the whole, those of the headers included.
"""

import string
import time
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from socket import socket
from typing import TYPE_CHECKING, Any
from urllib import request
from urllib.error import HTTPError
from urllib.parse import quote

from levit_cli import __version__

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 16
READ_TIMEOUT_S = 30.0  # who has something to send is not silent for longer


class FetchError(Exception):
    """It did not come; the message says why, in one line, whatever the server wrote into it."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(sign if sign.isprintable() else " " for sign in message)[:300])


def fetch(url: str, *, max_bytes: int, timeout_s: float) -> bytes:
    """The body of an http(s) address.

    Args:
        max_bytes: more than this is an error, found before it is read.
        timeout_s: for the whole of it: redirects, headers and body.

    Raises:
        FetchError: refused, too large, too slow, or cut off.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with _opener(deadline).open(_request(url)) as response:
            return _read(response, max_bytes)
    except HTTPError as error:
        error.close()
        raise FetchError(f"the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # urllib's own errors wrap another
        if isinstance(reason, TimeoutError):
            overdue = time.monotonic() >= deadline
            raise FetchError(f"not done after {timeout_s:g} s" if overdue else "the server is silent") from error
        raise FetchError(str(reason) or type(reason).__name__) from error


def _request(url: str) -> request.Request:
    escaped = quote(url, safe=string.punctuation)  # spaces and letters beyond ASCII, as a browser does
    return request.Request(escaped, headers={"User-Agent": f"levit-cli/{__version__}"})


def _read(response: HTTPResponse, max_bytes: int) -> bytes:
    declared = response.length
    if declared is not None and declared > max_bytes:
        raise FetchError(f"{declared:,} bytes; the limit is {max_bytes:,}")
    body = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise FetchError(f"more than {max_bytes:,} bytes, the limit")
    if declared is not None and len(body) < declared:
        raise FetchError(f"cut off after {len(body):,} of {declared:,} bytes")
    return bytes(body)


def _opener(deadline: float) -> request.OpenerDirector:
    """Opens http and https and knows nothing else: no redirect leads to a file of this machine."""
    opener = request.OpenerDirector()
    opener.add_handler(request.ProxyHandler())
    opener.add_handler(_Handler(deadline))
    opener.add_handler(request.HTTPRedirectHandler())
    opener.add_handler(request.HTTPErrorProcessor())
    opener.add_handler(request.HTTPDefaultErrorHandler())
    opener.add_handler(request.UnknownHandler())
    return opener


class _Handler(request.AbstractHTTPHandler):
    """Both schemes, over connections that keep to a deadline."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, asked: request.Request) -> HTTPResponse:
        return self.do_open(partial(self._connection, HTTPConnection), asked)

    def https_open(self, asked: request.Request) -> HTTPResponse:
        return self.do_open(partial(self._connection, HTTPSConnection), asked)

    http_request = https_request = request.AbstractHTTPHandler.do_request_

    def _connection(self, scheme: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        connection = scheme(host, **{**options, "timeout": _patience(self._deadline)})
        connection.response_class = partial(_Response, deadline=self._deadline)  # type: ignore[assignment]
        return connection


class _Response(HTTPResponse):
    """Reads through ``_TimedReads``, from its status line on."""

    def __init__(self, sock: socket, *arguments: Any, deadline: float, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = BufferedReader(_TimedReads(sock, deadline))


class _TimedReads(RawIOBase):
    """What a socket receives before the deadline."""

    def __init__(self, sock: socket, deadline: float) -> None:
        self._socket, self._file, self._deadline = sock, sock.makefile("rb", buffering=0), deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._socket.settimeout(_patience(self._deadline))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _patience(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, READ_TIMEOUT_S)
