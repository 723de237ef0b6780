"""Malformed requests over raw sockets: each is refused, and the server answers the next one."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.server import Server, form, received

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
SECOND = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

# Requests that two servers in a row could divide at different places.
SMUGGLING = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two different lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nabcde",
    "the same length twice": HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "list of lengths": HEAD + b"Content-Length: 5, 5\r\n\r\nabcde",
    "signed length": HEAD + b"Content-Length: +5\r\n\r\nabcde",
    "negative length": HEAD + b"Content-Length: -5\r\n\r\nabcde",
    "hexadecimal length": HEAD + b"Content-Length: 0x5\r\n\r\nabcde",
    "empty length": HEAD + b"Content-Length: \r\n\r\nabcde",
    "length with a space": HEAD + b"Content-Length: 5 5\r\n\r\nabcde",
    "endless length": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nabcde",
    "unknown encoding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked and more": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "gzip and chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded header": HEAD + b"X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 5\n\nabcde",
    "one bare line feed": HEAD + b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare carriage return": HEAD + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "host with a space": b"GET /healthz HTTP/1.1\r\nHost: local host\r\n\r\n",
    "host with a path": b"GET /healthz HTTP/1.1\r\nHost: localhost/x\r\n\r\n",
    "host with a user": b"GET /healthz HTTP/1.1\r\nHost: a@localhost\r\n\r\n",
}
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BAD_CHUNKS = {
    "size too large for 64 bits": CHUNKS + b"FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
    "negative size": CHUNKS + b"-3\r\nabc\r\n0\r\n\r\n",
    "size with 0x": CHUNKS + b"0x3\r\nabc\r\n0\r\n\r\n",
    "no size": CHUNKS + b"\r\nabc\r\n0\r\n\r\n",
    "bare line feed after the size": CHUNKS + b"3\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKS + b"3\r\nabcdef\r\n0\r\n\r\n",
    "length in a trailer": CHUNKS + b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    "line feeds only": CHUNKS + b"3\nabc\n0\n\n",
}
ODD_LINES = {
    "absolute form": b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "absolute form of another host": b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "connect": b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "NUL in the path": b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "escaped bytes that are not UTF-8": b"GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "fragment": b"GET /healthz#x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "header without a name": b"GET / HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n",
    "header without a colon": b"GET / HTTP/1.1\r\nHost: localhost\r\nabc\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.9": b"GET /healthz HTTP/1.9\r\nHost: localhost\r\n\r\n",
    "HTTP/3.7": b"GET /healthz HTTP/3.7\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "noise": bytes(range(256)) * 8,
    "a name that does not end": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a" * 100_000,
    "a value that does not end": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000,
    "a path that does not end": b"GET /" + b"a" * 100_000,
    "1,000 headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    "many long headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 60 + b"\r\n",
    "unknown expectation": HEAD + b"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nabcde",
}
OUTSIDE = (
    *("/etc/passwd", "/../../../../etc/passwd", "/predict/../../../etc/passwd", "/..%2f..%2f..%2fetc%2fpasswd"),
    *("/%2e%2e/%2e%2e/etc/passwd", "/....//....//etc/passwd", "//etc/passwd", "/.env", "/page.html", "/assets/serve/"),
    *("/..\\..\\windows\\win.ini", "/%00", "/predict%00.jpg", "/static/../config.json", "/v2/models/..%2f..%2fetc"),
    *("/healthz/", "/healthz%0a", "/index.html", "/metrics/../healthz", "/docs", "/favicon.ico", "/file:///etc/passwd"),
)


@pytest.fixture(autouse=True)
def _answers_afterwards(served: Server) -> Iterator[None]:
    yield
    assert served.ask("GET", "/healthz").body == b"ok\n"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.guarantee("serve-smuggling")
@pytest.mark.parametrize("name", SMUGGLING)
def test_an_ambiguous_request_is_refused_and_what_follows_it_is_not_read(served: Server, name: str) -> None:
    answer = served.raw(SMUGGLING[name] + SECOND)
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in answer
    assert b"levit_requests_total" not in answer


@pytest.mark.guarantee("serve-malformed")
@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_malformed_chunks(served: Server, name: str) -> None:
    answer = served.raw(BAD_CHUNKS[name] + SECOND)
    assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (400, 1)


@pytest.mark.guarantee("serve-malformed")
@pytest.mark.parametrize("name", ODD_LINES)
def test_odd_request_lines_and_headers(served: Server, name: str) -> None:
    answer = served.raw(ODD_LINES[name])
    assert status_of(answer) in (400, 417, 431, 505)
    assert (status_of(answer) == 431) == ("does not end" in name or "headers" in name)
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.guarantee("serve-no-files")
@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_of_the_machine_is_served(served: Server, path: str) -> None:
    for method in (b"GET", b"PUT"):
        answer = served.raw(
            method + b" " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert status_of(answer) in (400, 404)
        assert b"root:" not in answer


def test_chunks_with_extensions_and_trailers_are_read(served: Server, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    first, rest = content[:100], content[100:]
    chunks = b'64;name="a";b\r\n%b\r\n%x\r\n%b\r\n0\r\nX-Trailer: a\r\nHost: b\r\n\r\n' % (first, len(rest), rest)
    answer = served.raw(CHUNKS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunks)
    assert answer.endswith(served.post(content).body)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_requests_may_arrive_in_pieces_of_any_size(served: Server, photos: list[Path], size: int) -> None:
    content = photos[0].read_bytes()[:400]
    body, content_type = form([("a.jpg", content)])
    data = (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        + HEAD + b"Content-Length: %d\r\nContent-Type: %b\r\n\r\n" % (len(body), content_type.encode()) + body
        + CHUNKS + b"%x\r\n" % len(content) + content + b"\r\n0\r\n\r\n"
        + b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )  # fmt: skip
    with served.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
        answers = received(connection).split(b"HTTP/1.1 ")[1:]
    assert [int(answer[:3]) for answer in answers] == [200, 200, 422, 404]


def test_a_proposed_upgrade_is_ignored(served: Server, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    answer = served.raw(HEAD + upgrade + b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
    assert answer.endswith(served.post(content).body)
    assert b"Connection: close\r\n" in answer


def test_empty_lines_before_a_request_and_http_1_0(served: Server) -> None:
    answer = served.raw(b"\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok\n")


@pytest.mark.guarantee("serve-bad-body")
@pytest.mark.parametrize(
    ("content_type", "change"),
    [
        ("multipart/form-data", bytes),
        ("multipart/form-data; boundary=", bytes),
        ("multipart/form-data; boundary=other", bytes),
        ("multipart/form-data; boundary=" + "b" * 300, bytes),
        ("multipart/form-data; boundary=bound", lambda body: body[:-20]),
        ("multipart/form-data; boundary=bound", lambda body: body.replace(b"\r\n", b"\n")),
        ("multipart/form-data; boundary=bound", lambda body: b"--bound--\r\n"),
        ("multipart/form-data; boundary=bound", lambda body: b""),
        ("multipart/form-data; boundary=bound", lambda body: b"X" + body),
        ("multipart/form-data; boundary=bound", lambda body: b"--bound\r\n" + b"X: a\r\n" * 5000 + body),
        ("multipart/form-data; boundary=bound", lambda body: b"--bound\r\n\r\n\r\n" * 2000 + body),
    ],
)
def test_a_malformed_form_is_refused(served: Server, content_type: str, change: object) -> None:
    body, _ = form([("a.jpg", b"x" * 2000)])
    assert callable(change)
    answer = served.post(change(body), content_type=content_type)
    assert answer.status == 400
    assert set(answer.json) == {"error"}


@pytest.mark.guarantee("serve-bad-body")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
def test_a_compressed_body_is_refused(served: Server, encoding: str) -> None:
    import gzip

    assert served.post(gzip.compress(b"x" * 100_000), content_encoding=encoding).status == 415


def test_names_of_parts_are_data_only(served: Server) -> None:
    names = ["../../etc/passwd", "/etc/passwd", "a\x07b.jpg", "日本.jpg", "<script>.jpg", "x" * 3000]
    body, content_type = form([(name, b"no image") for name in names])
    answer = served.post(body, content_type=content_type)
    assert [record["error"]["kind"] for record in answer.json] == ["not_an_image"] * len(names)
    assert [record["path"] for record in answer.json] == names
