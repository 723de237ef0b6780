"""The HTML report is self-contained and escapes all names; the table and the JSON document show the same results."""

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
from levit_cli.eval.results import Summary
from levit_cli.eval.summarize import summarize
from levit_cli.eval.table import as_table
from levit_cli.eval.wording import notes
from levit_cli.predict.records import as_json
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.extras import missing_package
from tests.eval.cases import RUN, evaluation, random_logits
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


def as_html(evaluated: Evaluated, summary: Summary, description: RunDescription) -> str:
    """Return the report; skip the test where the extra 'plot' is not installed."""
    if package := missing_package("plot"):
        pytest.skip(f"needs the package {package}")
    from levit_cli.eval import report

    return report.as_html(evaluated, summary, description)


class Page(HTMLParser):
    """Collect the tags and the text of a page."""

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
    """Sixty images in seven classes; the names of classes and files contain markup and control characters."""
    root = tmp_path_factory.mktemp("data & <b>more")
    logits, targets = random_logits(60, 7)
    paths = [root / f"{number}<img src=y>'\"\n\x1b.png" for number in range(60)]
    for number, path in enumerate(paths):
        sample_image(300, 200, seed=number).save(path)
    torn = (root / "<u>torn.jpg", InputError("truncated", "<u>at the end</u>"))
    return evaluation(logits, targets, labels=Labels(HOSTILE), paths=paths, root=root, failures=[torn])


@pytest.fixture(scope="module")
def page(hostile: Evaluated) -> str:
    return as_html(hostile, summarize(hostile), RUN)


def test_names_never_become_tags_and_nothing_is_fetched(page: str) -> None:
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


def test_names_are_shown_verbatim(page: str) -> None:
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


def test_a_number_and_its_percent_sign_stay_on_one_line(page: str) -> None:
    text = Page(page).text
    assert "&" not in text.replace("data & <b>more", "").replace("[red]&amp;:smile:", "")
    for sentence in (r"95\xa0% confidence interval [\d.]+ to [\d.]+\xa0%", r"confidence: [\d.]+\xa0%"):
        assert re.search(sentence, text)


def test_names_that_are_not_utf_8_are_shown_as_escapes(tmp_path: Path) -> None:
    root = tmp_path / "caf\udce9 <i>"
    root.mkdir()
    logits, targets = random_logits(20, 3)
    paths = [root / f"th\udce9{number}.png" for number in range(20)]
    sample_image(60, 40).save(paths[0])
    torn = (root / "torn\udcff.png", InputError("truncated", "at \udcff"))
    labels = Labels(("th\udce9", "b", "c"))
    evaluated = evaluation(logits, targets, labels=labels, root=root, paths=paths, failures=[torn])
    page = as_html(evaluated, summarize(evaluated), RUN)
    text = Page(page.encode().decode()).text
    assert all(name in text for name in ("caf\\udce9 <i>", "th\\udce9", "torn\\udcff.png", "at \\udcff"))


def test_the_same_evaluation_gives_the_same_page(hostile: Evaluated, page: str) -> None:
    assert as_html(hostile, summarize(hostile), RUN) == page


def test_deleted_images_get_a_placeholder(tmp_path: Path) -> None:
    logits, targets = random_logits(20, 3)
    evaluated = evaluation(logits, targets, root=tmp_path)
    page = as_html(evaluated, summarize(evaluated), RUN)
    assert "<img " not in page
    assert page.count('class="missing"') == len(summarize(evaluated).confident_errors) > 0


def test_without_readable_images_all_outputs_are_valid() -> None:
    logits, _ = random_logits(0, 3)
    failures = [(Path("data/a/x.jpg"), InputError("empty_file", "the file is empty"))]
    evaluated = evaluation(logits, [], failures=failures)
    summary = summarize(evaluated)
    table = as_table(evaluated, summary, RUN, is_terminal=False)
    assert "empty_file" in table
    assert "nan" not in table.lower()
    content = json.loads(as_json(document(evaluated, summary, RUN)))
    assert content["top1"] == {"value": None, "low": 0, "high": 1, "correct": 0, "total": 0}
    assert content["calibration"] is content["balanced_accuracy"] is None
    page = as_html(evaluated, summary, RUN)
    assert "empty_file" in page
    assert "nan" not in page.lower()


