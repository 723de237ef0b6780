"""Recognize the URLs of object storage, and remove secrets from names and messages.

This module is imported for local inputs too, so it imports no library.
"""

import os
import re
from pathlib import Path

SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # two letters at least: C: is a drive of Windows
SHORTENED = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
DOWNLOADED = ("http", "https")  # these are downloaded without fsspec
# In these URLs, the text before @ names a repository and not a user.
NAMES_BEFORE_AT = ("git", "github", "gist", "hf")
USER_INFO = re.compile(r"([a-z][a-z0-9+.-]+)://([^/:@\s]*):([^\s]*?)@(?=[^@/\s]*(?:[/\s]|$))", re.IGNORECASE)
SECRET_PARAMETER = re.compile(
    r"([?&][\w.-]*(?:sig|signature|token|secret|key|password|credential)[\w.-]*=)[^&#\s]*", re.IGNORECASE
)
HIDDEN = "***"
MAX_CHARS = 300


def scheme_of(text: str) -> str:
    """Return the scheme of a URL in lower case; an empty text if it is no URL."""
    match = SCHEME.match(text)
    return match[1].lower() if match else ""


def is_remote(text: str) -> bool:
    """Whether the text is a URL that fsspec reads, such as ``s3://bucket/photo.jpg``, and not an existing file."""
    if "://" not in text:
        return False
    scheme = scheme_of(text)
    return bool(scheme) and scheme not in DOWNLOADED and not os.path.lexists(text)


def url_of(path: Path) -> str | None:
    """Return the URL that was given as the path of a file; None for a path. ``Path`` makes one slash of two."""
    match = SHORTENED.match(path.as_posix())
    if match is None or Path(match[0]).exists():
        return None
    slashes = "///" if match[1].lower() in ("file", "local") else "//"
    return f"{match[1]}:{slashes}{path.as_posix()[match.end() :]}"


def without_secrets(text: str) -> str:
    """Return a text in which the passwords of URLs, and values such as signatures and tokens, are replaced by stars."""
    return SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", USER_INFO.sub(_without_password, text))


def _without_password(match: "re.Match[str]") -> str:
    scheme, user, password = match.groups()
    is_port = password.partition("/")[0].isdigit() and "/" in password
    if scheme.lower() in NAMES_BEFORE_AT or is_port:
        return match[0]
    return f"{scheme}://{user}:{HIDDEN}@"


def one_line(text: str) -> str:
    """Return a text as one printable line of bounded length, without secrets."""
    printable = "".join(character if character.isprintable() else " " for character in text.strip())
    return without_secrets(printable)[:MAX_CHARS]
