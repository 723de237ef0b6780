"""The page of the gallery in Chromium: filters, keys, the enlarged image, hostile names, window sizes, many images."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from levit_cli.images.thumbnail import thumbnail
from tests.gallery.cases import HOSTILE, PhotoServer, failed, ok, write_results
from tests.support.binary import levit
from tests.support.browser import Tab, browser, needs_browser
from tests.support.extras import needs_plot
from tests.support.sample_images import sample_image, write_images

pytestmark = [needs_browser, needs_plot]
IMAGES = 60
TALL = 6000  # a window in which all of them are near
SHOWN_PATHS = "[...document.querySelectorAll('.tile button')].map(e => e.title)"
FOCUSED = "document.activeElement.title"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of three labels with the probabilities 0.01 to 0.60, and five errors."""
    folder = tmp_path_factory.mktemp("gallery")
    names = [path.name for path in write_images(folder, IMAGES)]
    records = []
    for number, name in enumerate(names):
        label = "cat" if number < 30 else "dog" if number < 55 else "cow"
        top = ((label, (number + 1) / 100), ("horse", 0.005))
        records.append(ok(name, *top, accepted=number >= 20))
    (folder / names[7]).unlink()
    kinds = ("truncated", "truncated", "not_found", "corrupt", "corrupt")
    records += [failed(f"bad{number}.jpg", kind, f"message {number}") for number, kind in enumerate(kinds)]
    return make_page(folder, records)


def make_page(folder: Path, records: list[dict[str, object]]) -> Path:
    write_results(folder / "results.jsonl", records)
    done = levit("gallery", "results.jsonl", "-o", "page.html", cwd=folder)
    assert (folder / "page.html").exists(), done.stderr
    return folder / "page.html"


def found(tab: Tab) -> str:
    return tab.text("#found")


def choose(tab: Tab, control: str, value: str) -> None:
    """Set the value of a control as a user does."""
    tab.run(
        f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
        f"(document.querySelector({json.dumps(control)}))"
    )


def numbers(tab: Tab) -> list[int]:
    """Return the numbers of the images whose tiles exist, in the order of the page."""
    return [int(title.partition(".")[0]) for title in tab.run(SHOWN_PATHS)]


def test_images_are_grouped_and_sorted(tab: Tab, page: Path) -> None:
    tab.open(page, height=TALL)
    assert found(tab) == "60 images"
    headings = tab.run("[...document.querySelectorAll('.group h2')].map(e => e.innerText.replace(/\\s+/g, ' '))")
    assert headings == ["cat 30 images", "dog 25 images", "cow 5 images"]
    assert numbers(tab) == [*range(29, -1, -1), *range(54, 29, -1), *range(59, 54, -1)]
    choose(tab, "#sort", "lowest")
    assert numbers(tab) == [*range(60)]
    tab.click("#grouped")
    choose(tab, "#sort", "highest")
    assert numbers(tab) == [*range(59, -1, -1)]
    assert tab.complaints == []


def test_filters_combine(tab: Tab, page: Path) -> None:
    tab.open(page, height=TALL)
    tab.click("#search")
    tab.type("02")
    assert found(tab) == "11 of 60 images"
    assert numbers(tab) == [*range(29, 19, -1), 2]
    choose(tab, "#low", "25")
    assert numbers(tab) == [29, 28, 27, 26, 25, 24]
    choose(tab, "#high", "27")
    assert numbers(tab) == [26, 25, 24]
    assert tab.text("#range") == "25 to 27\u00a0%"
    tab.click("#reset")
    assert found(tab) == "60 images"
    choose(tab, "#status", "uncertain")
    assert found(tab) == "20 of 60 images"
    choose(tab, "#status", "problem")
    assert numbers(tab) == [7]
    assert tab.text(".problem") == "not_found: no such file"
    choose(tab, "#status", "")
    tab.click("#choices li:nth-child(2) button")
    assert tab.text("#choices li:nth-child(2)").split() == ["dog", "25"]
    assert found(tab) == "25 of 60 images"
    tab.click("#all-choices")
    assert found(tab) == "60 images"
    choose(tab, "#search", "nothing like this")
    assert tab.text("#nothing") == "No image matches these filters."


