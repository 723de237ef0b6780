"""``levit embed``: the vectors in each format, errors, resumed and interrupted runs."""

import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import levit_cli
from tests.support.binary import LEVIT, environment, levit, records
from tests.support.extras import hide_extra, names_pip_command, needs_parquet
from tests.support.foreign_systems import posix_only
from tests.support.random_weights import TINY, random_state, write_folder
from tests.support.sample_images import sample_image, write_images

IMAGES, BROKEN = 20, (4, 17)
SIZE = TINY.hidden_sizes[-1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(write_images(folder, IMAGES)):
        if number in BROKEN:
            path.write_bytes(path.read_bytes()[:500])
    return folder


def embed(model: Path, *arguments: str | Path, code: int = 1, **env: str) -> "subprocess.CompletedProcess[bytes]":
    done = levit("embed", "-m", model, *arguments, env=environment(**env))
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, photos: Path) -> list[dict[str, Any]]:
    """The records in jsonl."""
    return records(embed(tiny_folder, photos).stdout)


def vectors_in(found: list[dict[str, Any]]) -> NDArray[np.float32]:
    return np.array([record["vector"] for record in found if record["status"] == "ok"], np.float32)


@pytest.mark.guarantee("vectors", "one-record-per-input")
def test_there_is_one_record_per_input_in_the_order_and_with_the_errors_of_predict(
    tiny_folder: Path, photos: Path, expected: list[dict[str, Any]]
) -> None:
    (photos / "notes.txt").write_text("skipped")
    predictions = records(levit("predict", "-m", tiny_folder, photos, "-f", "jsonl").stdout)
    without_results = [{key: value for key, value in record.items() if key != "top"} for record in predictions]
    assert [{key: value for key, value in record.items() if key != "vector"} for record in expected] == without_results
    assert [number for number, record in enumerate(expected) if record["status"] == "error"] == [*BROKEN]
    assert all(len(record["vector"]) == SIZE for record in expected if record["status"] == "ok")


@pytest.mark.guarantee("vectors")
def test_the_python_api_returns_the_same_numbers(
    tiny_folder: Path, photos: Path, expected: list[dict[str, Any]]
) -> None:
    model = levit_cli.load(tiny_folder, device="cpu")
    paths = [record["path"] for record in expected if record["status"] == "ok"]
    np.testing.assert_array_equal(model.embed(paths), vectors_in(expected))


