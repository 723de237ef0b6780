"""Large, slow, many and hostile requests: each is bounded, and the next request works."""

import concurrent.futures
import http.client
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.serve.server import Server, form, received, serving
from tests.support.binary import environment
from tests.support.faulty_decoders import ask_for, faulty_decoders
from tests.support.sample_images import sample_image

MIB = 1 << 20
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


def png_bomb(width: int, height: int) -> bytes:
    """Return a small PNG that claims to be large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def large_jpeg(seed: int = 0) -> bytes:
    """Return a JPEG that takes some time to decode."""
    stream = io.BytesIO()
    sample_image(3000, 2000, seed).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def works(served: Server, photos: list[Path]) -> Iterator[None]:
    """After the test, the server answers, and no request or connection is left."""
    yield
    assert served.post(photos[0].read_bytes()).status == 200
    deadline = time.monotonic() + 10
    while served.metric("levit_connections") > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.metric("levit_connections") == 1  # the one that asks
    assert served.metric("levit_queue_waiting") == 0


@pytest.mark.guarantee("serve-body-limit")
@pytest.mark.usefixtures("works")
def test_a_body_over_the_limit_is_refused_before_it_is_sent(served: Server) -> None:
    before = served.metric("process_resident_memory_bytes")
    with served.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000000\r\nExpect: 100-continue\r\n\r\n")
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"--max-body" in answer
    with served.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (64 * MIB))
        with suppress(OSError):
            for _ in range(64):
                connection.sendall(bytes(MIB))
        assert received(connection).startswith(b"HTTP/1.1 413 ")
    assert served.metric("process_resident_memory_bytes") < before + 16 * MIB


@pytest.mark.guarantee("serve-body-limit")
@pytest.mark.usefixtures("works")
def test_a_body_over_the_limit_in_chunks_is_refused_when_it_exceeds_it(served: Server) -> None:
    with served.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):
            for _ in range(16):
                connection.sendall(b"80000\r\n" + bytes(0x80000) + b"\r\n")
        assert received(connection).startswith(b"HTTP/1.1 413 ")
    assert served.post(bytes(MIB)).status == 415  # exactly the limit
    assert served.post(bytes(MIB + 1)).status == 413


@pytest.mark.guarantee("serve-body-limit")
@pytest.mark.usefixtures("works")
def test_a_short_body_of_a_refused_request_leaves_the_connection_open(served: Server) -> None:
    connection = http.client.HTTPConnection(served.host, served.port)
    for target, status in (("/nothing", 404), ("/healthz", 405), ("/predict", 415)):
        connection.request("POST", target, bytes(300_000))
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.will_close) == (status, False)
    connection.close()


@pytest.mark.guarantee("serve-bombs")
@pytest.mark.usefixtures("works")
@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (30_000, 30_000), (1, 100_000)])
def test_a_bomb_is_an_error_record_and_takes_no_memory(served: Server, width: int, height: int) -> None:
    before = served.metric("process_resident_memory_bytes")
    answer = served.post(png_bomb(width, height))
    assert answer.status == 422
    assert answer.json["error"]["kind"] in ("too_large", "extreme_aspect", "truncated", "corrupt")
    assert served.metric("process_resident_memory_bytes") < before + 64 * MIB


STALLED = {
    b"": b"",
    b"GET /healthz HT": b"HTTP/1.1 408 ",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n": b"HTTP/1.1 408 ",
    HEAD + b"Content-Length: 1000\r\n\r\nabc": b"HTTP/1.1 408 ",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n10\r\nabc": b"HTTP/1.1 408 ",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n": b"HTTP/1.1 408 ",
}
TRICKLING = (b"GET / HTTP/1.1\r\nHost: localhost\r\n", HEAD + b"Content-Length: 9999\r\n\r\n")


@pytest.mark.guarantee("serve-slow-client")
@pytest.mark.usefixtures("works")
def test_clients_that_stop_sending_or_send_a_byte_now_and_then_are_dropped(served: Server) -> None:
    def stall(sent: bytes) -> tuple[bytes, float]:
        start = time.monotonic()
        got = served.raw(sent)
        return got, time.monotonic() - start

    def trickle(prefix: bytes) -> float:
        start = time.monotonic()
        with served.connect() as connection:
            connection.sendall(prefix)
            with suppress(OSError):
                while time.monotonic() - start < 10:
                    connection.sendall(b"X")
                    time.sleep(0.1)
        return time.monotonic() - start

    with concurrent.futures.ThreadPoolExecutor(len(STALLED) + len(TRICKLING)) as pool:
        stalled, trickled = pool.map(stall, STALLED), pool.map(trickle, TRICKLING)
        for (got, seconds), answer in zip(stalled, STALLED.values(), strict=True):
            assert got.startswith(answer)
            assert bool(got) == bool(answer)
            assert 0.5 < seconds < 6
        assert all(0.5 < seconds < 6 for seconds in trickled)


@pytest.mark.guarantee("serve-slow-client")
@pytest.mark.usefixtures("works")
def test_a_client_that_does_not_read_is_dropped(served: Server) -> None:
    dropped = served.metric("levit_connections")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect((served.host, served.port))
        with suppress(OSError):  # the server stops reading, then it resets the connection
            for _ in range(2000):
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        assert dropped == 1


@pytest.mark.guarantee("serve-slow-client")
@pytest.mark.usefixtures("works")
def test_500_idle_connections_hinder_nothing_and_are_dropped(served: Server, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    with ExitStack() as stack:
        idle = [stack.enter_context(served.connect()) for _ in range(500)]
        start = time.monotonic()
        assert served.post(content).status == 200
        assert time.monotonic() - start < 2
        for connection in idle:
            assert received(connection) == b""
    assert time.monotonic() - start < 15


@pytest.mark.guarantee("serve-client-gone")
@pytest.mark.usefixtures("works")
def test_clients_that_leave_before_or_during_the_answer(served: Server) -> None:
    content = large_jpeg()
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content
    for cut in (10, len(HEAD), len(HEAD) + 40, len(whole) // 2, len(whole) - 1, len(whole)):
        for _ in range(5):
            with served.connect() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
                connection.sendall(whole[:cut])
                if cut == len(whole):
                    time.sleep(0.01)
    assert served.metric("levit_aborted_requests_total") > 0


@pytest.fixture(scope="module")
def busy(tiny_folder: Path) -> Iterator[Server]:
    """A server with one decoder and room for two requests that wait."""
    options = ("--workers", "1", "--queue", "2", "--request-timeout", "20")
    with serving(tiny_folder, *options) as server:
        yield server


@pytest.mark.guarantee("serve-queue")
def test_more_requests_than_fit_are_refused_at_once(busy: Server) -> None:
    content = large_jpeg()
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = [*pool.map(lambda _: busy.post(content), range(48))]
    accepted = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    assert len(accepted) + len(refused) == 48
    assert len(accepted) >= 3
    assert len(refused) >= 10
    assert {answer.body for answer in accepted} == {accepted[0].body}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert busy.post(content).status == 200
    assert busy.metric("levit_queue_waiting") == 0


@pytest.mark.guarantee("serve-queue")
def test_health_is_answered_while_requests_are_refused(busy: Server) -> None:
    content = large_jpeg()
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            busy.post(content)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        times = []
        for _ in range(20):
            start = time.monotonic()
            assert busy.ask("GET", "/healthz").status == 200
            times.append(time.monotonic() - start)
        assert sorted(times)[10] < 0.5
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_request_with_one_image_does_not_wait_for_all_of_a_large_form(busy: Server) -> None:
    content = large_jpeg()
    body, content_type = form([(f"{number}.jpg", content) for number in range(40)])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        many = pool.submit(busy.post, body, content_type=content_type)
        while not busy.metric("levit_queue_waiting"):
            time.sleep(0.01)
        assert busy.post(content).status == 200
        assert not many.done()
        assert [record["status"] for record in many.result().json] == ["ok"] * 40


def test_a_request_that_takes_too_long_is_answered_with_503(tiny_folder: Path) -> None:
    with serving(tiny_folder, "--workers", "1", "--request-timeout", "0.3") as server:
        content = large_jpeg()
        body, content_type = form([(f"{number}.jpg", content) for number in range(60)])
        answer = server.post(body, content_type=content_type)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert server.post(content).status == 200
        assert server.metric("levit_queue_waiting") == 0


@pytest.fixture(scope="module")
def faulty(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose decoders abort or hang on chosen images, in processes."""
    env = environment(**faulty_decoders(tmp_path_factory.mktemp("site") / "packages"))
    with serving(tiny_folder, "--timeout", "2", env=env) as server:
        yield server


