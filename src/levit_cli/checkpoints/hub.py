"""Download models from the Hugging Face hub and verify the hash of each file.

The hub's own client transfers the files and honors HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE.
The client does not verify hashes, so this module compares each file, including cached ones, with the hash that the hub
lists. If the hub cannot be reached, a cached copy is used and one warning is issued.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from levit_cli.checkpoints.metadata import METADATA_FILES
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
# Hashes by hub id and file name. A pin applies to the default revision only.
PINNED_SHA256 = {
    ("facebook/levit-192", "pytorch_model.bin"): "fa02c2e845ec799e9b97e7bbc3d2bb72501dd1accac9fcae4918dfca2fe1fe12",
}
# ".." is excluded: the hub refuses it in names, git refuses it in revisions, and it would escape the cache folder.
HUB_ID = re.compile(r"(?!.*\.\.)(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
HUB_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")  # git's SHA-1 of a regular file, or the SHA-256 of a file in LFS
HASH_RECORDS = ".levit-hashes"  # folder in the cache of a repository
NO_NETWORK_HINT = "use --model demo, which needs no network, or --model PATH"
# Reasons by the hub's error code, otherwise by the HTTP status.
REFUSALS = {
    "GatedRepo": "the repository is gated: request access on its hub page with the account of HF_TOKEN",
    "RevisionNotFound": "the repository has no such revision",
    "EntryNotFound": "the repository lists a file that does not exist",
    "401": "the repository is private or does not exist, or HF_TOKEN is missing or invalid",
    "403": "the account of HF_TOKEN may not read it",
    "404": "there is no such repository",
    "429": "too many requests; try again later, or set HF_TOKEN",
}
RESPONSE_TIMEOUT_S = 5

Warn = Callable[[str], None]


@dataclass(frozen=True)
class HubId:
    """A repository and a revision of it."""

    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"


@dataclass
class _Listing:
    """The files of a repository at one commit, as listed by the hub: hashes by file name."""

    commit: str
    hashes: dict[str, str | None] = field(default_factory=dict)


def parse(source: str) -> HubId | None:
    """Return the repository that ``source`` names, such as ``levit-256`` or ``owner/name@revision``; otherwise None."""
    for name, repo in PUBLISHED.items():
        if source.lower() == name.lower():
            return HubId(repo)
    match = HUB_ID.fullmatch(source)
    return HubId(match["repo"], match["revision"] or "main") if match else None


def fetch(hub_id: HubId, warn: Warn, *, offline: bool = False) -> Path:
    """Return the folder in the hub cache that holds the model, after verifying the hash of every file.

    Args:
        warn: called with a message if a cached copy is used because the hub cannot be reached, and for each damaged
            file.
        offline: do not contact the hub, like HF_HUB_OFFLINE=1.

    Raises:
        UnreachableError: the hub cannot be reached or denies access, and the model is not cached.
        RefusedError: the repository holds no weights, or a file does not match its hash.
        OutputError: the cache cannot be written.
        UsageError: an environment variable of the hub client is invalid.
    """
    constants = client_constants()
    if offline or constants.HF_HUB_OFFLINE:
        folder = _cached(hub_id)
        if folder is None:
            raise UnreachableError(f"{hub_id} is not in the cache", why="offline mode is on", hint=NO_NETWORK_HINT)
        return folder
    try:
        return _download(hub_id, _list(hub_id), warn)
    except (UnreachableError, OutputError) as error:
        folder = _cached(hub_id)
        if folder is None:
            raise
        warn(f"{error.what} ({error.why}); using the cached copy of {hub_id}, commit {folder.name[:8]}")
        return folder


def client_constants() -> ModuleType:
    """Import the hub client and return its constants, which it reads from the environment once, at import.

    Telemetry is disabled because it would send a request before ours. The timeout is lowered from 10 s because it
    applies to each IP address of the host in turn. Caches without symbolic links work, so nothing warns about them.
    Afterwards the environment is as it was, because other code of the process may use it.
    """
    variables = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_SYMLINKS_WARNING": os.environ.get("HF_HUB_DISABLE_SYMLINKS_WARNING", "1"),
        "HF_HUB_ETAG_TIMEOUT": os.environ.get("HF_HUB_ETAG_TIMEOUT", str(RESPONSE_TIMEOUT_S)),
    }
    try:
        with _environment(**variables):
            from huggingface_hub import constants
    except ValueError as error:
        what = "huggingface_hub cannot read an environment variable"
        raise UsageError(what, why=_reason(error), hint="check the variables that start with HF_") from error
    return constants


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _list(hub_id: HubId) -> _Listing:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi(library_name="levit-cli").model_info(
            hub_id.repo, revision=hub_id.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        if not info.sha:
            raise ValueError("the response names no commit")
    except HfHubHTTPError as error:
        raise _refusal(hub_id, error) from error
    except HFValidationError as error:
        raise RefusedError(f"{hub_id} is not a hub id", why=_reason(error)) from error
    except Exception as error:  # an error of httpx or httpx2, depending on the client's version, or an invalid response
        endpoint = constants.ENDPOINT.rpartition("@")[2]  # without a password
        raise UnreachableError(
            f"The hub at {endpoint} does not respond", why=_reason(error), hint=NO_NETWORK_HINT
        ) from error
    return _Listing(
        info.sha, {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or ()}
    )


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text.partition(" b'Bearer")[0][:200]  # the error for a token with illegal characters quotes the token


def _refusal(hub_id: HubId, error: "HfHubHTTPError") -> UnreachableError:
    code, status = error.response.headers.get("X-Error-Code", ""), str(error.response.status_code)
    why = REFUSALS.get(code) or REFUSALS.get(status) or f"the hub responded with HTTP status {status}"
    return UnreachableError(f"Cannot get {hub_id} from the hub", why=why, hint=NO_NETWORK_HINT)


def _cached(hub_id: HubId) -> Path | None:
    """Return the folder of the cached copy after verifying it; None if the copy is incomplete."""
    paths = _cached_files(hub_id)
    for path in paths:
        if not _is_intact(path, _pin(hub_id, path.name) or _hash_in_cache(path)):
            raise _damaged(hub_id, path.name, hint="run again with network access: the file is then downloaded again")
    return paths[0].parent if paths else None


def _cached_files(hub_id: HubId) -> list[Path]:
    """Return the files of the model if the cache holds all of them; otherwise an empty list."""

    def cached(name: str) -> Path | None:
        return _in_cache(hub_id, hub_id.revision, name)

    for weights in filter(None, map(cached, WEIGHT_FILES)):
        parts = [cached(part) for part in shards(weights)]
        if all(parts):
            metadata = filter(None, map(cached, METADATA_FILES))
            return [weights, *(part for part in parts if part), *metadata]
    return []


def _in_cache(hub_id: HubId, revision: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    with suppress(OSError, ValueError):  # the cache is unreadable, or was not written by the client
        path = try_to_load_from_cache(hub_id.repo, name, revision=revision)
        return Path(path) if isinstance(path, str) else None
    return None


def _download(hub_id: HubId, listing: _Listing, warn: Warn) -> Path:
    weights = next((name for name in WEIGHT_FILES if name in listing.hashes), None)
    if weights is None:
        raise RefusedError(f"{hub_id} holds no weights that levit reads", why=f"looked for {', '.join(WEIGHT_FILES)}")
    # Weights come last: after an interruption, a cache that holds them also holds their labels and preprocessing.
    for name in METADATA_FILES:
        if name in listing.hashes:
            _get(hub_id, listing, name, warn)
    path = _get(hub_id, listing, weights, warn)
    for name in shards(path):
        _get(hub_id, listing, name, warn)
    _write_ref(path.parent, hub_id.revision)
    return path.parent


def _get(hub_id: HubId, listing: _Listing, name: str, warn: Warn) -> Path:
    """Return one verified file, from the cache if possible. A damaged file is downloaded once more."""
    if name not in listing.hashes:
        raise RefusedError(f"{hub_id} has no file {name}", why="its shard index lists that file")
    path = _transfer(hub_id, listing.commit, name)
    expected = _pin(hub_id, name) or listing.hashes[name] or _hash_in_cache(path)
    if _is_intact(path, expected):
        _record_hash(path, expected)
        return path
    warn(f"{name} of {hub_id} is damaged; downloading it again")
    _remove_from_cache(path)
    path = _transfer(hub_id, listing.commit, name)
    if not _is_intact(path, expected):
        _remove_from_cache(path)
        raise _damaged(hub_id, name, hint="the file was altered in transit twice; try another network")
    _record_hash(path, expected)
    return path


def _transfer(hub_id: HubId, commit: str, name: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if cached := _in_cache(hub_id, commit, name):
        return cached
    try:
        # Request the metadata once first: hf_hub_download would retry a refused request for over 30 s.
        get_hf_file_metadata(hf_hub_url(hub_id.repo, name, revision=commit), library_name="levit-cli")
        return Path(hf_hub_download(hub_id.repo, name, revision=commit, library_name="levit-cli"))
    except HfHubHTTPError as error:
        raise _refusal(hub_id, error) from error
    except Exception as error:  # as in _list, or an error of hf_xet
        raise _failure(hub_id, name, error) from error


def _failure(hub_id: HubId, name: str, error: Exception) -> LevitError:
    from huggingface_hub import constants

    if isinstance(error, OSError) and error.errno:
        return OutputError(f"Cannot write the hub cache {constants.HF_HUB_CACHE}", why=str(error.strerror))
    why = _reason(error.__cause__ or error)
    return UnreachableError(f"Cannot download {name} of {hub_id}", why=why, hint=NO_NETWORK_HINT)


def _write_ref(folder: Path, revision: str) -> None:
    """Record in the cache which commit the revision names, after all files of the commit are in the cache."""
    ref = folder.parent.parent / "refs" / revision
    with suppress(OSError, OutputError):  # a read-only cache can still be read
        if revision != folder.name and not (ref.is_file() and ref.read_bytes() == folder.name.encode()):
            ref.parent.mkdir(parents=True, exist_ok=True)
            replace_text(ref, folder.name)


def _pin(hub_id: HubId, name: str) -> str | None:
    return PINNED_SHA256.get((str(hub_id), name))


def _blob(path: Path) -> Path:
    """Return the target of a cached file's link. Follow one link only: the blob may itself link to another store."""
    return path.parent / os.readlink(path) if path.is_symlink() else path


