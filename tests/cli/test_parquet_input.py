"""``levit predict`` on Parquet files: the records of the same images in a folder, interrupted runs, and options."""

import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.binary import LEVIT, environment, installed_levit, levit, records
from tests.support.extras import hide_extra, names_pip_command, needs_parquet
from tests.support.sample_images import write_images

IMAGES = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(write_images(folder, IMAGES)):
        if number in (4, 17):
            path.write_bytes(path.read_bytes()[:500])
    return folder


@pytest.fixture(scope="module")
def parquet(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in a Parquet file as Hugging Face writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted(photos.iterdir())
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    path = tmp_path_factory.mktemp("parquet") / "train.parquet"
    table = pa.table({"image": rows, "label": [0] * IMAGES, "file": [str(path) for path in paths]})
    pq.write_table(table, path, row_group_size=10)
    return path


def without_paths(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "path"} for record in found]


@needs_parquet
@pytest.mark.guarantee("parquet-input", "one-record-per-input")
@pytest.mark.parametrize("options", [(), ("--isolate", "--workers", "1", "-b", "3")])
def test_the_records_are_those_of_the_files_but_for_the_path(
    tiny_folder: Path, photos: Path, parquet: Path, options: tuple[str, ...]
) -> None:
    expected = records(levit("predict", "-m", tiny_folder, photos, "-f", "jsonl").stdout)
    command = [*map(str, ("predict", "-m", tiny_folder, parquet, "-f", "jsonl", *options))]
    done = levit(*command)
    assert done.returncode == 1, done.stderr
    found = records(done.stdout)
    assert [record["path"] for record in found] == [f"{parquet}#{number}" for number in range(IMAGES)]
    assert without_paths(found) == without_paths(expected)
    keyed = levit(*command, "--key-column", "file", "--image-column", "image")
    assert records(keyed.stdout) == expected


@needs_parquet
@pytest.mark.guarantee("resume-after-kill")
def test_killed_repeatedly_and_resumed_gives_the_same_file(tiny_folder: Path, parquet: Path, tmp_path: Path) -> None:
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    command = [*map(str, ("predict", "-m", tiny_folder, parquet, parquet, "-k", "3", "-b", "2", "-q"))]
    assert levit(*command, "-o", whole).returncode == 1
    rng = random.Random(7)
    for _ in range(2):
        with subprocess.Popen([LEVIT, *command, "-o", output, "--resume"], env=environment()) as process:
            goal = (output.stat().st_size if output.exists() else 0) + rng.randrange(1, 2500)
            while process.poll() is None and not (output.exists() and output.stat().st_size >= goal):
                time.sleep(0.002)
            process.kill()
    done = levit(*command, "-o", output, "--resume")
    assert done.returncode == 1, done.stderr
    assert output.read_bytes() == whole.read_bytes()


@needs_parquet
@pytest.mark.guarantee("no-inputs", "parquet-input")
def test_several_columns_of_images_are_a_usage_error_before_the_model_is_loaded(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"left": [b"a"], "right": [b"b"]}), tmp_path / "a.parquet")
    done = levit("predict", "-m", tmp_path / "no model", tmp_path / "a.parquet")
    assert done.returncode == 2
    assert b"--image-column: left, right" in done.stderr


@pytest.mark.guarantee("impossible-options")
def test_columns_without_a_parquet_file_are_a_usage_error(tiny_folder: Path, photos: Path) -> None:
    done = levit("predict", "-m", tiny_folder, photos, "--image-column", "image", "--key-column", "file")
    assert done.returncode == 2
    assert b"--image-column and --key-column have no effect without a Parquet file" in done.stderr


@needs_parquet
@pytest.mark.guarantee("missing-extra")
def test_without_the_extra_a_parquet_file_is_a_usage_error(tiny_folder: Path, parquet: Path, tmp_path: Path) -> None:
    hidden = environment(**hide_extra("parquet", tmp_path / "hidden"))
    done = installed_levit("predict", "-m", tiny_folder, parquet, env=hidden)
    assert done.returncode == 2
    assert done.stderr.startswith(b"Error: Reading " + bytes(parquet) + b" needs the extra 'parquet'")
    assert names_pip_command(done.stderr.decode(), "parquet")