@pytest.mark.guarantee("serve-decoder")
@pytest.mark.parametrize(("fault", "kind"), [("abort", "decoder_crashed"), ("hang", "timeout")])
def test_a_decoder_that_crashes_or_hangs_fails_one_image(
    faulty: Server, photos: list[Path], tmp_path: Path, fault: str, kind: str
) -> None:
    path = tmp_path / "fault.jpg"
    ask_for(fault, path)
    good = photos[0].read_bytes()
    body, content_type = form([("a.jpg", good), ("b.jpg", path.read_bytes()), ("c.jpg", good)])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        alone = pool.submit(faulty.post, path.read_bytes())
        first, bad, last = faulty.post(body, content_type=content_type).json
    assert (first["status"], last["status"]) == ("ok", "ok")
    assert bad["error"]["kind"] == kind
    assert (alone.result().status, alone.result().json["error"]["kind"]) == (422, kind)
    assert faulty.post(good).status == 200


@pytest.mark.guarantee("serve-decoder")
def test_a_decoder_that_hangs_in_a_thread_fails_one_image(
    tiny_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "fault.jpg"
    ask_for("hang", path)
    env = environment(**faulty_decoders(tmp_path / "packages"))
    with serving(tiny_folder, "--no-isolate", "--timeout", "1", "--workers", "1", env=env) as server:
        for _ in range(2):
            assert server.post(path.read_bytes()).json["error"]["kind"] == "timeout"
            assert server.post(photos[0].read_bytes()).status == 200
        assert server.stop() == 0


def test_an_image_that_decodes_to_the_wrong_mode_is_an_error_not_a_crash(served: Server) -> None:
    stream = io.BytesIO()
    Image.new("F", (64, 64)).save(stream, "TIFF")
    assert served.post(stream.getvalue()).status in (200, 422)
