"""levit gallery: the images of a results file are found again, and one that is gone or damaged never costs the page."""

import base64
import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin

import pytest
from PIL import Image

from levit_cli.gallery.run import RESULTS_CHANGED, GalleryOptions, make_gallery
from levit_cli.gallery.thumbnails import make_thumbnails
from levit_cli.predict.prefetch import DecodeOptions
from tests.gallery.cases import COLORS, HOSTILE, Page, PhotoServer, failed, jpeg_of, ok, write_results
from tests.support.archives import tar_bytes, tar_of_folder, write_tar, write_zip, zip_of_folder
from tests.support.binary import environment, levit
from tests.support.extras import hide_extra, names_pip_command, needs_parquet, needs_plot, needs_remote
from tests.support.fake_hub import running
from tests.support.fake_s3 import FakeS3
from tests.support.faulty_decoders import ask_for, faulty_decoders
from tests.support.foreign_systems import linux_only
from tests.support.sample_images import sample_image, write_images

pytestmark = needs_plot


def color_of(encoded: str) -> int:
    """Return which of ``COLORS`` a thumbnail shows."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        shown = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    assert isinstance(shown, tuple)
    return min(
        range(len(COLORS)), key=lambda number: sum(abs(a - b) for a, b in zip(shown, COLORS[number], strict=True))
    )


def gallery(folder: Path, *arguments: str | Path, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Make page.html of results.jsonl in a folder; return what is written to stderr."""
    done = levit("gallery", "results.jsonl", "-o", "page.html", "--workers", "1", *arguments, cwd=folder, env=env)
    assert done.returncode == code, done.stderr.decode()
    assert not done.stdout
    return done.stderr.decode()


@pytest.mark.parametrize("format", ["jsonl", "csv", pytest.param("parquet", marks=needs_parquet)])
def test_results_of_predict_become_a_page(tmp_path: Path, format: str) -> None:
    paths = write_images(tmp_path / "photos", 4)
    (tmp_path / "photos" / "torn.jpg").write_bytes(paths[0].read_bytes()[:500])
    results = tmp_path / f"results.{format}"
    levit("predict", "photos", "-m", "demo", "-o", results, cwd=tmp_path)
    done = levit("gallery", results, "-o", "page.html", cwd=tmp_path)
    assert done.returncode == 0
    page = Page(tmp_path / "page.html")
    assert page.paths == [f"photos/{path.name}" for path in paths]
    assert all(page.thumbnails)
    assert [(error["path"], error["kind"]) for error in page.data["errors"]] == [("photos/torn.jpg", "truncated")]
    assert {image["link"] for image in page.data["images"]} == {f"./photos/{path.name}" for path in paths}
    assert "4 images on page.html" in done.stderr.decode()


@pytest.mark.guarantee("gallery-images")
def test_images_that_are_gone_or_damaged_get_a_placeholder(tmp_path: Path) -> None:
    first, torn, last = write_images(tmp_path, 3)
    torn.write_bytes(torn.read_bytes()[:400])
    (tmp_path / "page.jpg").write_text("<!doctype html><p>no image")
    (tmp_path / "pipe.jpg").mkdir()
    paths = (first.name, torn.name, "gone.jpg", "page.jpg", "pipe.jpg", "-", last.name)
    write_results(tmp_path / "results.jsonl", map(ok, paths))
    reported = gallery(tmp_path, code=1)
    page = Page(tmp_path / "page.html")
    assert [bool(each) for each in page.thumbnails] == [True, False, False, False, False, False, True]
    problems = [image.get("problem", "").partition(":")[0] for image in page.data["images"]]
    assert problems == ["", "truncated", "not_found", "not_an_image", "not_regular", "not_found", ""]
    sentence = "5 images cannot be shown (2 not_found, 1 truncated, 1 not_an_image, 1 not_regular)."
    assert sentence in reported
    assert sentence in page.text


def test_images_that_were_changed_after_the_results_are_reported(tmp_path: Path) -> None:
    _, changed = write_images(tmp_path, 2)
    write_zip(tmp_path / "a.zip", {"x.jpg": jpeg_of(COLORS[0])})
    results = write_results(tmp_path / "results.jsonl", map(ok, ("000.jpg", "001.jpg", "a.zip!/x.jpg")))
    assert "changed" not in gallery(tmp_path)
    later = results.stat().st_mtime + 2
    os.utime(changed, (later, later))
    assert "1 image was changed after the results were written." in gallery(tmp_path, "--overwrite", code=1)
    assert [image.get("changed") for image in Page(tmp_path / "page.html").data["images"]] == [None, True, None]
    os.utime(tmp_path / "a.zip", (later, later))
    assert "2 images were changed" in gallery(tmp_path, "--overwrite", code=1)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_images_in_archives_are_read_again(tmp_path: Path, name: str) -> None:
    for number, color in enumerate(COLORS):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg_of(color))
    (zip_of_folder if name.endswith("zip") else tar_of_folder)(tmp_path / name, tmp_path / "photos")
    paths = [f"{name}!/{member}.jpg" for member in (2, 0, 9, 3, 2)]
    write_results(tmp_path / "results.jsonl", map(ok, paths))
    gallery(tmp_path, code=1)
    page = Page(tmp_path / "page.html")
    assert [color_of(each) if each else None for each in page.thumbnails] == [2, 0, None, 3, 2]
    assert page.data["images"][2]["problem"] == "not_found: the archive no longer contains it"
    assert not any("link" in image for image in page.data["images"])


