"""``levit predict --shard`` and ``levit merge``: all shards together are the run; what is not complete is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from levit_cli.data.input import Input
from levit_cli.data.shards import Selection, Shard, parse_shard, shard_of
from levit_cli.errors import UsageError
from levit_cli.predict.shard_meta import pack, unpack
from tests.support.archives import tar_of_folder, write_tar
from tests.support.binary import LEVIT, environment, levit
from tests.support.extras import needs_parquet
from tests.support.foreign_systems import posix_only
from tests.support.sample_images import write_images

SHARDS = 3
FORMATS = ("jsonl", "csv", "tsv", pytest.param("parquet", marks=needs_parquet))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and an archive with images, two of them broken, one with a line break in its name."""
    root = tmp_path_factory.mktemp("photos")
    paths = write_images(root / "folder", 24)
    paths[3].write_bytes(b"no image")
    paths[5].rename(root / "folder" / 'a "b"\n, c.jpg')
    tar_of_folder(root / "a.tar.gz", root / "folder")
    return root


@pytest.fixture(scope="module")
def sources(photos: Path) -> list[Path]:
    """Inputs with an image that is named twice."""
    return [photos / "folder", photos / "a.tar.gz", photos / "folder" / "000.jpg"]


@pytest.fixture(scope="module")
def shards(sources: list[Path], tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of all shards in all formats, and of the run without shards, ``whole``."""
    folder = tmp_path_factory.mktemp("shards")
    for suffix in ("jsonl", "csv", "tsv", "parquet"):
        for number in range(1, SHARDS + 1):
            name = folder / f"{number}.{suffix}"
            levit("predict", "-m", tiny_folder, *sources, "--shard", f"{number}/{SHARDS}", "-o", name)
        levit("predict", "-m", tiny_folder, *sources, "-o", folder / f"whole.{suffix}")
    return folder


def merge(folder: Path, *names: str, output: str = "out.jsonl") -> "subprocess.CompletedProcess[bytes]":
    return levit("merge", *(folder / name for name in names), "-o", folder / output)


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    """A copy of all outputs, which the test may change."""
    return Path(shutil.copytree(shards, tmp_path / "shards"))


@pytest.mark.guarantee("merge-equal")
@pytest.mark.parametrize("suffix", FORMATS)
def test_merged_shards_are_the_bytes_of_one_run(shards: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out.{suffix}"
    names = [shards / f"{number}.{suffix}" for number in (2, 3, 1)]
    done = levit("merge", *names, "-o", output)
    assert (done.returncode, done.stderr) == (0, b"49 records of 3 shards\n")
    assert output.read_bytes() == (shards / f"whole.{suffix}").read_bytes()


def test_each_shard_has_its_inputs_only(shards: Path) -> None:
    for number in range(1, SHARDS + 1):
        paths = [json.loads(line)["path"] for line in (shards / f"{number}.jsonl").read_bytes().splitlines()]
        assert paths
        assert {shard_of(os.fsencode(path), SHARDS) for path in paths} == {number}
        meta = json.loads((shards / f"{number}.jsonl.meta.json").read_bytes())
        assert (meta["shard"], meta["shards"], meta["inputs"], meta["listed"]) == (number, SHARDS, len(paths), 49)


def test_the_shard_of_a_path_is_the_documented_hash() -> None:
    for path in (b"a.jpg", "é.jpg".encode(), b"\xff/x", b"s.tar!/1.jpg"):
        assert shard_of(path, 7) == int(sha256(path).hexdigest()[:16], 16) % 7 + 1
    assert [shard_of(f"{number}.jpg".encode(), 4) for number in range(8)] == [1, 2, 1, 1, 4, 4, 1, 3]  # by sha256sum


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "-1/3", "1/3 ", "a/b", "1/3/5", "１/3"])
def test_what_is_no_shard_is_refused(text: str, photos: Path, tmp_path: Path) -> None:
    done = levit("predict", "-m", "demo", photos, "--shard", text, "-o", tmp_path / "x.jsonl")
    assert done.returncode == 2
    assert b"is not a shard" in done.stderr
    with pytest.raises(UsageError):
        parse_shard(text)


def test_positions_are_restored() -> None:
    selection = Selection(Shard(1, 3))
    taken = [*selection.of(Input(f"{number}.jpg") for number in range(1000))]
    assert len(taken) == len(selection.positions)
    assert [f"{position}.jpg" for position in unpack(pack(selection.positions))] == [item.path for item in taken]


@pytest.mark.guarantee("merge-refuses")
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("1", "3"), "The shards are incomplete · shard 2/3 missing"),
        (("3",), "The shards are incomplete · shards 1/3, 2/3 missing"),
        (("1", "2", "3", "2"), "The shards overlap · shard 2/3 is in"),
        (("1", "2", "whole"), "is not the output of a finished shard"),
        (("1", "2", "gone"), "it does not exist"),
    ],
)
def test_missing_and_overlapping_shards_are_refused(copy: Path, names: tuple[str, ...], message: str) -> None:
    done = merge(copy, *(f"{name}.jsonl" for name in names))
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert not (copy / "out.jsonl").exists()


def _without_a_record(lines: list[bytes]) -> list[bytes]:
    return lines[:3] + lines[4:]


def _with_a_record_twice(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[0]]


def _cut(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], lines[-1][:20]]


def _replaced(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], next(line for line in lines if line != lines[-1])]


def _other_label(lines: list[bytes]) -> list[bytes]:
    return b"".join(lines).replace(b'"prob": 0.', b'"prob": 0.0', 1).splitlines(keepends=True)


def _damaged(lines: list[bytes]) -> list[bytes]:
    return [b"{}\n", *lines[1:]]


@pytest.mark.guarantee("merge-refuses")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_a_record, "2.jsonl is incomplete"),
        (_cut, "2.jsonl is incomplete"),
        (_with_a_record_twice, "2.jsonl has too many records"),
        (_replaced, "2.jsonl was changed after its run"),
        (_other_label, "2.jsonl was changed after its run"),
        (_damaged, "2.jsonl is damaged"),
    ],
)
def test_a_changed_shard_is_refused(copy: Path, change: Callable[[list[bytes]], list[bytes]], message: str) -> None:
    path = copy / "2.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    done = merge(copy, "1.jsonl", "2.jsonl", "3.jsonl")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.decode()
    assert not (copy / "out.jsonl").exists()


def test_a_record_of_another_shard_is_refused(copy: Path) -> None:
    foreign = (copy / "1.jsonl").read_bytes().splitlines(keepends=True)[0]
    lines = (copy / "2.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "2.jsonl").write_bytes(b"".join([*lines[:-1], foreign]))
    done = merge(copy, "1.jsonl", "2.jsonl", "3.jsonl")
    assert done.returncode == 2
    assert "2.jsonl is not only shard 2/3" in done.stderr.decode()


@pytest.mark.guarantee("merge-refuses")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-k", "2"), "top-k was 5 and is 2"),
        (("-m", "demo"), "sha256 was"),
        (("--shard", f"2/{SHARDS + 1}"), "shards of different runs"),
        (("--decode", "fast"), "decode was exact and is fast"),
    ],
)
def test_shards_of_different_runs_are_refused(
    copy: Path, sources: list[Path], tiny_folder: Path, options: tuple[str, ...], message: str
) -> None:
    common = ("-m", tiny_folder, "--shard", f"2/{SHARDS}")
    levit("predict", *sources, *common, *options, "-o", copy / "2.jsonl", "--overwrite")
    done = merge(copy, "1.jsonl", "2.jsonl", "3.jsonl")
    assert done.returncode == 2
    assert message in done.stderr.decode()


@pytest.mark.guarantee("merge-refuses")
def test_inputs_that_changed_between_the_shards_are_refused(
    copy: Path, photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    levit(
        "predict", "-m", tiny_folder, photos / "folder", "--shard", "2/3", "-o", copy / "2.jsonl", "--overwrite"
    )  # fmt: skip
    done = merge(copy, "1.jsonl", "2.jsonl", "3.jsonl")
    assert done.returncode == 2
    assert "The shards divide different inputs" in done.stderr.decode()


@posix_only
def test_a_killed_shard_is_refused_until_it_is_resumed(copy: Path, sources: list[Path], tiny_folder: Path) -> None:
    command = [LEVIT, "predict", "-m", str(tiny_folder), "--files-from", "-", "--shard", "1/1"]
    output = copy / "killed.jsonl"
    names = sorted((sources[0]).iterdir())[:8]
    listed = b"\0".join(os.fsencode(name) for name in names)
    with subprocess.Popen(
        [*command, "-0", "-o", str(output)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None
        process.stdin.write(listed + b"\0")
        process.stdin.flush()
        while not output.exists() or output.stat().st_size < 500:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    done = merge(copy, "killed.jsonl")
    assert done.returncode == 2
    assert b"is not the output of a finished shard" in done.stderr
    levit(*command[1:], "-0", "-o", output, "--resume", stdin=listed)
    assert merge(copy, "killed.jsonl").returncode == 0
    assert (copy / "out.jsonl").read_bytes() == output.read_bytes()


def test_a_shard_may_be_empty(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    for number in range(1, 5):
        output = tmp_path / f"{number}.csv"
        options = ("--shard", f"{number}/4", "-o", output)
        assert levit("predict", "-m", tiny_folder, photos / "folder" / "000.jpg", *options).returncode == 0
    names = [f"{number}.csv" for number in range(1, 5)]
    assert merge(tmp_path, *names, output="out.csv").returncode == 0
    assert len((tmp_path / "out.csv").read_bytes().splitlines()) == 2


def test_members_of_other_shards_are_not_decompressed_into_inputs(tmp_path: Path) -> None:
    from levit_cli.data.inputs import InputOptions

    write_tar(tmp_path / "a.tar", {f"{number}.jpg": b"x" * 100 for number in range(20)})
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(__import__("gzip").compress((tmp_path / "a.tar").read_bytes()))
    listed = list(InputOptions((str(packed),), shard=Shard(1, 4)).stream())
    assert 0 < len(listed) < 20
    assert all(item.content for item in listed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--shard needs an output file"),
        (("-o", "x.json"), "Cannot use --shard with the format json"),
        (("-o", "x.txt", "-f", "table"), "Cannot use --shard with the format table"),
    ],
)
def test_outputs_that_cannot_be_merged_are_refused(
    photos: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = levit("predict", "-m", "demo", photos, "--shard", "1/2", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert not os.listdir(tmp_path)


def test_another_file_with_the_name_of_the_description_is_kept(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.meta.json").write_text("mine")
    done = levit("predict", "-m", "demo", photos, "--shard", "1/2", "-o", tmp_path / "x.jsonl")
    assert done.returncode == 2
    assert (tmp_path / "x.jsonl.meta.json").read_text() == "mine"


def test_the_output_of_merge_is_protected(copy: Path) -> None:
    names = ["1.jsonl", "2.jsonl", "3.jsonl"]
    assert merge(copy, *names, output="whole.jsonl").returncode == 2
    assert merge(copy, *names, output="1.jsonl").returncode == 2
    assert merge(copy, *names, output="out.csv").returncode == 2
    assert merge(copy, *names, output="gone/out.jsonl").returncode == 4


def test_object_storage_is_named_as_given(copy: Path) -> None:
    done = levit("merge", "s3://bucket/1.jsonl", copy / "2.jsonl", "-o", copy / "out.jsonl")
    assert (done.returncode, b"Cannot merge s3://bucket/1.jsonl" in done.stderr) == (2, True)
    done = levit("merge", copy / "1.jsonl", "-o", "s3://bucket/out.jsonl")
    assert (done.returncode, b"Cannot write s3://bucket/out.jsonl" in done.stderr) == (2, True)


def test_more_shards_than_open_files(copy: Path, tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    del resource
    from levit_cli.data.shards import Selection
    from levit_cli.predict.shard_meta import store_meta

    count = 90
    lines = (copy / "whole.jsonl").read_bytes().splitlines(keepends=True)
    settings = json.loads((copy / "1.jsonl.meta.json").read_bytes())["settings"]
    paths = [json.loads(line)["path"] for line in lines]
    names = []
    for number in range(1, count + 1):
        selection = Selection(Shard(number, count))
        taken = {item.path for item in selection.of(map(Input, paths))}
        names.append(tmp_path / f"{number}.jsonl")
        names[-1].write_bytes(b"".join(line for line, path in zip(lines, paths, strict=True) if path in taken))
        store_meta(names[-1], selection, settings)
    limited = [sys.executable, "-c", LIMITED, LEVIT, "merge", *map(str, names), "-o", str(tmp_path / "out.jsonl")]
    done = subprocess.run(limited, capture_output=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == (copy / "whole.jsonl").read_bytes()


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
os.execv(sys.argv[1], sys.argv[1:])
"""
