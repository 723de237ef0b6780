"""The installed commands read from and write to an S3 server on 127.0.0.1 (moto's), and to servers that fail."""

import io
import os
import random
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.kills import killed_within
from tests.support.binary import LEVIT, environment, levit, records
from tests.support.extras import hide_extra, names_pip_command, needs_remote
from tests.support.fake_hub import running
from tests.support.fake_s3 import SECRET, FakeS3, get, moto_server, put
from tests.support.fake_s3 import environment as s3_environment
from tests.support.sample_images import write_images

pytestmark = needs_remote
IMAGES = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, one of them broken, and files that are skipped."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    paths = write_images(folder, IMAGES)
    (folder / "sub").mkdir()
    paths[0].rename(folder / "sub" / "first.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def bucket(photos: Path) -> Iterator[dict[str, str]]:
    """moto's server with the photos in a bucket, as a folder and as a tar archive; the environment that leads to it."""
    with moto_server() as url:
        files = {path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*") if path.is_file()}
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in sorted(files):
                tar.addfile(_member(name, files[name]), io.BytesIO(files[name]))
        put(
            url,
            "bucket",
            {**{f"photos/{name}": content for name, content in files.items()}, "a.tar": archive.getvalue()},
        )
        yield environment(**s3_environment(url))


def _member(name: str, content: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with running(FakeS3()) as server:
        yield server


def predict(*arguments: str | Path, env: dict[str, str], model: Path) -> "subprocess.CompletedProcess[bytes]":
    return levit("predict", "-m", model, "-f", "jsonl", *arguments, env=env)


def renamed(output: bytes, before: str, after: str) -> list[dict[str, object]]:
    found = [{**record, "path": str(record["path"]).replace(before, after)} for record in records(output)]
    return sorted(found, key=lambda record: str(record["path"]))


@pytest.mark.guarantee("remote-inputs")
@pytest.mark.parametrize(
    ("url", "folder"), [("s3://bucket/photos", "s3://bucket/photos"), ("s3://bucket/a.tar", "s3://bucket/a.tar!")]
)
def test_records_are_those_of_the_folder(
    bucket: dict[str, str], photos: Path, tiny_folder: Path, url: str, folder: str
) -> None:
    local = predict(photos, env=environment(), model=tiny_folder)
    remote = predict(url, env=bucket, model=tiny_folder)
    assert remote.returncode == local.returncode == 1, remote.stderr
    assert renamed(remote.stdout, folder, "") == renamed(local.stdout, str(photos), "")
    assert b"1 file without an image suffix" in remote.stderr
    assert SECRET not in remote.stderr.decode()


@pytest.mark.guarantee("remote-output")
def test_an_output_is_uploaded_resumed_and_not_overwritten(
    bucket: dict[str, str], photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    command: tuple[str | Path, ...] = (photos, "-o", "s3://bucket/out/records.jsonl")
    env = {**bucket, "XDG_CACHE_HOME": str(tmp_path)}
    assert predict(*command, env=env, model=tiny_folder).returncode == 1
    expected = predict(photos, env=env, model=tiny_folder).stdout
    assert stored(env) == expected
    refused = predict(*command, env=env, model=tiny_folder)
    assert (refused.returncode, stored(env)) == (2, expected)
    assert b"s3://bucket/out/records.jsonl exists" in refused.stderr
    resumed = predict(*command, "--resume", env=env, model=tiny_folder)
    assert (resumed.returncode, stored(env)) == (1, expected)
    assert f"{IMAGES} existing records kept".encode() in resumed.stderr
    replaced = predict(photos / "sub", *command[1:], "--overwrite", env=env, model=tiny_folder)
    assert (replaced.returncode, len(records(stored(env)))) == (0, 1)
    assert not [*(tmp_path / "levit" / "outputs").iterdir()]


def stored(env: dict[str, str]) -> bytes:
    return get(env["AWS_ENDPOINT_URL"], "bucket/out/records.jsonl")


@pytest.mark.guarantee("remote-output")
def test_a_failed_upload_is_kept_and_uploaded_by_resume(
    fake: FakeS3, photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    fake.add("bucket", {"other.txt": b""})
    fake.faults = {"bucket/r.jsonl": [404, 404, None, None, 403]}  # no such object, a trial upload, the upload
    env = environment(**fake.environment(), XDG_CACHE_HOME=str(tmp_path))
    command: tuple[str | Path, ...] = (photos, "-o", "s3://bucket/r.jsonl")
    failed = predict(*command, env=env, model=tiny_folder)
    assert failed.returncode == 4
    (kept,) = (tmp_path / "levit" / "outputs").rglob("r.jsonl")
    assert f"the results are kept in {kept}" in failed.stderr.decode()
    assert "bucket/r.jsonl" not in fake.objects
    again = predict(*command, env=env, model=tiny_folder)
    assert again.returncode == 2
    assert b"--resume continues it" in again.stderr
    expected = kept.read_bytes()
    fake.faults = {}
    resumed = predict(*command, "--resume", env=env, model=tiny_folder)
    assert resumed.returncode == 1, resumed.stderr
    assert fake.objects["bucket/r.jsonl"] == expected
    assert not kept.exists()


@pytest.mark.parametrize("fault", [403, 404])
def test_an_output_that_cannot_be_written_is_found_before_the_model_is_loaded(fake: FakeS3, fault: int) -> None:
    fake.faults = {"bucket/r.jsonl": [fault]}
    done = levit(
        *("predict", "-m", "no-model", "a.jpg", "-o", "s3://bucket/r.jsonl"), env=environment(**fake.environment())
    )
    assert done.returncode == 4
    assert f"Cannot write s3://bucket/r.jsonl · the store returned {fault}" in done.stderr.decode()


@pytest.mark.guarantee("remote-listing")
def test_a_listing_that_fails_keeps_the_records_and_can_be_resumed(
    fake: FakeS3, photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    fake.add("bucket", {path.name: path.read_bytes() for path in photos.glob("*.jpg")})
    fake.page_size, fake.faults = 5, {"bucket": [None, None, 403]}
    env, output = environment(**fake.environment()), tmp_path / "records.jsonl"
    failed = predict("s3://bucket/", "-o", output, "--debug", env=env, model=tiny_folder)
    assert failed.returncode == 5
    assert b"Error: Cannot list s3://bucket/" in failed.stderr
    assert SECRET not in failed.stderr.decode()
    assert 0 < len(records(output.read_bytes())) <= 5
    fake.faults = {}
    resumed = predict("s3://bucket/", "-o", output, "--resume", env=env, model=tiny_folder)
    assert resumed.returncode == 1
    assert output.read_bytes() == predict("s3://bucket/", env=env, model=tiny_folder).stdout


@pytest.mark.guarantee("resume-after-kill")
def test_killed_runs_over_objects_are_resumed(fake: FakeS3, photos: Path, tiny_folder: Path, tmp_path: Path) -> None:
    fake.add("bucket", {f"{number}.jpg": (photos / "sub" / "first.jpg").read_bytes() for number in range(60)})
    fake.page_size, rng, kills = 7, random.Random(5), 0
    env = environment(**fake.environment())
    start = time.monotonic()
    expected = predict("s3://bucket/", "-b", "2", env=env, model=tiny_folder).stdout
    seconds = time.monotonic() - start
    output = tmp_path / "records.jsonl"
    resuming = [LEVIT, "predict", "-m", str(tiny_folder), "s3://bucket/", "-b", "2", "-o", str(output), "--resume"]
    while kills < 2 and killed_within(resuming, rng.uniform(0.5, 1.5) * seconds, env):
        kills += 1
    assert not killed_within(resuming, 600, env)
    assert output.read_bytes() == expected


@pytest.mark.guarantee("remote-faults")
def test_objects_that_fail_are_records(fake: FakeS3, photos: Path, tiny_folder: Path) -> None:
    content = (photos / "sub" / "first.jpg").read_bytes()
    fake.add("bucket", {"a.jpg": content, "b.jpg": content, "c.jpg": content})
    fake.listed_only = {"bucket/gone.jpg": content}
    fake.faults = {"bucket/a.jpg": [503, "cut", None], "bucket/b.jpg": [403]}
    done = predict("s3://bucket/", env=environment(**fake.environment()), model=tiny_folder)
    found = [record.get("error", {}).get("kind", "ok") for record in records(done.stdout)]
    assert (done.returncode, found) == (1, ["ok", "download", "ok", "download"])


@pytest.mark.guarantee("remote-faults")
def test_an_interrupt_ends_a_run_that_waits_for_a_store(fake: FakeS3, photos: Path, tiny_folder: Path) -> None:
    content = (photos / "sub" / "first.jpg").read_bytes()
    fake.add("bucket", {f"{number}.jpg": content for number in range(20)})
    fake.faults = {f"bucket/{number}.jpg": ["stall"] for number in range(1, 20)}
    env = environment(**fake.environment())
    command = [LEVIT, "predict", "-m", str(tiny_folder), "s3://bucket/", "-b", "1", "-f", "jsonl"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert b"s3://bucket/0.jpg" in process.stdout.readline()
        start = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - start < 2
    assert b"Traceback" not in stderr


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    env = environment(**hide_extra("remote", tmp_path))
    done = levit("predict", "-m", "demo", "s3://bucket/a.jpg", env=env)
    assert done.returncode == 2
    assert names_pip_command(done.stderr.decode(), "remote")


@pytest.mark.guarantee("existing-output")
@pytest.mark.parametrize("named", ["photos/", "photos/*.jpg", "**/*.jpg"])
def test_overwrite_does_not_replace_an_object_that_is_listed(named: str, bucket: dict[str, str]) -> None:
    options = ("-o", "s3://bucket/photos/001.jpg", "-f", "jsonl", "--overwrite")
    done = levit("predict", "-m", "demo", f"s3://bucket/{named}", *options, env=bucket)
    assert done.returncode == 2
    assert b"is also an input" in done.stderr


@pytest.mark.parametrize("name", ["val", "val.tar", "val.csv", "val.parquet"])
def test_class_folders_are_local(name: str) -> None:
    done = levit("eval", f"s3://bucket/{name}", "-m", "demo")
    assert done.returncode == 2
    assert f"Cannot read class folders in s3://bucket/{name}".encode() in done.stderr


@pytest.mark.guarantee("remote-secrets")
def test_secrets_in_urls_are_printed_nowhere(tiny_folder: Path, tmp_path: Path) -> None:
    refused = predict("s3://ID:hush-hush@bucket/a.jpg", "-v", "--debug", env=environment(), model=tiny_folder)
    assert (refused.returncode, b"s3://ID:***@bucket" in refused.stderr) == (2, True)
    listed = tmp_path / "list.txt"
    listed.write_text("ftp://me:hush-hush@127.0.0.1:9/a.jpg\n")
    failed = predict("--files-from", listed, "-v", "--debug", env=environment(), model=tiny_folder)
    (record,) = records(failed.stdout)
    assert record["path"] == "ftp://me:***@127.0.0.1:9/a.jpg"
    for output in (refused.stderr, failed.stdout, failed.stderr):
        assert b"hush-hush" not in output


def test_offline_reads_and_writes_nothing_remote(tiny_folder: Path) -> None:
    read = predict("s3://bucket/a.jpg", "--offline", env=environment(), model=tiny_folder)
    assert records(read.stdout)[0]["error"]["message"] == "not downloaded, because --offline is set"
    listed = predict("s3://bucket/", "--offline", env=environment(), model=tiny_folder)
    assert (listed.returncode, b"--offline is set" in listed.stderr) == (5, True)
    written = predict("a.jpg", "-o", "s3://bucket/r.jsonl", "--offline", env=environment(), model=tiny_folder)
    assert (written.returncode, b"--offline is set" in written.stderr) == (2, True)