def test_members_with_the_same_name_keep_their_order(tmp_path: Path) -> None:
    halves = [write_tar(tmp_path / f"{n}.tar", {"x.jpg": jpeg_of(COLORS[n])}).read_bytes() for n in (0, 1)]
    (tmp_path / "a.tar").write_bytes(halves[0] + halves[1])
    levit("predict", "a.tar", "-m", "demo", "-o", "results.jsonl", cwd=tmp_path)
    gallery(tmp_path)
    page = Page(tmp_path / "page.html")
    assert page.paths == ["a.tar!/x.jpg"] * 2
    assert [color_of(each) for each in page.thumbnails] == [0, 1]


def test_the_rest_of_a_cut_archive_gets_placeholders(tmp_path: Path) -> None:
    content = write_tar(tmp_path / "a.tar", {f"{n}.jpg": jpeg_of(COLORS[n]) for n in (0, 1)}).read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:1024])
    write_results(tmp_path / "results.jsonl", map(ok, ("a.tar!/0.jpg", "a.tar!/1.jpg")))
    os.utime(tmp_path / "a.tar", (0, 0))
    gallery(tmp_path, code=1)
    problems = [image.get("problem", "") for image in Page(tmp_path / "page.html").data["images"]]
    assert all(problem.startswith("truncated: the archive ends") for problem in problems)


@needs_parquet
def test_rows_of_parquet_files_are_read_again(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [jpeg_of(color) for color in COLORS]}), tmp_path / "a.parquet")
    levit("predict", "a.parquet", "-m", "demo", "-o", "results.jsonl", cwd=tmp_path)
    gallery(tmp_path)
    page = Page(tmp_path / "page.html")
    assert page.paths == [f"a.parquet#{row}" for row in range(4)]
    assert [color_of(each) for each in page.thumbnails] == [0, 1, 2, 3]


