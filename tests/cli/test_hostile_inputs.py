"""``levit predict`` on arbitrary inputs: each gets one record with its own path."""

import csv
import io
import json
import os
import socket
import subprocess
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levit_cli.data.inputs import from_paths, read_list, walk
from tests.support.binary import LEVIT, environment, levit, records, unprivileged
from tests.support.foreign_systems import posix_only
from tests.support.random_weights import TINY, random_state, write_folder
from tests.support.sample_images import sample_image, write_images

pytestmark = posix_only  # pipes, permissions, and names that Windows does not allow

NAMES = [
    b"new\nline.png",
    b"tab\there.png",
    b"comma,.png",
    b'quote".png',
    b"-rf.png",
    b"[red]x[bold].png",
    b":smile:.png",
    b"\x1b[31mred.png",
    b"=1+1.png",
    b"caf\xe9.png",
    b"\xf0\x9f\x90\x88.png",
    b"cr\r.png",
    b" .png",
]


@pytest.mark.guarantee("hostile-names")
@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "tsv"])
def test_every_file_name_is_recovered_from_every_format(tiny_folder: Path, tmp_path: Path, format: str) -> None:
    for name in NAMES:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            sample_image().save(file, "PNG")
    arguments = ["./-rf.png", *(name for name in map(os.fsdecode, sorted(NAMES)) if not name.startswith("-"))]
    done = levit("predict", "-m", tiny_folder, "-f", format, "-q", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names_in(done.stdout, format) == [os.fsencode(name) for name in arguments]
    listed = levit(
        "predict", "-m", tiny_folder, "-f", format, "-q", "--files-from", "-", "-0",
        stdin=b"\0".join(sorted(NAMES)), cwd=tmp_path,
    )  # fmt: skip
    assert names_in(listed.stdout, format) == sorted(NAMES)


def names_in(output: bytes, format: str) -> list[bytes]:
    import base64

    if format in ("csv", "tsv"):
        text = io.StringIO(output.decode("utf-8", "surrogateescape"), newline="")
        lines = csv.reader(text, delimiter="\t" if format == "tsv" else ",")
        return [line[0].encode("utf-8", "surrogateescape") for line in lines][1:]
    results = records(output) if format == "jsonl" else json.loads(output)["results"]
    return [
        base64.b64decode(record["path_b64"]) if "path_b64" in record else record["path"].encode() for record in results
    ]


@pytest.mark.guarantee("wrong-suffix")
def test_the_content_decides_the_format_and_a_named_file_is_always_read(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("image", "image.txt", "png.jpg"):
        sample_image().save(tmp_path / name, "PNG")
    (tmp_path / "text.png").write_text("text, not an image\n" * 5)
    paths = [tmp_path / name for name in ("image", "image.txt", "png.jpg", "text.png")]
    done = levit("predict", "-m", tiny_folder, *paths, "-f", "jsonl")
    assert [record["status"] for record in records(done.stdout)] == ["ok", "ok", "ok", "error"]
    walked = levit("predict", "-m", tiny_folder, tmp_path, "-f", "jsonl")
    assert [Path(record["path"]).name for record in records(walked.stdout)] == ["png.jpg", "text.png"]


@pytest.mark.guarantee("duplicate-inputs", "folder-named-like-an-image")
def test_an_input_that_is_given_twice_has_two_records(tiny_folder: Path, tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "x.jpg", 2)
    done = levit("predict", "-m", tiny_folder, first, tmp_path, first, tmp_path / "x.jpg", "-f", "jsonl")
    assert [record["path"] for record in records(done.stdout)] == [
        *map(str, (first, first, second, first, first, second))
    ]


@pytest.mark.guarantee("missing-or-unreadable")
def test_missing_vanished_and_unreadable_inputs_are_error_records(tiny_folder: Path, tmp_path: Path) -> None:
    first, second, third = write_images(tmp_path / "photos", 3)
    (tmp_path / "photos" / "locked").mkdir()
    write_images(tmp_path / "photos" / "locked", 1)
    (tmp_path / "photos" / "locked").chmod(0)
    command = unprivileged(LEVIT, "predict", "-m", tiny_folder, "-f", "jsonl", "-q", "--files-from", "-")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{first}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["status"] == "ok"
        second.unlink()  # while it runs
        process.stdin.write(f"{second}\n{tmp_path}/photos\n{tmp_path}/nowhere/x.jpg\n".encode())
        process.stdin.close()
        results = records(process.stdout.read())
        assert process.wait(60) == 1
    (tmp_path / "photos" / "locked").chmod(0o755)
    kinds = [(record["path"], record.get("error", {}).get("kind", "ok")) for record in results]
    assert kinds == [
        (str(second), "not_found"),
        (str(first), "ok"),
        (str(third), "ok"),
        (str(tmp_path / "photos" / "locked"), "permission"),
        (str(tmp_path / "nowhere" / "x.jpg"), "not_found"),
    ]


@pytest.mark.guarantee("not-regular-file", "symbolic-links")
def test_pipes_sockets_devices_and_dangling_links_are_error_records_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "round").symlink_to(".")
    sample_image().save(tmp_path / "good.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        paths = [tmp_path / name for name in ("pipe.jpg", "socket.jpg", "dangling.jpg", "loop.jpg", "good.png")]
        paths.append(Path("/dev/zero"))
        done = levit("predict", "-m", tiny_folder, *paths, "-f", "jsonl")
        walked = levit("predict", "-m", tiny_folder, tmp_path, "-f", "jsonl")
    kinds = [record.get("error", {}).get("kind", "ok") for record in records(done.stdout)]
    assert kinds == ["not_regular", "not_regular", "not_found", "not_found", "ok", "not_regular"]
    assert [Path(record["path"]).name for record in records(walked.stdout)] == ["good.png", "pipe.jpg", "socket.jpg"]


@pytest.mark.guarantee("non-finite")
def test_nan_logits_are_an_error_record_without_a_label(tmp_path: Path) -> None:
    state = random_state(TINY)
    for name in [name for name in state if name.endswith(("weight", "bias")) and "norm" in name]:
        state[name] = state[name] * np.float32(1e20)
    write_folder(tmp_path / "hf", state)
    (path,) = write_images(tmp_path / "photos", 1)
    for format in ("jsonl", "json", "csv"):
        done = levit("predict", "-m", tmp_path / "hf", path, "-f", format, "-q")
        assert done.returncode == 1, done.stderr
        assert b"non_finite" in done.stdout
        assert b"NaN" not in done.stdout.replace(b"contain NaN or", b"")
        assert b"label" not in done.stdout.replace(b"label1", b"") or format == "csv"


@pytest.mark.guarantee("stdout-and-stderr")
def test_messages_of_native_libraries_are_dropped(tiny_folder: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    sample_image().save(file, "TIFF", compression="tiff_lzw")
    (tmp_path / "broken.tif").write_bytes(file.getvalue().replace(file.getvalue()[200:260], bytes(60)))
    with_debug = levit("predict", "-m", tiny_folder, tmp_path, "-f", "jsonl", "--debug")
    assert b"LZW" in with_debug.stderr  # written by libtiff to file descriptor 2
    done = levit("predict", "-m", tiny_folder, tmp_path, "-f", "jsonl")
    assert done.stdout == with_debug.stdout
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"1 image in")


@pytest.mark.guarantee("color-modes")
def test_a_cmyk_copy_gets_the_label_of_the_rgb_image(tmp_path: Path) -> None:
    image = sample_image(200, 180, seed=7)
    image.save(tmp_path / "a.png")
    image.convert("CMYK").save(tmp_path / "b.tif")
    image.convert("CMYK").save(tmp_path / "c.jpg", quality=100, subsampling=0)
    done = levit("predict", "-m", "demo", tmp_path, "-f", "jsonl", "-k", "1")
    labels = [record["top"][0]["label"] for record in records(done.stdout)]
    assert len(labels) == 3
    assert len(set(labels)) == 1


@pytest.mark.guarantee("extreme-aspect")
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1), (65_535, 2)])
def test_extreme_shapes_are_classified(tiny_folder: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (9, 99, 199)).save(tmp_path / "thin.png")
    done = levit("predict", "-m", tiny_folder, tmp_path, "-f", "jsonl")
    assert records(done.stdout)[0]["status"] == "ok"


