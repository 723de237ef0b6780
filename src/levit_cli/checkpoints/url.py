"""Download a weight file from a URL into our cache and verify its SHA-256."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

from levit_cli.checkpoints.weights import WEIGHT_SUFFIXES, sha256_of
from levit_cli.errors import OutputError, RefusedError, UnreachableError, reason_of
from levit_cli.system import http
from levit_cli.system.atomic import replace_bytes
from levit_cli.system.cache import cache_folder

MAX_BYTES = 2 << 30
TIMEOUT_S = 600.0
SHA256_START = re.compile(r"[0-9a-f]{8,64}")
HASH_IN_NAME = re.compile(rf"-({SHA256_START.pattern})\.\w+$")  # torch.hub's convention: LeViT-128S-96703c44.pth
HINT = "use --model demo or --model PATH"


def fetch(url: str, sha256: str | None, *, offline: bool) -> Path:
    """Return the cached file of a URL and download it if necessary.

    Args:
        sha256: expected hash, or its first 8 or more digits; None if the file name contains it.
        offline: do not use the network.

    Raises:
        RefusedError: the URL is invalid, there is no hash to verify, or the hash differs.
        UnreachableError: the download fails, or the file is not cached and ``offline`` is set.
        OutputError: the cache cannot be written.
    """
    name = _file_name(url)
    expected = _expected(url, name, sha256)
    path = cache_folder() / "weights" / f"{expected}-{name[-100:]}"
    if _is_intact(path, expected):
        return path
    if offline:
        raise UnreachableError(f"{url} is not in the cache", why="offline mode is on", hint=HINT)
    content = _download(url)
    actual = hashlib.sha256(content).hexdigest()
    if not actual.startswith(expected):
        raise RefusedError(f"{url} has the wrong hash", why=f"its SHA-256 is {actual}, expected {expected}…")
    _store(path, content)
    return path


def _file_name(url: str) -> str:
    try:
        name = Path(urlsplit(url).path).name
    except ValueError as error:
        raise RefusedError(f"{url} is not a valid URL", why=reason_of(error)) from error
    if Path(name).suffix not in WEIGHT_SUFFIXES:
        what = f"{url} is not the URL of a weight file"
        raise RefusedError(what, why=f"its name must end in one of {', '.join(WEIGHT_SUFFIXES)}")
    return name


def _expected(url: str, name: str, sha256: str | None) -> str:
    in_name = HASH_IN_NAME.search(name)
    expected = (sha256 or (in_name[1] if in_name else "")).lower()
    if not expected:
        raise RefusedError(
            f"{url} cannot be verified", why="the file name contains no hash", hint="pass the file's hash with --sha256"
        )
    if not SHA256_START.fullmatch(expected):
        raise RefusedError(f"{sha256} is not a SHA-256 hash", why="expected 8 to 64 hexadecimal digits")
    return expected


def _is_intact(path: Path, expected: str) -> bool:
    try:
        return sha256_of(path).startswith(expected)
    except OSError:  # missing or unreadable
        return False


def _download(url: str) -> bytes:
    try:
        return http.fetch(url, max_bytes=MAX_BYTES, timeout_s=TIMEOUT_S)
    except http.FetchError as error:
        raise UnreachableError(f"Cannot download {url}", why=reason_of(error), hint=HINT) from error


def _store(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot create the cache folder {path.parent}", why=reason_of(error)) from error
    replace_bytes(path, content)