@needs_parquet
def test_an_unclear_image_column_costs_these_images_only(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [jpeg_of(COLORS[0])]
    pq.write_table(pa.table({"left": images, "right": images}), tmp_path / "a.parquet")
    write_images(tmp_path, 1)
    write_results(tmp_path / "results.jsonl", map(ok, ("a.parquet#0", "000.jpg")))
    gallery(tmp_path, code=1)
    page = Page(tmp_path / "page.html")
    assert "--image-column" in page.data["images"][0]["problem"]
    assert page.thumbnails[1]
    gallery(tmp_path, "--overwrite", "--image-column", "left")
    assert color_of(Page(tmp_path / "page.html").thumbnails[0]) == 0


def test_urls_are_not_downloaded_unless_asked(tmp_path: Path, photo_server: PhotoServer) -> None:
    write_results(tmp_path / "results.jsonl", [ok(f"{photo_server.url}/x.jpg"), ok("s3://bucket/x.jpg")])
    reported = gallery(tmp_path, code=1)
    assert "2 images cannot be shown (2 download)" in reported
    assert photo_server.requested == []
    page = Page(tmp_path / "page.html")
    assert all("--download" in image["problem"] for image in page.data["images"])
    write_results(tmp_path / "results.jsonl", [ok(f"{photo_server.url}/x.jpg")])
    gallery(tmp_path, "--overwrite", "--download")
    assert photo_server.requested == ["/x.jpg"]
    page = Page(tmp_path / "page.html")
    assert color_of(page.thumbnails[0]) == 1
    assert "link" not in page.data["images"][0]


@needs_remote
def test_images_in_object_storage_are_downloaded_if_asked(tmp_path: Path) -> None:
    archive = tar_bytes({f"{number}.jpg": jpeg_of(color) for number, color in enumerate(COLORS)})
    write_images(tmp_path, 1)
    paths = ("s3://bucket/x.jpg", "s3://bucket/a.tar!/3.jpg", "s3://bucket/gone.tar!/3.jpg", "000.jpg")
    write_results(tmp_path / "results.jsonl", map(ok, paths))
    with running(FakeS3()) as server:
        server.add("bucket", {"x.jpg": jpeg_of(COLORS[2]), "a.tar": archive})
        env = environment(**server.environment())
        gallery(tmp_path, code=1, env=env)
        assert server.requests == []
        gallery(tmp_path, "--overwrite", "--download", code=1, env=env)
    page = Page(tmp_path / "page.html")
    assert [color_of(each) for each in page.thumbnails[:2]] == [2, 3]
    assert [bool(each) for each in page.thumbnails] == [True, True, False, True]


def test_thumbnails_are_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (80, 40), COLORS[0])
    image.paste(COLORS[2], (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the left half is shown at the top
    image.save(tmp_path / "turned.jpg", exif=exif)
    write_results(tmp_path / "results.jsonl", [ok("turned.jpg")])
    gallery(tmp_path)
    (encoded,) = Page(tmp_path / "page.html").thumbnails
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as shown:
        assert shown.size == (40, 80)
        top, bottom = (shown.convert("RGB").getpixel((20, y)) for y in (20, 60))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[2] > 150 > top[0]
    assert bottom[0] > 150 > bottom[2]


def test_the_first_images_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    names = [f"{number:03d}.jpg" for number in (4, 1, 5, 0, 2, 3)]
    write_results(tmp_path / "results.jsonl", [failed("x.jpg"), *map(ok, names), failed("y.jpg", "not_found")])
    reported = gallery(tmp_path, "--max-images", "3", "--thumbnail-size", "32")
    page = Page(tmp_path / "page.html")
    assert page.paths == names[:3]
    assert len(page.data["errors"]) == 2
    sentence = "The page shows the first 3 of 6 images, in the order of the results."
    assert sentence in page.text
    assert sentence in reported
    assert "6 images in 1 class, 2 errors" in page.text
    with Image.open(io.BytesIO(base64.b64decode(page.thumbnails[0]))) as image:
        assert max(image.size) == 32


def test_a_page_of_errors_only(tmp_path: Path) -> None:
    write_results(tmp_path / "results.jsonl", [failed("x.jpg")])
    gallery(tmp_path)
    page = Page(tmp_path / "page.html")
    assert page.data["images"] == []
    assert page.data["errors"] == [{"path": "x.jpg", "kind": "truncated", "message": "it is cut"}]


@pytest.mark.guarantee("gallery-output")
@pytest.mark.parametrize("output", ["page.html", "results.jsonl", "000.jpg"])
def test_existing_files_are_not_replaced(tmp_path: Path, output: str) -> None:
    write_images(tmp_path, 1)
    write_results(tmp_path / "results.jsonl", [ok("000.jpg")])
    (tmp_path / "page.html").write_text("mine")
    before = (tmp_path / output).read_bytes()
    overwrite = ["--overwrite"] * (output != "page.html")
    done = levit("gallery", "results.jsonl", "-o", output, *overwrite, cwd=tmp_path)
    assert done.returncode == 2
    assert b"was not touched" in done.stderr
    assert (tmp_path / output).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["000.jpg", "page.html", "results.jsonl"]


def test_overwrite_replaces_a_page(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    write_results(tmp_path / "results.jsonl", [ok("000.jpg")])
    (tmp_path / "page.html").write_text("old")
    gallery(tmp_path, "--overwrite")
    assert Page(tmp_path / "page.html").paths == ["000.jpg"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"", "empty"), (b"path\tlabel\n", "not an output"), (b'{"path": "a"}\n', "line 1")],
)
def test_unusable_results_are_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_bytes(content)
    assert words in gallery(tmp_path, code=2)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("output", ["missing/page.html", "."])
def test_a_page_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, output: str) -> None:
    write_results(tmp_path / "results.jsonl", [ok("gone.jpg")])
    done = levit("gallery", "results.jsonl", "-o", output, cwd=tmp_path)
    assert done.returncode == 4
    assert b"cannot be shown" not in done.stderr


def test_quiet_reports_nothing(tmp_path: Path) -> None:
    write_results(tmp_path / "results.jsonl", [ok("gone.jpg")])
    assert gallery(tmp_path, "--quiet", code=1) == ""


def test_without_the_extra_one_line_names_the_pip_command(tmp_path: Path) -> None:
    write_results(tmp_path / "results.jsonl", [ok("gone.jpg")])
    hidden = environment(**hide_extra("plot", tmp_path / "hidden"))
    done = levit("gallery", "results.jsonl", "-o", "page.html", cwd=tmp_path, env=hidden)
    assert done.returncode == 2
    assert names_pip_command(done.stderr.decode(), "plot")
    assert done.stderr.count(b"\n") == 1


# --- what is in the page


