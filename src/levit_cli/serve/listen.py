"""Bind the sockets on which the server listens."""

import errno
import ipaddress
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from levit_cli.errors import OutputError, UsageError, reason_of
from levit_cli.serve.settings import Address

BACKLOG = 1024


class Listener:
    """Bound sockets, and the URL under which they are reached."""

    def __init__(self, sockets: list[socket.socket], url: str, path: Path | None = None) -> None:
        self.sockets, self.url = sockets, url
        self._path, self._inode = path, _inode(path) if path else None

    @property
    def is_private(self) -> bool:
        """Whether only this machine can connect."""
        hosts = [bound.getsockname()[0] for bound in self.sockets] if self._path is None else []
        return all(ipaddress.ip_address(host.partition("%")[0]).is_loopback for host in hosts)

    def remove(self) -> None:
        """Remove the path of a Unix domain socket, unless another server has replaced it."""
        if self._path is not None and _inode(self._path) == self._inode:
            with suppress(OSError):
                self._path.unlink()


def listen(address: Address) -> Listener:
    """Bind the sockets of an address.

    Raises:
        UsageError: the host is unknown, or the system has no Unix domain sockets.
        OutputError: the address is in use or not allowed.
    """
    if address.uds is not None:
        return _listen_on_path(address.uds)
    sockets: list[socket.socket] = []
    port, failure = address.port, OSError()
    for family, host in dict.fromkeys(_resolved(address)):
        try:
            sockets.append(_bound(family, host, port))
            port = sockets[-1].getsockname()[1]  # so that all families listen on the port that the system chose
        except OSError as error:
            failure = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    if not sockets or failure.errno == errno.EADDRINUSE:
        for bound in sockets:
            bound.close()
        raise _not_bound(f"{address.host}:{address.port}", failure)
    name = f"[{address.host}]" if ":" in address.host else address.host
    return Listener(sockets, f"http://{name}:{port}{address.root_path}")


def _resolved(address: Address) -> Iterator[tuple[int, str]]:
    flags = socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"Unknown host {address.host!r}", why=reason_of(error), hint="--host takes an address"
        ) from None
    for family, *_, sockaddr in found:
        yield family, str(sockaddr[0])


def _bound(family: int, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def _not_bound(name: str, error: OSError) -> OutputError:
    hint = "choose another --port, or 0 for a free one" if error.errno == errno.EADDRINUSE else "choose another address"
    return OutputError(f"Cannot listen on {name}", why=reason_of(error), hint=hint)


def _listen_on_path(path: Path) -> Listener:
    """Listen on a path. A socket that a killed server left there is replaced; any other file is not."""
    if sys.platform == "win32":
        raise UsageError("--uds is not available on this system", hint="use --host and --port")
    else:  # noqa: RET506  # mypy knows the platform only in branches
        _require_unused(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            bound.bind(str(temporary))
            bound.listen(BACKLOG)
            bound.setblocking(False)
            temporary.replace(path)
        except OSError as error:
            bound.close()
            with suppress(OSError):
                temporary.unlink()
            reason = "the path is too long" if error.errno is None else reason_of(error)
            raise OutputError(f"Cannot listen on {path}", why=reason, hint="choose another --uds") from None
        return Listener([bound], f"unix:{path}", path)


def _require_unused(path: Path) -> None:
    what = f"Cannot listen on {path}"
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OutputError(what, why="a file is there, and it is not a socket", hint="choose another --uds")
        if _accepts_connections(path):
            raise OutputError(what, why="another server listens there", hint="stop it, or choose another --uds")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(what, why=reason_of(error), hint="choose another --uds") from None


def _accepts_connections(path: Path) -> bool:
    """Whether a process listens on a Unix domain socket.

    Raises:
        OSError: that is not known, for example because the socket belongs to another user.
    """
    with socket.socket(getattr(socket, "AF_UNIX"), socket.SOCK_STREAM) as probe:  # noqa: B009  # not on Windows
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
