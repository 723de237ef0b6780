"""Whatever the names are, a page has the same elements, and its data are the printable names."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_cli.errors import InputError
from levit_cli.gallery.selection import Shown
from levit_cli.predict.results import RankedClass, Result
from levit_cli.system.text import printable
from tests.gallery.cases import HOSTILE
from tests.gallery.cases import Page as ParsedPage
from tests.support.extras import needs_plot

PARTS = st.sampled_from((*HOSTILE, "</script>", "<!--", "-->", "]]>", "{%", "\\", "\udce9", "'", '"', "&", "\0", "é"))
NAMES = st.lists(PARTS | st.characters(), min_size=1, max_size=4).map("".join)


@needs_plot
@settings(max_examples=40, deadline=None)
@given(path=NAMES, label=NAMES, message=NAMES, title=NAMES)
def test_names_do_not_change_the_page(
    tmp_path_factory: pytest.TempPathFactory, path: str, label: str, message: str, title: str
) -> None:
    folder = tmp_path_factory.mktemp("page")
    page, plain = page_of(folder, path, label, message, title), page_of(folder, "a", "b", "c", "d")
    assert page.tags == plain.tags
    assert page.blocks[-1] == plain.blocks[-1]  # the script
    if len(printable(path)) <= 300:
        assert page.paths == [printable(path)]
    if len(printable(label)) <= 100:
        assert [entry["name"] for entry in page.data["labels"]] == [printable(label)]
    assert page.data["errors"][0]["message"].isprintable()


def page_of(folder: Path, path: str, label: str, message: str, title: str) -> ParsedPage:
    from levit_cli.gallery.page import Page

    image = Shown(Result(path, (RankedClass(0, label, "", 0.5),)), InputError("not_found", message))
    error = Shown(Result(path, error=InputError("corrupt", message)))
    file = folder / "page.html"
    file.write_bytes(Page(printable(title), "", [], [image], [error]).as_html())
    return ParsedPage(file)
