"""Weights from the Hugging Face hub: names, revisions, the shared cache, and a check of every byte.

The hub's own client does the transfer and honours HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE.
What it leaves out is done here: the SHA-256 of each file is held against the hub's, also when it comes from the cache.
A hub that does not answer is no reason to stop where a copy is cached; then there is one warning.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from levit_cli.checkpoints.files import WEIGHT_FILES, sha256_of, shards
from levit_cli.checkpoints.metadata import CONFIG, PREPROCESSOR
from levit_cli.errors import LevitError, RefusedError, UnreachableError

PUBLISHED = {
    "levit-128S": "facebook/levit-128S",
    "levit-128": "facebook/levit-128",
    "levit-192": "facebook/levit-192",
    "levit-256": "facebook/levit-256",
    "levit-384": "facebook/levit-384",
}
PINNED_SHA256 = {
    ("facebook/levit-192", "pytorch_model.bin"): "fa02c2e845ec799e9b97e7bbc3d2bb72501dd1accac9fcae4918dfca2fe1fe12",
}
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
CACHED_ONLY_HINT = "use --model demo, which needs no network, or --model PATH"

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
    """What a repository holds at one commit, as the hub says."""

    commit: str
    sha256: dict[str, str | None] = field(default_factory=dict)


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
        warn: told, once, when the hub does not answer and the cached copy is used.
        offline: do not ask the hub at all, as HF_HUB_OFFLINE=1 does.

    Raises:
        UnreachableError: the hub does not answer, or not to us, and nothing is cached.
        RefusedError: no such repository or revision, no weights in it, or bytes that are not the hub's.
    """
    from huggingface_hub import constants

    commit = _cached_commit(hub_id)
    if offline or constants.HF_HUB_OFFLINE:
        return _cached(hub_id, commit, "offline")
    try:
        listing = _list(hub_id)
    except UnreachableError as error:
        folder = _cached(hub_id, commit, error.why, error)
        warn(f"{error.what} ({error.why}); using the cached copy of {hub_id}, commit {folder.name[:8]}")
        return folder
    return _download(hub_id, listing, warn)


def _list(hub_id: HubId) -> _Listing:
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="levit-cli")
    try:
        info = api.model_info(
            hub_id.repo, revision=hub_id.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except HfHubHTTPError as error:
        raise _refusal(hub_id, error.response.status_code) from error
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise UnreachableError(
            f"The hub at {constants.ENDPOINT} does not answer", why=_reason(error), hint=CACHED_ONLY_HINT
        ) from error
    files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or ()}
    return _Listing(str(info.sha), files)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _refusal(hub_id: HubId, status: int) -> LevitError:
    meanings = {
        401: "it is private or does not exist; HF_TOKEN names who asks",
        403: "access to it must be granted first, on its page at the hub",
        404: "there is no such repository or revision",
        429: "too many requests; try again later, or set HF_TOKEN",
    }
    why = meanings.get(status, f"the hub answered with status {status}")
    return UnreachableError(f"The hub does not give {hub_id}", why=why, hint=CACHED_ONLY_HINT)


def _cached_commit(hub_id: HubId) -> str | None:
    """The commit that the cache last saw under this revision."""
    from huggingface_hub import constants

    repo = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.repo.replace('/', '--')}"
    if (repo / "snapshots" / hub_id.revision).is_dir():
        return hub_id.revision
    try:
        return (repo / "refs" / hub_id.revision).read_text().strip()
    except OSError:
        return None


def _cached(hub_id: HubId, commit: str | None, why: str, cause: Exception | None = None) -> Path:
    paths = _cached_files(hub_id, commit) if commit else []
    if not paths:
        raise UnreachableError(
            f"{hub_id} is not in the cache and cannot be fetched", why=why, hint=CACHED_ONLY_HINT
        ) from cause
    for path in paths:
        _verify(hub_id, path, _etag_sha256(path))
    return paths[0].parent


def _cached_files(hub_id: HubId, commit: str) -> list[Path]:
    """The files that make a model, if the cache holds all of them."""

    def cached(name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(hub_id.repo, name, revision=commit)
        return Path(path) if isinstance(path, str) else None

    for weights in filter(None, map(cached, WEIGHT_FILES)):
        parts = [cached(part) for part in shards(weights)]
        if all(parts):
            beside = filter(None, map(cached, (CONFIG, PREPROCESSOR)))
            return [weights, *(part for part in parts if part), *beside]
    return []


def _download(hub_id: HubId, listing: _Listing, warn: Warn) -> Path:
    weights = next((name for name in WEIGHT_FILES if name in listing.sha256), None)
    if weights is None:
        raise RefusedError(f"{hub_id} holds no weights that levit reads", why=f"looked for {', '.join(WEIGHT_FILES)}")
    path = _get(hub_id, listing, weights, warn)
    for name in (*shards(path), CONFIG, PREPROCESSOR):
        if name in listing.sha256:
            _get(hub_id, listing, name, warn)
    return path.parent


def _get(hub_id: HubId, listing: _Listing, name: str, warn: Warn) -> Path:
    """One file, from the cache if its commit is there, checked; a damaged cached copy is fetched again, once."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(hub_id.repo, name, revision=listing.commit)
    fresh = not isinstance(cached, str)
    path = _transfer(hub_id, listing, name, force=False)
    expected = PINNED_SHA256.get((hub_id.repo, name)) or listing.sha256[name] or _etag_sha256(path)
    try:
        _verify(hub_id, path, expected)
    except RefusedError as error:
        if fresh:
            _forget(path)
            raise
        warn(f"{error.what}; fetching it again")
        _forget(path)
        path = _transfer(hub_id, listing, name, force=True)
        _verify(hub_id, path, expected)
    return path


def _transfer(hub_id: HubId, listing: _Listing, name: str, *, force: bool) -> Path:
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    # By its revision while the cache does not know that name for this commit yet, so that it is known offline later.
    known = _cached_commit(hub_id) == listing.commit
    revision = listing.commit if known else hub_id.revision
    try:
        return Path(
            hf_hub_download(hub_id.repo, name, revision=revision, force_download=force, library_name="levit-cli")
        )
    except HfHubHTTPError as error:
        raise _refusal(hub_id, error.response.status_code) from error
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise UnreachableError(
            f"Fetching {name} of {hub_id} failed", why=_reason(error), hint=CACHED_ONLY_HINT
        ) from error


def _etag_sha256(path: Path) -> str | None:
    """The hub's own hash of a cached file, which its blob is named by where the file is stored as LFS."""
    name = os.path.basename(os.path.realpath(path))
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


def _verify(hub_id: HubId, path: Path, expected: str | None) -> None:
    if expected is None:
        return
    found = sha256_of(path)
    if found != expected:
        raise RefusedError(
            f"{path.name} of {hub_id} is damaged",
            why=f"its SHA-256 is {found[:12]}…, the hub says {expected[:12]}…",
            hint=f"delete {path} and try again",
        )


def _forget(path: Path) -> None:
    """Take a damaged file out of the cache, the blob and the link to it."""
    Path(os.path.realpath(path)).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