def test_errors_are_listed_and_filtered_by_kind(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.click("#errors-tab")
    assert found(tab) == "5 errors"
    cells = tab.run("[...document.querySelector('#error-list li').children].map(e => e.textContent)")
    assert cells == ["truncated", "bad0.jpg", "message 0"]
    assert tab.run("[...document.querySelectorAll('#choices li')].map(e => e.innerText.split(/\\s+/))") == [
        ["corrupt", "2"],
        ["truncated", "2"],
        ["not_found", "1"],
    ]
    tab.click("#choices button")
    assert found(tab) == "2 of 5 errors"
    choose(tab, "#search", "bad4")
    assert found(tab) == "1 of 5 errors"
    assert not tab.run("document.getElementById('image-filters').checkVisibility()")


def test_the_arrow_keys_choose_an_image_and_enter_enlarges_it(tab: Tab, page: Path) -> None:
    tab.open(page)
    columns = tab.run("getComputedStyle(document.querySelector('.group .grid')).gridTemplateColumns.split(' ').length")
    tab.click("#search")
    while tab.run(FOCUSED) != "029.jpg":  # the tiles are one stop of the tab order
        tab.press("Tab")
    tab.press("ArrowRight")
    assert tab.run(FOCUSED) == "028.jpg"
    tab.press("ArrowDown")
    assert tab.run(FOCUSED) == f"{28 - columns:03d}.jpg"
    tab.press("ArrowUp")
    tab.press("ArrowUp")
    assert tab.run(FOCUSED) == "028.jpg"
    tab.press("End")
    assert tab.run(FOCUSED) == "055.jpg"
    column = 4 % columns
    for _ in range(1 + 4 // columns):  # to the last row of the group above, in the same column
        tab.press("ArrowUp")
    assert tab.run(FOCUSED) == f"{54 - min(24 // columns * columns + column, 24):03d}.jpg"
    tab.press("Home")
    tab.press("Tab")
    assert tab.run("document.activeElement.closest('.tile')") is None
    tab.press("Tab", shift=True)
    assert tab.run(FOCUSED) == "029.jpg"
    tab.press("Enter")
    assert tab.run("document.getElementById('view').open")
    assert tab.text("#view-label") == "cat"
    assert tab.text("#view-path") == "029.jpg"
    rows = tab.run("[...document.querySelectorAll('#view-top li')].map(e => e.innerText.replace(/\\s+/g, ' '))")
    assert rows == ["cat 30.0 %", "horse 0.5 %"]
    tab.press("ArrowRight")
    assert (tab.text("#view-path"), tab.text("#position")) == ("028.jpg", "2 of 60")
    tab.press("ArrowLeft")
    tab.press("ArrowLeft")
    assert tab.text("#view-path") == "029.jpg"
    tab.press("ArrowRight")
    tab.press("Escape")
    tab.wait_for(f"{FOCUSED} === '028.jpg'")
    assert not tab.run("document.getElementById('view').open")
    tab.press("/")
    assert tab.run("document.activeElement.id") == "search"


def test_images_are_loaded_and_nothing_is_requested(tab: Tab, page: Path) -> None:
    tab.open(page, height=TALL)
    tab.wait_for("[...document.querySelectorAll('.tile img')].every(e => e.hidden || e.complete)")
    sizes = tab.run("[...document.querySelectorAll('.tile img')].map(e => e.naturalWidth)")
    assert sizes.count(0) == 1  # the one that is gone
    assert len(sizes) == IMAGES
    assert tab.requests == [page.as_uri()]
    assert tab.complaints == []


@pytest.mark.guarantee("gallery-no-network")
def test_the_policy_stops_scripts_and_requests(tab: Tab, page: Path, tmp_path: Path, photo_server: PhotoServer) -> None:
    request = f"document.body.append(Object.assign(document.createElement('img'), {{src: '{photo_server.url}/x.jpg'}}))"
    (tmp_path / "other.html").write_text("<!doctype html><body>")
    tab.open(tmp_path / "other.html")
    tab.run(request)
    tab.wait_for("document.images[0].complete")
    assert photo_server.requested == ["/x.jpg"]  # of a page without a policy
    tab.open(page)
    for attempt in (
        request,
        f"fetch('{photo_server.url}/y').catch(() => 0)",
        "document.body.innerHTML = \"<img src=x onerror='window.sentinel = 1'>\"",
        "document.body.setAttribute('onclick', 'window.sentinel = 2')",
        "eval('window.sentinel = 3')",
        "document.body.append(Object.assign(document.createElement('a'), {href: 'javascript:window.sentinel = 4'}))",
        "document.body.lastChild.click()",
    ):
        tab.run(f"(() => {{ try {{ {attempt} }} catch {{}} }})()")
    assert tab.run("window.sentinel") is None
    assert len(tab.complaints) >= 6
    assert all("Content Security Policy" in each or "Trusted" in each for each in tab.complaints)
    assert photo_server.requested == ["/x.jpg"]


@pytest.mark.guarantee("gallery-escapes")
def test_hostile_names_do_nothing(tab: Tab, tmp_path: Path) -> None:
    names = [name for name in HOSTILE if "/" not in name]
    for name in names:
        sample_image().save(tmp_path / name, "JPEG")
    records = [ok(name, *[(label, 0.9 / 2**rank) for rank, label in enumerate([name, *HOSTILE])]) for name in names]
    records += [failed(name, "corrupt", name) for name in HOSTILE]
    hostile = make_page(tmp_path, records)
    tab.open(hostile, height=TALL)
    assert tab.run("document.querySelector('#images h2 bdi').textContent.length") > 1
    shown = tab.run("[...document.querySelectorAll('.tile .file')].map(e => e.textContent)")
    assert "\\u202egnp.exe\\u2066\\u200b" in shown
    tab.click(".tile button")
    for _ in names:
        assert tab.run("document.getElementById('view-link').href").startswith(tmp_path.as_uri())
        tab.press("ArrowRight")
    tab.press("Escape")
    for control in ("#choices button", "#errors-tab", "#choices button", "#images-tab"):
        tab.click(control)
    labels = tab.run("[...document.querySelectorAll('#choices bdi')].map(e => e.textContent)")
    assert "javascript:window.sentinel=5" in labels
    assert "\\u202egnp.exe\\u2066\\u200b" in labels
    assert tab.run("window.sentinel") is None
    assert tab.run("document.scripts.length") == 3
    assert tab.run("document.querySelectorAll('main svg, main iframe, main b').length") == 0
    assert tab.requests == [hostile.as_uri()]
    assert tab.complaints == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 400, 1200])
