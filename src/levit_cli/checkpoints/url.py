"""Weights from an address: fetched once into our cache, and only with a hash to hold them against."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

from levit_cli.checkpoints.weights import WEIGHT_SUFFIXES, sha256_of
from levit_cli.errors import OutputError, RefusedError, UnreachableError
from levit_cli.system import http as web
from levit_cli.system.atomic import replace_bytes
from levit_cli.system.cache import cache_folder

MAX_BYTES = 2 << 30
TIMEOUT_S = 600.0
SHA256_START = re.compile(r"[0-9a-f]{8,64}")
HASH_IN_NAME = re.compile(rf"-({SHA256_START.pattern})\.\w+$")  # as torch.hub writes them: LeViT-128S-96703c44.pth
HINT = "use --model demo or --model PATH"


def fetch(url: str, sha256: str | None, *, offline: bool) -> Path:
    """The cached file of an address.

    Args:
        sha256: what the file must hash to, or the beginning of it; None if the file's name tells.

    Raises:
        RefusedError: no hash to check against, or another one.
        UnreachableError: it does not come.
        OutputError: the cache cannot be written.
    """
    name = _file_name(url)
    expected = _expected(url, name, sha256)
    path = cache_folder() / "weights" / f"{expected}-{name[-100:]}"
    if _is_intact(path, expected):
        return path
    if offline:
        raise UnreachableError(f"{url} is not in the cache", why="offline", hint=HINT)
    content = _download(url)
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(expected):
        raise RefusedError(f"{url} is not what it should be", why=f"its SHA-256 is {found}, expected {expected}…")
    _store(path, content)
    return path


def _file_name(url: str) -> str:
    try:
        name = Path(urlsplit(url).path).name
    except ValueError as error:
        raise RefusedError(f"{url} is no address", why=str(error)) from error
    if Path(name).suffix not in WEIGHT_SUFFIXES:
        raise RefusedError(f"{url} names no weight file", why=f"its name ends in none of {', '.join(WEIGHT_SUFFIXES)}")
    return name


def _expected(url: str, name: str, sha256: str | None) -> str:
    in_name = HASH_IN_NAME.search(name)
    expected = (sha256 or (in_name[1] if in_name else "")).lower()
    if not expected:
        raise RefusedError(
            f"{url} cannot be checked", why="its name holds no hash", hint="give the file's hash with --sha256"
        )
    if not SHA256_START.fullmatch(expected):
        raise RefusedError(f"{sha256} is no SHA-256", why="that is 64 hexadecimal digits, of which the first 8 will do")
    return expected


def _is_intact(path: Path, expected: str) -> bool:
    try:
        return sha256_of(path).startswith(expected)
    except OSError:  # not there, or not to be read
        return False


def _download(url: str) -> bytes:
    try:
        return web.fetch(url, max_bytes=MAX_BYTES, timeout_s=TIMEOUT_S)
    except web.FetchError as error:
        raise UnreachableError(f"Cannot fetch {url}", why=str(error), hint=HINT) from error


def _store(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the cache folder {path.parent}", why=error.strerror or str(error)) from error
    replace_bytes(path, content)
