"""Text for terminals and pages."""


def printable(text: str) -> str:
    """The text with control characters, line breaks and undecodable bytes as backslash escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def count(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or the plural: "1 image", "2 images", "3 batches"."""
    plural = f"{noun}es" if noun.endswith(("s", "ch")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
