"""``levit predict --ray`` on a cluster of two nodes on this machine, with failures; compared with a local run."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.clusters import parts_of, predict, records_of, running_cluster, started, wait_for
from tests.support.archives import tar_of_folder, zip_of_folder
from tests.support.binary import environment, installed_levit, levit, records
from tests.support.extras import hide_extra, names_pip_command, needs_parquet, needs_ray, needs_remote
from tests.support.fake_s3 import environment as s3_environment
from tests.support.fake_s3 import get, moto_server, put
from tests.support.faulty_decoders import ask_for, faulty_decoders
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


@pytest.mark.exhaustive
@pytest.mark.guarantee("ray-equal")
def test_2000_images_with_40_broken_ones_on_one_machine(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number, path in enumerate(write_images(folder, 2000)):
        if number % 50 == 20:
            path.write_bytes(path.read_bytes()[: 100 + number // 10])
    options = ("-m", tiny_folder, folder, "--precision", "fp32")
    local = levit("predict", *options, "-f", "jsonl")
    done = predict(*options, "--ray", "local", "-o", tmp_path / "out", "--records-per-part", "300")
    assert done.returncode == local.returncode == 1, done.stderr
    assert records_of(tmp_path / "out") == records(local.stdout)
    assert sum(record["status"] == "error" for record in records(local.stdout)) == 40


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


@pytest.mark.exhaustive
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


@pytest.mark.exhaustive
@pytest.mark.guarantee("ray-failures")
def test_an_image_that_crashes_the_decoder_is_an_error_record(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos / "folder", tmp_path / "photos"))
    ask_for("abort", folder / "crash.jpg")
    env = faulty_decoders(tmp_path / "packages")
    with running_cluster(1, **env) as faulty:
        options = ("-m", tiny_folder, folder, "--ray", faulty.address, "-o", tmp_path / "out")
        done = predict(*options, **env)
    assert done.returncode == 1, done.stderr
    found = records_of(tmp_path / "out")
    assert len(found) == 151
    (crashed,) = (record for record in found if record["path"].endswith("crash.jpg"))
    assert crashed["error"]["kind"] == "decoder_crashed"
    assert sum(record["status"] == "error" for record in found) == 9


def test_nothing_is_downloaded_offline(cluster: Any, tiny_folder: Path, tmp_path: Path) -> None:
    options = ("-m", tiny_folder, "http://127.0.0.1:1/a.jpg", "--offline", "--ray", cluster.address)
    done = predict(*options, "-o", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    (record,) = records_of(tmp_path / "out")
    assert record["error"]["message"] == "not downloaded, because --offline is set"


# Makes the import of OpenVINO fail in the workers of Ray, as a broken installation does.
BROKEN_IN_WORKERS = """
import sys

class Broken:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "openvino" and any("default_worker.py" in text for text in sys.orig_argv):
            raise ImportError("libopenvino.so: cannot open shared object file")

