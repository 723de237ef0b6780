"""Downloads from a fake hub with the real client, in new processes because it reads its environment at import."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levit_cli.checkpoints import hub, load, save
from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import write_safetensors
from levit_cli.data.labels import Labels
from levit_cli.errors import ExitCode
from levit_cli.images.transforms import transform_for
from tests.support.checkpoint_files import write_arrays
from tests.support.fake_hub import FakeHub, Fault, Repository, flip, git_hash, running, wait_until
from tests.support.random_weights import TINY, random_state

LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
TRANSFORM = replace(transform_for("hf", TINY.image_size), name="custom", mean=(0.1, 0.2, 0.3))
REPO = "owner/levit-tiny"
LONG_S = 12  # limit for a process that fails at once, on a slow machine; the client would retry for at least 23 s
TOKEN = "hf_thisMustNeverBeSeen"
COLD = [
    "GET listing",
    *("HEAD config.json", "HEAD config.json", "GET config.json"),
    *("HEAD preprocessor_config.json", "HEAD preprocessor_config.json", "GET preprocessor_config.json"),
    *("HEAD model.safetensors", "HEAD model.safetensors", "GET model.safetensors"),
]
Files = dict[str, bytes]
Env = Mapping[str, str]
NO_ENV: Env = {}

LOAD = """
import hashlib, json, sys
from dataclasses import asdict
from levit_cli import checkpoints
from levit_cli.errors import LevitError
{first}
warnings = []
try:
    loaded = checkpoints.load(**json.loads(sys.argv[1]), warn=warnings.append)
except LevitError as error:
    report = {{"exit_code": error.exit_code, "message": str(error)}}
else:
    weights = hashlib.sha256(b"".join(loaded.state[name].tobytes() for name in sorted(loaded.state))).hexdigest()
    report = {{"labels": loaded.labels.names, "transform": asdict(loaded.transform), "weights": weights,
             "files": [str(path) for path in loaded.files]}}
print(json.dumps({{**report, "warnings": warnings, "client": "huggingface_hub" in sys.modules}}))
"""
# File permissions do not bind root unless it drops its capabilities.
DROP_CAPABILITIES = "import ctypes as c; c.CDLL(None).capset((c.c_uint32 * 2)(0x20080522, 0), (c.c_uint32 * 6)())"


@dataclass(frozen=True)
class Outcome:
    """The report of a process that tried to load a model."""

    exit_code: int = ExitCode.OK
    message: str = ""
    labels: list[str] = field(default_factory=list)
    transform: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    client: bool = False
    stderr: str = ""
    seconds: float = 0.0

    def require(self, seed: int = 0) -> None:
        """Check that the loaded model is the one on the hub."""
        assert (self.exit_code, self.message) == (ExitCode.OK, "")
        assert (tuple(self.labels), self.weights) == (LABELS, weights_of(seed))
        assert self.transform == json.loads(json.dumps(asdict(TRANSFORM)))


class Machine:
    """An environment for levit with its own cache."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.cache = folder / "cache"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HTTP"))},
            "HOME": str(folder),
            "HF_HOME": str(folder / "hf_home"),
            "HF_HUB_CACHE": str(self.cache),
            "HF_ENDPOINT": endpoint,
            "NO_PROXY": "127.0.0.1",
            "NO_COLOR": "1",
        }

    def start(self, source: str = REPO, *, first: str = "", offline: bool = False, env: Env = NO_ENV) -> "Run":
        command = [sys.executable, "-W", "error", "-c", LOAD.format(first=first)]
        arguments = json.dumps({"source": source, "offline": offline})
        pipe = subprocess.PIPE
        environment = {**self.environment, **env}
        return Run(subprocess.Popen([*command, arguments], stdout=pipe, stderr=pipe, env=environment, text=True))

    def load(self, source: str = REPO, *, first: str = "", offline: bool = False, env: Env = NO_ENV) -> Outcome:
        outcome = self.start(source, first=first, offline=offline, env=env).finish()
        assert outcome.stderr == ""  # no progress bar, no warning and no output of the client
        return outcome

    @property
    def repository(self) -> Path:
        return self.cache / f"models--{REPO.replace('/', '--')}"

    def blob(self, name: str) -> Path:
        return next(self.repository.glob(f"snapshots/*/{name}")).resolve()

    def blobs(self) -> dict[str, bytes]:
        """Return the contents of the repository in the cache by blob name."""
        return {path.name: path.read_bytes() for path in self.repository.glob("blobs/*")}


