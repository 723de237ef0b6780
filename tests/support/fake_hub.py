"""Fake servers on 127.0.0.1 with optional faults: a model hub and a plain web site.

The hub implements the requests of huggingface_hub's client: the listing of a revision, and files by HEAD and GET. As on
the real hub, files in LFS come from another origin, the storage, to which the token must not be sent.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

IN_LFS = (".safetensors", ".bin")
LISTING = re.compile(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
STORED = re.compile(r"/storage/([^/]+/[^/]+)/([0-9a-f]+)/(.+)")
DRIP_S = 0.05

Headers = Mapping[str, str | int]
NO_HEADERS: Headers = {}
Fault = Literal["flip", "flip once", "cut", "stall"]


@dataclass(frozen=True)
class Request:
    """A received request; the names of ``headers`` are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: str = ""


class Exchange(BaseHTTPRequestHandler):
    """One request and methods to answer it."""

    server: "_Listener"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.owner.requests.append(Request(self.command, path, headers, self.path.partition("?")[2]))
        self.server.owner.answer(self, path)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *arguments: Any) -> None:
        pass

    def head(self, status: int, headers: Headers) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def reply(self, status: int, body: bytes = b"", headers: Headers = NO_HEADERS) -> None:
        self.head(status, {"Content-Length": len(body), **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def stall(self) -> None:
        """Send nothing more until the server stops or the test ends the stall."""
        self.wfile.flush()
        self.server.owner.stalling.set()
        self.server.owner.released.wait(60)

    def drip(self, content: bytes) -> None:
        """Send one byte at a time, with pauses."""
        for index in range(len(content)):
            if self.server.owner.released.wait(DRIP_S):
                return
            self.wfile.write(content[index : index + 1])


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    owner: "Server"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that the client closed the connection, which some tests cause."""


class Server:
    """A server on a free port, running from ``start`` to ``stop``.

    Attributes:
        stalling: set when an answer begins to stall.
        released: ends every stall.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.stalling, self.released = Event(), Event()
        self._listener = _Listener(("127.0.0.1", 0), Exchange)
        self._listener.owner = self
        self._thread = Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.released.set()
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    def reset(self) -> None:
        self.released.set()
        self.stalling, self.released = Event(), Event()
        self.requests.clear()

    def answer(self, exchange: Exchange, path: str) -> None:
        raise NotImplementedError


AnyServer = TypeVar("AnyServer", bound=Server)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


class FakeSite(Server):
    """A web site whose pages are functions by path."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, Callable[[Exchange], object]] = {}

    def reset(self) -> None:
        super().reset()
        self.pages.clear()

    def answer(self, exchange: Exchange, path: str) -> None:
        page = self.pages.get(path)
        if page:
            page(exchange)
        else:
            exchange.reply(404)


@dataclass
class Repository:
    """Files by commit, commits by branch, and the faults to inject.

    Args:
        answer: status and error code that replace every answer.
        file_answer: status and error code that replace the answers for files, but not the listing.
        faults: faults in the transfer of files, by file name.
    """

    name: str
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    answer: tuple[int, str] | None = None
    file_answer: tuple[int, str] | None = None
    faults: dict[str, Fault] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        digest = hashlib.sha1(branch.encode())
        for name, content in files.items():
            digest.update(name.encode() + content)
        self.branches[branch] = digest.hexdigest()
        self.commits[digest.hexdigest()] = files
        return digest.hexdigest()

    def resolve(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


class FakeHub(Server):
    """A hub and its storage at another origin."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.storage = _Storage(self)

    def start(self) -> None:
        super().start()
        self.storage.start()

    def stop(self) -> None:
        super().stop()
        self.storage.stop()

    def reset(self) -> None:
        super().reset()
        self.repositories.clear()
        self.storage.reset()

    def add(self, name: str, files: Mapping[str, bytes]) -> Repository:
        repository = self.repositories[name] = Repository(name)
        repository.commit(files)
        return repository

    def take_requests(self) -> list[str]:
        """Return the requests since the last call, such as ``GET listing`` or ``HEAD config.json``."""
        lines = [f"{request.method} {_target(request.path)}" for request in (*self.requests, *self.storage.requests)]
        self.requests.clear()
        self.storage.requests.clear()
        return lines

    def answer(self, exchange: Exchange, path: str) -> None:
        if match := LISTING.fullmatch(path):
            self._list(exchange, match[1], unquote(match[2]))
        elif match := FILE.fullmatch(path):
            self._file(exchange, match[1], unquote(match[2]), unquote(match[3]))
        else:
            exchange.reply(404)

    def _list(self, exchange: Exchange, name: str, revision: str) -> None:
        repository = self.repositories.get(name)
        refusal = _refusal(repository, revision)
        if refusal or repository is None:
            _refuse(exchange, refusal)
            return
        commit = str(repository.resolve(revision))
        files = [_sibling(name, content) for name, content in repository.commits[commit].items()]
        answer = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": files}
        exchange.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, exchange: Exchange, name: str, revision: str, file: str) -> None:
        repository = self.repositories.get(name)
        refusal = _refusal(repository, revision) or (repository.file_answer if repository else None)
        if refusal or repository is None:
            _refuse(exchange, refusal)
            return
        commit = str(repository.resolve(revision))
        content = repository.commits[commit].get(file)
        if content is None:
            _refuse(exchange, (404, "EntryNotFound"))
        elif file.endswith(IN_LFS):
            sha256 = hashlib.sha256(content).hexdigest()
            linked: Headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": len(content)}
            location = f"{self.storage.url}/storage/{name}/{sha256}/{file}"
            exchange.reply(302, headers={"Location": location, **linked})
        else:
            tags = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(content)}"', "Accept-Ranges": "bytes"}
            _send(exchange, repository, file, content, tags)


