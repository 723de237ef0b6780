"""The installed ``levit predict`` reads ``hf://datasets/…`` from a hub on 127.0.0.1."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.support.binary import environment, installed_levit, records
from tests.support.extras import needs_remote
from tests.support.fake_hub import Exchange, Server, git_hash, running
from tests.support.sample_images import write_images

pytestmark = needs_remote
TOKEN = "hf_tests_only_token"
REPOSITORY = "datasets/owner/name"


class FakeDatasets(Server):
    """A hub with one data set, whose tree is listed in pages of two entries."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self.files = files
        self.refused = 0

    def answer(self, exchange: Exchange, path: str) -> None:
        body = exchange.rfile.read(int(exchange.headers.get("Content-Length") or 0))
        path = unquote(path)
        if path == f"/api/{REPOSITORY}/revision/main" or path == f"/api/{REPOSITORY}":
            _send(exchange, {"id": "owner/name", "sha": "1" * 40, "private": False, "tags": [], "siblings": []})
        elif self.refused and "/tree/" in path:
            exchange.reply(self.refused)
        elif path.startswith(f"/api/{REPOSITORY}/tree/main"):
            self._tree(exchange, path.partition("/tree/main")[2].strip("/"))
        elif path.startswith(f"/api/{REPOSITORY}/paths-info/main"):
            (name,) = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            _send(exchange, [entry for entry in self._entries() if entry["path"] == name])
        elif path.startswith(f"/{REPOSITORY}/resolve/main/"):
            content = self.files[path.partition("/resolve/main/")[2]]
            exchange.reply(200, content, {"ETag": f'"{git_hash(content)}"'})
        else:
            exchange.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _entries(self) -> list[dict[str, object]]:
        folders = {"/".join(name.split("/")[:end]) for name in self.files for end in range(1, name.count("/") + 1)}
        entries: list[dict[str, object]] = [
            {"type": "directory", "path": folder, "oid": "0"} for folder in sorted(folders)
        ]
        for name, content in sorted(self.files.items()):
            entries.append({"type": "file", "path": name, "size": len(content), "oid": git_hash(content)})
        return entries

    def _tree(self, exchange: Exchange, folder: str) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(exchange.path).query).items()}
        is_deep, start = query.get("recursive", "").lower() == "true", int(query.get("cursor", 0))
        inside = [entry for entry in self._entries() if str(entry["path"]).startswith(f"{folder}/" if folder else "")]
        depth = folder.count("/") + 1 if folder else 0
        found = [entry for entry in inside if is_deep or str(entry["path"]).count("/") == depth]
        following = f"{self.url}{urlsplit(exchange.path).path}?recursive={is_deep}&cursor={start + 2}"
        link = {"Link": f'<{following}>; rel="next"'} if len(found) > start + 2 else {}
        _send(exchange, found[start : start + 2], link)


def _send(exchange: Exchange, answer: object, headers: dict[str, str] | None = None) -> None:
    exchange.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})})


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDatasets]:
    photos = write_images(tmp_path_factory.mktemp("photos") / "photos", 5)
    files = {f"train/{number}/{path.name}": path.read_bytes() for number, path in enumerate(photos)}
    with running(FakeDatasets({**files, "README.md": b"# name", "train/.hidden.jpg": b""})) as server:
        yield server


def predict(hub: FakeDatasets, *arguments: str, model: Path) -> "tuple[int, list[str], str]":
    env = environment(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN, NO_PROXY="127.0.0.1")
    done = installed_levit("predict", "-m", model, "-f", "jsonl", *arguments, env=env)
    return done.returncode, [str(record["path"]) for record in records(done.stdout)], done.stderr.decode()


@pytest.mark.guarantee("remote-inputs")
def test_a_data_set_on_the_hub(hub: FakeDatasets, tiny_folder: Path) -> None:
    code, paths, stderr = predict(hub, f"hf://{REPOSITORY}", f"hf://{REPOSITORY}/train/*/*.jpg", model=tiny_folder)
    expected = [f"hf://{REPOSITORY}/{name}" for name in sorted(hub.files) if name.endswith(".jpg") and "/." not in name]
    assert (code, paths) == (0, expected * 2), stderr
    assert TOKEN not in stderr


@pytest.mark.guarantee("remote-listing", "remote-secrets")
def test_a_hub_that_refuses(hub: FakeDatasets, tiny_folder: Path) -> None:
    hub.refused = 403
    try:
        code, paths, stderr = predict(hub, f"hf://{REPOSITORY}/train/", "--debug", model=tiny_folder)
    finally:
        hub.refused = 0
    assert (code, paths) == (5, [])
    assert f"Error: Cannot list hf://{REPOSITORY}/train/" in stderr
    assert TOKEN not in stderr