@pytest.mark.guarantee("many-files")
@pytest.mark.parametrize("number", [20_000, pytest.param(100_000, marks=pytest.mark.exhaustive)])
def test_many_files_are_listed_in_order_without_delay(tmp_path: Path, number: int) -> None:
    per_folder = number // 10
    for start in range(0, number, per_folder):
        folder = tmp_path / f"{start:06d}"
        folder.mkdir()
        for index in range(start, start + per_folder):
            os.close(os.open(folder / f"{index:06d}.jpg", os.O_CREAT | os.O_WRONLY))
    started = time.perf_counter()
    stream = walk(str(tmp_path))
    first = next(stream)
    start_s = time.perf_counter() - started
    tracemalloc.start()
    count, last = 1, first.path
    for item in stream:
        assert item.path > last
        count, last = count + 1, item.path
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == number
    assert peak < 1500 * per_folder  # the names of one folder, not of all
    assert start_s < (time.perf_counter() - started) / 3


@pytest.mark.guarantee("input-lists")
def test_a_list_of_200000_lines_is_streamed() -> None:
    number = 200_000

    class LongList(io.BytesIO):
        lines = 0

        def read1(self, size: int | None = -1, /) -> bytes:
            self.lines += 1000
            return b"http://127.0.0.1/some/image.jpg\r\n" * 1000 if self.lines <= number else b""

    tracemalloc.start()
    count = len([None for _ in from_paths(read_list(LongList(), null=False))])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == number
    assert peak < 12 * number
