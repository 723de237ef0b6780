"""Fetching one address: bounded in bytes and in time, nothing else."""

import time
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from levit_cli import __version__

SCHEMES = ("http://", "https://")
CHUNK_BYTES = 1 << 16


class FetchError(Exception):
    """It did not come; the message says why."""


def is_url(text: str) -> bool:
    return text.lower().startswith(SCHEMES)


def fetch(url: str, *, max_bytes: int, timeout_s: float) -> bytes:
    """The body of an http(s) address.

    Args:
        max_bytes: more than this is an error, found before it is read.
        timeout_s: for the whole of it; each wait for the other side is at most this too.

    Raises:
        FetchError: refused, too large, too slow, or cut off.
    """
    deadline = time.monotonic() + timeout_s
    request = Request(url, headers={"User-Agent": f"levit-cli/{__version__}"})
    try:
        with urlopen(request, timeout=timeout_s) as response:  # redirects stay within http, https and ftp
            declared = response.headers.get("Content-Length")
            if declared and declared.isdigit() and int(declared) > max_bytes:
                raise FetchError(f"{int(declared):,} bytes; the limit is {max_bytes:,}")
            body = _read(response, max_bytes, deadline, timeout_s)
    except HTTPError as error:
        raise FetchError(f"the server answered {error.code} {error.reason}") from error
    except (URLError, OSError, ValueError) as error:
        raise FetchError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    if declared and declared.isdigit() and len(body) < int(declared):
        raise FetchError(f"cut off after {len(body):,} of {int(declared):,} bytes")
    return body


def _read(response: object, max_bytes: int, deadline: float, timeout_s: float) -> bytes:
    body = bytearray()
    while chunk := response.read1(CHUNK_BYTES):  # type: ignore[attr-defined]
        body += chunk
        if len(body) > max_bytes:
            raise FetchError(f"more than {max_bytes:,} bytes, the limit")
        if time.monotonic() > deadline:
            raise FetchError(f"not done after {timeout_s:g} s")
    return bytes(body)
