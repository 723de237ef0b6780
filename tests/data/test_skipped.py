"""What is skipped in a folder is counted with its reason, and links are followed only if that is asked for."""

import os
from pathlib import Path

import pytest

from levit_cli.data.inputs import InputOptions, expand, from_paths, walk
from levit_cli.data.skipped import SUFFIXES, Reason, Skipped, reason_to_skip
from tests.data.test_inputs import touch


def walked(root: Path, *, follow_links: bool = False) -> tuple[list[str], Skipped]:
    skipped = Skipped()
    paths = [os.path.relpath(item.path, root) for item in walk(str(root), skipped, follow_links=follow_links)]
    return paths, skipped


@pytest.mark.parametrize("suffix", [
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".JFIF", ".Jpg", ".webp", ".tiff", ".heic", ".HEIC", ".heif", ".hif",
        ".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
    ],
)  # fmt: skip
def test_suffixes_of_images(suffix: str) -> None:
    assert suffix.lower() in SUFFIXES
    assert reason_to_skip(f"a{suffix}", is_folder=False) is None


@pytest.mark.guarantee("skipped-files")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.txt", "suffix"),
        ("noext", "suffix"),
        ("a.jpg.bak", "suffix"),
        (".hidden.jpg", "hidden"),
        (".DS_Store", "hidden"),
        ("a.dng", "format"),
        ("A.CR3", "format"),
        ("a.psd", "format"),
        ("a.svg", "format"),
        ("a.pfm", "format"),
        ("a.zip", "archive"),
        ("a.tar.gz", "archive"),
        ("a.tgz", "archive"),
    ],
)
def test_a_file_is_skipped_for_one_reason(name: str, reason: Reason, tmp_path: Path) -> None:
    touch(tmp_path, name, "kept.jpg")
    paths, skipped = walked(tmp_path)
    assert paths == ["kept.jpg"]
    assert skipped.counts == {reason: 1}


@pytest.mark.guarantee("skipped-files")
@pytest.mark.parametrize("name", ["@eaDir", ".ipynb_checkpoints", "__MACOSX", ".thumbnails", "#recycle"])
def test_a_folder_of_thumbnails_is_skipped_and_counted_once(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{name}/IMG_0.JPG/thumb.jpg", f"{name}/b.jpg", "IMG_0.JPG", f"sub/{name}/c.jpg", "sub/d.jpg")
    paths, skipped = walked(tmp_path)
    assert paths == ["IMG_0.JPG", "sub/d.jpg"]
    assert skipped.counts == {"system folder": 2}
    assert skipped.sentence() == f"Skipped 2 folders created by the system ({name})."
    assert [item.path for item in expand([str(tmp_path / name)])] != []  # a folder that is named is searched


def test_a_file_that_is_named_like_a_folder_of_thumbnails_is_counted_by_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "@eaDir")
    assert walked(tmp_path)[1].counts == {"suffix": 1}