class Run:
    """A running process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._start_s = time.monotonic()

    def finish(self) -> Outcome:
        stdout, stderr = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, stderr
        return Outcome(**json.loads(stdout), stderr=stderr, seconds=time.monotonic() - self._start_s)


def weights_of(seed: int) -> str:
    state = random_state(TINY, seed)
    return hashlib.sha256(b"".join(state[name].tobytes() for name in sorted(state))).hexdigest()


def written(folder: Path, seed: int) -> Files:
    """Return the files of a repository as written by ``levit convert-checkpoint``."""
    weights = folder / "random.safetensors"
    write_safetensors(weights, to_format(random_state(TINY, seed), TINY, "hf"), "float32")
    save(replace(load(weights), labels=Labels(LABELS), transform=TRANSFORM), folder / "repository", "hf")
    return contents(folder / "repository")


def contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return written(tmp_path_factory.mktemp("whole"), seed=0)


@pytest.fixture(scope="module")
def newer(whole: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same repository with other weights."""
    weights = written(tmp_path_factory.mktemp("newer"), seed=1)["model.safetensors"]
    return {**whole, "model.safetensors": weights}


@pytest.fixture(scope="module")
def pickled(whole: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    path = tmp_path_factory.mktemp("pickled") / "pytorch_model.bin"
    write_arrays(path, to_format(random_state(TINY), TINY, "hf"))
    return {name: content for name, content in whole.items() if name.endswith(".json")} | {path.name: path.read_bytes()}


@pytest.fixture(scope="module")
def sharded(whole: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("sharded")
    arrays = to_format(random_state(TINY), TINY, "hf")
    weight_map = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(arrays)}
    for shard in set(weight_map.values()):
        part = {name: np.asarray(arrays[name]) for name in arrays if weight_map[name] == shard}
        write_safetensors(folder / shard, part, "float32")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return {name: content for name, content in whole.items() if name.endswith(".json")} | contents(folder)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with running(FakeHub()) as fake:
        yield fake


@pytest.fixture
def fake(server: FakeHub) -> Iterator[FakeHub]:
    yield server
    server.reset()


@pytest.fixture
def repository(fake: FakeHub, whole: Files) -> Repository:
    return fake.add(REPO, whole)


@pytest.fixture
def machine(tmp_path: Path, fake: FakeHub) -> Machine:
    return Machine(tmp_path, fake.url)


@pytest.fixture(scope="module")
def fetched(server: FakeHub, whole: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the downloaded repository."""
    server.add(REPO, whole)
    machine = Machine(tmp_path_factory.mktemp("fetched"), server.url)
    machine.load().require()
    server.reset()
    return machine.cache


@pytest.fixture
def warm(fetched: Path, machine: Machine, repository: Repository) -> Machine:
    shutil.copytree(fetched, machine.cache, symlinks=True)
    return machine


@pytest.fixture
def dead_url() -> Iterator[str]:
    """A URL that refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def require_unreachable(outcome: Outcome, *words: str) -> None:
    assert outcome.exit_code == ExitCode.UNREACHABLE
    for word in (*words, "--model demo", "--model PATH"):
        assert word in outcome.message
    assert TOKEN not in outcome.message + outcome.stderr + "".join(outcome.warnings)


# Names


@pytest.mark.parametrize("name", ["levit-128S", "levit-128", "levit-192", "levit-256", "levit-384"])
def test_a_variant_name_in_any_case_selects_its_published_weights(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        assert hub.parse(spelling) == hub.HubId(f"facebook/{name}")


@pytest.mark.parametrize(
    ("source", "repo", "revision"),
    [
        ("owner/name", "owner/name", "main"),
        ("timm/levit_256.fb_dist_in1k", "timm/levit_256.fb_dist_in1k", "main"),
        ("owner/name@v1.0", "owner/name", "v1.0"),
        ("owner/name@refs/pr/1", "owner/name", "refs/pr/1"),
    ],
)
def test_a_hub_id_has_an_owner_a_name_and_an_optional_revision(source: str, repo: str, revision: str) -> None:
    assert hub.parse(source) == hub.HubId(repo, revision)
    assert str(hub.parse(source)) == source


@pytest.mark.parametrize(
    "source",
    [
        "levit-512",
        "",
        "a/b/c",
        "../b",
        "a/..",
        "./b",
        "-a/b",
        "a/b@",
        "a/b@../../c",
        "a/b@c/..",
        "a/b@/c",
        "a b/c",
        "a/b\n",
    ],
)
def test_an_invalid_hub_id_is_none(source: str) -> None:
    assert hub.parse(source) is None


def test_an_id_that_the_hub_does_not_allow_is_refused_without_a_request(machine: Machine, fake: FakeHub) -> None:
    outcome = machine.load("owner/two--dashes")
    assert outcome.exit_code == ExitCode.REFUSED
    assert "owner/two--dashes is not a hub id" in outcome.message
    assert fake.take_requests() == []


# The cache, cold and warm


def test_a_cold_cache_downloads_only_the_files_of_the_model(
    machine: Machine, fake: FakeHub, repository: Repository
) -> None:
    outcome = machine.load()
    outcome.require()
    assert outcome.warnings == []
    assert sorted(fake.take_requests()) == sorted(COLD)  # no telemetry, no README.md


def test_a_warm_cache_needs_one_request(warm: Machine, fake: FakeHub) -> None:
    outcome = warm.load()
    outcome.require()
    assert outcome.warnings == []
    assert fake.take_requests() == ["GET listing"]


@pytest.mark.parametrize(("offline", "variable"), [(True, "0"), (False, "1")], ids=["--offline", "HF_HUB_OFFLINE"])
def test_a_warm_cache_serves_offline_without_a_request(
    warm: Machine, fake: FakeHub, offline: bool, variable: str
) -> None:
    outcome = warm.load(offline=offline, env={"HF_HUB_OFFLINE": variable})
    outcome.require()
    assert outcome.warnings == []
    assert fake.take_requests() == []


@pytest.mark.guarantee("hub-unreachable")
@pytest.mark.parametrize(("offline", "variable"), [(True, "0"), (False, "1")], ids=["--offline", "HF_HUB_OFFLINE"])
def test_a_cold_cache_is_unreachable_offline_and_the_hint_names_alternatives(
    machine: Machine, fake: FakeHub, repository: Repository, offline: bool, variable: str
) -> None:
    require_unreachable(
        machine.load(offline=offline, env={"HF_HUB_OFFLINE": variable}), f"{REPO} is not in the cache", "offline"
    )
    assert fake.take_requests() == []


def test_a_newer_commit_is_downloaded_and_cached(warm: Machine, repository: Repository, newer: Files) -> None:
    repository.commit(newer)
    warm.load().require(seed=1)
    warm.load(offline=True).require(seed=1)


def test_a_pickle_is_used_without_safetensors(machine: Machine, fake: FakeHub, pickled: Files) -> None:
    fake.add(REPO, pickled)
    outcome = machine.load()
    outcome.require()
    assert [Path(file).name for file in outcome.files] == ["pytorch_model.bin"]


def test_shards_are_downloaded_and_work_offline(machine: Machine, fake: FakeHub, sharded: Files) -> None:
    fake.add(REPO, sharded)
    for offline in (False, True):
        outcome = machine.load(offline=offline)
        outcome.require()
        assert [Path(file).name[:11] for file in outcome.files] == ["model-00001", "model-00002"]


def test_a_missing_shard_is_named(machine: Machine, fake: FakeHub, sharded: Files) -> None:
    lacking = "model-00002-of-00002.safetensors"
    fake.add(REPO, {name: content for name, content in sharded.items() if name != lacking})
    outcome = machine.load()
    assert outcome.exit_code == ExitCode.REFUSED
    assert f"{REPO} has no file {lacking}" in outcome.message


def test_a_repository_without_weights_is_refused(machine: Machine, fake: FakeHub, whole: Files) -> None:
    fake.add(REPO, {"config.json": whole["config.json"], "tf_model.h5": b"of another kind"})
    outcome = machine.load()
    assert outcome.exit_code == ExitCode.REFUSED
    assert "holds no weights" in outcome.message


def test_a_branch_is_downloaded_and_works_offline_by_its_name_only(
    machine: Machine, repository: Repository, newer: Files
) -> None:
    repository.commit(newer, "refs/pr/1")
    machine.load(f"{REPO}@refs/pr/1").require(seed=1)
    machine.load(f"{REPO}@refs/pr/1", offline=True).require(seed=1)
    require_unreachable(machine.load(offline=True))


def test_a_commit_is_downloaded_and_works_offline(machine: Machine, repository: Repository, newer: Files) -> None:
    commit = repository.branches["main"]
    repository.commit(newer)
    machine.load(f"{REPO}@{commit}").require()
    machine.load(f"{REPO}@{commit}", offline=True).require()


def test_a_local_path_never_uses_the_network(machine: Machine, fake: FakeHub, whole: Files, tmp_path: Path) -> None:
    folder = tmp_path / REPO
    folder.mkdir(parents=True)
    for name, content in whole.items():
        (folder / name).write_bytes(content)
    for source in (str(folder), REPO):
        outcome = machine.load(source, first=f"import os; os.chdir({str(tmp_path)!r})")
        outcome.require()
        assert not outcome.client
    assert fake.take_requests() == []


@pytest.mark.guarantee("hub-concurrent-runs")
def test_many_runs_at_once_on_a_cold_cache_all_succeed(machine: Machine, repository: Repository) -> None:
    for run in [machine.start() for _ in range(20)]:
        run.finish().require()


REFUSED_LINKS = """
import os

def symlink(*arguments, **options):
    raise OSError("A required privilege is not held by the client")

os.symlink = symlink
"""


@pytest.fixture(params=["disabled", "refused"])
def load_without_links(request: pytest.FixtureRequest, machine: Machine) -> Callable[..., Outcome]:
    """Loads where the cache holds no symbolic links: they are disabled, or the system refuses them, as Windows does."""
    if request.param == "disabled":
        return partial(machine.load, env={"HF_HUB_DISABLE_SYMLINKS": "1"})
    return partial(machine.load, first=REFUSED_LINKS)


@pytest.mark.guarantee("hub-corruption")
def test_a_system_without_symbolic_links_is_supported(
    load_without_links: Callable[..., Outcome], machine: Machine, fake: FakeHub, repository: Repository
) -> None:
    load_without_links().require()
    config = next(machine.repository.glob("snapshots/*/config.json"))
    assert not config.is_symlink()
    fake.take_requests()
    load_without_links().require()
    assert fake.take_requests() == ["GET listing"]
    load_without_links(offline=True).require()
    config.write_bytes(flip(config.read_bytes()))
    outcome = load_without_links(offline=True)
    assert outcome.exit_code == ExitCode.REFUSED
    assert f"config.json of {REPO} is damaged" in outcome.message
    outcome = load_without_links()
    outcome.require()
    assert outcome.warnings == [f"config.json of {REPO} is damaged; downloading it again"]
    load_without_links(offline=True).require()


@pytest.mark.guarantee("hub-corruption")
def test_shards_in_a_cache_without_symbolic_links_are_verified_offline(
    machine: Machine, fake: FakeHub, sharded: Files
) -> None:
    fake.add(REPO, sharded)
    env = {"HF_HUB_DISABLE_SYMLINKS": "1"}
    machine.load(env=env).require()
    for path in machine.repository.glob("snapshots/*/*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(flip(content))
        assert f"{path.name} of {REPO} is damaged" in machine.load(env=env, offline=True).message
        path.write_bytes(content)
    machine.load(env=env, offline=True).require()


# A hub that does not respond


@pytest.mark.guarantee("hub-unreachable")
@pytest.mark.parametrize("answer", [(503, ""), (429, "")])
def test_an_http_error_of_the_hub_falls_back_to_the_cached_copy_with_one_warning(
    warm: Machine, repository: Repository, answer: tuple[int, str]
) -> None:
    repository.answer = answer
    outcome = warm.load()
    outcome.require()
    (warning,) = outcome.warnings
    assert REPO in warning
    assert f"using the cached copy of {REPO}, commit {repository.branches['main'][:8]}" in warning


@pytest.mark.guarantee("hub-unreachable")
def test_a_hub_that_is_down_falls_back_to_the_cached_copy_with_one_warning(warm: Machine, dead_url: str) -> None:
    outcome = warm.load(env={"HF_ENDPOINT": dead_url})
    outcome.require()
    (warning,) = outcome.warnings
    assert f"The hub at {dead_url} does not respond" in warning
    assert "refused" in warning


def test_a_hub_that_is_down_is_unreachable_at_once_with_a_cold_cache(machine: Machine, dead_url: str) -> None:
    outcome = machine.load(env={"HF_ENDPOINT": dead_url})
    require_unreachable(outcome, f"The hub at {dead_url} does not respond", "refused")
    assert outcome.seconds < LONG_S


@pytest.mark.guarantee("hub-unreachable")
@pytest.mark.parametrize("endpoint", ["http://host.invalid", "not a url"])
def test_an_invalid_endpoint_is_unreachable(machine: Machine, endpoint: str) -> None:
    require_unreachable(machine.load(env={"HF_ENDPOINT": endpoint}), f"The hub at {endpoint} does not respond")


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "HF_HUB_ETAG_TIMEOUT"])
def test_an_invalid_environment_variable_is_a_usage_error(machine: Machine, variable: str) -> None:
    outcome = machine.load(env={variable: "http://[::1"})
    assert outcome.exit_code == ExitCode.USAGE
    assert "HF_" in outcome.message


def test_a_response_that_is_not_from_a_hub_is_unreachable(machine: Machine, fake: FakeHub) -> None:
    fake.add(REPO, {}).answer = (200, "")  # as from a captive portal
    require_unreachable(machine.load(), "does not respond")


@pytest.mark.guarantee("hub-slow")
def test_a_silent_hub_times_out_within_seconds(
    machine: Machine, fake: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "answer", lambda exchange, path: exchange.stall())
    outcome = machine.load()
    require_unreachable(outcome, "does not respond", "Timeout")
    assert outcome.seconds < 2 * hub.RESPONSE_TIMEOUT_S


# A hub that refuses access

REFUSALS = [
    ((401, "RepoNotFound"), "the repository is private or does not exist, or HF_TOKEN is missing or invalid"),
    ((401, "GatedRepo"), "the repository is gated: request access"),
    ((403, "GatedRepo"), "the repository is gated: request access"),
    ((403, ""), "the account of HF_TOKEN may not read it"),
    ((404, "RepoNotFound"), "there is no such repository"),
    ((429, ""), "too many requests"),
    ((503, ""), "the hub responded with HTTP status 503"),
]


@pytest.mark.guarantee("hub-errors")
@pytest.mark.parametrize(("answer", "why"), REFUSALS)
def test_a_refusal_is_unreachable_with_its_own_reason_and_without_the_token(
    machine: Machine, repository: Repository, answer: tuple[int, str], why: str
) -> None:
    repository.answer = answer
    require_unreachable(machine.load(env={"HF_TOKEN": TOKEN}), f"Cannot get {REPO}", why)


def test_a_missing_repository_is_unreachable(machine: Machine, fake: FakeHub) -> None:
    require_unreachable(machine.load("owner/missing"), "Cannot get owner/missing from the hub", "no such repository")


def test_a_missing_revision_is_unreachable_with_that_reason(machine: Machine, repository: Repository) -> None:
    require_unreachable(machine.load(f"{REPO}@v9"), f"Cannot get {REPO}@v9", "the repository has no such revision")


@pytest.mark.parametrize(("answer", "why"), REFUSALS[2:4] + REFUSALS[5:])
def test_refused_files_are_unreachable_at_once(
    machine: Machine, repository: Repository, answer: tuple[int, str], why: str
) -> None:
    repository.file_answer = answer
    outcome = machine.load(env={"HF_TOKEN": TOKEN})
    require_unreachable(outcome, f"Cannot get {REPO}", why)
    assert outcome.seconds < LONG_S


@pytest.mark.guarantee("hub-errors")
def test_the_token_is_sent_to_the_hub_but_not_to_its_storage(
    machine: Machine, fake: FakeHub, repository: Repository
) -> None:
    machine.load(env={"HF_TOKEN": TOKEN}).require()
    assert {request.headers.get("authorization") for request in fake.requests} == {f"Bearer {TOKEN}"}
    assert fake.storage.requests
    assert not any(TOKEN in str(request.headers) for request in fake.storage.requests)


def test_an_illegal_token_is_not_printed(machine: Machine, repository: Repository) -> None:
    outcome = machine.load(env={"HF_TOKEN": f"{TOKEN}\vand more"})
    require_unreachable(outcome, "does not respond", "Illegal header value")


def test_the_password_in_an_endpoint_is_not_printed(machine: Machine, dead_url: str) -> None:
    outcome = machine.load(env={"HF_ENDPOINT": dead_url.replace("//", f"//me:{TOKEN}@")})
    require_unreachable(outcome, "does not respond")


# Damaged files


@pytest.mark.guarantee("hub-corruption")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_bit_flipped_in_transit_is_refused_and_not_kept(machine: Machine, repository: Repository, name: str) -> None:
    repository.faults = {name: "flip"}
    outcome = machine.load()
    assert outcome.exit_code == ExitCode.REFUSED
    assert f"{name} of {REPO} is damaged" in outcome.message
    assert flip(repository.commits[repository.branches["main"]][name]) not in machine.blobs().values()
    repository.faults.clear()
    machine.load().require()


def test_a_bit_flipped_once_in_transit_causes_a_warning_and_a_retry(machine: Machine, repository: Repository) -> None:
    repository.faults = {"model.safetensors": "flip once"}
    outcome = machine.load()
    outcome.require()
    assert outcome.warnings == [f"model.safetensors of {REPO} is damaged; downloading it again"]


@pytest.mark.guarantee("hub-corruption")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_bit_flipped_in_the_cache_is_detected_and_refused_offline(warm: Machine, fake: FakeHub, name: str) -> None:
    blob = warm.blob(name)
    blob.write_bytes(flip(blob.read_bytes()))
    outcome = warm.load(offline=True)
    assert outcome.exit_code == ExitCode.REFUSED
    assert f"{name} of {REPO} is damaged" in outcome.message
    outcome = warm.load()
    outcome.require()
    assert outcome.warnings == [f"{name} of {REPO} is damaged; downloading it again"]
    assert fake.take_requests().count(f"GET {name}") == 1
    warm.load(offline=True).require()


@pytest.mark.guarantee("hub-corruption")
def test_a_pin_takes_precedence_over_the_hubs_hash(machine: Machine, repository: Repository, newer: Files) -> None:
    pin = f"from levit_cli.checkpoints import hub; hub.PINNED_SHA256[{REPO!r}, 'model.safetensors'] = '0' * 64"
    outcome = machine.load(first=pin)
    assert outcome.exit_code == ExitCode.REFUSED
    assert f"model.safetensors of {REPO} is damaged" in outcome.message
    machine.load().require()
    assert machine.load(first=pin, offline=True).exit_code == ExitCode.REFUSED
    repository.commit(newer, "mine")
    machine.load(f"{REPO}@mine", first=pin).require(seed=1)  # a pin applies to the default revision only


def test_every_pin_is_a_sha256_of_a_published_repository() -> None:
    for (repo, _), sha256 in hub.PINNED_SHA256.items():
        assert repo in hub.PUBLISHED.values()
        assert re.fullmatch("[0-9a-f]{64}", sha256)


def test_a_blob_in_the_clients_shared_store_is_verified_by_its_own_name(warm: Machine, fake: FakeHub) -> None:
    blob = warm.blob("model.safetensors")
    shared = warm.cache / "blobs" / "ab" / ("ab" * 32)  # named by another hash, that of Xet
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    warm.load(offline=True).require()
    shared.write_bytes(flip(shared.read_bytes()))
    assert warm.load(offline=True).exit_code == ExitCode.REFUSED
    warm.load().require()
    assert not shared.exists()


# Interruptions


@pytest.mark.guarantee("hub-slow")
def test_truncated_and_stalled_bodies_fail_in_bounded_time_and_leave_nothing(
    machine: Machine, repository: Repository, fake: FakeHub, whole: Files
) -> None:
    faults: dict[str, Fault] = {"cut": "cut", "stall": "stall"}
    runs = {}
    for name, fault in faults.items():
        fake.add(f"owner/{name}", whole).faults = {"model.safetensors": fault}
        runs[name] = machine.start(f"owner/{name}", env={"HF_HUB_DOWNLOAD_TIMEOUT": "1"})
    for name, run in runs.items():
        outcome = run.finish()
        require_unreachable(outcome, f"Cannot download model.safetensors of owner/{name}")
        cached = [path.read_bytes() for path in machine.cache.glob(f"models--owner--{name}/blobs/*")]
        assert sorted(cached) == sorted([whole["config.json"], whole["preprocessor_config.json"]])
        fake.repositories[f"owner/{name}"].faults.clear()
        machine.load(f"owner/{name}").require()


@pytest.mark.guarantee("hub-slow")
def test_an_interrupted_download_ends_at_once_and_leaves_no_partial_file(
    machine: Machine, repository: Repository, fake: FakeHub, whole: Files
) -> None:
    repository.faults = {"model.safetensors": "stall"}
    run = machine.start()
    wait_until(fake.storage.stalling)
    run.process.send_signal(signal.SIGINT)
    _, stderr = run.process.communicate(timeout=LONG_S)
    assert "KeyboardInterrupt" in stderr
    assert set(machine.blobs()) == {git_hash(whole[name]) for name in ("config.json", "preprocessor_config.json")}
    require_unreachable(machine.load(offline=True))
    repository.faults.clear()
    machine.load().require()


def test_a_killed_download_is_not_treated_as_complete(machine: Machine, repository: Repository, fake: FakeHub) -> None:
    commit = repository.branches["main"]
    # Without this file, the weights would be loaded with another preprocessing.
    repository.faults = {"preprocessor_config.json": "stall"}
    run = machine.start()
    wait_until(fake.stalling)
    run.process.kill()
    run.process.communicate()
    for source in (REPO, f"{REPO}@{commit}"):
        require_unreachable(machine.load(source, offline=True))
    repository.faults.clear()
    machine.load().require()


def test_a_failed_download_of_a_newer_commit_falls_back_to_the_older_one(
    warm: Machine, repository: Repository, newer: Files
) -> None:
    older = repository.branches["main"]
    repository.commit(newer)
    repository.file_answer = (503, "")
    outcome = warm.load()
    outcome.require()
    (warning,) = outcome.warnings
    assert "the hub responded with HTTP status 503" in warning
    assert f"commit {older[:8]}" in warning
    warm.load(offline=True).require()


# A cache that cannot be written


@pytest.mark.guarantee("hub-cache-unwritable")
def test_an_error_names_a_cache_that_cannot_be_created(machine: Machine, repository: Repository) -> None:
    machine.cache.write_text("a file where the folder should be")
    outcome = machine.start().finish()
    assert outcome.exit_code == ExitCode.OUTPUT
    assert str(machine.cache) in outcome.message


@pytest.mark.guarantee("hub-cache-unwritable")
def test_a_full_disk_is_an_output_error_and_leaves_no_partial_file(machine: Machine, repository: Repository) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    outcome = machine.load(first=full)
    assert outcome.exit_code == ExitCode.OUTPUT
    assert str(machine.cache) in outcome.message
    assert "too large" in outcome.message
    assert not [content for content in machine.blobs().values() if len(content) >= 20_000]
    machine.load().require()


@pytest.fixture
def read_only(warm: Machine) -> Iterator[Machine]:
    folders = [path for path in (warm.cache, *warm.cache.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    yield warm
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.guarantee("hub-cache-unwritable")
@pytest.mark.skipif(not hasattr(os, "geteuid") or sys.platform != "linux", reason="capabilities are Linux's")
def test_a_read_only_cache_is_used(read_only: Machine, repository: Repository, fake: FakeHub, newer: Files) -> None:
    outcome = read_only.load(first=DROP_CAPABILITIES)
    outcome.require()
    assert outcome.warnings == []
    repository.commit(newer)
    outcome = read_only.load(first=DROP_CAPABILITIES)
    outcome.require()
    (warning,) = outcome.warnings
    assert f"Cannot write the hub cache {read_only.cache}" in warning
    fake.add("owner/else", newer)
    outcome = read_only.load("owner/else", first=DROP_CAPABILITIES)
    assert outcome.exit_code == ExitCode.OUTPUT
    assert str(read_only.cache) in outcome.message


@pytest.mark.skipif(not hasattr(os, "geteuid") or sys.platform != "linux", reason="capabilities are Linux's")
def test_a_damaged_file_in_a_read_only_cache_is_refused(read_only: Machine, repository: Repository) -> None:
    blob = read_only.blob("model.safetensors")
    blob.write_bytes(flip(blob.read_bytes()))
    outcome = read_only.load(first=DROP_CAPABILITIES)
    assert outcome.exit_code == ExitCode.REFUSED
    assert f"model.safetensors of {REPO} is damaged" in outcome.message


@pytest.mark.parametrize("content", [b"\xff\xfe", b"../../.."])
def test_an_invalid_ref_in_the_cache_is_ignored(warm: Machine, repository: Repository, content: bytes) -> None:
    (warm.repository / "refs" / "main").write_bytes(content)
    require_unreachable(warm.load(offline=True))
    warm.load().require()
    warm.load(offline=True).require()