def test_the_page_fits_the_window(tab: Tab, page: Path, width: int, dark: bool) -> None:
    tab.open(page, width, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(16, 22, 28)" if dark else "rgb(244, 246, 248)"
    )
    assert tab.run("document.getElementById('search').checkVisibility()") == (width == 1200)
    if width < 1200:
        tab.click("#toggle-filters")
        assert tab.run("document.getElementById('search').checkVisibility()")
        assert tab.run("document.documentElement.scrollWidth") <= width
    tab.click(".tile button")
    box = tab.run("document.getElementById('view').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    assert box["right"] <= width
    assert tab.run("document.getElementById('view').scrollWidth") <= width


def test_controls_have_names_for_screen_readers(tab: Tab, page: Path) -> None:
    tab.open(page)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "searchbox", "slider", "combobox", "checkbox", "tab", "listitem", "link")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node.get("role", {}).get("value") in roles
    ]
    unnamed = [role for role, name in named if not name and role != "listitem"]
    assert unnamed == []
    assert ("slider", "Lowest probability in percent") in named
    assert any(role == "button" and "cat" in name and "30.0" in name and "029.jpg" in name for role, name in named)


def test_five_thousand_images_are_shown_a_few_at_a_time(tab: Tab, tmp_path: Path) -> None:
    from levit_cli.gallery.page import Page
    from levit_cli.gallery.selection import Shown
    from levit_cli.predict.results import RankedClass, Result

    encoded = thumbnail(sample_image(224, 168), 224)
    images = [
        Shown(Result(f"photos/{n}.jpg", (RankedClass(n % 7, f"label {n % 7}", "", n / 5000),)), encoded)
        for n in range(5000)
    ]
    path = tmp_path / "page.html"
    path.write_bytes(Page("many", "5,000 images", [], images, []).as_html())
    tab.open(path)
    assert found(tab) == "5,000 images"
    assert 0 < len(tab.run(SHOWN_PATHS)) < 300
    tab.run("window.scrollTo(0, document.documentElement.scrollHeight)")
    tab.wait_for("document.querySelector('[title=\"photos/6.jpg\"]')")  # the least likely one of the last group
    assert len(tab.run(SHOWN_PATHS)) < 300
    choose(tab, "#search", "photos/123")
    assert found(tab) == "11 of 5,000 images"
    assert tab.run("document.querySelector('.tile').getBoundingClientRect().top") > 0  # scrolled to the first one
    height = tab.run("document.documentElement.scrollHeight")
    choose(tab, "#search", "")
    assert tab.run("document.documentElement.scrollHeight") > 50 * height / 10