@pytest.mark.guarantee("skipped-files")
def test_the_sentence_names_all_reasons(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.txt", "c", ".d", "e.dng", "f.PSD", "g.dng", "h.zip", "@eaDir/i.jpg", ".git/j.jpg")
    (tmp_path / "k.jpg").symlink_to(tmp_path / "a.jpg")
    _, skipped = walked(tmp_path)
    assert skipped.sentence() == (
        "Skipped 1 symbolic link, 1 folder created by the system (@eaDir), 2 hidden files and folders, 1 archive, "
        "3 images in formats that are not supported (.dng, .psd), 2 files without an image suffix."
    )


def test_nothing_skipped_is_no_sentence(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    assert walked(tmp_path)[1].sentence() == ""


def test_each_skipped_file_is_reported_on_request(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b\n.txt", "e.dng")
    lines: list[str] = []
    for _ in walk(str(tmp_path), Skipped(lines.append)):
        pass
    assert sorted(lines) == [
        f"Skipped {tmp_path}/b\\n.txt: file without an image suffix",
        f"Skipped {tmp_path}/e.dng: image in a format that is not supported",
    ]


@pytest.mark.guarantee("skipped-files")
def test_folders_without_images_are_named_in_bounded_memory(tmp_path: Path) -> None:
    folders = [str(tmp_path / str(number)) for number in range(20)]
    for folder in folders:
        os.mkdir(folder)
    touch(tmp_path, "full/a.jpg")
    skipped = Skipped()
    assert len([*from_paths([*folders, str(tmp_path / "full")], skipped)]) == 1
    assert skipped.sentence() == f"No images in {', '.join(folders[:3])} and 17 more folders."


# --- symbolic links --------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("symbolic-links", "skipped-files")
def test_links_are_skipped_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "album/kept.jpg")
    (tmp_path / "album/b.jpg").symlink_to("../photos/a.jpg")
    (tmp_path / "album/all").symlink_to("../photos")
    (tmp_path / "album/gone.jpg").symlink_to("nothing")
    paths, skipped = walked(tmp_path / "album")
    assert paths == ["kept.jpg"]
    assert skipped.counts == {"link": 3}


@pytest.mark.guarantee("symbolic-links")
def test_links_are_followed_on_request(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/deep/b.jpg", "album/kept.jpg", "notes.txt")
    (tmp_path / "album/c.jpg").symlink_to("../photos/a.jpg")
    (tmp_path / "album/all").symlink_to("../photos")
    (tmp_path / "album/gone.jpg").symlink_to("nothing")
    (tmp_path / "album/notes").symlink_to("../notes.txt")
    (tmp_path / "album/.hidden.jpg").symlink_to("../photos/a.jpg")
    paths, skipped = walked(tmp_path / "album", follow_links=True)
    assert paths == ["all/a.jpg", "all/deep/b.jpg", "c.jpg", "gone.jpg", "kept.jpg"]  # a mention each
    assert skipped.counts == {"suffix": 1, "hidden": 1}


@pytest.mark.guarantee("symbolic-links")
def test_links_that_form_a_cycle_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/sub/b.jpg")
    (tmp_path / "photos/self").symlink_to(".")
    (tmp_path / "photos/sub/up").symlink_to("..")
    (tmp_path / "photos/sub/above").symlink_to("../..")
    (tmp_path / "photos/around.jpg").symlink_to("around.jpg")
    paths, skipped = walked(tmp_path / "photos", follow_links=True)
    assert paths == ["a.jpg", "around.jpg", "sub/b.jpg"]
    assert skipped.counts == {"loop": 3}
    assert "3 symbolic links to parent folders" in skipped.sentence()


@pytest.mark.guarantee("symbolic-links")
def test_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/b.jpg")
    (tmp_path / "one/other").symlink_to("../two")
    (tmp_path / "two/other").symlink_to("../one")
    paths, skipped = walked(tmp_path, follow_links=True)
    assert paths == ["one/a.jpg", "one/other/b.jpg", "two/b.jpg", "two/other/a.jpg"]
    assert skipped.counts == {"loop": 2}


@pytest.mark.guarantee("symbolic-links")
def test_a_recursive_glob_follows_links_on_request(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "album/kept.jpg", "album/@eaDir/t.jpg")
    (tmp_path / "album/all").symlink_to("../photos")
    (tmp_path / "album/loop").symlink_to(".")
    pattern = f"{tmp_path}/album/**/*.jpg"
    skipped = Skipped()
    assert [item.path for item in expand([pattern], skipped)] == [f"{tmp_path}/album/kept.jpg"]
    assert skipped.counts == {"link": 2, "system folder": 1}
    followed = [item.path for item in expand([pattern], follow_links=True)]
    assert followed == [f"{tmp_path}/album/all/a.jpg", f"{tmp_path}/album/kept.jpg"]


def test_a_glob_counts_what_two_recursive_parts_skip_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", ".git/b.jpg", "sub/c.jpg")
    skipped = Skipped()
    assert len([*expand([f"{tmp_path}/**/**/*.jpg"], skipped)]) == 2
    assert skipped.counts == {"hidden": 1}


def test_a_list_of_folders_counts_too(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.jpg", "sub/b.txt")
    (tmp_path / "sub/c.jpg").symlink_to("a.jpg")
    listed = tmp_path / "list"
    listed.write_text(f"{tmp_path}/sub\n")
    skipped = Skipped()
    options = InputOptions((), str(listed), follow_links=True)
    assert [os.path.basename(item.path) for item in options.stream(skipped)] == ["a.jpg", "c.jpg"]
    assert skipped.counts == {"suffix": 1}


@pytest.mark.guarantee("missing-or-unreadable")
def test_a_folder_that_vanishes_while_links_are_followed_is_an_input_with_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    stream = walk(str(tmp_path), follow_links=True)
    assert next(stream).path.endswith("a/1.jpg")
    (tmp_path / "b" / "2.jpg").unlink()
    (tmp_path / "b").rmdir()
    (item,) = stream
    assert item.error is not None
    assert item.error.kind == "not_found"
