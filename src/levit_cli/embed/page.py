"""Build the page of duplicates: one self-contained HTML file with thumbnails.

The page has no JavaScript and makes no network requests; its content security policy forbids both. Names are escaped by
the template and always shown as text.
"""

from collections.abc import Callable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from levit_cli.embed.groups import Facts, Group
from levit_cli.system.text import count_noun, printable

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
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
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return NO_BREAK_SPACE.join(map(printable, value.split(NO_BREAK_SPACE)))


def readable_size(num_bytes: int) -> str:
    """Return a number of bytes for people, with a space that breaks no line: ``0.4 kB``, ``95 kB``, ``2.1 MB``."""
    kilobytes = f"{num_bytes / 1e3:.0f} kB" if num_bytes >= 9_950 else f"{num_bytes / 1e3:.1f} kB"
    text = kilobytes if num_bytes < 999_500 else f"{num_bytes / 1e6:.1f} MB"
    return text.replace(" ", NO_BREAK_SPACE)
