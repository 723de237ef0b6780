"""Weights from the Hugging Face hub: names, revisions, the shared cache, and a check of every byte.

The hub's own client does the transfer and honours HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE.
What it leaves out is done here: each file is held against the hub's own hash of it, also when it comes from the cache.
A hub that does not answer is no reason to stop where a copy is cached; then there is one warning.
"""

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from levit_cli.checkpoints.metadata import CONFIG, PREPROCESSOR
from levit_cli.checkpoints.weights import WEIGHT_FILES, sha256_of, shards
from levit_cli.errors import LevitError, OutputError, RefusedError, UnreachableError, UsageError
from levit_cli.system.atomic import replace_text

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

PUBLISHED = {
    "levit-128S": "facebook/levit-128S",
    "levit-128": "facebook/levit-128",
    "levit-192": "facebook/levit-192",
    "levit-256": "facebook/levit-256",
    "levit-384": "facebook/levit-384",
}
# By hub id and file; of the revision that the name alone means, and no other.
PINNED_SHA256 = {
    ("facebook/levit-192", "pytorch_model.bin"): "fa02c2e845ec799e9b97e7bbc3d2bb72501dd1accac9fcae4918dfca2fe1fe12",
}
# Without "..", which the hub refuses in names, git in revisions, and which would leave the cache's folder.
HUB_ID = re.compile(r"(?!.*\.\.)(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
HUB_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")  # git's of a text file, or the SHA-256 of one in LFS
CACHED_ONLY_HINT = "use --model demo, which needs no network, or --model PATH"
# By the hub's code for the error, else by the status.
REFUSALS = {
    "GatedRepo": "access to it must be granted first, on its page at the hub, to the account of HF_TOKEN",
    "RevisionNotFound": "it has no such revision",
    "EntryNotFound": "a file that it lists is not there",
    "401": "it is private or does not exist, or HF_TOKEN is missing or not valid",
    "403": "the account of HF_TOKEN may not read it",
    "404": "there is no such repository",
    "429": "too many requests; try again later, or set HF_TOKEN",
}
ANSWER_TIMEOUT_S = 5

Warn = Callable[[str], None]


@dataclass(frozen=True)
class HubId:
    """A repository and the revision asked for."""

    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"


@dataclass
class _Listing:
    """What a repository holds at one commit, as the hub says: its hash of each file, by name."""

    commit: str
    hashes: dict[str, str | None] = field(default_factory=dict)


def parse(source: str) -> HubId | None:
    """The repository that ``levit-256`` or ``owner/name@revision`` means; None if it cannot be one."""
    for name, repo in PUBLISHED.items():
        if source.lower() == name.lower():
            return HubId(repo)
    match = HUB_ID.fullmatch(source)
    return HubId(match["repo"], match["revision"] or "main") if match else None


def fetch(hub_id: HubId, warn: Warn, *, offline: bool = False) -> Path:
    """A folder of the hub's cache that holds the weights and their configuration, every file checked.

    Args:
        warn: told when the cached copy must do, as nothing newer comes, and of every file that was damaged.
        offline: do not ask the hub at all, as HF_HUB_OFFLINE=1 does.

    Raises:
        UnreachableError: the hub does not answer, or not to us, and nothing is cached.
        RefusedError: no weights in the repository, or bytes that are not the hub's.
        OutputError: the cache cannot be written.
    """
    constants = _client_constants()
    if offline or constants.HF_HUB_OFFLINE:
        folder = _cached(hub_id)
        if folder is None:
            raise UnreachableError(f"{hub_id} is not in the cache", why="offline", hint=CACHED_ONLY_HINT)
        return folder
    try:
        return _download(hub_id, _list(hub_id), warn)
    except (UnreachableError, OutputError) as error:
        folder = _cached(hub_id)
        if folder is None:
            raise
        warn(f"{error.what} ({error.why}); using the cached copy of {hub_id}, commit {folder.name[:8]}")
        return folder


def _client_constants() -> ModuleType:
    """What the hub's client makes of the environment, which it reads once, at its import.

    Its telemetry is a request of its own before ours. Its patience of 10 s is for each address that a name stands for.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(ANSWER_TIMEOUT_S))
    try:
        from huggingface_hub import constants
    except ValueError as error:
        what = "huggingface_hub cannot read a variable of the environment"
        raise UsageError(what, why=_reason(error), hint="look at those that begin with HF_") from error
    return constants


def _list(hub_id: HubId) -> _Listing:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi(library_name="levit-cli").model_info(
            hub_id.repo, revision=hub_id.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        if not info.sha:
            raise ValueError("its answer names no commit")
    except HfHubHTTPError as error:
        raise _refusal(hub_id, error) from error
    except HFValidationError as error:
        raise RefusedError(f"{hub_id} is no hub id", why=_reason(error)) from error
    except Exception as error:  # httpx's or httpx2's, by the client's version; or what stands there is no hub at all
        endpoint = constants.ENDPOINT.rpartition("@")[2]  # without a password
        raise UnreachableError(
            f"The hub at {endpoint} does not answer", why=_reason(error), hint=CACHED_ONLY_HINT
        ) from error
    return _Listing(
        info.sha, {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or ()}
    )


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text.partition(" b'Bearer")[0][:200]  # a token that is no legal header would be quoted


def _refusal(hub_id: HubId, error: "HfHubHTTPError") -> UnreachableError:
    code, status = error.response.headers.get("X-Error-Code", ""), str(error.response.status_code)
    why = REFUSALS.get(code) or REFUSALS.get(status) or f"the hub answered with status {status}"
    return UnreachableError(f"The hub does not give {hub_id}", why=why, hint=CACHED_ONLY_HINT)


def _cached(hub_id: HubId) -> Path | None:
    """The folder of the cached copy, checked; None if the cache does not hold all of it."""
    paths = _cached_files(hub_id)
    for path in paths:
        if not _is_intact(path, _pin(hub_id, path.name) or _hash_in_cache(path)):
            raise _damaged(hub_id, path.name, hint="when the hub answers, it is fetched again")
    return paths[0].parent if paths else None


def _cached_files(hub_id: HubId) -> list[Path]:
    """The files that make a model, if the cache holds all of them."""

    def cached(name: str) -> Path | None:
        return _in_cache(hub_id, hub_id.revision, name)

    for weights in filter(None, map(cached, WEIGHT_FILES)):
        parts = [cached(part) for part in shards(weights)]
        if all(parts):
            beside = filter(None, map(cached, (CONFIG, PREPROCESSOR)))
            return [weights, *(part for part in parts if part), *beside]
    return []


def _in_cache(hub_id: HubId, revision: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    with suppress(OSError, ValueError):  # unreadable, or what stands in its place is none of the client's
        path = try_to_load_from_cache(hub_id.repo, name, revision=revision)
        return Path(path) if isinstance(path, str) else None
    return None


def _download(hub_id: HubId, listing: _Listing, warn: Warn) -> Path:
    weights = next((name for name in WEIGHT_FILES if name in listing.hashes), None)
    if weights is None:
        raise RefusedError(f"{hub_id} holds no weights that levit reads", why=f"looked for {', '.join(WEIGHT_FILES)}")
    # The weights last: a cache that holds them also holds their labels and preprocessing, whatever was interrupted.
    for name in (CONFIG, PREPROCESSOR):
        if name in listing.hashes:
            _get(hub_id, listing, name, warn)
    path = _get(hub_id, listing, weights, warn)
    for name in shards(path):
        _get(hub_id, listing, name, warn)
    _remember(path.parent, hub_id.revision)
    return path.parent


def _get(hub_id: HubId, listing: _Listing, name: str, warn: Warn) -> Path:
    """One file, from the cache if its commit is there, checked; a damaged one is fetched again, once."""
    if name not in listing.hashes:
        raise RefusedError(f"{hub_id} lacks {name}", why="the index of its shards names it")
    path = _transfer(hub_id, listing.commit, name)
    expected = _pin(hub_id, name) or listing.hashes[name] or _hash_in_cache(path)
    if _is_intact(path, expected):
        return path
    warn(f"{name} of {hub_id} is damaged; fetching it again")
    _forget(path)
    path = _transfer(hub_id, listing.commit, name)
    if not _is_intact(path, expected):
        _forget(path)
        raise _damaged(hub_id, name, hint="something on the way alters it; try another network")
    return path


def _transfer(hub_id: HubId, commit: str, name: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if cached := _in_cache(hub_id, commit, name):
        return cached
    try:
        # Asked here first, once: the download repeats a question that is refused, for half a minute and more.
        get_hf_file_metadata(hf_hub_url(hub_id.repo, name, revision=commit), library_name="levit-cli")
        return Path(hf_hub_download(hub_id.repo, name, revision=commit, library_name="levit-cli"))
    except HfHubHTTPError as error:
        raise _refusal(hub_id, error) from error
    except Exception as error:  # as above, and hf_xet's own
        raise _failure(hub_id, name, error) from error


def _failure(hub_id: HubId, name: str, error: Exception) -> LevitError:
    from huggingface_hub import constants

    if isinstance(error, OSError) and error.errno:
        return OutputError(f"Cannot write the hub's cache {constants.HF_HUB_CACHE}", why=str(error.strerror))
    why = _reason(error.__cause__ or error)
    return UnreachableError(f"Fetching {name} of {hub_id} failed", why=why, hint=CACHED_ONLY_HINT)


def _remember(folder: Path, revision: str) -> None:
    """Tell the cache which commit the revision is. Last of all, so that what it names is always complete."""
    ref = folder.parent.parent / "refs" / revision
    with suppress(OSError, OutputError):  # a cache that cannot be written serves all the same
        if revision != folder.name and not (ref.is_file() and ref.read_bytes() == folder.name.encode()):
            ref.parent.mkdir(parents=True, exist_ok=True)
            replace_text(ref, folder.name)


def _pin(hub_id: HubId, name: str) -> str | None:
    return PINNED_SHA256.get((str(hub_id), name))


def _blob(path: Path) -> Path:
    """What a file in the cache links to. One step only: the blob may itself be a link, into the client's own store."""
    return path.parent / os.readlink(path) if path.is_symlink() else path


def _hash_in_cache(path: Path) -> str | None:
    """The hub's hash of a cached file, after which its blob is named."""
    name = _blob(path).name
    return name if HUB_HASH.fullmatch(name) else None


def _is_intact(path: Path, expected: str | None) -> bool:
    if expected is None:
        return True
    try:
        return expected == (sha256_of(path) if len(expected) == 64 else _git_hash(path))
    except OSError:  # a disk that cannot read it back
        return False


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _damaged(hub_id: HubId, name: str, hint: str) -> RefusedError:
    return RefusedError(f"{name} of {hub_id} is damaged", why="its hash is not what it should be", hint=hint)


def _forget(path: Path) -> None:
    """Take a damaged file out of the cache: the link, the blob, and what the client keeps for several repositories."""
    try:
        for damaged in {Path(os.path.realpath(path)), _blob(path), path}:
            damaged.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot take the damaged {path} out of the cache", why=str(error.strerror)) from error
