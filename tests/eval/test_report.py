"""The report is one page that shows everything, asks nobody for anything, and takes names for text."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from levit_cli.data.labels import Labels
from levit_cli.errors import InputError
from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.json_document import document
from levit_cli.eval.report import as_html
from levit_cli.eval.summarize import summarize
from levit_cli.eval.table import as_table
from levit_cli.predict.records import as_json
from tests.eval.cases import RUN, by_chance, evaluation
from tests.support.sample_images import sample_image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "$\\frac{a}{$",
    "[red]&amp;:smile:",
    "línea\nnueva\x1b[31m",
    "日本語のクラス",
    "x" * 120,
)
EMBEDS = ("src", "href", "xlink:href", "action", "data", "poster", "srcset", "background")


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Sixty images of seven classes with names of the worst kind; those of the files are no better."""
    root = tmp_path_factory.mktemp("data & <b>more")
    logits, targets = by_chance(60, 7)
    paths = [root / f"{number}<img src=y>'\"\n\x1b.png" for number in range(60)]
    for number, path in enumerate(paths):
        sample_image(300, 200, seed=number).save(path)
    torn = (root / "<u>torn.jpg", InputError("truncated", "<u>at the end</u>"))
    return evaluation(logits, targets, labels=Labels(HOSTILE), paths=paths, root=root, failures=[torn])


@pytest.fixture(scope="module")
def page(hostile: Evaluated) -> str:
    return as_html(hostile, summarize(hostile), RUN)


def test_nothing_from_outside_becomes_a_tag_and_nothing_is_fetched(page: str) -> None:
    parsed = Page(page)
    tags = [tag for tag, _ in parsed.tags]
    assert not {"script", "u", "iframe", "link", "object", "embed", "form"} & set(tags)
    assert all(not name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    embedded = [attributes[name] or "" for _, attributes in parsed.tags for name in EMBEDS if name in attributes]
    assert embedded
    assert all(target.startswith(("data:image/jpeg;base64,", "#")) for target in embedded)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*[\"']?([^)]*)", page))
    assert "@import" not in page
    assert tags.count("img") == tags.count("figure") > 0


def test_names_are_shown_as_they_are(page: str) -> None:
    text = Page(page).text
    assert "<script>alert(1)</script>" in text
    assert "\"><img src=x onerror='alert(2)'>" in text
    assert "[red]&amp;:smile:" in text
    assert "línea\\nnueva\\x1b[31m" in text
    assert "日本語のクラス" in text
    assert "$\\frac{a}{$" in text
    assert "truncated" in text
    assert "<u>at the end</u>" in text
    assert "\x1b" not in page


def test_the_same_evaluation_gives_the_same_page(hostile: Evaluated, page: str) -> None:
    assert as_html(hostile, summarize(hostile), RUN) == page


def test_images_that_are_gone_leave_a_gap(tmp_path: Path) -> None:
    logits, targets = by_chance(20, 3)
    evaluated = evaluation(logits, targets, root=tmp_path)
    page = as_html(evaluated, summarize(evaluated), RUN)
    assert "<img " not in page
    assert page.count('class="missing"') == len(summarize(evaluated).mistakes) > 0


def test_of_no_image_there_is_a_page_and_a_table() -> None:
    logits, _ = by_chance(0, 3)
    failures = [(Path("data/a/x.jpg"), InputError("empty_file", "nothing in it"))]
    evaluated = evaluation(logits, [], failures=failures)
    summary = summarize(evaluated)
    for text in (
        as_html(evaluated, summary, RUN),
        as_table(evaluated, summary, RUN, is_terminal=False),
    ):
        assert "empty_file" in text
        assert "nan" not in text.lower()
    content = json.loads(as_json(document(evaluated, summary, RUN)))
    assert content["top1"] == {"value": None, "low": 0, "high": 1, "correct": 0, "total": 0}
    assert content["calibration"] is content["balanced_accuracy"] is None


def test_many_classes_are_cut_down_to_those_that_matter(tmp_path: Path) -> None:
    labels = Labels(tuple(f"class-{index}" for index in range(200)))
    logits, targets = by_chance(2000, 200)
    evaluated = evaluation(logits, targets, labels=labels, root=tmp_path)
    summary = summarize(evaluated)
    page = as_html(evaluated, summary, RUN)
    assert "Shown are the 20 of 200 classes" in page
    assert "The other 170 classes" in page
    assert "all others" in page
    table = as_table(evaluated, summary, RUN, is_terminal=False)
    assert "and 170 more classes" in table
    assert "Most often confused" in table
    assert len(document(evaluated, summary, RUN)["confusion"]["matrix"]) == 200


