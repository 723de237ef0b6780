"""Images are sorted by their results; nothing is overwritten or lost, and everything can be put back."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from levit_cli.choices import SortMode
from levit_cli.errors import ExitCode, OutputError, UsageError
from levit_cli.sort import files, plan, run, steps
from levit_cli.sort.run import SortDisplay, SortOptions
from levit_cli.system import locking
from tests.support.foreign_systems import posix_only
from tests.support.sorting import JOURNAL, Photos, record, tree, write_photos

MODES: list[SortMode] = ["copy", "move", "link", "symlink"]


class Sorter:
    """Sorts in this process and keeps what was logged."""

    def __init__(self, photos: Photos) -> None:
        self.photos, self.logged = photos, []  # type: tuple[Photos, list[str]]

    def __call__(self, mode: SortMode = "copy", expected: ExitCode = ExitCode.OK, **options: Any) -> list[str]:
        """Sort, and return the names of the files in the sorted folder."""
        display = SortDisplay(options.pop("format", None), verbose=True)
        folder = options.pop("to", self.photos.sorted)
        code = run.sort(self.photos.results, folder, SortOptions(mode, **options), display, self.logged.append)
        assert code == expected, self.logged
        return names_in(folder)

    def undo(self, expected: ExitCode = ExitCode.OK, *, dry_run: bool = False) -> None:
        code = run.put_back(self.photos.sorted, SortDisplay(), self.logged.append, dry_run=dry_run)
        assert code == expected, self.logged

    @property
    def text(self) -> str:
        return "\n".join(self.logged)


def names_in(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.name != JOURNAL and (path.is_symlink() or path.is_file()))
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return Photos(tmp_path)


@pytest.fixture
def sort(photos: Photos) -> Sorter:
    return Sorter(photos)


@pytest.mark.guarantee("sort-undo", "sort-never-overwrites")
@pytest.mark.parametrize("mode", MODES)
def test_sorting_twice_changes_nothing_and_undo_restores_the_tree(mode: SortMode, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "work")
    sort = Sorter(photos)
    before = tree(photos.folder, inodes=True, link_times=mode == "move")
    dry = sort(mode, dry_run=True, min_prob=0.5)
    assert dry == []
    assert tree(photos.folder, inodes=True, link_times=mode == "move") == before
    found = sort(mode, min_prob=0.5)
    link = "dog/link.jpg"
    assert found == [
        *("_uncertain/b.XMP", "_uncertain/b.jpg", "a_b~82badf67/raw.jpg", "a_b~82badf67/raw.xmp", "cat/a (2).jpg"),
        *("cat/a (2).xmp", "cat/a.jpg", "cat/a.jpg.json", link),
    ]
    kinds = {name: (photos.sorted / name).is_symlink() for name in found}
    assert kinds == {name: mode == "symlink" or (name == link and mode == "move") for name in found}
    assert (photos.sorted / link).read_bytes() == b"content of 'raw.cr2'"
    assert (photos.photos / "a.jpg").exists() == (mode != "move")
    assert (photos.photos / "raw.xmp").exists()  # raw.cr2 needs it
    after = tree(photos.folder)
    sort(mode, min_prob=0.5)
    assert tree(photos.folder) == after
    assert "5 images were already sorted" in sort.text
    sort.undo()
    assert tree(photos.folder, inodes=True, link_times=mode == "move") == before


def test_copies_keep_times_and_mode(photos: Photos, sort: Sorter) -> None:
    path = photos.add("a.jpg", "cat")
    path.chmod(0o640)
    sort()
    copied, original = (photos.sorted / "cat/a.jpg").stat(), path.stat()
    assert (copied.st_mtime_ns, stat.S_IMODE(copied.st_mode)) == (original.st_mtime_ns, stat.S_IMODE(original.st_mode))
    assert copied.st_ino != original.st_ino


@pytest.mark.parametrize("mode", ["move", "link"])
def test_moved_and_linked_files_are_the_same_files(mode: SortMode, photos: Photos, sort: Sorter) -> None:
    inode = photos.add("a.jpg", "cat").stat().st_ino
    sort(mode)
    assert (photos.sorted / "cat/a.jpg").stat().st_ino == inode


@pytest.mark.guarantee("sort-never-overwrites")
@pytest.mark.parametrize("mode", MODES)
def test_existing_files_and_names_that_differ_in_case_stay(mode: SortMode, photos: Photos, sort: Sorter) -> None:
    (photos.sorted / "cat").mkdir(parents=True)
    (photos.sorted / "cat/A.JPG").write_text("theirs")
    (photos.sorted / "cat/b.xmp").write_text("theirs")
    for name in ("a.jpg", "b.jpg", "b.xmp", "more/b.jpg", "even/more/b.jpg"):
        photos.add(name, "" if name.endswith("xmp") else "cat")
    found = sort(mode)
    assert found == [
        f"cat/{name}" for name in ("A.JPG", "a (2).jpg", "b (2).jpg", "b (2).xmp", "b (3).jpg", "b.jpg", "b.xmp")
    ]
    assert (photos.sorted / "cat/A.JPG").read_text() == (photos.sorted / "cat/b.xmp").read_text() == "theirs"
    sort.undo()
    assert names_in(photos.sorted) == ["cat/A.JPG", "cat/b.xmp"]


@pytest.mark.guarantee("sort-never-overwrites")
@pytest.mark.parametrize("mode", MODES)
def test_a_name_that_another_program_takes_meanwhile_gets_a_number(
    mode: SortMode, photos: Photos, sort: Sorter, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos.add("a.jpg", "cat")
    photos.add("a.xmp")
    photos.add("b.jpg", "cat")
    take = steps.take

    def racing(*arguments: Any) -> Any:
        for number in ("", " (2)"):
            if not (photos.sorted / f"cat/a{number}.jpg").exists():
                (photos.sorted / f"cat/a{number}.jpg").write_text("theirs")
                break
        return take(*arguments)

    monkeypatch.setattr(run, "take", racing)
    names = ["a (2).jpg", "a (3).jpg", "a (3).xmp", "a.jpg", "b.jpg"]
    assert sort(mode) == [f"cat/{name}" for name in names]
    assert (photos.sorted / "cat/a.jpg").read_text() == (photos.sorted / "cat/a (2).jpg").read_text() == "theirs"
    sort.undo()
    assert names_in(photos.sorted) == ["cat/a (2).jpg", "cat/a.jpg"]
    assert names_in(photos.photos) == ["a.jpg", "a.xmp", "b.jpg"]


@pytest.mark.guarantee("sort-changed-files")
@pytest.mark.parametrize("mode", MODES)
def test_files_that_are_gone_changed_or_no_files_are_reported(mode: SortMode, photos: Photos, sort: Sorter) -> None:
    for name in ("a.jpg", "gone.jpg", "changed.jpg"):
        photos.add(name, "cat")
    (photos.photos / "gone.jpg").unlink()
    (photos.photos / "folder").mkdir()
    (photos.photos / "x.tar").touch()
    for path in (photos.photos / "folder", photos.photos / "x.tar!/a.jpg", "http://host/a.jpg", "-", "s3://b/a.jpg"):
        photos.list(path, "cat")
    written = photos.results.stat().st_mtime_ns
    os.utime(photos.photos / "changed.jpg", ns=(written + 1, written + 1))
    assert sort(mode, ExitCode.SOME_FAILED) == ["cat/a.jpg"]
    for text in (
        "gone.jpg · there is no such file",
        "changed.jpg · it was changed",
        "folder · it is not a regular file",
    ):
        assert text in sort.text
    for text in ("a.jpg · it is an image in an archive", "http://host/a.jpg · it is a URL", "- · it is standard input"):
        assert text in sort.text
    assert "7 files could not be sorted" in sort.text
    found = sort(mode, ExitCode.SOME_FAILED, include_changed=True)
    assert found == ["cat/a.jpg", "cat/changed.jpg"]


def test_a_file_from_the_future_is_not_changed(photos: Photos, sort: Sorter) -> None:
    path = photos.add("a.jpg", "cat")
    os.utime(path, (4_000_000_000, 4_000_000_000))
    assert sort() == ["cat/a.jpg"]


def test_only_results_that_are_ok_are_sorted(photos: Photos, sort: Sorter) -> None:
    photos.add("a.jpg", "cat")
    bad = photos.add("b.jpg")
    error = {"path": str(bad), "status": "error", "error": {"kind": "truncated", "message": "cut"}}
    with photos.results.open("a") as file:
        file.write(json.dumps(error) + "\n")
    assert sort() == ["cat/a.jpg"]
    assert "1 result is an error" in sort.text


@pytest.mark.parametrize(
    ("min_prob", "folders"), [(None, "cat _uncertain cat"), (0.5, "cat cat _uncertain"), (0.0, "cat cat cat")]
)
def test_uncertain_images(min_prob: float | None, folders: str, photos: Photos, sort: Sorter) -> None:
    results = ""
    for name, prob, accepted in (("a", 0.9, True), ("b", 0.5, False), ("c", 0.4, None)):
        more = {} if accepted is None else {"accepted": accepted}
        results += record(photos.add(f"{name}.jpg"), "cat", prob, **more)
    photos.results.write_text(results)
    expected = sorted(f"{folder}/{name}.jpg" for folder, name in zip(folders.split(), "abc", strict=True))
    assert sort(min_prob=min_prob) == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_listed_twice_is_sorted_once(mode: SortMode, photos: Photos, sort: Sorter) -> None:
    path = photos.add("a.jpg", "cat")
    photos.list(path, "dog")
    photos.list(photos.photos / "more/../a.jpg", "dog")
    (photos.photos / "more").mkdir()
    assert sort(mode) == ["cat/a.jpg"]
    assert "2 images were listed more than once" in sort.text


@pytest.mark.parametrize("mode", MODES)
def test_other_results_into_the_same_folder(mode: SortMode, photos: Photos, sort: Sorter) -> None:
    """A camera gives new photos the old names."""
    photos.add("a.jpg", "cat", content=b"first")
    sort(mode)
    before = tree(photos.photos)
    photos.add("a.jpg", content=b"second")
    photos.results.write_text(record(photos.photos / "a.jpg", "cat"))
    found = sort(mode)
    if mode in ("copy", "move"):
        assert found == ["cat/a (2).jpg", "cat/a.jpg"]
        assert (photos.sorted / "cat/a (2).jpg").read_bytes() == b"second"
    else:
        assert found == ["cat/a.jpg"]
    if mode == "move":
        sort.undo(ExitCode.SOME_FAILED)
        assert "another file has its old name" in sort.text
        assert names_in(photos.sorted) == ["cat/a.jpg"]
        (photos.photos / "a.jpg").unlink()
        sort.undo()
        assert tree(photos.photos) == before | tree(photos.photos / "a.jpg")
        assert (photos.photos / "a.jpg").read_bytes() == b"first"


@pytest.mark.parametrize("mode", MODES)
def test_the_sorted_folder_may_be_the_folder_of_the_photos(mode: SortMode, photos: Photos) -> None:
    for name, label in (("a.jpg", "cat"), ("cat/b.jpg", "cat"), ("cat/c.jpg", "dog"), ("dog", "cat")):
        photos.add(name, label)
    sort = Sorter(photos)
    photos.sorted = photos.photos
    before = tree(photos.photos)
    found = sort(mode)
    dog = next(name for name in found if name.startswith("dog~"))
    assert {"cat/a.jpg", "cat/b.jpg", "cat/dog", dog} <= {*found}
    assert "1 image was already in its folder" in sort.text
    sort.undo()
    assert tree(photos.photos) == before


@pytest.mark.guarantee("sort-undo")
@pytest.mark.parametrize("mode", MODES)
def test_undo_keeps_what_was_changed_since(mode: SortMode, photos: Photos, sort: Sorter) -> None:
    for name in ("a", "b", "c", "d"):
        photos.add(f"{name}.jpg", "cat")
    sort(mode)
    folder = photos.sorted / "cat"
    (folder / "new").write_text("theirs")
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").write_text("edited")
    if mode in ("copy", "link"):
        (photos.photos / "b.jpg").unlink()  # the copy is the last one
    (folder / "c.jpg").unlink()
    sort.undo(ExitCode.SOME_FAILED, dry_run=True)
    assert len(names_in(photos.sorted)) == 4
    sort.undo(ExitCode.SOME_FAILED)
    kept = {"copy": ["a.jpg", "b.jpg", "new"], "link": ["a.jpg", "b.jpg", "new"]}.get(mode, ["a.jpg", "new"])
    assert names_in(folder) == kept
    assert (folder / "a.jpg").read_text() == "edited"
    assert (photos.photos / "d.jpg").read_bytes() == b"content of 'd.jpg'"
    sort.undo(ExitCode.SOME_FAILED)
    assert names_in(folder) == kept
    if mode == "copy":
        shutil.copy2(folder / "b.jpg", photos.photos / "b.jpg")
        (folder / "a.jpg").unlink()
        sort.undo()
        assert names_in(photos.sorted) == ["cat/new"]
        assert not (photos.sorted / JOURNAL).exists()


@pytest.mark.guarantee("sort-undo")
@pytest.mark.parametrize("of_folder", [False, True])
@pytest.mark.parametrize("mode", ["copy", "move", "link"])
def test_sorted_files_stay_if_links_to_them_replaced_their_originals(
    mode: SortMode, of_folder: bool, photos: Photos, sort: Sorter
) -> None:
    path = photos.add("a.jpg", "cat")
    sort(mode)
    if of_folder:
        shutil.rmtree(photos.photos)
        photos.photos.symlink_to(photos.sorted / "cat")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(photos.sorted / "cat/a.jpg")
    run.sort(photos.results, photos.sorted, SortOptions(mode), SortDisplay(), sort.logged.append)
    for _ in range(2):
        sort.undo(ExitCode.SOME_FAILED)
    assert (photos.sorted / "cat/a.jpg").read_bytes() == b"content of 'a.jpg'"


def test_undo_makes_folders_again_that_were_removed_since(photos: Photos, sort: Sorter) -> None:
    photos.add("deep/down/a.jpg", "cat")
    before = tree(photos.folder)
    sort("move")
    shutil.rmtree(photos.photos / "deep")
    sort.undo()
    assert tree(photos.folder) == before


def test_names_that_are_long_or_not_utf_8(photos: Photos, sort: Sorter) -> None:
    long = "é" * 125 + ".jpg"  # 254 bytes
    for name in (long, f"more/{long}"):
        photos.add(name, "cat")
    strange = photos.photos / "caf\udce9 \n.jpg"
    strange.write_text("strange")
    os.utime(strange, (1, 1))
    raw = os.fsencode(strange)
    from levit_cli.predict.records import path_fields

    with photos.results.open("a") as file:
        fields = {**path_fields(os.fsdecode(raw)), "status": "ok"}
        file.write(json.dumps({**fields, "top": [{"index": 0, "label": "cat", "prob": 1}]}) + "\n")
    before = tree(photos.folder)
    assert {*sort("move")} == {f"cat/{'é' * 123} (2).jpg", "cat/caf\udce9 \n.jpg", f"cat/{long}"}
    sort.undo()
    assert tree(photos.folder) == before


def test_a_file_whose_old_name_cannot_be_removed_stays(
    photos: Photos, sort: Sorter, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photos.add(name, "cat") for name in ("a.jpg", "b.jpg")]
    unlink = os.unlink

    def refusing(path: Any, **options: Any) -> None:
        if str(path) == str(paths[0]):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refusing)
    assert sort("move", ExitCode.SOME_FAILED) == ["cat/b.jpg"]
    assert "Not sorted: " + str(paths[0]) in sort.text
    assert paths[0].exists()


@pytest.mark.guarantee("sort-never-overwrites")
@pytest.mark.parametrize("mode", ["copy", "move"])
def test_without_hard_links_files_are_renamed(
    mode: SortMode, photos: Photos, sort: Sorter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    photos.add("a.jpg", "cat")
    photos.add("more/a.jpg", "cat")
    before = tree(photos.folder)
    assert sort(mode) == ["cat/a (2).jpg", "cat/a.jpg"]
    with pytest.raises(FileExistsError):
        files.place(str(photos.sorted / "cat/a.jpg"), str(photos.sorted / "cat/a (2).jpg"))
    sort.undo()
    assert tree(photos.folder) == before


@pytest.mark.guarantee("sort-undo")
@pytest.mark.parametrize("is_known", [True, False])
def test_moving_to_another_file_system_copies_and_verifies(
    is_known: bool, photos: Photos, sort: Sorter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device numbers tell it, or only the call that fails, as with bind mounts."""
    place, cross = files.place, []

    def refusing(source: str, target: str) -> None:
        if not os.path.basename(source).startswith(".levit-"):
            cross.append(source)
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        place(source, target)

    monkeypatch.setattr(files, "place", refusing)
    if is_known:
        device = os.stat(photos.folder).st_dev
        monkeypatch.setattr(steps._Batch, "_device", property(lambda _: device + 1, lambda *_: None), raising=False)
    photos.add("a.jpg", "cat")
    photos.add("a.xmp")
    before = tree(photos.folder)
    assert sort("move") == ["cat/a.jpg", "cat/a.xmp"]
    assert names_in(photos.photos) == []
    assert bool(cross) != is_known
    sort.undo()
    assert tree(photos.folder) == before


