"""``levit predict`` on the formats that have decoders of their own, and without the extra of JPEG XL."""

import json
import os
from pathlib import Path

import pytest

from tests.support.binary import environment, levit
from tests.support.extras import hide_extra, names_pip_command, needs_jxl
from tests.support.format_files import HAS_JXL, files_of, fixture
from tests.support.sample_images import sample_image

SUFFIXES = {
    "heic": "HEIC",
    "avif": "avif",
    "jpeg 2000": "jp2",
    "jpeg xl": "jxl",
    "ppm": "ppm",
    "pgm": "PGM",
    "pbm": "pbm",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image in each format, one of them damaged, and a raw photo."""
    folder = tmp_path_factory.mktemp("formats")
    for name, content in files_of(sample_image(96, 80)).items():
        (folder / f"{name}.{SUFFIXES[name.partition(',')[0]]}").write_bytes(content)
    (folder / "cut.heic").write_bytes(fixture("photo.heic")[:-100])
    (folder / "raw.dng").write_bytes(b"II*\0")
    return folder


@pytest.mark.guarantee("formats", "truncated", "skipped-files")
def test_a_folder_of_all_formats_is_classified_on_threads_and_isolated(tiny_folder: Path, folder: Path) -> None:
    arguments = ("predict", "-m", tiny_folder, folder, "-f", "jsonl")
    threads, isolated = levit(*arguments), levit(*arguments, "--isolate")
    records = [json.loads(line) for line in threads.stdout.splitlines()]
    assert len(records) == len(files_of(sample_image(96, 80))) + 1
    errors = {Path(record["path"]).name: record["error"]["kind"] for record in records if record["status"] == "error"}
    assert errors == {"cut.heic": "truncated"}
    assert b"Skipped 1 image in a format that is not supported (.dng)." in threads.stderr
    assert (threads.returncode, isolated.returncode) == (1, 1)
    assert isolated.stdout == threads.stdout


@pytest.mark.guarantee("missing-extra", "format-not-allowed", "skipped-files")
def test_jpeg_xl_without_its_extra_names_the_command(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    image, named = tmp_path / "photos/a.ppm", tmp_path / "photos/b.jxl"
    image.write_bytes(files_of(sample_image(32, 24))["ppm"])
    named.write_bytes(fixture("gray 12 bits.jxl"))
    (tmp_path / "photos/c.JXL").write_bytes(fixture("gray 12 bits.jxl"))
    variables = environment(**hide_extra("jxl", tmp_path / "hidden"))
    one = levit("predict", "-m", tiny_folder, named, "-f", "jsonl", env=variables)
    error = json.loads(one.stdout)["error"]
    assert (one.returncode, error["kind"]) == (1, "format_not_allowed")
    assert names_pip_command(error["message"], "jxl")
    walked = levit("predict", "-m", tiny_folder, image.parent, "-f", "jsonl", env=variables)
    assert [json.loads(line)["path"] for line in walked.stdout.splitlines()] == [str(image)]
    assert b"Skipped 2 images in a format whose extra is missing (.jxl: " in walked.stderr
    assert names_pip_command(os.fsdecode(walked.stderr), "jxl")


@needs_jxl
def test_jpeg_xl_is_taken_from_folders_with_its_extra(tiny_folder: Path, tmp_path: Path) -> None:
    assert HAS_JXL
    (tmp_path / "a.jxl").write_bytes(fixture("gray 12 bits.jxl"))
    assert levit("predict", "-m", tiny_folder, tmp_path, "-f", "jsonl").returncode == 0
