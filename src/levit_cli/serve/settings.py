"""The address, access rules and limits of the server."""

import re
from dataclasses import dataclass
from pathlib import Path

from levit_cli.errors import UsageError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


@dataclass(frozen=True)
class Address:
    """Where the server listens.

    Args:
        host: a name or an address.
        port: 0 lets the system choose one.
        uds: the path of a Unix domain socket, instead of host and port.
        root_path: the prefix of all routes under which a reverse proxy publishes the server.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None
    root_path: str = ""


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Args:
        token: the bearer token that requests must carry; None for no token.
        allowed_hosts: names, besides ``localhost``, that the ``Host`` header may contain.
    """

    token: str | None = None
    allowed_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Limits:
    """The limits of requests.

    Args:
        max_body: bytes of a body.
        queue: requests that may wait for a free decoder.
        request_timeout_s: from a complete request to its answer.
        client_timeout_s: for a client to send headers, or to go on sending a body or receiving an answer.
        grace_s: for accepted requests, after a signal to stop.
    """

    max_body: int = 20 << 20
    queue: int = 64
    request_timeout_s: float = 30.0
    client_timeout_s: float = 10.0
    grace_s: float = 20.0


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``20MiB``, ``500kB`` or ``1048576``.

    Raises:
        UsageError: it is not a size of at least 1 byte.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]{0,3})", text.strip())
    size = int(float(match[1]) * UNITS[match[2].lower()]) if match and match[2].lower() in UNITS else 0
    if size < 1:
        raise UsageError(f"--max-body {text!r} is not a size", hint="write, for example, 20MiB, 500kB or 1048576")
    return size


def checked_root_path(text: str) -> str:
    """Return a root path without its last slash.

    Raises:
        UsageError: it does not begin with a slash, or holds characters that paths of URLs do not.
    """
    path = text.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise UsageError(f"--root-path {text!r} is not a path of a URL", hint="write, for example, /levit")
    return path


def checked_token(token: str | None) -> str | None:
    """Return the token.

    Raises:
        UsageError: it is empty, or holds characters that the header cannot carry.
    """
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UsageError(
            "The token is empty or has characters that HTTP headers cannot carry",
            hint="use printable ASCII characters without spaces, as from: openssl rand -hex 32",
        )
    return token
