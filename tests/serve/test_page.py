"""The page in a real browser: layout, files, drop, paste, token, keyboard and screen reader."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.server import Server, serving
from tests.support.binary import environment
from tests.support.browser import BROWSER, Tab, browser, needs_browser

LOADED = "document.getElementById('work')?.hidden === false"
# What a browser holds after a drop or a paste of one file.
TRANSFER = """(() => {{
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob({content!r}), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], {name!r}, {{ type: "image/jpeg" }}));
  const options = {{ bubbles: true, cancelable: true, {field}: transfer }};
  document.body.dispatchEvent(new {kind}({event!r}, options));
}})()"""
CARDS = """[...document.querySelectorAll(".card")].map((card) => ({
  name: card.querySelector("h2").textContent,
  classes: [...card.querySelectorAll("li")].map((item) => item.innerText.split("\\n")),
  widths: [...card.querySelectorAll(".bar i")].map((bar) => bar.getBoundingClientRect().width),
  error: card.querySelector(".error")?.textContent ?? null,
  thumbnail: card.querySelector("canvas")?.getAttribute("aria-label") ?? null,
}))"""
# The smallest contrast of a text with its background, by WCAG's formula.
CONTRAST = """(() => {
  const luminance = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  }).reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("h1, h2, p, button:enabled, select, label, span")];
  return Math.min(...texts.filter((node) => node.offsetParent && node.textContent.trim()).map((node) => {
    const [dark, light] = [luminance(getComputedStyle(node).color), luminance(ground(node))].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  }));
})()"""


def headers_of(policy: str) -> dict[str, str]:
    return dict(part.strip().split(" ", 1) for part in policy.split(";"))


def test_the_page_is_one_file_with_a_strict_policy(served: Server) -> None:
    answer = served.ask("GET", "/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.findall(rb'(?:src|href)="(?!data:,)', answer.body)
    assert not re.findall(rb"https?://|@import|url\(|eval\(|innerHTML", answer.body)
    policy = headers_of(answer.headers["content-security-policy"])
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in json.dumps(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if BROWSER is None:
        pytest.skip("chromium is not installed")
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


def open_page(page: Tab, server: Server, width: int = 1200, *, dark: bool = False, path: str = "/") -> None:
    page.open(f"http://{server.host}:{server.port}{path}", width, dark=dark)


def errors(page: Tab) -> list[str]:
    """Return what the console shows besides advice and the statuses of refused images."""
    harmless = ("Password forms should", "status of 415", "status of 422", "status of 401", "status of 429")
    return [message for message in page.complaints if not any(text in message for text in harmless)]


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True), (400, False), (1200, True)])
def test_many_files_are_classified_with_thumbnails_bars_and_errors_by_name(
    page: Tab, served: Server, photos: list[Path], tmp_path: Path, width: int, dark: bool
) -> None:
    words, large = tmp_path / "<b>words &amp; <i>.jpg", tmp_path / "large.jpg"
    words.write_bytes(b"just words")
    large.write_bytes(bytes(2 << 20))
    files = [*photos[:10], words, large]
    open_page(page, served, width, dark=dark)
    page.wait_for(LOADED)
    page.choose("#files", files)
    page.wait_for("document.getElementById('status').textContent === '12 of 12 images done, 2 failed'")
    page.wait_for("document.querySelectorAll('canvas').length === 10")
    cards: list[dict[str, Any]] = page.run(CARDS)
    assert [card["name"] for card in cards] == [file.name for file in files]
    assert cards[10]["error"] == "not_an_image: this is text"
    assert cards[11]["error"].startswith("too_large: it has 2,097,152 bytes")
    for card, photo in zip(cards[:10], photos, strict=False):
        top = served.post(photo.read_bytes()).json["top"]
        assert card["classes"] == [[ranked["label"], f"{100 * ranked['prob']:.1f} %"] for ranked in top]
        assert card["widths"] == sorted(card["widths"], reverse=True)
        assert card["thumbnail"] == photo.name
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.run("document.getElementById('progress').hidden")
    assert page.run(CONTRAST) >= 4.5
    assert errors(page) == []
    assert all(url.startswith(f"http://{served.host}:{served.port}/") for url in page.requests)


@needs_browser
def test_an_image_below_the_threshold_is_marked(page: Tab, tiny_folder: Path, photos: list[Path]) -> None:
    marked = "[...document.querySelectorAll('.card')].map((card) => /Uncertain: the first/.test(card.textContent))"
    for min_prob, expected in (("1.0", [True]), ("0", [False])):
        with serving(tiny_folder, "--min-prob", min_prob) as server:
            open_page(page, server)
            page.wait_for(LOADED)
            page.choose("#files", photos[:1])
            page.wait_for("document.getElementById('status').textContent === '1 of 1 image done'")
            assert page.run(marked) == expected
            assert errors(page) == []


@needs_browser
def test_files_can_be_dropped_and_pasted(page: Tab, served: Server, photos: list[Path]) -> None:
    import base64

    open_page(page, served)
    page.wait_for(LOADED)
    content = base64.b64encode(photos[0].read_bytes()).decode()
    for name, kind, event, field in (
        ("dropped.jpg", "DragEvent", "drop", "dataTransfer"),
        ("pasted.jpg", "ClipboardEvent", "paste", "clipboardData"),
    ):
        page.run(TRANSFER.format(content=content, name=name, kind=kind, event=event, field=field))
    page.wait_for("document.getElementById('status').textContent === '2 of 2 images done'")
    assert [card["name"] for card in page.run(CARDS)] == ["dropped.jpg", "pasted.jpg"]
    assert errors(page) == []


@needs_browser
def test_it_can_be_used_with_the_keyboard_and_a_screen_reader(page: Tab, served: Server, photos: list[Path]) -> None:
    open_page(page, served)
    page.wait_for(LOADED)
    page.choose("#files", photos[:2])
    page.wait_for("document.getElementById('status').textContent === '2 of 2 images done'")
    focused = []
    for _ in range(4):
        page.press("Tab")
        focused.append(page.run("document.activeElement.id"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert focused == ["choose", "top", "save", "clear"]
    seen = page.accessible()
    for role, name in (
        ("heading", "Classify images"),
        ("region", "Images"),
        ("button", "Choose images"),
        ("combobox", "Classes per image"),
        ("list", "Results"),
        ("heading", photos[0].name),
        ("StaticText", "2 of 2 images done"),
    ):
        assert (role, name) in seen
    assert ("status", "") in seen
    assert {name for role, name in seen if role in ("image", "img")} == {photo.name for photo in photos[:2]}
    page.press("Enter")  # on Clear
    assert page.run("document.querySelectorAll('.card').length") == 0
    assert page.run("document.activeElement.id") == "choose"


@needs_browser
def test_the_page_asks_for_the_token_and_waits_while_the_server_is_busy(
    page: Tab, tiny_folder: Path, photos: list[Path]
) -> None:
    env = environment(LEVIT_SERVE_TOKEN="right")
    with serving(tiny_folder, "--root-path", "/levit", "--queue", "1", "--workers", "1", env=env) as server:
        for path in ("/levit", "/"):
            open_page(page, server, path=path)
            page.wait_for("document.getElementById('login')?.hidden === false")
            if path == "/":  # the token of the other address is remembered until the tab is closed
                page.run("sessionStorage.clear()")
            assert page.run("document.activeElement.id") == "token"
            page.type("wrong")
            page.press("Enter")
            page.wait_for("document.getElementById('login-error').textContent === 'This token is wrong.'")
            page.type("right")
            page.press("Enter")
            page.wait_for(LOADED)
            page.choose("#files", photos[:12])
            page.wait_for("document.getElementById('status').textContent === '12 of 12 images done'")
            assert errors(page) == []
            page.run("sessionStorage.clear()")
