"""``levit similar``: formats, several queries, indexes in each format, and refusals."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.binary import levit, records
from tests.support.extras import needs_parquet
from tests.support.random_weights import TINY, random_state, write_folder
from tests.support.sample_images import sample_image, write_images

IMAGES = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, IMAGES)
    return folder


@pytest.fixture(scope="module")
def index(tiny_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("index") / "photos.npz"
    assert levit("embed", "-m", tiny_folder, photos, "-o", output).returncode == 0
    return output


@pytest.mark.guarantee("exact-search")
def test_an_image_is_most_similar_to_itself_and_the_rest_follows_by_cosine(
    tiny_folder: Path, photos: Path, index: Path
) -> None:
    done = levit("similar", "-m", tiny_folder, photos, "--index", index, "-k", str(IMAGES))
    assert done.returncode == 0, done.stderr
    content = np.load(index)
    vectors = content["vectors"] / np.linalg.norm(content["vectors"], axis=1, keepdims=True)
    for number, record in enumerate(records(done.stdout)):
        assert {*record} == {"query", "neighbours"}
        assert record["neighbours"][0] == {"path": record["query"], "similarity": 1.0}
        expected = dict(zip(content["paths"].tolist(), vectors @ vectors[number], strict=True))
        found = {neighbour["path"]: neighbour["similarity"] for neighbour in record["neighbours"]}
        assert {*found} == {*expected}
        assert all(abs(found[path] - expected[path]) < 2e-6 for path in found)
        assert [*found.values()] == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("suffix", ["jsonl", pytest.param("parquet", marks=needs_parquet)])
def test_indexes_in_all_formats_give_the_same_answer(
    tiny_folder: Path, photos: Path, index: Path, tmp_path: Path, suffix: str
) -> None:
    other = tmp_path / f"photos.{suffix}"
    levit("embed", "-m", tiny_folder, photos, "-o", other)
    answers = [levit("similar", "-m", tiny_folder, photos, "--index", path, "-k", "3") for path in (index, other)]
    assert answers[0].stdout == answers[1].stdout
    assert answers[0].stdout


def test_formats_and_queries_that_cannot_be_read(tiny_folder: Path, photos: Path, index: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"text")
    command = ("similar", "-m", tiny_folder, photos / "001.jpg", bad, "--index", index, "-k", "2")
    jsonl = levit(*command)
    assert jsonl.returncode == 1
    first, second = records(jsonl.stdout)
    assert second == {"query": str(bad), "error": {"kind": "not_an_image", "message": second["error"]["message"]}}
    levit(*command, "-o", tmp_path / "a.csv")
    rows = [*csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))]
    assert [(row["query"], row["rank"], row["path"]) for row in rows] == [
        (first["query"], "1", first["neighbours"][0]["path"]),
        (first["query"], "2", first["neighbours"][1]["path"]),
        (str(bad), "", ""),
    ]
    assert float(rows[1]["similarity"]) == first["neighbours"][1]["similarity"]
    table = levit(*command, "-f", "table").stdout.decode().splitlines()
    assert table[0] == first["query"]
    assert table[1].split() == ["1.0000", first["query"]]
    assert table[-1].strip().startswith("not_an_image")


@pytest.mark.guarantee("index-of-other-model")
def test_an_index_of_another_model_or_preprocessing_is_refused(
    tiny_folder: Path, photos: Path, index: Path, tmp_path: Path
) -> None:
    other = write_folder(tmp_path / "other", random_state(TINY, seed=9))
    done = levit("similar", "-m", other, photos, "--index", index)
    assert done.returncode == 3
    assert str(other).encode() in done.stderr
    assert done.stdout == b""
    done = levit("similar", "-m", tiny_folder, "--preprocessing", "timm", photos, "--index", index)
    assert done.returncode == 3
    assert b"preprocessing" in done.stderr
    lines = tmp_path / "a.jsonl"
    levit("embed", "-m", tiny_folder, photos, "-o", lines)
    assert levit("similar", "-m", other, photos, "--index", lines).returncode == 3


def test_an_index_that_does_not_name_its_model_is_used_with_a_note(
    tiny_folder: Path, photos: Path, index: Path, tmp_path: Path
) -> None:
    content = np.load(index)
    np.savez(tmp_path / "mine.npz", paths=content["paths"], vectors=content["vectors"])
    done = levit("similar", "-m", tiny_folder, photos, "--index", tmp_path / "mine.npz")
    assert done.returncode == 0
    assert b"does not say which model" in done.stderr


@pytest.mark.guarantee("damaged-index")
def test_a_truncated_index_is_refused_before_the_model_is_loaded(photos: Path, index: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(index.read_bytes()[:-40])
    done = levit("similar", "-m", tmp_path / "no model", photos, "--index", tmp_path / "cut.npz")
    assert done.returncode == 3
    assert b"truncated" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("q.jpg",), b"--index"),
        (("q.jpg", "--index", "missing.npz"), b"there is no such file"),
        (("q.jpg", "--index", "a.npz", "-o", "a.npz"), b"No output format"),
        (("q.jpg", "--index", "a.npz", "-f", "csv", "-o", "a.npz", "--overwrite"), b"is the index"),
        (("--index", "a.npz"), b"Nothing to search"),
    ],
)
def test_usage_errors(index: Path, tmp_path: Path, options: tuple[str, ...], message: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(index.read_bytes())
    sample_image().save(tmp_path / "q.jpg")
    done = levit("similar", "-m", "demo", *options, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert (tmp_path / "a.npz").read_bytes() == index.read_bytes()


def test_notes_name_the_index_and_stdout_is_data(tiny_folder: Path, photos: Path, index: Path) -> None:
    done = levit("similar", "-m", tiny_folder, photos / "000.jpg", "--index", index, "-k", "1")
    assert json.loads(done.stdout)["neighbours"][0]["similarity"] == 1.0
    assert b"1 image in" in done.stderr
