"""Write results of ``levit predict`` for tests of the gallery, and read the pages back."""

import io
import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from levit_cli.predict.records import as_json, path_fields
from tests.support.fake_hub import Exchange, Server

HOSTILE = (
    "<script>window.sentinel = 1</script>",
    "</script><script>window.sentinel = 2</script>",
    "\"><img src=x onerror='window.sentinel = 3'>",
    "<!-- <script> --><svg onload=window.sentinel=4>",
    "javascript:window.sentinel=5",
    "{{ 7 * 7 }}&lt;b&gt;&#x3c;i>",
    "one\u2028two\u2029three",
    "\u202egnp.exe\u2066\u200b",
    "first\nsecond\tthird\x1b[31m",
    "@thumbnails@",
    "`${window.sentinel = 6}`",
)

COLORS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30))


def ok(path: str | Path, *top: tuple[str, float], accepted: bool | None = None) -> dict[str, Any]:
    """Return the record of an image with some classes; without them, it is a cat with 90 %."""
    classes = top or (("cat", 0.9),)
    ranked = [
        {"index": sum(label.encode("utf-8", "surrogateescape")) % 1000, "label": label, "prob": prob}
        for label, prob in classes
    ]
    decision = {} if accepted is None else {"accepted": accepted}
    return {**path_fields(str(path)), "status": "ok", "top": ranked, **decision}


def failed(path: str | Path, kind: str = "truncated", message: str = "it is cut") -> dict[str, Any]:
    return {**path_fields(str(path)), "status": "error", "error": {"kind": kind, "message": message}}


def write_results(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(as_json(record) + b"\n" for record in records))
    return path


def jpeg_of(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), color).save(file, "JPEG", quality=95)
    return file.getvalue()


class PhotoServer(Server):
    """A server on this machine that answers each request with a photo."""

    def answer(self, exchange: Exchange, path: str) -> None:
        exchange.reply(200, jpeg_of(COLORS[1]))

    @property
    def requested(self) -> list[str]:
        return [request.path for request in self.requests]


class Page(HTMLParser):
    """A page as a browser without scripts sees it.

    Attributes:
        tags: each element with its attributes.
        text: the text outside of scripts and styles.
        blocks: the content of each script, style sheet and block of data.
        data: the block of data.
        thumbnails: the block of thumbnails, in Base64.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[str] = []
        self.text = ""
        self._in_block = False
        self.feed(path.read_text(encoding="utf-8"))
        self.data: dict[str, Any] = json.loads(self._block("data"))
        self.thumbnails = self._block("thumbnails").split("\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_block = tag in ("script", "style")
        self.blocks += [""] * self._in_block

    def handle_endtag(self, tag: str) -> None:
        self._in_block = False

    def handle_data(self, data: str) -> None:
        if self._in_block:
            self.blocks[-1] += data
        else:
            self.text += data

    def _block(self, name: str) -> str:
        kinds = [attributes for tag, attributes in self.tags if tag in ("script", "style")]
        return next(block for attributes, block in zip(kinds, self.blocks, strict=True) if attributes.get("id") == name)

    @property
    def paths(self) -> list[str]:
        return [image["path"] for image in self.data["images"]]

    @property
    def policy(self) -> str:
        return next(
            attributes["content"] or ""
            for tag, attributes in self.tags
            if attributes.get("http-equiv") == "Content-Security-Policy"
        )

    @property
    def notes(self) -> list[str]:
        return re.findall(r"(?m)^.*(?:cannot be shown|were changed|was changed|the first).*$", self.text)