@pytest.mark.guarantee("gallery-escapes")
def test_hostile_names_are_data(tmp_path: Path) -> None:
    write_results(tmp_path / "results.jsonl", [ok(name, (name, 0.5), ("caf\udce9", 0.1)) for name in HOSTILE])
    gallery(tmp_path, code=1)
    page = Page(tmp_path / "page.html")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 3
    assert not {"iframe", "object", "embed", "link", "svg", "base", "form"} & set(tags)
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)
    assert not any(attributes.get("src") or attributes.get("href") for _, attributes in page.tags)
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search("[\u2028\u2029\u202a-\u202e\u2066-\u2069\x1b]", content)
    names = [label["name"] for label in page.data["labels"]]
    assert names[0] == "<script>window.sentinel = 1</script>"
    assert "one\\u2028two\\u2029three" in names
    assert "first\\nsecond\\tthird\\x1b[31m" in names


@pytest.mark.guarantee("gallery-no-network")
def test_the_policy_allows_the_pages_own_script_and_styles_only(tmp_path: Path) -> None:
    write_results(tmp_path / "results.jsonl", [ok("gone.jpg")])
    gallery(tmp_path, code=1)
    page = Page(tmp_path / "page.html")
    policy = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    style, *_, script = page.blocks
    for content, directive in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(directive) == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert "url(" not in style
    assert "@import" not in style


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    write_results(tmp_path / "results.jsonl", [ok(f"{number:03d}.jpg") for number in (0, 2, 1)])
    gallery(tmp_path)
    first = (tmp_path / "page.html").read_bytes()
    gallery(tmp_path, "--overwrite")
    assert (tmp_path / "page.html").read_bytes() == first


@pytest.mark.parametrize(("wnid", "told_apart_by"), [({"wnid": "n03126707"}, "n03126707"), ({}, "517")])
def test_classes_with_the_same_name_are_told_apart(tmp_path: Path, wnid: dict[str, str], told_apart_by: str) -> None:
    records = [ok("gone.jpg", ("crane", 0.5)), ok("gone.jpg", ("crane", 0.4))]
    records[1]["top"][0] |= {"index": 517, **wnid}
    write_results(tmp_path / "results.jsonl", records)
    gallery(tmp_path, code=1)
    assert [label["name"] for label in Page(tmp_path / "page.html").data["labels"]] == [
        "crane",
        f"crane ({told_apart_by})",
    ]
    assert "in 2 classes" in Page(tmp_path / "page.html").text


@pytest.mark.parametrize("name", ["a b#c?d%41.jpg", "javascript:x.jpg", "caf\udce9.jpg", "dir/../x y.jpg", "é.jpg"])
def test_links_lead_to_the_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "pages").mkdir()
    sample_image().save(tmp_path / name)
    write_results(tmp_path / "results.jsonl", [ok(name), failed(name)])
    done = levit("gallery", "results.jsonl", "-o", "pages/page.html", cwd=tmp_path)
    assert done.returncode == 0
    data = Page(tmp_path / "pages" / "page.html").data
    for link in (data["images"][0]["link"], data["errors"][0]["link"]):
        assert re.fullmatch(r"\./[A-Za-z0-9./%_~-]*", link)
        url = urljoin((tmp_path / "pages" / "page.html").as_uri(), link)
        assert os.path.samefile(unquote_to_bytes(url.removeprefix("file://")), tmp_path / name)


@linux_only
@pytest.mark.guarantee("gallery-images")
def test_a_decoder_that_crashes_or_hangs_costs_one_image(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    ask_for("abort", tmp_path / "abort.jpg")
    ask_for("hang", tmp_path / "hang.jpg")
    names = ("000.jpg", "abort.jpg", "hang.jpg", "001.jpg")
    write_results(tmp_path / "results.jsonl", map(ok, names))
    env = environment(**faulty_decoders(tmp_path / "site"))
    done = levit(
        "gallery", "results.jsonl", "-o", "page.html", "--timeout", "1", "--workers", "1", cwd=tmp_path, env=env
    )  # fmt: skip
    assert done.returncode == 1
    problems = [image.get("problem", "").partition(":")[0] for image in Page(tmp_path / "page.html").data["images"]]
    assert problems == ["", "decoder_crashed", "timeout", ""]


def test_a_results_file_that_changes_meanwhile_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = write_results(tmp_path / "results.jsonl", [ok(path) for path in write_images(tmp_path, 1)])

    def make_late(*arguments: Any) -> Any:
        write_results(results, [ok("other.jpg")] * 2)
        return make_thumbnails(*arguments)

    monkeypatch.setattr("levit_cli.gallery.run.make_thumbnails", make_late)
    lines: list[str] = []
    code = make_gallery(results, tmp_path / "page.html", GalleryOptions(10), DecodeOptions(workers=1), lines.append)
    assert code == 1
    assert RESULTS_CHANGED in lines
    assert len(Page(tmp_path / "page.html").paths) == 1