def test_npz_holds_the_same_vectors_and_no_pickles(
    tiny_folder: Path, photos: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "photos.npz"
    done = embed(tiny_folder, photos, "-o", output)
    assert b"20 images" in done.stderr
    assert os.listdir(tmp_path) == ["photos.npz"]
    with np.load(output, allow_pickle=False) as content:
        assert {*content} == {"paths", "vectors", "error_paths", "error_kinds", "meta"}
        np.testing.assert_array_equal(content["vectors"], vectors_in(expected))
        assert content["vectors"].dtype == np.float32
        ok = [record for record in expected if record["status"] == "ok"]
        assert content["paths"].tolist() == [record["path"] for record in ok]
        failed = [record for record in expected if record["status"] == "error"]
        assert content["error_paths"].tolist() == [record["path"] for record in failed]
        assert content["error_kinds"].tolist() == [record["error"]["kind"] for record in failed]
        meta = json.loads(str(content["meta"]))
    assert meta["model"]["sha256"] == levit_cli.load(tiny_folder)._checkpoint.sha256
    assert meta["preprocessing"]["crop_size"] == [*TINY.image_size]
    assert (meta["size"], meta["dtype"], meta["normalized"]) == (SIZE, "float32", False)
    assert {"precision", "engine", "version"} <= {*meta}


def test_equal_runs_write_equal_bytes_whatever_the_threads(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    for name, options in (("a", ()), ("b", ("--threads", "1", "--workers", "3"))):
        embed(tiny_folder, photos, "-o", tmp_path / f"{name}.npz", *options)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@needs_parquet
def test_parquet_holds_one_row_per_input(
    tiny_folder: Path, photos: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    embed(tiny_folder, photos, "-o", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == [record["path"] for record in expected]
    assert [row["error_kind"] for row in rows] == [record.get("error", {}).get("kind") for record in expected]
    assert [row["error_message"] for row in rows] == [record.get("error", {}).get("message") for record in expected]
    for row, record in zip(rows, expected, strict=True):
        assert (row["vector"] is None) == (record["status"] == "error")
        if row["vector"]:
            np.testing.assert_array_equal(np.array(row["vector"], np.float32), np.array(record["vector"], np.float32))
    assert json.loads(table.schema.metadata[b"levit.meta"])["size"] == SIZE


def test_float16_and_normalized_vectors(
    tiny_folder: Path, photos: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    embed(tiny_folder, photos, "-o", tmp_path / "half.npz", "--dtype", "float16")
    embed(tiny_folder, photos, "-o", tmp_path / "unit.npz", "--normalize")
    half, unit = (np.load(tmp_path / f"{name}.npz")["vectors"] for name in ("half", "unit"))
    vectors = vectors_in(expected)
    np.testing.assert_array_equal(half, vectors.astype(np.float16))
    np.testing.assert_allclose(unit, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-6)
    lines = records(embed(tiny_folder, photos, "--dtype", "float16").stdout)
    np.testing.assert_array_equal(vectors_in(lines).astype(np.float16), half)


def test_archives_lists_and_stdout(
    tiny_folder: Path, photos: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(photos.glob("*.jpg")):
            archive.write(path, path.name)
    listed = "".join(f"{path}\n" for path in sorted(photos.glob("*.jpg"))).encode()
    from_zip = records(embed(tiny_folder, tmp_path / "a.zip").stdout)
    done = levit("embed", "-m", tiny_folder, "--files-from", "-", "-f", "npz", stdin=listed)
    assert done.returncode == 1
    (tmp_path / "stdout.npz").write_bytes(done.stdout)
    np.testing.assert_array_equal(vectors_in(from_zip), vectors_in(expected))
    np.testing.assert_array_equal(np.load(tmp_path / "stdout.npz")["vectors"], vectors_in(expected))
    assert from_zip[0]["path"].endswith("a.zip!/000.jpg")


@posix_only
@pytest.mark.guarantee("hostile-names")
@pytest.mark.parametrize("suffix", ["npz", "jsonl", pytest.param("parquet", marks=needs_parquet)])
def test_any_file_name_comes_back_from_an_index(tiny_folder: Path, tmp_path: Path, suffix: str) -> None:
    from levit_cli.embed.index import open_index

    names = [b"new\nline.jpg", b'"quotes",\t.jpg', b"\xff\xfe.jpg", "é\u202e.jpg".encode(), b"[red]\x1b[0m.jpg"]
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    for name in names:
        with open(os.path.join(folder, name), "wb") as file:
            sample_image().save(file, "jpeg")
    embed(tiny_folder, tmp_path / "in", "-o", tmp_path / f"a.{suffix}", code=0)
    found = [path for paths, _ in open_index(tmp_path / f"a.{suffix}").blocks() for path in paths]
    assert [os.fsencode(path) for path in found] == [os.path.join(folder, name) for name in sorted(names)]


@pytest.mark.guarantee("resume-after-kill")
@pytest.mark.parametrize("cut", [-3, 0])
def test_a_jsonl_output_is_continued_to_the_same_bytes(
    tiny_folder: Path, photos: Path, tmp_path: Path, cut: int
) -> None:
    output = tmp_path / "a.jsonl"
    embed(tiny_folder, photos, "-o", output)
    whole = output.read_bytes()
    lines = whole.splitlines(keepends=True)
    beginning = b"".join(lines[:9]) + lines[9][: cut or None]
    with output.open("r+b") as file:  # keeps the fingerprint
        file.truncate(len(beginning))
    done = embed(tiny_folder, photos, "-o", output, "--resume")
    assert f"{8 + (cut == 0)} existing records kept".encode() in done.stderr
    assert output.read_bytes() == whole


@pytest.mark.guarantee("resume-mismatch")
@pytest.mark.parametrize(
    ("options", "message"),
    [(("--normalize",), b"normalized was False and is True"), (("--dtype", "float16"), b"dtype was float32")],
)
def test_a_run_with_other_settings_is_not_continued(
    tiny_folder: Path, photos: Path, tmp_path: Path, options: tuple[str, ...], message: bytes
) -> None:
    output = tmp_path / "a.jsonl"
    embed(tiny_folder, photos, "-o", output)
    before = output.read_bytes()
    assert message in embed(tiny_folder, photos, "-o", output, "--resume", *options, code=2).stderr
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(before)  # without the fingerprint, some images are computed again
    embed(tiny_folder, photos, "-o", copy, "--resume", *options, code=2)
    assert output.read_bytes() == copy.read_bytes() == before
    embed(tiny_folder, photos, "-o", copy, "--resume")
    assert copy.read_bytes() == before


def test_the_output_of_predict_is_not_continued_by_embed(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    levit("predict", "-m", tiny_folder, photos, "-o", output)
    before = output.read_bytes()
    assert before
    embed(tiny_folder, photos, "-o", output, "--resume", code=2)
    assert output.read_bytes() == before


@posix_only
@pytest.mark.guarantee("signals")
@pytest.mark.parametrize("suffix", ["npz", pytest.param("parquet", marks=needs_parquet)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_that_loads(
    tiny_folder: Path, photos: Path, tmp_path: Path, suffix: str, number: signal.Signals
) -> None:
    output = tmp_path / f"a.{suffix}"
    command = [LEVIT, "embed", "-m", tiny_folder, "--files-from", "-", "-o", output, "-b", "1", "-v"]
    with subprocess.Popen(
        [*map(str, command)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("".join(f"{path}\n" for path in sorted(photos.glob("*.jpg"))[:7]).encode())
        process.stdin.flush()
        while not process.stderr.readline().startswith(b"engine"):
            assert process.poll() is None
        time.sleep(0.3)  # in the middle of the run, which waits for more paths
        process.send_signal(number)
        assert process.wait(60) == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
        if number == signal.SIGTERM:
            assert b"jsonl output can be continued" in process.stderr.read()
    if number == signal.SIGKILL:  # leaves the empty file that it had locked
        assert output.read_bytes() == b""
        refused = embed(tiny_folder, photos, "-o", output, code=2).stderr
        assert b"it is empty, as a killed run leaves it \xc2\xb7 --overwrite replaces it" in refused
    else:
        assert not output.exists()
    embed(tiny_folder, photos, "-o", output, "--overwrite")
    assert os.listdir(tmp_path) == [output.name]


def test_an_existing_output_is_kept_unless_it_may_be_replaced(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.npz"
    output.write_bytes(b"mine")
    refused = embed(tiny_folder, photos, "-o", output, code=2).stderr
    assert b"it was not touched \xc2\xb7 --overwrite replaces it" in refused  # npz cannot be resumed
    assert output.read_bytes() == b"mine"
    embed(tiny_folder, photos, "-o", output, "--overwrite")
    assert len(np.load(output)["vectors"]) == IMAGES - len(BROKEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "a.csv"), b"No output format matches the suffix of a.csv"),
        (("-o", "a.npz", "--resume"), b"npz is valid only as a whole"),
        (("--resume",), b"no --output is given"),
        ((), b"Nothing to embed"),
        (("--dtype", "int8"), b"--dtype"),
    ],
)
def test_options_that_cannot_work_are_refused(
    tiny_folder: Path, tmp_path: Path, options: tuple[str, ...], message: bytes
) -> None:
    inputs = ("x.jpg",) if options else ()
    done = levit("embed", "-m", tiny_folder, *inputs, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert os.listdir(tmp_path) == []


def test_without_the_extra_parquet_the_message_has_the_pip_command(
    tiny_folder: Path, photos: Path, tmp_path: Path
) -> None:
    env = hide_extra("parquet", tmp_path / "hidden")
    done = embed(tiny_folder, photos, "-o", tmp_path / "a.parquet", code=2, **env)
    assert names_pip_command(done.stderr.decode(), "parquet")


def test_vectors_without_any_image_have_their_length(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"text")
    embed(tiny_folder, tmp_path / "bad.jpg", "-o", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as content:
        assert content["vectors"].shape == (0, SIZE)
        assert content["paths"].shape == (0,)


@posix_only
def test_a_full_disk_is_reported_and_leaves_nothing(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    done = levit("embed", "-m", tiny_folder, photos, "-f", "npz", "-o", "/dev/full")
    assert done.returncode == 4
    assert b"Cannot write" in done.stderr


def test_a_model_whose_features_are_not_finite_gives_errors(tmp_path: Path) -> None:
    state = random_state(TINY)
    name = next(key for key in reversed(state) if key.startswith("stages") and key.endswith("norm.bias"))
    state[name] = np.full_like(state[name], 3e38)
    folder = write_folder(tmp_path / "hf", state, TINY)
    write_images(tmp_path / "in", 2)
    found = records(embed(folder, tmp_path / "in", "--dtype", "float16").stdout)
    assert [record["error"]["kind"] for record in found] == ["non_finite"] * 2
    shutil.rmtree(folder)