def test_with_many_classes_only_the_worst_are_shown(tmp_path: Path) -> None:
    labels = Labels(tuple(f"class-{index}" for index in range(200)))
    logits, targets = random_logits(2000, 200)
    evaluated = evaluation(logits, targets, labels=labels, root=tmp_path)
    summary = summarize(evaluated)
    table = as_table(evaluated, summary, RUN, is_terminal=False)
    assert "and 170 more classes" in table
    assert "Most frequent confusions" in table
    assert len(document(evaluated, summary, RUN)["confusion"]["matrix"]) == 200
    page = as_html(evaluated, summary, RUN)
    assert "The chart shows 20 of 200 classes" in page
    assert "Show 170 more classes" in page
    assert "other classes" in page


def test_the_table_does_not_interpret_markup_or_control_characters(hostile: Evaluated) -> None:
    for is_terminal in (False, True):
        table = as_table(hostile, summarize(hostile), RUN, is_terminal=is_terminal, color=False)
        assert "[red]&amp;:smile:" in table
        assert "\x1b[31m" not in table.replace("\x1b[31mtruncated", "")
        assert "línea\\nnueva" in table
    assert "\x1b" not in as_table(hostile, summarize(hostile), RUN, is_terminal=False)


@pytest.mark.parametrize(("columns", "heading"), [("80", "Confusion matrix"), ("40", "Most frequent confusions")])
def test_the_table_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, columns: str, heading: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    logits, targets = random_logits(200, 9)
    table = as_table(evaluated := evaluation(logits, targets), summarize(evaluated), RUN, is_terminal=False)
    assert heading in table
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= int(columns)


def test_json_keeps_names_verbatim(hostile: Evaluated) -> None:
    content = json.loads(as_json(document(hostile, summarize(hostile), RUN)))
    assert [entry["label"] for entry in content["classes"]] == list(HOSTILE)
    assert {error["path"] for error in content["mistakes"]} <= set(hostile.paths)
    assert list(content) == [
        *("schema_version", "meta", "data", "top1", "top5", "balanced_accuracy", "macro_f1", "calibration"),
        *("calibration_fitted", "coverage", "classes", "confusion", "mistakes", "failures"),
    ]


def test_json_contains_the_wordnet_ids_of_labels(tmp_path: Path) -> None:
    logits, targets = random_logits(12, 2)
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
    """Lay the report out in a browser, in frames of the given widths in pixels, and return what it measures there."""
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


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
def test_the_page_fits_a_desktop_and_a_phone_in_a_browser(hostile: Evaluated, page: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(page, encoding="utf-8")
    for frame in measured(report, 1200, 400):
        assert frame["needed"] <= frame["width"]  # no horizontal scroll bar
        assert (frame["scripts"], frame["broken"], frame["resources"]) == (0, 0, [])
        assert frame["images"] == len(summarize(hostile).confident_errors) > 0
        assert len(frame["charts"]) == 3
        assert min(frame["charts"]) > 250
        assert "<script>alert(1)</script>" in frame["text"]
        assert "日本語のクラス" in frame["text"]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_page_states_the_temperature_that_was_used(hostile: Evaluated, temperature: float) -> None:
    evaluated = replace(hostile, temperature=temperature)
    description = replace(RUN, model=replace(RUN.model, temperature=temperature))
    page = as_html(evaluated, summarize(evaluated), description)
    assert ("instead of 2.5" in page) == (temperature == 2.5)
    assert f"<dt>temperature</dt><dd>{temperature:.4g}</dd>" in page


@pytest.mark.parametrize(("folders", "words"), [((1,), "The folder covers 1 of"), ((0, 1), "The folders cover 2 of")])
def test_the_note_on_covered_classes_agrees_with_their_number(folders: tuple[int, ...], words: str) -> None:
    logits, _ = random_logits(8, 3)
    (note,) = notes(evaluation(logits, [1] * 8, folders=folders))
    assert note.startswith(f"{words} the model's 3 classes")