class _Storage(Server):
    """Files by their SHA-256."""

    def __init__(self, hub: FakeHub) -> None:
        super().__init__()
        self._hub = hub

    def answer(self, exchange: Exchange, path: str) -> None:
        match = STORED.fullmatch(path)
        repository = self._hub.repositories.get(match[1]) if match else None
        for files in repository.commits.values() if repository else ():
            for file, content in files.items():
                if repository and match and hashlib.sha256(content).hexdigest() == match[2]:
                    _send(exchange, repository, file, content, {"ETag": '"storage"'})
                    return
        exchange.reply(404)


def _target(path: str) -> str:
    if LISTING.fullmatch(path):
        return "listing"
    match = FILE.fullmatch(path) or STORED.fullmatch(path)
    return match[3] if match else path


def _refusal(repository: Repository | None, revision: str) -> tuple[int, str] | None:
    if repository is None:
        return 404, "RepoNotFound"
    if repository.answer:
        return repository.answer
    return None if repository.resolve(revision) else (404, "RevisionNotFound")


def _refuse(exchange: Exchange, answer: tuple[int, str] | None) -> None:
    status, code = answer or (500, "")
    headers = {"X-Error-Code": code, "X-Error-Message": f"message of the hub for {code}"} if code else {}
    exchange.reply(status, headers=headers)


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
    if name.endswith(IN_LFS):
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        sibling["blobId"] = git_hash(pointer)
        sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": len(pointer)}
    return sibling


def flip(content: bytes) -> bytes:
    """Flip one bit of the last letter or digit. JSON stays valid JSON and weights stay weights, with another value."""
    index = max(index for index, byte in enumerate(content[-4096:]) if chr(byte).isalnum() and byte < 128)
    index += max(len(content) - 4096, 0)
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


def _send(exchange: Exchange, repository: Repository, file: str, content: bytes, headers: Headers) -> None:
    """Send a file from the requested offset, with the fault that the repository defines for it."""
    match = re.fullmatch(r"bytes=(\d+)-", exchange.headers.get("Range", ""))
    start = int(match[1]) if match else 0
    ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if match else {}
    exchange.head(206 if match else 200, {"Content-Length": len(content) - start, **ranged, **headers})
    if exchange.command == "GET":
        _send_body(exchange, repository, file, content, start)


def _send_body(exchange: Exchange, repository: Repository, file: str, content: bytes, start: int) -> None:
    fault = repository.faults.get(file)
    if fault in ("flip", "flip once"):
        content = flip(content)
    if fault == "flip once":
        del repository.faults[file]
    exchange.wfile.write(content[start : len(content) // 2 if fault in ("cut", "stall") else None])
    if fault == "stall":
        exchange.stall()


def wait_until(event: Event, seconds: float = 30) -> None:
    """Wait for an event of a server."""
    if not event.wait(seconds):
        raise TimeoutError(f"no event within {seconds} s")
