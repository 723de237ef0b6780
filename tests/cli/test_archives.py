"""``levit predict`` and ``--resume`` on archives: the records are those of a folder, but for the paths."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.kills import killed_within
from tests.support.archives import tar_bytes, tar_of_folder, write_tar, zip_of_folder
from tests.support.binary import LEVIT, environment, levit, records
from tests.support.sample_images import sample_image, write_images

IMAGES = 20


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in subfolders, two of them broken, and a text file."""
    folder = tmp_path_factory.mktemp("sources") / "photos"
    for number in range(IMAGES):
        path = folder / f"{number % 2}/{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        sample_image(90 + number, 71, seed=number).save(path)
    broken = folder / "1/007.jpg"
    broken.write_bytes(broken.read_bytes()[:700])
    (folder / "0/004.jpg").write_bytes(b"")
    (folder / "0/notes.txt").write_text("notes")
    return folder


@pytest.fixture(scope="module")
def archives(photos: Path) -> dict[str, Path]:
    made = {name: tar_of_folder(photos.with_name(f"photos{name}"), photos) for name in (".tar", ".tar.gz")}
    return made | {".zip": zip_of_folder(photos.with_name("photos.zip"), photos)}


def with_inner_paths(output: bytes, prefix: str) -> list[dict[str, Any]]:
    found = records(output)
    assert all(record["path"].startswith(prefix) for record in found), found
    return [record | {"path": record["path"].removeprefix(prefix)} for record in found]


@pytest.mark.guarantee("archives", "own-result")
@pytest.mark.parametrize(("suffix", "isolate"), [(".tar", False), (".tar.gz", False), (".zip", False), (".zip", True)])
def test_an_archive_gives_the_records_of_its_folder(
    suffix: str, isolate: bool, photos: Path, archives: dict[str, Path], tiny_folder: Path
) -> None:
    options = ["-f", "jsonl", *["--isolate"] * isolate]
    folder = levit("predict", "-m", tiny_folder, photos, *options)
    archive = levit("predict", "-m", tiny_folder, archives[suffix], *options)
    assert archive.returncode == folder.returncode == 1, archive.stderr
    expected = with_inner_paths(folder.stdout, f"{photos}/")
    assert with_inner_paths(archive.stdout, f"{archives[suffix]}!/") == expected
    assert [record["error"]["kind"] for record in expected if "error" in record] == ["empty_file", "truncated"]
    assert archive.stderr.splitlines()[0] == folder.stderr.splitlines()[0] == b"Skipped 1 file without an image suffix."


@pytest.mark.guarantee("cut-archive")
def test_a_cut_archive_has_a_record_and_the_inputs_after_it_are_classified(
    archives: dict[str, Path], photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archives[".tar"].read_bytes()[:20_000])
    last = photos / "1/019.jpg"
    done = levit("predict", "-m", tiny_folder, cut, last, "-f", "jsonl")
    *members, archive, other = records(done.stdout)
    assert done.returncode == 1
    assert (archive["path"], archive["error"]["kind"]) == (str(cut), "truncated")
    assert other["path"] == str(last)
    assert len(members) > 1
    assert all(record["path"].startswith(f"{cut}!/") for record in members)


@pytest.mark.guarantee("wrong-suffix", "not-an-image")
def test_the_content_decides_whether_a_file_is_an_archive(
    archives: dict[str, Path], photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for suffix, archive in archives.items():
        shutil.copy(archive, tmp_path / f"{suffix[-3:]}.jpg")
    shutil.copy(photos / "1/019.jpg", tmp_path / "image.tar")
    done = levit("predict", "-m", tiny_folder, *sorted(tmp_path.iterdir()), "-f", "jsonl")
    *others, image = sorted(records(done.stdout), key=lambda record: "error" not in record)
    assert image["path"].endswith("image.tar")
    assert {Path(record["path"]).name: record["error"]["message"] for record in others} == {
        ".gz.jpg": "this is gzip data", "tar.jpg": "this is a tar archive", "zip.jpg": "this is a ZIP archive"
    }  # fmt: skip
    assert {record["error"]["kind"] for record in others} == {"not_an_image"}


@pytest.mark.guarantee("resume-after-kill")
def test_killed_at_random_and_resumed_over_archives_gives_the_same_file(
    archives: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    command = ["predict", "-m", str(tiny_folder), *map(str, archives.values()), "-b", "2", "-q"]
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert levit(*command, "-o", whole).returncode == 1
    rng, kills = random.Random(3), 0
    while kills < 5:
        output.unlink(missing_ok=True)
        resuming = [LEVIT, *command, "-o", str(output), "--resume"]
        while kills < 5 and killed_within(resuming, rng.uniform(0.4, 1.6)):
            kills += 1
        assert levit(*resuming[1:]).returncode == 1
        assert output.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole.jsonl", "out.jsonl"}


@pytest.mark.guarantee("resume-after-kill", "resume-mismatch")
def test_a_copy_without_fingerprint_is_compared_with_members_of_the_archive(
    archives: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.jsonl"
    command = ["predict", "-m", str(tiny_folder), str(archives[".zip"]), str(archives[".tar.gz"])]
    assert levit(*command, "-o", whole).returncode == 1
    part, changed = tmp_path / "part.jsonl", tmp_path / "changed.jsonl"
    lines = whole.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:30]))
    done = levit(*command, "-o", part, "--resume")
    assert (done.returncode, part.read_bytes()) == (1, whole.read_bytes()), done.stderr
    top = json.loads(lines[0])
    top["top"][0], top["top"][1] = top["top"][1], top["top"][0]
    changed.write_bytes(json.dumps(top, separators=(",", ":")).encode() + b"\n")
    refused = levit(*command, "-o", changed, "--resume")
    assert refused.returncode == 2
    assert b"changed.jsonl" in refused.stderr


@pytest.mark.guarantee("duplicate-inputs", "resume-after-kill")
def test_members_with_the_same_name_have_a_record_each(tiny_folder: Path, tmp_path: Path) -> None:
    first, second = (path.read_bytes() for path in write_images(tmp_path / "images", 2))
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes({"a.jpg": first}) + tar_bytes({"a.jpg": second}))
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert levit("predict", "-m", tiny_folder, path, "-o", whole).returncode == 0
    assert [record["path"] for record in records(whole.read_bytes())] == [f"{path}!/a.jpg"] * 2
    output.write_bytes(whole.read_bytes().splitlines(keepends=True)[0])
    assert levit("predict", "-m", tiny_folder, path, "-o", output, "--resume").returncode == 0
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.guarantee("python-flags")
def test_an_archive_leaks_nothing(archives: dict[str, Path], tiny_folder: Path) -> None:
    command = [
        sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-m", "levit_cli", "predict", "-m",
        str(tiny_folder), *map(str, archives.values()), "-f", "jsonl", "-q",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_archive_without_images_is_refused_with_what_it_holds(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.txt": b"", "b.json": b"{}"})
    done = levit("predict", "-m", tiny_folder, path)
    assert done.returncode == 2
    assert f"No images in {path}".encode() in done.stderr
    assert b"skipped 2 files without an image suffix" in done.stderr
