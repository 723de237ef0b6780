"""Text for terminals and pages."""


def printable(text: str) -> str:
    """The text with control characters, line breaks and undecodable bytes as backslash escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )
