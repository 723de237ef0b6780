"""``levit predict --ray`` on a cluster of two nodes on this machine, with failures; compared with a local run."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.clusters import parts_of, predict, records_of, running_cluster, started, wait_for
from tests.support.archives import tar_of_folder, zip_of_folder
from tests.support.binary import levit, records
from tests.support.extras import needs_ray
from tests.support.foreign_systems import posix_only
from tests.support.sample_images import sample_image, write_images

pytestmark = [needs_ray, posix_only]
SLOW_IMAGES = 240


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, some of them broken, as a folder, two archives and a Parquet file."""
    root = tmp_path_factory.mktemp("photos")
    folder = root / "folder"
    for number, path in enumerate(write_images(folder, 150)):
        if number % 20 == 7:
            path.write_bytes(path.read_bytes()[:500])
    (folder / "notes.txt").write_text("no image")
    tar_of_folder(root / "a.tar", folder)
    zip_of_folder(root / "b.zip", folder)
    _write_parquet(root / "c.parquet", sorted(folder.glob("*.jpg"))[:40])
    return root


def _write_parquet(path: Path, images: list[Path]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [image.read_bytes() for image in images]}), path, row_group_size=10)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large images, which take some seconds, and a broken one."""
    folder = tmp_path_factory.mktemp("slow")
    originals = [folder / f"{number:03}.jpg" for number in range(4)]
    for number, path in enumerate(originals):
        sample_image(2500, 2000, seed=number).save(path)
    for number in range(4, SLOW_IMAGES):
        os.link(originals[number % 4], folder / f"{number:03}.jpg")
    (folder / "broken.jpg").write_bytes(originals[0].read_bytes()[:5000])
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with running_cluster(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def slow_records(slow: Path, tiny_folder: Path) -> list[dict[str, Any]]:
    return records(levit("predict", "-m", tiny_folder, slow, "-f", "jsonl").stdout)


@pytest.mark.guarantee("ray-equal")
def test_records_equal_those_of_a_local_run_from_every_kind_of_source(
    cluster: Any, photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    sources = [photos / name for name in ("folder", "a.tar", "b.zip", "c.parquet")]
    local = levit("predict", "-m", tiny_folder, *sources, photos / "folder" / "001.jpg", "-f", "jsonl")
    done = predict(
        "-m", tiny_folder, *sources, photos / "folder" / "001.jpg", "--ray", cluster.address, "-o", tmp_path / "out"
    )
    assert done.returncode == local.returncode == 1, done.stderr
    assert records_of(tmp_path / "out") == records(local.stdout)
    assert done.stderr.decode().startswith("Skipped 3 files without an image suffix")
    assert len(done.stderr.splitlines()) == 2
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert (manifest["status"], manifest["inputs"], manifest["failed"]) == ("complete", 491, 26)
    assert [part["name"] for part in manifest["parts"]] == ["part-00000.jsonl"]
    assert sorted(os.listdir(tmp_path / "out")) == ["_SUCCESS", "manifest.json", "part-00000.jsonl"]


SLOW_OPTIONS = ("--records-per-part", "16")


def is_half_done(output: Path) -> bool:
    return len(parts_of(output)) >= 3


@pytest.mark.guarantee("ray-failures")
def test_an_actor_and_a_node_are_lost(
    cluster: Any, slow: Path, slow_records: list[dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    output = tmp_path / "out"
    options = ("-m", tiny_folder, slow, "--ray", cluster.address, "-o", output, *SLOW_OPTIONS)
    with started(*options) as process:
        wait_for(lambda: is_half_done(output))
        os.kill(next(iter(actors())), signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
        assert not (output / "_SUCCESS").exists()
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 1, stderr
    assert records_of(output) == slow_records
    assert (output / "_SUCCESS").exists()


def actors() -> set[int]:
    """Return the processes that are Ray actors of levit, which hold an engine."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return {int(line.split()[0]) for line in listed.splitlines() if "ray::" in line and "_Compute" in line}


@pytest.mark.guarantee("ray-resume")
def test_the_driver_is_killed_and_resumed(
    cluster: Any, slow: Path, slow_records: list[dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = ("-m", tiny_folder, slow, "--ray", cluster.address, "-o", output, *SLOW_OPTIONS)
    with started(*options) as process:
        wait_for(lambda: is_half_done(output))
        process.kill()
    kept = {part.name: part.read_bytes() for part in parts_of(output)}
    assert not (output / "_SUCCESS").exists()
    done = predict(*options, "--resume")
    assert done.returncode == 1, done.stderr
    assert records_of(output) == slow_records
    assert all((output / name).read_bytes() == content for name, content in kept.items() if b'"error"' not in content)
    num_kept = sum(content.count(b'"ok"') for content in kept.values())
    assert f"; {num_kept} existing records kept" in done.stderr.decode()


@pytest.mark.guarantee("ray-signals")
def test_sigint_keeps_what_is_finished(
    cluster: Any, slow: Path, slow_records: list[dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = ("-m", tiny_folder, slow, "--ray", cluster.address, "-o", output, *SLOW_OPTIONS)
    with started(*options) as process:
        wait_for(lambda: is_half_done(output))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.decode().splitlines()[0] == "To continue, run the same command with --resume."
    assert 16 <= len(records_of(output)) < len(slow_records)
    wait_for(lambda: not actors())