sys.meta_path.insert(0, Broken)
"""


@pytest.mark.guarantee("ray-refused")
def test_a_worker_that_cannot_load_the_model_fails_the_run_once(
    photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_IN_WORKERS)
    output = tmp_path / "out"
    started_at = time.monotonic()
    done = predict(
        "-m", tiny_folder, photos / "folder", "--ray", "local", "-o", output, PYTHONPATH=str(tmp_path), HOME=""
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.decode().splitlines() == [
        "Error: A worker cannot load the model · ImportError: libopenvino.so: cannot open shared object file"
    ]
    assert time.monotonic() - started_at < 120
    assert os.listdir(output) == ["manifest.json"]
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in path.read_bytes()]


@pytest.mark.exhaustive
@needs_parquet
def test_parquet_parts_are_resumed_and_errors_tried_again(
    cluster: Any, photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    folder, output = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(photos / "folder", folder)
    options = ("-m", tiny_folder, folder, "--ray", cluster.address, "-o", output, "-f", "parquet")
    first = predict(*options, "--records-per-part", "40")
    assert first.returncode == 1, first.stderr
    rows = pq.read_table(parts_of(output)).sort_by([("source", "ascending")]).to_pylist()
    assert [row["source"] for row in rows] == list(range(150))
    assert len(parts_of(output)) == 4
    shutil.copy(folder / "000.jpg", folder / "007.jpg")  # it was broken
    assert predict(*options).returncode == 2  # it exists
    again = predict(*options, "--resume")
    assert "8 images in" in again.stderr.decode()
    assert "; 142 existing records kept" in again.stderr.decode()
    after = pq.read_table(parts_of(output)).sort_by([("source", "ascending")]).to_pylist()
    assert [row["path"] for row in after] == [row["path"] for row in rows]
    assert after[7]["probs"] == after[0]["probs"]
    assert sum(row["status"] == "error" for row in after) == 7
    refused = predict(*options, "--resume", "-k", "2")
    assert refused.returncode == 2
    assert "top-k was 5 and is 2" in refused.stderr.decode()


@pytest.mark.exhaustive
@needs_remote
@pytest.mark.guarantee("ray-remote")
def test_source_and_destination_in_object_storage(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with moto_server() as url:
        names = [photos / "a.tar", *sorted((photos / "folder").glob("*"))[:30]]
        put(url, "bucket", {f"in/{path.name}": path.read_bytes() for path in names})
        env = s3_environment(url)
        sources = ("s3://bucket/in/", "s3://bucket/in/a.tar")
        local = levit("predict", "-m", tiny_folder, *sources, "-f", "jsonl", env=environment(**env))
        options = ("-m", tiny_folder, *sources, "--ray", "local", "-o", "s3://bucket/out")
        done = predict(*options, **env)
        assert done.returncode == local.returncode == 1, done.stderr
        again = predict(*options, **env)
        assert again.returncode == 2
        assert "s3://bucket/out exists" in again.stderr.decode()
        for name in ("manifest.json", "_SUCCESS", "part-00000.jsonl"):
            (tmp_path / name).write_bytes(get(url, f"bucket/out/{name}"))
    assert records_of(tmp_path) == records(local.stdout)
    assert len(records_of(tmp_path)) == 180


@pytest.mark.exhaustive
def test_embed_on_ray_gives_the_vectors_of_a_local_run(
    cluster: Any, photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    inputs = ("-m", tiny_folder, photos / "b.zip")
    local = levit("embed", *inputs, "-f", "jsonl")
    done = installed_levit("embed", *inputs, "--ray", cluster.address, "-o", tmp_path / "out")
    assert done.returncode == local.returncode == 1, done.stderr
    assert records_of(tmp_path / "out") == records(local.stdout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--ray needs an output folder"),
        (("-o", "out", "-f", "csv"), "--ray does not write the format csv"),
        (("-o", "out.csv"), "--ray does not write the format csv"),
        (("-o", "out", "--threads", "2"), "--threads has no effect with --ray"),
        (("-o", "out", "--workers", "2"), "--workers has no effect with --ray"),
        (("-o", "out", "--shard", "1/2"), "--shard cannot be used with --ray"),
        (("-o", "out", "-"), "standard input"),
        (("-o", "out", "--ray", "Local"), "--ray cannot be 'Local'"),
        (("-o", "out", "--ray", ""), "--ray cannot be ''"),
        (("-o", "out", "--ray", "ray://h:1"), "--ray cannot be 'ray://h:1'"),
        (("-o", "full"), "full exists"),
        (("-o", "file"), "file exists"),
    ],
)
def test_options_that_cannot_work_are_refused_before_ray_starts(
    photos: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "part-00000.jsonl").write_text("")
    (tmp_path / "file").write_text("")
    done = levit("predict", "-m", "demo", photos / "folder", "--ray", "local", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]


def test_the_suffix_of_vectors_names_their_format(photos: Path, tmp_path: Path) -> None:
    done = levit("embed", "-m", "demo", photos / "folder", "--ray", "local", "-o", tmp_path / "out.npz")
    assert done.returncode == 2
    assert "--ray does not write the format npz" in done.stderr.decode()
    assert not (tmp_path / "out.npz").exists()


def test_a_file_is_not_replaced_by_a_folder(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    options = ("--ray", "local", "--overwrite", "-o", tmp_path / "out")
    done = levit("predict", "-m", "demo", photos / "folder", *options)
    assert done.returncode == 4
    assert "out · it is a file · choose the name of a folder" in done.stderr.decode()


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_options_that_need_ray_are_refused_without_it(command: str, photos: Path, tmp_path: Path) -> None:
    options = ("--actors", "2", "--records-per-part", "2", "-o", tmp_path / "out.jsonl")
    done = levit(command, "-m", "demo", photos / "folder", *options)
    assert done.returncode == 2
    assert "--actors needs --ray" in done.stderr.decode()
    assert "--records-per-part needs --ray" in done.stderr.decode()


def test_gpus_are_for_engines_that_use_them(photos: Path, tmp_path: Path) -> None:
    options = ("--ray", "local", "--gpus-per-actor", "1", "-o", tmp_path / "out")
    done = levit("predict", "-m", "demo", photos / "folder", *options)
    assert done.returncode == 2, done.stderr
    assert "--gpus-per-actor has no effect on a CPU" in done.stderr.decode()


def test_more_cores_than_there_are_are_refused(photos: Path, tmp_path: Path) -> None:
    options = ("--ray", "local", "--cpus-per-actor", "5000", "-o", tmp_path / "out")
    done = predict("-m", "demo", photos / "folder", *options)
    assert done.returncode == 2, done.stderr
    assert "There is no room for 1 actor" in done.stderr.decode()


def test_an_address_without_a_cluster_is_unreachable(photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    done = predict("-m", tiny_folder, photos / "folder", "--ray", "127.0.0.1:1", "-o", tmp_path / "out")
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: Cannot join the Ray cluster 127.0.0.1:1 · ")
    assert "ray start --head" in line
    assert not (tmp_path / "out").exists()


def test_a_run_says_that_it_waits_for_room(cluster: Any, photos: Path, tmp_path: Path) -> None:
    options = ("--ray", cluster.address, "--cpus-per-actor", "8", "-o", tmp_path / "out")
    with started("-m", "demo", photos / "folder", *options) as run:
        assert run.stderr is not None
        assert run.stderr.readline() == b"The cluster has no room for an actor. The run waits until there is.\n"


def test_a_cluster_in_the_environment_that_does_not_answer_is_unreachable(photos: Path, tmp_path: Path) -> None:
    options = ("--ray", "auto", "-o", tmp_path / "out")
    done = predict("-m", "demo", photos / "folder", *options, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: Cannot join the Ray cluster auto · ")


@pytest.mark.guarantee("missing-extra")
def test_without_the_extra_one_line_names_it(photos: Path, tmp_path: Path) -> None:
    hidden = hide_extra("ray", tmp_path / "hidden")
    done = predict("-m", "demo", photos / "folder", "--ray", "local", "-o", tmp_path / "out", **hidden)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert names_pip_command(done.stderr.decode(), "ray")
