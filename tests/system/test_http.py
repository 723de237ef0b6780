"""Downloads of a URL from servers that answer, answer wrongly, or do not answer."""

import contextlib
import gzip
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from levit_cli.system import http as web
from tests.support.fake_hub import Exchange, FakeSite, running

BODY = bytes(range(256)) * 100
SHORT_TIMEOUT_S = 0.3  # for servers that do not answer
Page = Callable[[Exchange], object]


def fetch(url: str, *, max_bytes: int = 1 << 20, timeout_s: float = 20.0) -> bytes:
    return web.fetch(url, max_bytes=max_bytes, timeout_s=timeout_s)


def error_of(url: str, *, max_bytes: int = 1 << 20, timeout_s: float = 20.0) -> str:
    with pytest.raises(web.FetchError) as caught:
        fetch(url, max_bytes=max_bytes, timeout_s=timeout_s)
    return str(caught.value)


def serve(site: FakeSite, page: Page) -> str:
    site.pages["/page"] = page
    return f"{site.url}/page"


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> Page:
    def page(exchange: Exchange) -> None:
        exchange.protocol_version = "HTTP/1.1"
        exchange.head(200, {"Transfer-Encoding": "chunked", "Connection": "close"})
        exchange.wfile.write(b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end)
        exchange.close_connection = True

    return page


def undeclared(body: bytes) -> Page:
    def page(exchange: Exchange) -> None:
        exchange.head(200, {})
        exchange.wfile.write(body)

    return page


def test_the_body_is_returned_and_the_user_agent_sent(site: FakeSite) -> None:
    assert fetch(serve(site, lambda exchange: exchange.reply(200, BODY))) == BODY
    assert site.requests[0].headers["user-agent"].startswith("levit-cli/")


@pytest.mark.parametrize("page", [undeclared(BODY), chunked(BODY[:7000], BODY[7000:])], ids=["undeclared", "chunked"])
def test_a_body_without_a_declared_length_is_complete(site: FakeSite, page: Page) -> None:
    assert fetch(serve(site, page)) == BODY


def test_an_empty_body_is_empty(site: FakeSite) -> None:
    assert fetch(serve(site, lambda exchange: exchange.reply(200))) == b""


def test_a_body_of_exactly_the_limit_is_accepted(site: FakeSite) -> None:
    assert fetch(serve(site, lambda exchange: exchange.reply(200, BODY)), max_bytes=len(BODY)) == BODY


def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_read(site: FakeSite) -> None:
    def page(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": 10**12})
        exchange.stall()

    assert error_of(serve(site, page), max_bytes=1000) == "the file has 1,000,000,000,000 bytes; the limit is 1,000"


@pytest.mark.parametrize("page", [undeclared(BODY), chunked(BODY)], ids=["undeclared", "chunked"])
def test_a_body_that_exceeds_the_limit_while_read_is_refused(site: FakeSite, page: Page) -> None:
    assert error_of(serve(site, page), max_bytes=len(BODY) - 1) == "the file is larger than the limit of 25,599 bytes"


def stall_at_once(exchange: Exchange) -> None:
    exchange.stall()


def stall_in_the_body(exchange: Exchange) -> None:
    exchange.head(200, {"Content-Length": 100})
    exchange.wfile.write(b"half")
    exchange.stall()


def drip_the_headers(exchange: Exchange) -> None:
    exchange.drip(b"HTTP/1.0 200 OK\r\n" + b"X-Slow: and slower\r\n" * 50)


def drip_the_body(exchange: Exchange) -> None:
    exchange.head(200, {"Content-Length": 1000})
    exchange.drip(bytes(1000))


def redirect_and_drip(exchange: Exchange) -> None:
    exchange.drip(b"HTTP/1.0 302 Found\r\nLocation: /page\r\n\r\n")


@pytest.mark.guarantee("slow-url")
@pytest.mark.parametrize("page", [stall_at_once, stall_in_the_body, drip_the_headers, drip_the_body, redirect_and_drip])
def test_a_server_that_stalls_or_sends_slowly_is_stopped_at_the_timeout(site: FakeSite, page: Page) -> None:
    started = time.monotonic()
    assert error_of(serve(site, page), timeout_s=SHORT_TIMEOUT_S) == "the download did not finish within 0.3 s"
    assert time.monotonic() - started < SHORT_TIMEOUT_S + 1


@pytest.mark.guarantee("slow-url")
@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog delays connections on Linux")
def test_a_host_whose_addresses_do_not_answer_is_given_up_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):  # fill the backlog, so that further connections wait
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)

        def many(host: str, port: int, *arguments: Any, **options: Any) -> Any:
            is_ours = host == "many.invalid"
            return resolve(*(address if is_ours else (host, port)), *arguments, **options) * (10 if is_ours else 1)

        monkeypatch.setattr(socket, "getaddrinfo", many)
        started = time.monotonic()
        message = error_of(f"http://many.invalid:{address[1]}/", timeout_s=SHORT_TIMEOUT_S)
    assert message == "the download did not finish within 0.3 s"
    assert time.monotonic() - started < SHORT_TIMEOUT_S + 1


