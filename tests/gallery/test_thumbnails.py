"""All thumbnails of a page fit into its size; only the largest ones are made smaller."""

from pathlib import Path

import pytest

from levit_cli.errors import InputError
from levit_cli.gallery.selection import Shown
from levit_cli.gallery.thumbnails import Thumbnail, fitted
from levit_cli.images.thumbnail import thumbnail
from levit_cli.predict.results import RankedClass, Result
from tests.gallery.cases import Page as ParsedPage
from tests.images.test_thumbnail import noise, size_of
from tests.support.extras import needs_plot
from tests.support.sample_images import sample_image

SMALL = thumbnail(sample_image(), 90)
LARGE = thumbnail(noise(200, 100), 200)
GONE = InputError("not_found", "no such file")


def total(thumbnails: list[Thumbnail]) -> int:
    return sum(len(each) for each in thumbnails if isinstance(each, bytes))


def test_thumbnails_that_fit_are_not_changed() -> None:
    thumbnails: list[Thumbnail] = [SMALL, GONE, LARGE]
    assert fitted(thumbnails, len(SMALL) + len(LARGE)) == thumbnails


def test_the_largest_thumbnails_are_made_smaller() -> None:
    thumbnails: list[Thumbnail] = [LARGE, SMALL, GONE, LARGE]
    allowed = len(SMALL) + len(LARGE)
    smaller = fitted(thumbnails, allowed)
    assert total(smaller) <= allowed
    assert smaller[1:3] == [SMALL, GONE]
    assert all(isinstance(each, bytes) and size_of(each)[0] > 20 for each in (smaller[0], smaller[3]))


def test_no_thumbnails() -> None:
    assert fitted([GONE], 0) == [GONE]
    assert fitted([], 0) == []


@needs_plot
@pytest.mark.guarantee("gallery-size")
def test_a_page_of_noise_has_the_size_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from levit_cli.gallery import page as module

    monkeypatch.setattr(module, "MAX_BYTES", 180_000)
    monkeypatch.setattr(module, "FULL", 20)  # 8 kB for an image, as on a real page
    top = (RankedClass(0, "noise", "", 0.5),)
    images = [Shown(Result(f"{n}.jpg", top), thumbnail(noise(224, 224, n), 224)) for n in range(20)]
    assert total([shown.thumbnail for shown in images if shown.thumbnail]) > 400_000
    (tmp_path / "page.html").write_bytes(module.Page("noise", "", [], images, []).as_html())
    assert 120_000 < (tmp_path / "page.html").stat().st_size <= 180_000
    assert all(ParsedPage(tmp_path / "page.html").thumbnails)


@needs_plot
def test_long_names_are_shortened() -> None:
    from levit_cli.gallery.page import shortened

    assert shortened("x" * 300, 300) == "x" * 300
    name = shortened("a" * 5000 + "\n.jpg", 300)
    assert len(name) == 300
    assert name.startswith("aaa")
    assert name.endswith("aaa\\n.jpg")