def test_hard_links_to_another_file_system_are_refused_before_anything_is_made(
    photos: Photos, sort: Sorter, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos.add("a.jpg", "cat")
    monkeypatch.setattr(run, "_device_of", lambda _: -1)
    with pytest.raises(UsageError, match="different file systems"):
        sort("link")
    assert not photos.sorted.exists()


def test_a_full_disk_ends_the_run_and_the_same_command_continues(
    photos: Photos, sort: Sorter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        photos.add(f"{number}.jpg", "cat")
    copy = files._copy_content

    def full(source: int, target: int, poll: Callable[[], None]) -> int:
        if os.readlink(f"/proc/self/fd/{source}").endswith("3.jpg"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target, poll)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_copy_content", full)
        with pytest.raises(OutputError, match="No space left"):
            sort()
    assert sort() == [f"cat/{number}.jpg" for number in range(5)]


@pytest.mark.guarantee("concurrent-runs")
def test_a_second_run_on_the_folder_is_refused(photos: Photos, sort: Sorter) -> None:
    photos.add("a.jpg", "cat")
    sort()
    photos.add("b.jpg", "cat")
    descriptor = os.open(photos.sorted / JOURNAL, os.O_RDWR)
    locking.lock(descriptor)
    for again in (sort, sort.undo, lambda: sort(dry_run=True)):
        with pytest.raises(OutputError, match="another run"):
            again()
    locking.close(descriptor)
    assert sort() == ["cat/a.jpg", "cat/b.jpg"]


@pytest.mark.parametrize("content", ['{"other": 1}\n', "text\n", '{"levit_sort": 9, "made": true}\n', "[1]\n", "1\n"])
def test_a_file_that_is_no_journal_is_refused(content: str, photos: Photos, sort: Sorter) -> None:
    photos.add("a.jpg", "cat")
    photos.sorted.mkdir()
    (photos.sorted / JOURNAL).write_text(content)
    for command in (sort, sort.undo, lambda: sort(dry_run=True)):
        with pytest.raises(UsageError, match="line 1"):
            command()
    assert names_in(photos.sorted) == []


def test_an_incomplete_line_of_the_journal_is_ignored(photos: Photos, sort: Sorter) -> None:
    photos.add("a.jpg", "cat")
    before = tree(photos.folder)
    sort("move")
    with (photos.sorted / JOURNAL).open("a") as file:
        file.write('{"step": 1, "action": "mo')
    sort("move")
    sort.undo()
    assert tree(photos.folder) == before


@pytest.mark.parametrize("name", ["missing", "file"])
def test_undo_of_a_folder_without_a_journal_is_refused(name: str, photos: Photos, sort: Sorter) -> None:
    (photos.folder / "file").touch()
    photos.sorted = photos.folder / name
    with pytest.raises(UsageError):
        sort.undo()


def test_the_folder_above_the_sorted_folder_must_exist(photos: Photos, sort: Sorter) -> None:
    photos.add("a.jpg", "cat")
    with pytest.raises(OutputError, match="does not exist"):
        sort(to=photos.folder / "missing" / "sorted")


def test_damaged_results_leave_everything_untouched(photos: Photos, sort: Sorter) -> None:
    photos.add("a.jpg", "cat")
    with photos.results.open("a") as file:
        file.write("damage\n")
    before = tree(photos.folder)
    with pytest.raises(UsageError, match="line 2"):
        sort("move")
    assert tree(photos.folder) == before


def test_the_results_are_no_sidecar(photos: Photos, sort: Sorter) -> None:
    photos.results = photos.photos / "a.json"
    photos.add("a.jpg", "cat")
    assert sort("move") == ["cat/a.jpg"]
    assert sort("move") == ["cat/a.jpg"]


def test_a_sidecar_that_both_images_of_a_run_share_goes_with_each(photos: Photos, sort: Sorter) -> None:
    for name in ("a.jpg", "a.heic", "a.xmp", "a.heic.json"):
        photos.add(name, "cat" if name in ("a.jpg", "a.heic") else "")
    before = tree(photos.folder)
    names = ["a (2).heic", "a (2).heic.json", "a (2).xmp", "a.jpg", "a.xmp"]
    assert sort("move") == [f"cat/{name}" for name in names]
    assert names_in(photos.photos) == ["a.xmp"]
    sort("move")
    assert names_in(photos.photos) == ["a.xmp"]
    sort.undo()
    assert tree(photos.folder) == before


@posix_only
def test_a_signal_ends_the_run_after_the_step(photos: Photos, sort: Sorter, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    for number in range(5):
        photos.add(f"{number}.jpg", "cat")
    before = tree(photos.folder)
    place = files.place

    def interrupting(source: str, target: str) -> None:
        place(source, target)
        if target.endswith("2.jpg"):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(files, "place", interrupting)
        with pytest.raises(KeyboardInterrupt):
            sort("move")
    assert names_in(photos.sorted) == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg"]
    assert names_in(photos.photos) == ["3.jpg", "4.jpg"]
    assert "The same command continues" in sort.text
    sort("move")
    assert names_in(photos.photos) == []
    sort.undo()
    assert tree(photos.folder) == before


def test_numbers_of_many_equal_names_are_found_quickly() -> None:
    names = plan._Names(())
    stems = [names.reserve("a", [".jpg"]) for _ in range(2000)]
    assert stems[:2] == ["a", "a (2)"]
    assert stems[-1] == "a (2000)"
