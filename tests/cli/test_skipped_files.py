"""``levit predict`` reports on stderr what it skips in folders; stdout is not affected."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.binary import levit as levit_bytes
from tests.support.format_files import fixture
from tests.support.sample_images import sample_image


def levit(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    result = levit_bytes(*arguments)
    return subprocess.CompletedProcess(result.args, result.returncode, result.stdout.decode(), result.stderr.decode())


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """A folder as a phone and a network drive leave it."""
    folder = tmp_path / "phone"
    (folder / "@eaDir/IMG_0.JPG").mkdir(parents=True)
    for number in range(2):
        sample_image(40, 30, seed=number).save(folder / f"IMG_{number}.JPG")
        sample_image(40, 30, seed=number).save(folder / f"saved{number}.jfif", "JPEG")
        (folder / f"IMG_{number + 5}.HEIC").write_bytes(fixture("photo.heic"))
        (folder / f"IMG_{number + 5}.dng").write_bytes(b"II*\0")
    sample_image(40, 30).save(folder / "@eaDir/IMG_0.JPG/SYNOPHOTO_THUMB_M.jpg")
    return folder


@pytest.fixture
def links(tmp_path: Path, phone: Path) -> Path:
    folder = tmp_path / "links"
    folder.mkdir()
    for number in range(2):
        (folder / f"l{number}.jpg").symlink_to(phone / f"IMG_{number}.JPG")
    return folder


@pytest.mark.guarantee("skipped-files", "stdout-and-stderr")
def test_a_folder_of_a_phone(tiny_folder: Path, phone: Path) -> None:
    result = levit("predict", "-m", tiny_folder, phone, "-f", "jsonl")
    assert [Path(json.loads(line)["path"]).name for line in result.stdout.splitlines()] == [
        "IMG_0.JPG", "IMG_1.JPG", "IMG_5.HEIC", "IMG_6.HEIC", "saved0.jfif", "saved1.jfif",
    ]  # fmt: skip
    first, second = result.stderr.splitlines()
    assert first == (
        "Skipped 1 folder created by the system (@eaDir), 2 images in formats that are not supported (.dng)."
    )
    assert second.startswith("6 images in ")
    assert result.returncode == 0


@pytest.mark.guarantee("skipped-files")
def test_quiet_reports_nothing_and_verbose_names_each(tiny_folder: Path, phone: Path) -> None:
    quiet = levit("predict", "-m", tiny_folder, phone, "-f", "jsonl", "-q")
    assert quiet.stderr == ""
    verbose = levit("predict", "-m", tiny_folder, phone, "-f", "jsonl", "-v")
    assert f"Skipped {phone}/IMG_5.dng: image in a format that is not supported" in verbose.stderr.splitlines()
    assert f"Skipped {phone}/@eaDir: folder created by the system" in verbose.stderr.splitlines()
    assert verbose.stdout == quiet.stdout


@pytest.mark.guarantee("symbolic-links", "skipped-files", "no-inputs")
def test_a_folder_of_links_alone(tiny_folder: Path, links: Path) -> None:
    refused = levit("predict", "-m", tiny_folder, links)
    assert refused.returncode == 2
    assert f"No images in {links}" in refused.stderr
    assert "skipped 2 symbolic links (--follow-links includes them)" in refused.stderr
    followed = levit("predict", "-m", tiny_folder, links, "--follow-links", "-f", "jsonl")
    assert followed.returncode == 0
    assert len(followed.stdout.splitlines()) == 2


@pytest.mark.guarantee("skipped-files")
def test_an_empty_folder_among_the_inputs_is_named(tiny_folder: Path, phone: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = levit("predict", "-m", tiny_folder, phone / "IMG_0.JPG", empty, "-f", "jsonl")
    assert f"No images in {empty}." in result.stderr


@pytest.mark.guarantee("symbolic-links", "resume-after-kill")
def test_a_resumed_run_counts_once_and_may_follow_links(tiny_folder: Path, links: Path, tmp_path: Path) -> None:
    (links / "kept.jpg").write_bytes((links / "l0.jpg").read_bytes())
    (links / "notes.txt").write_text("x")
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    levit("predict", "-m", tiny_folder, links, "-o", output)
    resumed = levit("predict", "-m", tiny_folder, links, "-o", output, "--resume", "--follow-links")
    assert resumed.returncode == 0, resumed.stderr
    assert "Skipped 1 file without an image suffix." in resumed.stderr
    levit("predict", "-m", tiny_folder, links, "-o", whole, "--follow-links")
    assert output.read_bytes() == whole.read_bytes()
