"""Build the page of duplicates: one self-contained HTML file with thumbnails.

The page has no JavaScript and makes no network requests; its content security policy forbids both. Names are escaped by
the template and always shown as text.
"""

from collections.abc import Callable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from levit_cli.embed.groups import Facts, Group
from levit_cli.system.text import count_noun, printable

MAX_GROUPS, MAX_IMAGES = 1000, 24  # that are shown, of all groups and of one group


def as_html(groups: Sequence[Group], summary: str, facts_of: Callable[[str], Facts | None]) -> str:
    """Return the page.

    Args:
        summary: the numbers of groups and images.
        facts_of: returns the size and the thumbnail of the image with a path; None if it cannot be read.
    """
    return _environment().get_template("duplicates.html.jinja").render(
        title="Duplicate images", summary=summary, groups=groups, facts_of=facts_of,
        num_shown=MAX_GROUPS, num_images=MAX_IMAGES,
    )  # fmt: skip


def _environment() -> Environment:
    """Return an environment that escapes every value and makes control characters visible."""
    environment = Environment(
        loader=PackageLoader("levit_cli", "assets"), autoescape=True, finalize=_printable,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"count_noun": count_noun, "size": readable_size}
    return environment


def _printable(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def readable_size(num_bytes: int) -> str:
    """Return a number of bytes for people: ``812 bytes``, ``95 kB``, ``2.1 MB``."""
    if num_bytes < 1000:
        return count_noun(num_bytes, "byte")
    return f"{num_bytes / 1e3:.0f} kB" if num_bytes < 1e6 else f"{num_bytes / 1e6:.1f} MB"
