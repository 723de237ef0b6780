"""``levit duplicates``: exact and near groups, the best image, formats, the page, and indexes."""

import csv
import io
import random
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from tests.embed.test_same_photo import photo
from tests.support.binary import levit, records
from tests.support.extras import hide_extra, names_pip_command, needs_plot

ORIENTATION = 0x0112


def large(seed: int) -> Image.Image:
    return photo(seed).resize((320, 320), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten different photos, and copies of some of them."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(10):
        large(seed).save(folder / f"{seed}.png")
    shutil.copy(folder / "0.png", folder / "copy of 0.png")
    large(0).save(folder / "0 again.bmp")  # other bytes, the same pixels, and the largest file
    large(0).resize((200, 200)).save(folder / "0 small.jpg", quality=90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    large(1).transpose(Image.Transpose.ROTATE_90).save(folder / "1 rotated.png", exif=exif, compress_level=0)
    large(2).crop((16, 0, 320, 304)).save(folder / "2 <b>cropped.jpg", quality=90)
    ImageEnhance.Brightness(large(3)).enhance(1.25).save(folder / "3 bright.jpg", quality=90)
    (folder / "bad.jpg").write_bytes(b"text")
    return folder


def named(groups: list[dict[str, object]]) -> list[tuple[object, list[str]]]:
    return [
        (group["kind"], [Path(path).name for path in group["paths"]])  # type: ignore[attr-defined]
        for group in groups
        if group["kind"] != "error"
    ]


EXPECTED = [
    ("exact", ["0 again.bmp", "0.png", "copy of 0.png"]),
    ("near", ["0 again.bmp", "0 small.jpg"]),
    ("exact", ["1 rotated.png", "1.png"]),
    ("near", ["2.png", "2 <b>cropped.jpg"]),
    ("near", ["3.png", "3 bright.jpg"]),
]


@pytest.mark.guarantee("duplicates")
def test_exact_and_near_duplicates_are_found_and_the_best_is_first(photos: Path) -> None:
    done = levit("duplicates", "-m", "demo", photos)
    assert done.returncode == 1, done.stderr  # one image cannot be read
    *groups, error = records(done.stdout)
    assert sorted(map(str, named(groups))) == sorted(map(str, EXPECTED))
    assert error["path"].endswith("bad.jpg")
    assert (error["kind"], error["error"]["kind"]) == ("error", "not_an_image")
    assert all(0.7 <= group["similarity"] <= 1 for group in groups)
    assert all(group["similarity"] == 1 for group in groups if group["kind"] == "exact")
    assert b"5 groups, 2 exact; 6 images besides the best" in done.stderr


@pytest.mark.guarantee("duplicates")
def test_the_order_of_the_inputs_does_not_change_the_output(photos: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted(photos.iterdir()) if path.name != "bad.jpg"]
    outputs = set()
    for seed in range(2):
        random.Random(seed).shuffle(paths)
        done = levit("duplicates", "-m", "demo", "--precision", "fp32", *paths)
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_images_in_an_archive_and_csv(photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.write(path, path.name)
    done = levit("duplicates", "-m", "demo", tmp_path / "a.zip", "-o", tmp_path / "a.csv")
    assert done.returncode == 1, done.stderr
    rows = [*csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))]
    exact = [row["path"].rpartition("!/")[2] for row in rows if row["kind"] == "exact"]
    assert exact == ["0 again.bmp", "0.png", "copy of 0.png", "1 rotated.png", "1.png"]
    assert [row["error"][:12] for row in rows if row["kind"] == "error"] == ["not_an_image"]


def test_a_table_lists_the_groups(photos: Path) -> None:
    done = levit("duplicates", "-m", "demo", photos / "1.png", photos / "1 rotated.png", "-f", "table")
    assert done.stdout.decode() == f"group 1: exact, similarity 1.0000\n  {photos}/1 rotated.png\n  {photos}/1.png\n"


def test_an_index_is_compared_without_its_images(photos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    levit("embed", "-m", "demo", moved, "-o", tmp_path / "a.npz")
    shutil.rmtree(moved)
    done = levit("duplicates", "--index", tmp_path / "a.npz")
    assert done.returncode == 0, done.stderr
    groups = named(records(done.stdout))
    assert ("near", ["0 again.bmp", "0 small.jpg", "0.png", "copy of 0.png"]) in groups
    assert ("near", ["1 rotated.png", "1.png"]) in groups


@needs_plot
def test_the_page_shows_the_groups_and_escapes_names(photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "groups.html"
    done = levit("duplicates", "-m", "demo", photos, "--page", page)
    assert done.returncode == 1, done.stderr
    text = page.read_text()
    assert "2 &lt;b&gt;cropped.jpg" in text
    assert "<b>cropped" not in text
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("data:image/webp;base64,") == 11
    assert text.count("<b>best</b>") == 5
    assert "320 × 320 px, 307\N{NO-BREAK SPACE}kB" in text
    refused = levit("duplicates", "-m", "demo", photos, "--page", page)
    assert refused.returncode == 2
    assert page.read_text() == text
    assert levit("duplicates", "-m", "demo", photos, "--page", page, "--overwrite").returncode == 1


def test_without_the_extra_plot_a_page_is_refused_before_any_work(photos: Path, tmp_path: Path) -> None:
    env = hide_extra("plot", tmp_path / "hidden")
    from tests.support.binary import environment

    done = levit("duplicates", "-m", "demo", photos, "--page", tmp_path / "a.html", env=environment(**env))
    assert done.returncode == 2
    assert names_pip_command(done.stderr.decode(), "plot")
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), b"Nothing to compare"),
        (("x.jpg", "--index", "a.npz"), b"cannot be used together"),
        (("x.jpg", "--threshold", "1.5"), b"above 0 and at most 1"),
        (("x.jpg", "--threshold", "nan"), b"above 0 and at most 1"),
        (("x.jpg", "-o", "a.json"), b"No output format"),
        (("--index", "missing.npz"), b"there is no such file"),
    ],
)
def test_usage_errors(tmp_path: Path, options: tuple[str, ...], message: bytes) -> None:
    done = levit("duplicates", "-m", "demo", *options, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_no_duplicates_is_an_empty_output(photos: Path) -> None:
    done = levit("duplicates", "-m", "demo", photos / "4.png", photos / "5.png")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"0 groups" in done.stderr