def test_the_table_takes_no_name_for_markup_and_sends_no_control_characters(hostile: Evaluated) -> None:
    for is_terminal in (False, True):
        table = as_table(hostile, summarize(hostile), RUN, is_terminal=is_terminal, color=False)
        assert "[red]&amp;:smile:" in table
        assert "\x1b[31m" not in table.replace("\x1b[31mtruncated", "")
        assert "línea\\nnueva" in table
    assert "\x1b" not in as_table(hostile, summarize(hostile), RUN, is_terminal=False)


@pytest.mark.parametrize(("columns", "shown"), [("80", "Confusion:"), ("40", "Most often confused")])
def test_on_a_narrow_terminal_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch, columns: str, shown: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    logits, targets = by_chance(200, 9)
    table = as_table(evaluated := evaluation(logits, targets), summarize(evaluated), RUN, is_terminal=False)
    assert shown in table
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= int(columns)


def test_json_gives_names_back_to_the_letter(hostile: Evaluated) -> None:
    content = json.loads(as_json(document(hostile, summarize(hostile), RUN)))
    assert [entry["label"] for entry in content["classes"]] == list(HOSTILE)
    assert {mistake["path"] for mistake in content["mistakes"]} <= set(hostile.paths)
    assert list(content) == [
        *("schema_version", "meta", "data", "top1", "top5", "balanced_accuracy", "macro_f1", "calibration"),
        *("calibration_fitted", "classes", "confusion", "mistakes", "failures"),
    ]


def test_the_labels_of_imagenet_bring_their_wordnet_ids(tmp_path: Path) -> None:
    logits, targets = by_chance(12, 2)
    labels = Labels(("tench", "goldfish"), ("n01440764", "n01443537"))
    content = document(evaluated := evaluation(logits, targets, labels=labels), summarize(evaluated), RUN)
    assert [entry["wnid"] for entry in content["classes"]] == ["n01440764", "n01443537"]


# --- in a browser

MEASURE = """<!doctype html><title>waiting</title>{frames}<pre id="out"></pre><script>
onload = () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement;
    return {{
      width: frame.clientWidth, needed: root.scrollWidth, height: root.scrollHeight,
      scripts: page.scripts.length, images: page.images.length,
      broken: [...page.images].filter(image => !image.naturalWidth).length,
      charts: [...page.querySelectorAll("svg")].map(chart => chart.getBoundingClientRect().width),
      resources: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
        .filter(name => !name.startsWith("data:")),
      text: page.body.innerText,
    }};
  }});
  document.getElementById("out").textContent = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
}};
</script>"""


def measured(report: Path, *widths: int) -> list[dict[str, Any]]:
    """The report in frames of so many pixels, as a real browser lays it out."""
    assert BROWSER
    frame = '<iframe src="{}" width="{}" height="900" style="border:0"></iframe>'
    frames = "".join(frame.format(report.name, width) for width in widths)
    host = report.with_name("host.html")
    host.write_text(MEASURE.format(frames=frames), encoding="utf-8")
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom")
    command = [BROWSER, *flags, "--timeout=60000", f"--user-data-dir={report.parent / 'profile'}", host.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=180, check=True)
    (encoded,) = re.findall(r'<pre id="out">([^<]+)</pre>', done.stdout.decode())
    result: list[dict[str, Any]] = json.loads(base64.b64decode(encoded))
    return result


@pytest.mark.skipif(BROWSER is None, reason="no chromium here to lay the page out")
def test_a_browser_shows_the_page_at_the_width_of_a_desk_and_of_a_phone(
    hostile: Evaluated, page: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    report.write_text(page, encoding="utf-8")
    for found in measured(report, 1200, 400):
        assert found["needed"] <= found["width"]  # nothing sticks out
        assert (found["scripts"], found["broken"], found["resources"]) == (0, 0, [])
        assert found["images"] == len(summarize(hostile).mistakes) > 0
        assert len(found["charts"]) == 2
        assert min(found["charts"]) > 250
        assert "<script>alert(1)</script>" in found["text"]
        assert "日本語のクラス" in found["text"]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_page_says_which_temperature_was_used(hostile: Evaluated, temperature: float) -> None:
    evaluated = replace(hostile, temperature=temperature)
    description = replace(RUN, model=replace(RUN.model, temperature=temperature))
    page = as_html(evaluated, summarize(evaluated), description)
    assert ("instead of 2.5" in page) == (temperature == 2.5)
    assert f"<dt>temperature</dt><dd>{temperature:.4g}</dd>" in page
