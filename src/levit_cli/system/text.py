"""Text for messages, tables and reports."""


def printable(text: str) -> str:
    """Return the text with control characters, line breaks and undecodable bytes as backslash escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def count_noun(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 image``, ``2,000 images``, ``3 classes``.

    Args:
        plural: for a noun that does not just take "s", or "es" after an "s".
    """
    if number != 1:
        noun = plural or (f"{noun}es" if noun.endswith("s") else f"{noun}s")
    return f"{number:,} {noun}"
