"""Format text for messages, tables and reports, and parse JSON."""

import json
from typing import Any


def printable(text: str) -> str:
    """Return the text with control characters, line breaks and undecodable bytes replaced by backslash escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def is_utf8(text: str) -> bool:
    """Return whether a file name can be stored as UTF-8. Other names have bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def count_noun(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun, singular or plural: ``1 image``, ``2,000 images``, ``3 classes``.

    Args:
        plural: an irregular plural. By default the noun takes "s", or "es" after an "s".
    """
    if number != 1:
        noun = plural or (f"{noun}es" if noun.endswith("s") else f"{noun}s")
    return f"{number:,} {noun}"


def parse_json(text: str) -> Any:
    """Parse JSON, in which no object may have the same key twice.

    Raises:
        ValueError: it is invalid.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} occurs twice")
        content[key] = value
    return content
