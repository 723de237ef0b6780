"""The answers of ``levit serve`` are the records of ``levit predict``."""

import http.client
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levit_cli.serve.model import public_name
from tests.serve.server import Server, answer_of, form, serving
from tests.support.binary import LEVIT, environment, records


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, photos: list[Path]) -> dict[str, dict[str, Any]]:
    """The records of ``levit predict`` by path."""
    command = [LEVIT, "predict", "-m", tiny_folder, "--precision", "fp32", "--batch-size", "1", "-q", "-f", "jsonl"]
    done = subprocess.run([*map(str, [*command, *photos])], capture_output=True, env=environment(), check=True)
    return {record["path"]: record for record in records(done.stdout)}


@pytest.mark.guarantee("serve-same-records")
def test_an_image_gets_the_record_that_predict_writes(
    served: Server, photos: list[Path], expected: dict[str, dict[str, Any]]
) -> None:
    for photo in photos:
        answer = served.post(photo.read_bytes())
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json == {**expected[str(photo)], "path": "-"}


@pytest.mark.guarantee("serve-same-records")
def test_a_form_gets_a_list_of_records_in_order(
    served: Server, photos: list[Path], expected: dict[str, dict[str, Any]]
) -> None:
    files = [(photo.name, photo.read_bytes()) for photo in photos]
    body, content_type = form([*files[:20], ("readme.txt", b"some words"), *files[20:], ("empty.jpg", b"")])
    answer = served.post(body, content_type=content_type)
    assert answer.status == 200
    *got, empty = answer.json
    assert (empty["path"], empty["status"], empty["error"]["kind"]) == ("empty.jpg", "error", "empty_file")
    text = got.pop(20)
    assert (text["path"], text["status"], text["error"]["kind"]) == ("readme.txt", "error", "not_an_image")
    assert got == [{**expected[str(photo)], "path": photo.name} for photo in photos]


@pytest.mark.guarantee("serve-same-records")
def test_embeddings_and_thresholds_are_those_of_the_commands(tiny_folder: Path, photos: list[Path]) -> None:
    command = [LEVIT, "embed", "-m", str(tiny_folder), "--precision", "fp32", "--batch-size", "1", "--normalize", "-q"]
    chosen = photos[:3]
    done = subprocess.run(
        [*command, "-f", "jsonl", *map(str, chosen)], capture_output=True, env=environment(), check=True
    )
    with serving(tiny_folder, "--precision", "fp32", "--batch-size", "1", "--min-prob", "0.5") as server:
        for photo, wanted in zip(chosen, records(done.stdout), strict=True):
            assert server.post(photo.read_bytes(), "/embed?normalize=1").json == {**wanted, "path": "-"}
            record = server.post(photo.read_bytes()).json
            assert record["accepted"] == (record["top"][0]["prob"] >= 0.5)


def test_curl_sends_with_put_and_appends_the_name(served: Server, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    whole = served.post(content).json
    for target in ("/predict", "/predict/", "/predict/photo.jpg"):
        assert served.ask("PUT", target, content).json == whole


def test_top_k(served: Server, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    whole = served.post(content, "/predict?top_k=7").json["top"]
    assert len(whole) == 7
    assert served.post(content, "/predict?top_k=2").json["top"] == whole[:2]
    assert served.post(content, "/predict?top_k=1000").json["top"] == whole
    assert sum(ranked["prob"] for ranked in whole) == pytest.approx(1, abs=1e-5)
    for wrong in ("0", "-1", "1.5", "x", "", "99999999999999999999"):
        assert served.post(content, f"/predict?top_k={wrong}").status == 400


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"some words", 415, "not_an_image"),
        (b"", 422, "empty_file"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", 422, "truncated"),
    ],
)
def test_a_bad_image_alone_is_answered_with_its_record(served: Server, content: bytes, status: int, kind: str) -> None:
    answer = served.post(content)
    assert answer.status == status
    assert (answer.json["path"], answer.json["status"], answer.json["error"]["kind"]) == ("-", "error", kind)
    assert "top" not in answer.json