def test_the_next_address_of_a_host_is_tried(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, port = socket.getaddrinfo, int(site.url.rpartition(":")[2])

    def two(host: str, *arguments: Any, **options: Any) -> Any:
        if host != "two.invalid":
            return resolve(host, *arguments, **options)
        return [
            *resolve("127.0.0.1", 1, *arguments[1:], **options),
            *resolve("127.0.0.1", port, *arguments[1:], **options),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    serve(site, lambda exchange: exchange.reply(200, BODY))
    assert fetch(f"http://two.invalid:{port}/page") == BODY


def test_a_server_that_sends_nothing_is_given_up_before_the_total_timeout(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "READ_TIMEOUT_S", SHORT_TIMEOUT_S)
    started = time.monotonic()
    assert error_of(serve(site, stall_in_the_body), timeout_s=600) == "the server sent no data for 0.3 s"
    assert time.monotonic() - started < SHORT_TIMEOUT_S + 1


def test_a_slow_server_that_finishes_in_time_is_accepted(site: FakeSite) -> None:
    def page(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": 4})
        exchange.drip(b"slow")

    assert fetch(serve(site, page)) == b"slow"


def cut_by_length(exchange: Exchange) -> None:
    exchange.head(200, {"Content-Length": 1000})
    exchange.wfile.write(b"12345")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (cut_by_length, "cut off after 5 of 1,000 bytes"),
        (chunked(b"12345", end=b""), "IncompleteRead"),
        (chunked(b"12345", end=b"zz\r\n"), "IncompleteRead"),
    ],
    ids=["by length", "between chunks", "invalid chunk"],
)
def test_a_body_that_is_cut_off_is_an_error(site: FakeSite, page: Page, message: str) -> None:
    assert message in error_of(serve(site, page))


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.0", b"\x00\xff garbage\r\n\r\n", b"HTTP/1.0 200 OK\r\n" + b"A" * 70000]
)
def test_an_invalid_response_is_an_error_in_one_line(site: FakeSite, answer: bytes) -> None:
    message = error_of(serve(site, lambda exchange: exchange.wfile.write(answer)))
    assert message
    assert message.isprintable()


@pytest.mark.parametrize(("status", "message"), [(404, "404 Not Found"), (410, "410 Gone"), (503, "503 Service")])
def test_an_error_status_is_reported(site: FakeSite, status: int, message: str) -> None:
    assert f"the server returned {message}" in error_of(serve(site, lambda exchange: exchange.reply(status)))


def test_escape_sequences_from_a_server_are_removed(site: FakeSite) -> None:
    def page(exchange: Exchange) -> None:
        exchange.send_response(404, "\x1b[31mred\x1b[0m")
        exchange.end_headers()

    assert error_of(serve(site, page)) == "the server returned 404  [31mred [0m"


def test_a_redirect_is_followed(site: FakeSite) -> None:
    site.pages["/other"] = lambda exchange: exchange.reply(200, BODY)
    assert fetch(serve(site, lambda exchange: exchange.reply(302, headers={"Location": "/other"}))) == BODY


def test_a_redirect_loop_is_an_error(site: FakeSite) -> None:
    message = error_of(serve(site, lambda exchange: exchange.reply(302, headers={"Location": "/page"})))
    assert "infinite loop" in message
    assert message.isprintable()


def redirect_with_cookie(target: str) -> Page:
    headers = {"Location": target, "Set-Cookie": "session=secret; Path=/"}
    return lambda exchange: exchange.reply(302, headers=headers)


def test_a_proxy_is_used_and_gets_its_password(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url.replace("//", "//user:secret@"))
    serve(site, lambda exchange: exchange.reply(200, BODY))
    assert fetch("http://images.invalid/page") == BODY
    assert site.requests[0].headers["proxy-authorization"].startswith("Basic ")


@pytest.mark.guarantee("url-secrets")
def test_a_redirect_sends_no_secret_to_another_host(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(FakeSite()) as other:  # not reached through the proxy
        target = serve(other, lambda exchange: exchange.reply(200, BODY))
        monkeypatch.setenv("http_proxy", site.url.replace("//", "//user:secret@"))
        serve(site, redirect_with_cookie(target))
        assert fetch("http://images.invalid/page") == BODY
    (request,) = other.requests
    assert set(request.headers) <= {"host", "user-agent", "accept-encoding", "connection"}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_an_encoded_body_is_not_expanded(site: FakeSite, coding: str) -> None:
    bomb = gzip.compress(bytes(5 << 20))  # expanded, it would exceed the limit
    page = serve(site, lambda exchange: exchange.reply(200, bomb, {"Content-Encoding": coding}))
    assert fetch(page) == bomb
    assert site.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("scheme", ["file", "ftp", "data", "gopher"])
def test_a_redirect_to_another_scheme_is_refused(site: FakeSite, tmp_path: Path, scheme: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    target = "data:,secret" if scheme == "data" else f"{scheme}://127.0.0.1{secret}"
    message = error_of(serve(site, lambda exchange: exchange.reply(302, headers={"Location": target})))
    assert "not allowed" in message or "unknown url type" in message


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "/etc/hostname", "", "http://"]
)
def test_only_http_and_https_are_fetched(url: str) -> None:
    assert "url" in error_of(url) or "host" in error_of(url)


@pytest.mark.parametrize(
    "url", ["http://[::1/x", "http://127.0.0.1:port/x", "http://user:word@127.0.0.1:1:2/", "http://127.0.0.1:99999/"]
)
def test_an_invalid_url_is_an_error(url: str) -> None:
    assert error_of(url)


def test_spaces_and_non_ascii_letters_in_a_url_are_escaped_as_a_browser_does(site: FakeSite) -> None:
    site.pages["/a%20%C3%B3%C5%BC.jpg"] = lambda exchange: exchange.reply(200, BODY)
    assert fetch(f"{site.url}/a óż.jpg") == fetch(f"{site.url}/a%20%C3%B3%C5%BC.jpg") == BODY


def test_a_refused_connection_is_reported() -> None:
    with socket.socket() as unused_port:
        unused_port.bind(("127.0.0.1", 0))
        assert "refused" in error_of(f"http://127.0.0.1:{unused_port.getsockname()[1]}/")


def test_https_from_a_server_without_tls_is_an_error(site: FakeSite) -> None:
    assert error_of(site.url.replace("http", "https"))