def _hash_in_cache(path: Path) -> str | None:
    """Return the hub's hash of a cached file: the name of its blob, or what ``_record_hash`` recorded."""
    name = _blob(path).name
    if not HUB_HASH.fullmatch(name):
        with suppress(OSError, ValueError):
            name = _hash_record(path).read_text(encoding="ascii")
    return name if HUB_HASH.fullmatch(name) else None


def _record_hash(path: Path, expected: str | None) -> None:
    """Record the hash of a verified file that is no link to a blob, for later runs without a network.

    Where the file system has no symbolic links, as on Windows, the client stores the files themselves in the snapshot,
    and their hashes nowhere.
    """
    if expected is None or _hash_in_cache(path) is not None:
        return
    with suppress(OSError, OutputError):  # a read-only cache can still be read
        record = _hash_record(path)
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_text(record, expected)


def _hash_record(path: Path) -> Path:
    snapshot = next((folder for folder in path.parents if folder.parent.name == "snapshots"), path.parent)
    return snapshot.parent.parent / HASH_RECORDS / snapshot.name / path.relative_to(snapshot)


def _is_intact(path: Path, expected: str | None) -> bool:
    if expected is None:
        return True
    try:
        return expected == (sha256_of(path) if len(expected) == 64 else _git_hash(path))
    except OSError:  # the disk cannot read the file
        return False


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _damaged(hub_id: HubId, name: str, hint: str) -> RefusedError:
    return RefusedError(f"{name} of {hub_id} is damaged", why="its hash differs from the expected one", hint=hint)


def _remove_from_cache(path: Path) -> None:
    """Remove a damaged file from the cache: the link, its blob, and the file in the store shared by repositories."""
    try:
        for damaged in {Path(os.path.realpath(path)), _blob(path), path}:
            damaged.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot remove the damaged {path} from the cache", why=str(error.strerror)) from error
