"""``levit eval`` on a Parquet file: the numbers of the class folders with the same images."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from levit_cli.checkpoints import load
from tests.support.binary import levit
from tests.support.extras import needs_parquet, needs_torch
from tests.support.sample_images import write_class_folders

pytestmark = needs_parquet

CLASSES = ("class 0", "class 1", "class 4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("data"), CLASSES, 4)


def write(path: Path, folder: Path, labels: Any, **features: Any) -> Path:
    """Write the images of class folders in a random order.

    Args:
        labels: the label of each class, by its number.
        features: of Hugging Face's metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [(image, number) for number, name in enumerate(CLASSES) for image in sorted((folder / name).iterdir())]
    random.Random(1).shuffle(images)
    rows = [{"bytes": image.read_bytes(), "path": image.name} for image, _ in images]
    table = pa.table({"image": rows, "label": [labels[number] for _, number in images]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else {}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=5)
    return path


def results(model: Path, data: Path, output: Path) -> dict[str, Any]:
    done = levit("eval", data, "-m", model, "-o", output, "--overwrite")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(output.read_text())
    return document


def test_names_and_numbers_with_names_give_the_results_of_the_folders(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    expected = results(tiny_folder, folder, tmp_path / "out.json")
    names = ["class 9", "class 4", "class 1", "class 0"]
    feature = {"_type": "ClassLabel", "names": names}
    for labels, features in ((CLASSES, {}), ([names.index(name) for name in CLASSES], {"label": feature})):
        data = write(tmp_path / "a.parquet", folder, labels, **features)
        found = results(tiny_folder, data, tmp_path / "out.json")
        assert found["data"]["images"] == expected["data"]["images"] == 12
        assert {key for key in expected if found[key] != expected[key]} <= {"data", "mistakes"}  # they name the files


def test_the_images_of_the_report_come_from_the_file(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    data = write(tmp_path / "a.parquet", folder, CLASSES)
    done = levit("eval", data, "-m", tiny_folder, "--report", tmp_path / "report.html", "-q")
    assert done.returncode == 0, done.stderr
    assert "data:image/" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("labels", "features", "words"),
    [
        ([0, 1, -1], {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}, b"has rows without a label"),
        (["a", None, "b"], {}, b"has rows without a label"),
        ([0.5, 1.5, 2.5], {}, b"has no column of labels"),
        ([0, 1, 2], {"label": {"_type": "ClassLabel", "names": 7}}, b"class"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    tiny_folder: Path, folder: Path, tmp_path: Path, labels: list[Any], features: dict[str, Any], words: bytes
) -> None:
    data = write(tmp_path / "a.parquet", folder, labels, **features)
    done = levit("eval", data, "-m", tiny_folder)
    assert done.returncode in (2, 3), done.stderr
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_damaged_file_and_useless_options_are_usage_errors(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.parquet", folder, CLASSES)
    data.write_bytes(data.read_bytes()[:-20])
    done = levit("eval", data, "-m", tiny_folder)
    assert done.returncode == 2
    assert b"without its footer" in done.stderr
    done = levit("eval", folder, "-m", tiny_folder, "--image-column", "image")
    assert done.returncode == 2
    assert b"--image-column has no effect without a Parquet file" in done.stderr


@needs_torch
@pytest.mark.guarantee("labeled-files")
def test_finetune_knows_the_names_of_the_classes(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.parquet", folder, CLASSES)
    done = levit("finetune", data, "-m", tiny_folder, "-o", tmp_path / "run", "--epochs", "1", "--workers", "0")
    assert done.returncode == 0, done.stderr.decode()
    assert load(tmp_path / "run").labels.names == tuple(CLASSES)
