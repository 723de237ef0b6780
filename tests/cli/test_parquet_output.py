"""``levit predict -o x.parquet``: the columns, interrupted and resumed runs, and refusals."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.binary import LEVIT, environment, installed_levit, levit, records
from tests.support.extras import hide_extra, names_pip_command, needs_parquet
from tests.support.foreign_systems import posix_only
from tests.support.random_weights import TINY, random_state, write_folder
from tests.support.sample_images import sample_image, write_images

IMAGES = 24
JOURNAL = ".partial.jsonl"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(write_images(folder, IMAGES)):
        if number in (4, 17):
            path.write_bytes(path.read_bytes()[:500])
    return folder


Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def run(tiny_folder: Path, photos: Path, tmp_path: Path) -> Run:
    """Run ``levit predict`` on the images, with the output ``out.parquet``."""

    def predict(*options: str | Path, inputs: Path = photos, **env: str) -> "subprocess.CompletedProcess[bytes]":
        output = () if "-f" in options else ("-o", tmp_path / "out.parquet")
        return levit("predict", "-m", tiny_folder, inputs, *output, "-k", "3", *options, env=environment(**env))

    return predict


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of an uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "out.parquet"
    done = levit("predict", "-m", tiny_folder, photos, "-o", output, "-k", "3")
    assert done.returncode == 1, done.stderr
    assert os.listdir(output.parent) == ["out.parquet"]
    return output.read_bytes()


def rows_of(content: bytes) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(content)).to_pylist()
    return rows


def as_row(record: dict[str, Any]) -> dict[str, Any]:
    """Return the row that a record in jsonl corresponds to."""
    error, top = record.get("error"), record.get("top")
    return {
        "path": record["path"],
        "status": record["status"],
        "error_kind": error and error["kind"],
        "error_message": error and error["message"],
        "indices": top and [entry["index"] for entry in top],
        "labels": top and [entry["label"] for entry in top],
        "probs": top and [entry["prob"] for entry in top],
    }


@needs_parquet
@pytest.mark.guarantee("parquet-output", "one-record-per-input", "no-label-on-error")
def test_the_rows_are_the_records_and_the_metadata_names_the_run(run: Run, whole: bytes, tiny_folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert rows_of(whole) == [as_row(record) for record in records(run("-f", "jsonl").stdout)]
    schema = pq.read_schema(pa.BufferReader(whole))
    assert [(field.name, str(field.type)) for field in schema] == [
        *((name, "string") for name in ("path", "status", "error_kind", "error_message")),
        *(("indices", "list<element: int32>"), ("labels", "list<element: string>"), ("probs", "list<element: double>")),
    ]
    document = json.loads(run("-f", "json").stdout)["meta"]
    meta = json.loads(schema.metadata[b"levit.meta"])
    assert schema.metadata[b"levit.model_sha256"].decode() == document["model"]["sha256"]
    assert meta == {key: value for key, value in document.items() if key != "threads"}


@needs_parquet
@posix_only
@pytest.mark.guarantee("hostile-names")
def test_hostile_names_and_labels_come_back(tiny_folder: Path, tmp_path: Path) -> None:
    names = [b"new\nline.jpg", b'"quotes",\t.jpg', b"\xff\xfe.jpg", "é\u202e.jpg".encode(), b"[red]:smile:\x1b[0m.jpg"]
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    for name in names:
        with open(os.path.join(folder, name), "wb") as file:
            sample_image().save(file, "jpeg")
    labels = ["a\nb", "a\tb", '"', "[red]", "é\x1b", "日本", "x" * 1000]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    command = ("predict", "-m", tiny_folder, tmp_path / "in", "-k", "7", "--labels", tmp_path / "labels.json")
    done = levit(*command, "-o", tmp_path / "out.parquet")
    assert done.returncode == 0, done.stderr
    rows = rows_of((tmp_path / "out.parquet").read_bytes())
    found = [base64.b64decode(row["path_b64"]) if row["path_b64"] else row["path"].encode() for row in rows]
    assert found == [os.path.join(folder, name) for name in sorted(names)]
    assert all({*row["labels"]} == {*labels} for row in rows)
    before = (tmp_path / "out.parquet").read_bytes()
    done = levit(*command, "-o", tmp_path / "out.parquet", "--resume")
    assert done.returncode == 0, done.stderr
    assert b"5 existing records kept" in done.stderr
    assert (tmp_path / "out.parquet").read_bytes() == before


@needs_parquet
@posix_only
@pytest.mark.guarantee("resume-after-kill", "parquet-output", "signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_parquet_file_and_resume_gives_the_same_bytes(
    run: Run, tiny_folder: Path, photos: Path, whole: bytes, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out.parquet"
    journal = output.with_name(output.name + JOURNAL)
    command = [LEVIT, "predict", "-m", tiny_folder, "--files-from", "-", "-o", output, "-k", "3", "-b", "1"]
    with subprocess.Popen(
        [*map(str, command)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("".join(f"{path}\n" for path in sorted(photos.iterdir())[:7]).encode())
        process.stdin.flush()
        while not (journal.exists() and journal.read_bytes().count(b"\n") == 7):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert (b"--resume" in process.stderr.read()) == (number != signal.SIGKILL)
    assert not output.exists()
    refused = run()
    assert refused.returncode == 2
    assert b"--resume continues it" in refused.stderr
    done = run("--resume")
    assert done.returncode == 1, done.stderr
    assert b"6 existing records kept" in done.stderr
    assert output.read_bytes() == whole
    assert os.listdir(tmp_path) == ["out.parquet"]


@needs_parquet
@pytest.mark.guarantee("resume-after-kill")
def test_a_finished_output_is_resumed_when_images_were_repaired_added_and_removed(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out.parquet"
    shutil.copytree(photos, folder)
    assert run("--resume", inputs=folder).returncode == 1  # without a file, it is a first run
    sample_image(seed=99).save(folder / "004.jpg")
    sample_image(seed=98).save(folder / "010-new.png")
    (folder / "020.jpg").unlink()
    done = run("--resume", inputs=folder)
    assert done.returncode == 1, done.stderr
    assert b"21 existing records kept" in done.stderr
    assert b"Removed 1 record of inputs" in done.stderr
    resumed = output.read_bytes()
    assert run("--overwrite", inputs=folder).returncode == 1
    assert output.read_bytes() == resumed
    assert sorted(os.listdir(tmp_path)) == ["out.parquet", "photos"]


@needs_parquet
@pytest.mark.guarantee("resume-mismatch", "existing-output")
def test_a_file_that_this_run_did_not_write_is_refused_and_not_touched(
    run: Run, whole: bytes, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["mine"]}), tmp_path / "mine.parquet")
    other = write_folder(tmp_path_factory.mktemp("other") / "hf", random_state(TINY, seed=9))
    cases: list[tuple[bytes, tuple[str | Path, ...], bytes]] = [
        (whole, (), b"out.parquet exists"),
        (whole, ("--resume", "-k", "2"), b"top-k was 3 and is 2"),
        (whole, ("--resume", "-m", other), b"model: sha256 was"),
        ((tmp_path / "mine.parquet").read_bytes(), ("--resume",), b"levit predict did not write it"),
        (whole[:900] + bytes(100) + whole[1000:], ("--resume",), b"it is damaged: "),
    ]
    output = tmp_path / "out.parquet"
    for content, options, words in cases:
        output.write_bytes(content)
        done = run(*options)
        assert done.returncode == 2, (options, done.stderr)
        assert output.read_bytes() == content
        assert words in done.stderr
        assert b"Traceback" not in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["mine.parquet", "out.parquet"]


@needs_parquet
@pytest.mark.guarantee("resume-mismatch")
def test_a_finished_output_of_other_inputs_is_not_replaced(run: Run, whole: bytes, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    output.write_bytes(whole)
    write_images(tmp_path / "others", 2)
    done = run("--resume", inputs=tmp_path / "others")
    assert done.returncode == 2, done.stderr
    assert b"only records of other inputs" in done.stderr
    assert output.read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == ["others", "out.parquet"]


@needs_parquet
@posix_only
@pytest.mark.guarantee("concurrent-runs")
def test_a_second_run_on_one_output_is_refused(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    command = [LEVIT, "predict", "-m", tiny_folder, "--files-from", "-", "-o", output]
    with subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, env=environment()) as process:
        while not output.with_name(output.name + JOURNAL).exists():
            assert process.poll() is None
            time.sleep(0.01)
        for option in ((), ("--resume",), ("--overwrite",)):
            done = run(*option)
            assert done.returncode == 4, done.stderr
            assert b"another run is writing" in done.stderr
        process.kill()


@needs_parquet
@posix_only
@pytest.mark.guarantee("full-disk", "parquet-output")
def test_a_full_disk_at_the_end_keeps_the_records(run: Run, tiny_folder: Path, whole: bytes, tmp_path: Path) -> None:
    import resource

    photos, output = tmp_path / "photos", tmp_path / "out.parquet"
    write_images(photos, 3)  # their Parquet file is larger than their journal
    command = [LEVIT, "predict", "-m", tiny_folder, photos, "-o", output, "-k", "3", "-q"]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, env=environment(), check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert b"out.parquet" in done.stderr
    assert b"File too large" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["out.parquet" + JOURNAL, "photos"]
    again = run("--resume", inputs=photos)
    assert again.returncode == 0, again.stderr
    assert b"3 existing records kept" in again.stderr
    assert len(rows_of(output.read_bytes())) == 3


@needs_parquet
def test_standard_output_gets_the_same_bytes(run: Run, whole: bytes, tmp_path: Path, photos: Path) -> None:
    assert run("-f", "parquet").stdout == whole
    done = run("-f", "parquet", "-o", "/dev/full")
    assert done.returncode == 4, done.stderr
    assert b"/dev/full" in done.stderr
    done = run("-f", "parquet", "--resume")
    assert done.returncode == 2
    assert b"no --output is given" in done.stderr


@needs_parquet
@posix_only
@pytest.mark.guarantee("impossible-options")
def test_parquet_is_not_written_to_a_terminal(tiny_folder: Path, photos: Path) -> None:
    import pty

    terminal, end = pty.openpty()
    command = [LEVIT, "predict", "-m", str(tiny_folder), str(photos), "-f", "parquet"]
    done = subprocess.run(command, stdout=end, stderr=subprocess.PIPE, env=environment(), check=False)
    os.close(end)
    os.close(terminal)
    assert done.returncode == 2
    assert b"not written to a terminal" in done.stderr


@needs_parquet
def test_the_output_must_not_be_an_input(run: Run, whole: bytes, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    output.write_bytes(whole)
    done = run("--overwrite", inputs=output)
    assert done.returncode == 2
    assert b"is also an input" in done.stderr
    assert output.read_bytes() == whole


@needs_parquet
def test_a_symbolic_link_is_kept_and_its_target_replaced(run: Run, whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.parquet").symlink_to(tmp_path / "elsewhere" / "target.parquet")
    assert run().returncode == 1
    assert (tmp_path / "out.parquet").is_symlink()
    assert os.listdir(tmp_path / "elsewhere") == ["target.parquet"]
    assert (tmp_path / "elsewhere" / "target.parquet").read_bytes() == whole


@needs_parquet
def test_row_groups_are_bounded_and_give_all_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from levit_cli.predict import parquet_output

    ok = {"status": "ok", "top": [{"index": i, "label": str(i), "prob": 0.1} for i in range(3)]}
    bad = {"status": "error", "error": {"kind": "truncated", "message": "cut"}}
    lines = [json.dumps({"path": str(number), **(ok if number % 2 else bad)}) for number in range(25)]
    (tmp_path / "journal").write_text("\n".join(lines) + "\n")
    for rows, classes, groups in ((10, 10**6, [10, 10, 5]), (100, 12, [8, 8, 8, 1])):
        monkeypatch.setattr(parquet_output, "ROWS_PER_GROUP", rows)
        monkeypatch.setattr(parquet_output, "CLASSES_PER_GROUP", classes)
        written: list[bytes] = []
        with (tmp_path / "journal").open("rb") as journal:
            parquet_output.convert(journal, written.append, {})
        file = pq.ParquetFile(pa.BufferReader(b"".join(written)))
        assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == groups
        assert [row["path"] for row in file.read().to_pylist()] == [*map(str, range(25))]


@pytest.mark.guarantee("missing-extra")
def test_without_the_extra_nothing_is_read(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    hidden = environment(**hide_extra("parquet", tmp_path / "hidden"))
    done = installed_levit("predict", "-m", tiny_folder, photos, "-o", tmp_path / "out.parquet", env=hidden)
    assert done.returncode == 2
    assert done.stderr.startswith(b"Error: Writing Parquet needs the extra 'parquet'")
    assert names_pip_command(done.stderr.decode(), "parquet")
    assert os.listdir(tmp_path) == ["hidden"]
