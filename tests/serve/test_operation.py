"""Start, stop, reload, access and addresses of ``levit serve``."""

import concurrent.futures
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from levit_cli.errors import LevitError
from levit_cli.model.tensors import random_state
from levit_cli.serve.listen import listen
from levit_cli.serve.settings import Address, checked_root_path, checked_token, parse_size
from tests.serve.server import Server, answer_of, serving
from tests.serve.test_limits import large_jpeg
from tests.support.binary import LEVIT, environment, installed_levit, levit
from tests.support.extras import hide_extra, names_pip_command
from tests.support.random_weights import TINY, write_folder

TOKEN = "a-long-secret-token"
WRONG_TOKENS = (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer ü")
HOSTS = (
    *("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000", "192.168.1.7:80"),
    *("photos.example", "photos.example.:9"),
)


class LocalConnection(http.client.HTTPConnection):
    """A connection over a Unix domain socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def ask_local(path: Path, method: str, target: str, body: bytes | None = None, host: str = "localhost") -> int:
    connection = LocalConnection(path)
    connection.request(method, target, body, {"Host": host})
    status = answer_of(connection.getresponse()).status
    connection.close()
    return status


# Start


@pytest.mark.without_extra
def test_without_the_extra_it_is_exit_2_with_the_pip_command(tmp_path: Path) -> None:
    done = levit("serve", "-m", "demo", env=environment(**hide_extra("serve", tmp_path)))
    assert done.returncode == 2
    assert names_pip_command(done.stderr.decode(), "serve")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--max-body", "many"], 2, "is not a size"),
        (["--token", "a b"], 2, "token"),
        (["--queue", "0"], 2, "--queue"),
        (["--host", "192.0.2.1"], 4, "Cannot listen on 192.0.2.1"),
        (["--uds", "no/such/folder/levit.sock"], 4, "No such file or directory"),
    ],
)
def test_wrong_options_end_it_with_one_line(tiny_folder: Path, options: list[str], code: int, words: str) -> None:
    done = levit("serve", "-m", tiny_folder, "--port", "0", *options, env=environment(COLUMNS="300"))
    assert done.returncode == code, done.stderr
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("check", "value", "code", "words"),
    [
        (parse_size, "0", 2, "--max-body '0' is not a size"),
        (parse_size, "1e9", 2, "is not a size"),
        (parse_size, "", 2, "is not a size"),
        (checked_root_path, "levit", 2, "--root-path"),
        (checked_root_path, "/a b", 2, "--root-path"),
        (checked_token, "", 2, "token"),
        (checked_token, "ü", 2, "token"),
        (listen, Address("no.such.host.invalid", 0), 2, "Unknown host"),
        (listen, Address(uds=Path("/proc/levit.sock")), 4, "Cannot listen on /proc/levit.sock"),
        (listen, Address(uds=Path("/tmp/" + "x" * 200)), 4, "too long"),
    ],
)
def test_wrong_values_are_refused(check: Callable[[Any], object], value: object, code: int, words: str) -> None:
    with pytest.raises(LevitError, match=words) as refused:
        check(value)
    assert refused.value.exit_code == code


def test_an_empty_token_in_the_environment_does_not_open_the_server(tiny_folder: Path) -> None:
    done = levit("serve", "-m", tiny_folder, "--port", "0", env=environment(LEVIT_SERVE_TOKEN=""))
    assert done.returncode == 2
    assert b"The token is empty" in done.stderr


def test_a_missing_model_ends_it_with_exit_3(tmp_path: Path) -> None:
    done = installed_levit("serve", "-m", tmp_path / "none", "--port", "0")
    assert done.returncode in (3, 5)
    assert b"Traceback" not in done.stderr


def test_a_port_in_use_is_exit_4(served: Server, tiny_folder: Path) -> None:
    done = levit("serve", "-m", tiny_folder, "--port", str(served.port))
    assert done.returncode == 4
    assert f"Cannot listen on 127.0.0.1:{served.port}".encode() in done.stderr
    assert b"--port" in done.stderr


def test_ipv6_and_all_addresses(tiny_folder: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("there is no IPv6")
    with serving(tiny_folder, "--host", "::1", is_ready=False) as server:
        assert server.host == "::1"
        assert server.ask("GET", "/healthz").status == 200
    with serving(tiny_folder, "--host", "::", is_ready=False) as server:
        assert "LEVIT_SERVE_TOKEN" in server.wait_for("Warning")
    hosts = {str(found[4][0]) for found in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)}
    with serving(tiny_folder, "--host", "localhost", is_ready=False) as server:
        for host in hosts:
            server.host = host
            assert server.ask("GET", "/healthz").status == 200


@pytest.mark.guarantee("serve-kill")
def test_a_killed_server_leaves_nothing_that_hinders_the_next(
    tiny_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "levit.sock"
    with serving(tiny_folder, "--uds", path) as server:
        assert ask_local(path, "PUT", "/predict", photos[0].read_bytes()) == 200
        server.stop(signal.SIGKILL)
        assert path.is_socket()
    with serving(tiny_folder, "--uds", path, is_ready=False) as server:
        assert ask_local(path, "GET", "/healthz", host="any.name") == 200
        second = levit("serve", "-m", tiny_folder, "--uds", path)
        assert (second.returncode, b"another server listens there" in second.stderr) == (4, True)
        assert ask_local(path, "GET", "/healthz") == 200
        assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []
    path.write_text("a file")
    third = levit("serve", "-m", tiny_folder, "--uds", path)
    assert (third.returncode, path.read_text()) == (4, "a file")


@pytest.mark.guarantee("serve-kill")
def test_a_killed_server_frees_its_port_and_its_workers(tiny_folder: Path, photos: list[Path]) -> None:
    with serving(tiny_folder) as server:
        server.post(photos[0].read_bytes())
        workers = children_of(server.process.pid)
        assert workers
        server.stop(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
    with serving(tiny_folder, "--port", str(server.port)) as again:
        assert again.post(photos[0].read_bytes()).status == 200


def children_of(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    found = [Path(f"/proc/{process}/task/{task}/children") for task in os.listdir(f"/proc/{process}/task")]
    assert path in found
    return [int(child) for file in found for child in file.read_text().split()]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_it_lives_before_it_is_ready(tiny_folder: Path, tmp_path: Path) -> None:
    """The model is a named pipe, so that loading waits for the test."""
    folder = tmp_path / "slow"
    shutil.copytree(tiny_folder, folder)
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with serving(folder, is_ready=False) as server:
        assert server.ask("GET", "/healthz").status == 200
        for target in ("/readyz", "/v2/health/ready"):
            assert server.ask("GET", target).status == 503
        answer = server.post(b"x")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert server.metric("levit_ready") == 0
        del config
        assert server.stop() == 0  # while it loads


# Stop


def test_at_ctrl_c_accepted_requests_are_answered_idle_connections_closed_and_readiness_ends(tiny_folder: Path) -> None:
    content = large_jpeg()
    with (
        serving(tiny_folder, "--workers", "1") as server,
        server.connect() as idle,
        server.connect() as half,
        server.connect() as other,
        closing(http.client.HTTPConnection(server.host, server.port)) as connection,
    ):
        for begun, length, part in ((half, len(content), content[:1000]), (other, 3, b"ab")):
            begun.sendall(b"PUT /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length + part)
        connection.request("GET", "/readyz")
        assert answer_of(connection.getresponse()).status == 200
        server.process.send_signal(signal.SIGINT)
        server.wait_for("Stopping")
        connection.request("GET", "/readyz")
        assert answer_of(connection.getresponse()).status == 503
        half.sendall(content[1000:])
        answer = half.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer
        assert idle.recv(10) == b""
        other.sendall(b"c")
        assert other.recv(100).startswith(b"HTTP/1.1 415")
        assert server.process.wait(20) == 0


@pytest.mark.guarantee("serve-drain")
def test_signals_to_all_its_processes_lose_no_request(tiny_folder: Path) -> None:
    """``systemctl stop`` sends SIGTERM to all processes of a service, and a terminal that is closed SIGHUP."""
    content = large_jpeg()
    with (
        serving(tiny_folder, "--workers", "1") as server,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        server.post(content)
        answers = [pool.submit(server.post, content) for _ in range(4)]
        while not server.metric("levit_queue_waiting"):
            time.sleep(0.01)
        for number in (signal.SIGHUP, signal.SIGTERM):
            for process in (*children_of(server.process.pid), server.process.pid):
                os.kill(process, number)
        assert [answer.result().status for answer in answers] == [200] * 4
        assert server.process.wait(20) == 0


def test_after_the_grace_time_it_stops_with_exit_1(tiny_folder: Path) -> None:
    with serving(tiny_folder, "--grace", "0.3") as server, server.connect() as half:
        half.sendall(b"PUT /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        time.sleep(0.1)
        assert server.stop() == 1
        assert "1 unanswered request" in server.wait_for("--grace")


# Reload


@pytest.mark.guarantee("serve-reload")
@pytest.mark.parametrize("isolation", [[], pytest.param(["--no-isolate"], marks=pytest.mark.exhaustive)])
def test_sighup_takes_a_new_model_without_losing_a_request(
    tiny_folder: Path, photos: list[Path], tmp_path: Path, isolation: list[str]
) -> None:
    folder, new = tmp_path / "model", write_folder(tmp_path / "new", random_state(TINY, seed=9))
    shutil.copytree(tiny_folder, folder)
    content = photos[0].read_bytes()
    with serving(folder, "--precision", "fp32", *isolation) as server:
        old_answer = server.post(content).body
        options = ("-m", new, "--precision", "fp32", "--batch-size", "1", "-q", "-f", "jsonl")
        new_answer = installed_levit("predict", "-", *options, stdin=content).stdout
        assert old_answer != new_answer
        statuses: list[int] = []
        bodies: list[bytes] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                answer = server.post(content)
                statuses.append(answer.status)
                bodies.append(answer.body)

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        while old_answer not in bodies and len(bodies) < 10_000:
            time.sleep(0.01)
        shutil.copy(new / "model.safetensors", folder / "model.safetensors")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("Reloaded")
        while new_answer not in bodies and len(bodies) < 10_000:
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert set(bodies) == {old_answer, new_answer}
        assert server.post(content).body == new_answer
        (folder / "model.safetensors").write_bytes(b"broken")
        server.process.send_signal(signal.SIGHUP)
        assert "the previous one is kept" in server.wait_for("not reloaded")
        assert server.post(content).body == new_answer
        assert server.metric('levit_model_reloads_total{outcome="ok"}') == 1
        assert server.metric('levit_model_reloads_total{outcome="failed"}') == 1
        if not isolation:  # the workers of the first model are gone
            assert len(children_of(server.process.pid)) <= len(os.sched_getaffinity(0))


@pytest.mark.guarantee("serve-reload")
def test_sighup_while_the_model_is_loaded_loads_it_once_more(tiny_folder: Path) -> None:
    with serving(tiny_folder, is_ready=False) as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("Reloaded")


# Access


@pytest.fixture(scope="module")
def guarded(tiny_folder: Path) -> Iterator[Server]:
    env = environment(LEVIT_SERVE_TOKEN=TOKEN)
    with serving(tiny_folder, "-v", "--root-path", "/levit", "--allowed-host", "Photos.Example", env=env) as server:
        yield server


@pytest.mark.guarantee("serve-token")
def test_every_route_but_health_requires_the_token(guarded: Server, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    for target in ("/healthz", "/readyz"):
        assert guarded.ask("GET", target).status == 200
    targets = ["/metrics", "/openapi.json", "/info", "/v2", "/v2/health/live", "/nothing", "/", "/predict", "/embed"]
    for target in targets:
        method, body = ("POST", content) if target in ("/predict", "/embed") else ("GET", None)
        for value in (
            None,
            "",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Basic {TOKEN}",
            TOKEN,
            "Bearer ü",
        ):
            headers = {} if value is None else {"Authorization": value}
            answer = guarded.ask(method, target, body, headers)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="levit"')
            assert b"tiny" not in answer.body.lower()
        right = guarded.ask(method, target, body, {"Authorization": f"bearer  {TOKEN} "})
        assert right.status == (404 if target == "/nothing" else 200)
    assert TOKEN not in "".join(guarded.lines)


def test_the_prefix_of_a_proxy_is_optional(guarded: Server) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for target in ("/healthz", "/levit/healthz", "/levit", "/levit/"):
        assert guarded.ask("GET", target, headers=headers).status == 200
    for target in ("/levitation/healthz", "/levit/levit/healthz"):
        assert guarded.ask("GET", target, headers=headers).status == 404
    assert guarded.ask("GET", "/openapi.json", headers=headers).json["servers"] == [{"url": "/levit"}]


@pytest.mark.guarantee("serve-host")
def test_names_of_other_sites_are_refused(guarded: Server) -> None:
    for host in HOSTS:
        assert guarded.ask("GET", "/healthz", headers={"Host": host}).status == 200
    for host in ("evil.example", "photos.example.evil", "localhost.evil:8000", "127.0.0.1.nip.io", "127.1.evil"):
        answer = guarded.ask("GET", "/healthz", headers={"Host": host})
        assert (answer.status, "--allowed-host" in answer.json["error"]) == (403, True)


def test_each_request_is_logged_as_a_line_of_json(guarded: Server) -> None:
    guarded.ask("GET", "/no%22thing?a=b", headers={"Authorization": f"Bearer {TOKEN}"})
    line = json.loads(guarded.wait_for("thing?a=b"))
    assert {name: line[name] for name in ("client", "method", "target", "status")} == {
        "client": "127.0.0.1", "method": "GET", "target": "/no%22thing?a=b", "status": 404,
    }  # fmt: skip
    assert set(line) == {"time", "client", "method", "target", "status", "bytes", "ms"}


# What it uses


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets the priority of threads")
def test_the_event_loop_goes_first(served: Server) -> None:
    process = served.process.pid
    found = {task: os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir(f"/proc/{process}/task")}
    loop = found.pop(str(process))
    assert max(found.values()) > loop


# What it imports


def test_it_imports_no_web_framework_and_no_torch(tiny_folder: Path) -> None:
    script = (
        "import os, signal, sys, threading; sys.argv = ['levit', 'serve', '-m', sys.argv[1], '--port', '0']\n"
        "import levit_cli.serve.run as run\n"
        "use = run.Service.use\n"
        "def stop(self, model): use(self, model); os.kill(os.getpid(), signal.SIGTERM)\n"
        "run.Service.use = stop\n"
        "from levit_cli.cli import app\n"
        "try: app(prog_name='levit')\n"
        "except SystemExit: print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tiny_folder], capture_output=True, env=environment(), timeout=60, check=True
    )
    loaded = done.stdout.decode()
    assert "'httptools'" in loaded
    for name in ("torch", "pydantic", "fastapi", "starlette", "uvicorn", "huggingface_hub", "python_multipart"):
        assert f"'{name}'" not in loaded
    assert LEVIT