def test_embeddings_are_the_features_of_the_python_api(served: Server, tiny_folder: Path, photos: list[Path]) -> None:
    import levit_cli

    features = levit_cli.load(tiny_folder, precision="fp32").embed(photos[:3])
    body, content_type = form([(photo.name, photo.read_bytes()) for photo in photos[:3]])
    answer = served.post(body, "/embed", content_type=content_type)
    assert [record["path"] for record in answer.json] == [photo.name for photo in photos[:3]]
    np.testing.assert_allclose([record["vector"] for record in answer.json], features, atol=1e-5)
    single = served.post(photos[0].read_bytes(), "/embed?normalize=true").json
    assert single["status"] == "ok"
    np.testing.assert_allclose(np.linalg.norm(single["vector"]), 1, atol=1e-5)
    assert served.post(b"words", "/embed").json["error"]["kind"] == "not_an_image"
    assert served.post(photos[0].read_bytes(), "/embed?normalize=perhaps").status == 400


def test_one_connection_serves_many_requests(served: Server, photos: list[Path]) -> None:
    connection = http.client.HTTPConnection(served.host, served.port, timeout=30)
    seen = set()
    for photo in [*photos[:10], None, *photos[:3]]:
        connection.request("POST", "/predict", b"words" if photo is None else photo.read_bytes())
        assert answer_of(connection.getresponse()).status == (415 if photo is None else 200)
        assert connection.sock is not None
        seen.add(connection.sock.getsockname())
    assert len(seen) == 1
    connection.close()


def test_pipelined_requests_are_answered_in_order(served: Server, photos: list[Path]) -> None:
    requests = b"".join(
        b"POST /predict?top_k=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
        for content in (photo.read_bytes() for photo in photos[:20])
    )
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answers = served.raw(requests + last).split(b"HTTP/1.1 ")[1:]
    assert len(answers) == 21
    got = [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers[:-1]]
    assert got == [served.post(photo.read_bytes(), "/predict?top_k=1").json for photo in photos[:20]]


def test_a_body_in_chunks_and_one_after_100_continue(served: Server, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    pieces = [content[start : start + 100] for start in range(0, len(content), 100)]
    expected = served.post(content).json
    assert served.ask("POST", "/predict", iter(pieces)).json == expected
    with served.connect() as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(content))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(content)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")


def test_head_and_other_methods(served: Server) -> None:
    whole, head = served.ask("GET", "/healthz"), served.ask("HEAD", "/healthz")
    assert (whole.status, whole.body) == (200, b"ok\n")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "3")
    for method, target, allowed in (
        ("GET", "/predict", "POST, PUT"),
        ("DELETE", "/predict", "POST, PUT"),
        ("POST", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/", "GET, HEAD"),
    ):
        answer = served.ask(method, target)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_without_batches_every_batch_has_one_image(served: Server, photos: list[Path]) -> None:
    served.post(photos[0].read_bytes())
    assert served.metric("levit_batch_size_count") == served.metric('levit_batch_size_bucket{le="1"}') > 0
    assert served.metric('levit_images_total{outcome="ok"}') > 0


@pytest.mark.guarantee("serve-no-files")
def test_no_answer_tells_where_the_model_is(served: Server, tiny_folder: Path) -> None:
    for target in ("/", "/info", "/metrics", "/openapi.json", "/v2", "/v2/models/hf"):
        assert str(tiny_folder.parent).encode() not in served.ask("GET", target).body


@pytest.mark.guarantee("serve-no-files")
def test_the_name_of_a_part_is_never_opened(served: Server, photos: list[Path]) -> None:
    names = (str(photos[0]), f"file://{photos[0]}", f"http://{served.host}:{served.port}/", "s3://bucket/a.jpg", "-")
    body, content_type = form([(name, b"") for name in names])
    answer = served.post(body, content_type=content_type)
    assert [(record["path"], record["error"]["kind"]) for record in answer.json] == [
        (name, "empty_file") for name in names
    ]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("demo", "demo"),
        ("facebook/levit-256", "facebook/levit-256"),
        ("https://host.example/secret/w.pth?token=secret", "w.pth"),
        ("PRIVATE/a?b@c", "a?b@c"),
    ],
)
def test_clients_see_the_last_part_of_a_path_only(tmp_path: Path, source: str, name: str) -> None:
    (tmp_path / "a?b@c").mkdir()
    assert public_name(source.replace("PRIVATE", str(tmp_path))) == name


def test_it_is_ready_and_describes_itself(served: Server) -> None:
    assert served.ask("GET", "/readyz").body == b"ready\n"
    info = served.ask("GET", "/info").json
    assert (info["model"], info["classes"], info["max_body"]) == ("hf", 7, 1 << 20)
    assert served.metric("levit_ready") == 1
