"""Build the page: one self-contained HTML file with its script, styles, data and thumbnails.

The page makes no network request; its content security policy allows its own script, its own styles and embedded images
only. Names of files and classes are in a block of JSON, which the browser does not parse as HTML, and the script shows
them as text.
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from levit_cli import __version__
from levit_cli.errors import InputError
from levit_cli.gallery.selection import Shown
from levit_cli.gallery.thumbnails import as_base64, fitted
from levit_cli.predict.records import PROB_DIGITS
from levit_cli.predict.results import RankedClass
from levit_cli.system.text import printable

MAX_BYTES = 40_000_000  # of a page with up to FULL images; one with more may be larger in proportion
FULL = 5_000
MARKUP_BYTES = 20_000  # of the template, without script, styles and data
MAX_LABEL_CHARS, MAX_NAME_CHARS, MAX_PATH_CHARS, MAX_MESSAGE_CHARS, MAX_LINK_CHARS = 100, 100, 300, 300, 600
POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Args:
        title: the name of the results file.
        notes: sentences about what is missing on the page.
    """

    title: str
    summary: str
    notes: Sequence[str]
    images: Sequence[Shown]
    errors: Sequence[Shown]

    def as_html(self) -> bytes:
        """Return the page in UTF-8."""
        script, style, data = _asset("gallery.js"), _asset("gallery.css"), self._data()
        other_bytes = sum(len(part.encode()) for part in (script, style, data)) + MARKUP_BYTES
        return _template().render(
            page=self,
            version=__version__,
            policy=POLICY.format(script=_hash_of(script), style=_hash_of(style)),
            script=Markup(script),
            style=Markup(style),
            data=Markup(data),
            thumbnails=self._thumbnails(other_bytes),
        ).encode()  # fmt: skip

    def _data(self) -> str:
        labels = _Labels()
        document = {
            "images": [_image(shown, labels) for shown in self.images],
            "errors": [_error(shown) for shown in self.errors],
            "labels": labels.entries,
        }
        # "<" could end the block of data
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")

    def _thumbnails(self, other_bytes: int) -> str:
        """Return a line of Base64 for each image.

        Args:
            other_bytes: the size of the page without them.
        """
        thumbnails = [shown.thumbnail for shown in self.images if shown.thumbnail is not None]
        allowed = MAX_BYTES * max(FULL, len(thumbnails)) // FULL - other_bytes
        # Base64 has 4 characters for 3 bytes; each line has up to 2 more characters and a line break
        max_bytes = max(0, allowed - 4 * len(thumbnails)) * 3 // 4
        return "\n".join(map(as_base64, fitted(thumbnails, max_bytes)))


class _Labels:
    """The classes that occur on a page. Two classes with the same name are told apart by their ids.

    Attributes:
        entries: one JSON object for each class.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, str]] = []
        self._numbers: dict[tuple[int, str], int] = {}
        self._names: set[str] = set()

    def number_of(self, ranked: RankedClass) -> int:
        """Return the place of a class among the entries; add it if it is new."""
        key = ranked[:2]
        if key not in self._numbers:
            self._numbers[key] = len(self.entries)
            self.entries.append(self._entry(ranked))
        return self._numbers[key]

    def _entry(self, ranked: RankedClass) -> dict[str, str]:
        name = shortened(ranked.label, MAX_LABEL_CHARS) or "(no name)"
        if name in self._names:
            name = f"{name} ({shortened(ranked.wnid, MAX_LABEL_CHARS) or ranked.class_index})"
        self._names.add(name)
        return {"name": name, **({"wnid": shortened(ranked.wnid, MAX_LABEL_CHARS)} if ranked.wnid else {})}


def _image(shown: Shown, labels: _Labels) -> dict[str, Any]:
    result, thumbnail = shown.result, shown.thumbnail
    name = os.path.basename(result.path) or result.path
    image: dict[str, Any] = {
        "path": shortened(result.path, MAX_PATH_CHARS),
        "name": shortened(name, MAX_NAME_CHARS),
        "top": [[labels.number_of(ranked), round(ranked.prob, PROB_DIGITS)] for ranked in result.top],
    }
    if result.accepted is not None:
        image["accepted"] = result.accepted
    if isinstance(thumbnail, InputError):
        image["problem"] = f"{thumbnail.kind}: {shortened(thumbnail.message, MAX_MESSAGE_CHARS)}"
    if shown.is_changed:
        image["changed"] = True
    return image | _link(shown)


def _error(shown: Shown) -> dict[str, str]:
    error = shown.result.error
    assert error is not None
    path, message = shortened(shown.result.path, MAX_PATH_CHARS), shortened(error.message, MAX_MESSAGE_CHARS)
    return {"path": path, "kind": error.kind, "message": message} | _link(shown)


def _link(shown: Shown) -> dict[str, str]:
    return {"link": shown.link} if 0 < len(shown.link) <= MAX_LINK_CHARS else {}


def shortened(text: str, max_chars: int) -> str:
    """Return printable text of bounded length. The middle of a longer text is left out."""
    text = printable(text)
    if len(text) <= max_chars:
        return text
    return f"{text[: max_chars // 3]}…{text[len(text) - (max_chars - max_chars // 3 - 1) :]}"


def _template() -> Template:
    loader = PackageLoader("levit_cli", "assets")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    environment.filters["thousands"] = "{:,}".format
    return environment.get_template("gallery.html.jinja")


def _asset(name: str) -> str:
    return resources.files("levit_cli").joinpath("assets", name).read_text(encoding="utf-8")


def _hash_of(content: str) -> str:
    """Return the source of a content security policy that allows this script or style sheet only."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
