"""``levit predict`` as a process: records, exit codes, messages, pipes and signals."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.binary import LEVIT, environment, installed_levit, levit, records, unprivileged
from tests.support.extras import needs_torch
from tests.support.fake_hub import FakeSite
from tests.support.foreign_systems import posix_only
from tests.support.sample_images import sample_image, write_images


def test_one_image_gives_one_record(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    done = installed_levit("predict", "-m", tiny_folder, path, "--format", "jsonl", "-k", "3")
    assert done.returncode == 0, done.stderr
    (record,) = records(done.stdout)
    assert record["path"] == str(path)
    assert record["status"] == "ok"
    assert len(record["top"]) == 3
    assert [entry["prob"] for entry in record["top"]] == sorted((e["prob"] for e in record["top"]), reverse=True)
    assert b"1 image in" in done.stderr


def test_demo_model_needs_no_download(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", "demo", path, "-f", "json", env=environment(HOME=str(tmp_path / "nowhere")))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["meta"]["model"]["name"] == "demo"
    assert document["meta"]["model"]["evaluation"]["top1"] > 0.8
    assert len(document["meta"]["model"]["sha256"]) == 64
    assert document["results"][0]["top"][0]["label"] in {
        *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    }


def break_every_fifth(paths: list[Path]) -> dict[str, str]:
    """Break every fifth file in a different way and return the expected error kind of each path."""
    expected = {}
    for number, path in enumerate(paths[::5]):
        data = path.read_bytes()
        path.unlink()
        kind = ("empty_file", "truncated", "not_an_image", "not_regular", "permission")[number % 5]
        if kind == "not_regular":
            os.mkfifo(path)
        else:
            path.write_bytes(
                {"empty_file": b"", "truncated": data[: len(data) // 2], "permission": data}.get(kind, b"text")
            )
        if kind == "permission":
            path.chmod(0)
        expected[str(path)] = kind
    return expected


@posix_only
@pytest.mark.guarantee("one-record-per-input", "no-label-on-error", "corrupt-image", "missing-or-unreadable")
@pytest.mark.parametrize("batch_size", [1, 4])
def test_each_broken_file_is_an_error_record_and_the_run_goes_on(
    tiny_folder: Path, tmp_path: Path, batch_size: int
) -> None:
    folder = tmp_path / "photos"
    paths = write_images(folder, 25)
    expected = break_every_fifth(paths)
    missing = tmp_path / "missing.jpg"
    command = unprivileged(
        LEVIT, "predict", "-m", tiny_folder, folder, missing, "-f", "jsonl", "-b", str(batch_size), "--workers", "3"
    )
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    found = records(done.stdout)
    assert [record["path"] for record in found] == [*map(str, paths), str(missing)]
    kinds = {record["path"]: record["error"]["kind"] for record in found if record["status"] == "error"}
    assert kinds == {**expected, str(missing): "not_found"}
    assert all(("top" in record) == (record["status"] == "ok") for record in found)
    assert b"26 images" in done.stderr
    assert b"6 failed" in done.stderr


@pytest.mark.guarantee("batch-invariance", "own-result")
def test_records_do_not_depend_on_the_batch_size(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_images(folder, 40)
    base = ("predict", "-m", tiny_folder, folder, "-f", "jsonl", "-q")
    runs = [levit(*base, "-b", str(batch_size)) for batch_size in (1, 7, 32)]
    assert [(done.returncode, done.stderr) for done in runs] == [(0, b"")] * 3
    assert len(records(runs[0].stdout)) == 40
    assert len({done.stdout for done in runs}) == 1


@pytest.mark.guarantee("stdout-and-stderr", "terminal-independence")
@pytest.mark.parametrize("format", ["tsv", "csv", "json", "jsonl", "table"])
def test_stdout_has_records_only_and_quiet_silences_stderr(tiny_folder: Path, tmp_path: Path, format: str) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", tiny_folder, path, "-f", format, env=environment(TERM="dumb", LC_ALL="C"))
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    quiet = levit("predict", "-m", tiny_folder, path, "-f", format, "--quiet", env=environment(NO_COLOR="1"))
    assert quiet.returncode == 0
    assert quiet.stderr == b""
    assert quiet.stdout == done.stdout


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_output_dash_is_stdout(tiny_folder: Path, tmp_path: Path, command: str) -> None:
    write_images(tmp_path, 2)
    runs = [
        installed_levit(command, ".", "-m", str(tiny_folder), "-q", "-f", "jsonl", *output, cwd=tmp_path)
        for output in ((), ("-o", "-"))
    ]
    assert runs[0].returncode == runs[1].returncode == 0
    assert runs[0].stdout == runs[1].stdout != b""
    assert not (tmp_path / "-").exists()


def test_default_format_without_a_terminal_is_tsv(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", tiny_folder, path, "-k", "2")
    assert done.returncode == 0, done.stderr
    header, row = csv.reader(io.StringIO(done.stdout.decode(), newline=""), delimiter="\t")
    assert header == ["path", "status", "error", "index1", "label1", "prob1", "index2", "label2", "prob2"]
    assert row[:3] == [str(path), "ok", ""]


@pytest.mark.guarantee("input-lists")
def test_file_list_with_nul_or_newline_separators(tiny_folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "new\nline.png"
    sample_image().save(odd)
    plain = tmp_path / "plain.png"
    sample_image().save(plain)
    base = ("predict", "-m", tiny_folder, "-f", "jsonl", "--files-from", "-")
    exact = levit(*base, "-0", stdin=f"{odd}\0{plain}".encode())
    assert [record["path"] for record in records(exact.stdout)] == [str(odd), str(plain)]
    assert exact.returncode == 0, exact.stderr
    lines = levit(*base, stdin=f"\ufeff{plain}\r\n\n{plain}".encode())
    assert [record["path"] for record in records(lines.stdout)] == [str(plain)] * 2
    assert lines.returncode == 0, lines.stderr
    listed = tmp_path / "list.txt"
    listed.write_text(f"{plain}\n")
    from_file = levit("predict", "-m", tiny_folder, "-f", "jsonl", "--files-from", listed)
    assert [record["path"] for record in records(from_file.stdout)] == [str(plain)]
    assert from_file.returncode == 0, from_file.stderr


def test_file_list_on_a_closed_stdin_is_a_usage_error(tiny_folder: Path) -> None:
    script = f"{LEVIT} predict -m {tiny_folder} --files-from - <&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=environment(), timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert b"Cannot read the list" in done.stderr


def test_interactive_file_list_gives_a_record_for_each_line(tiny_folder: Path, tmp_path: Path) -> None:
    first, second = write_images(tmp_path, 2)
    command = [LEVIT, "predict", "-m", str(tiny_folder), "-f", "jsonl", "-q", "--files-from", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for path in (first, second):
            process.stdin.write(f"{path}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["path"] == str(path)
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_image_on_stdin(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    piped = levit("predict", "-m", tiny_folder, "-", "-f", "jsonl", stdin=path.read_bytes())
    named = levit("predict", "-m", tiny_folder, path, "-f", "jsonl")
    assert (piped.returncode, named.returncode) == (0, 0)
    (record,) = records(piped.stdout)
    assert record["path"] == "-"
    assert record["top"] == records(named.stdout)[0]["top"]
    nothing = levit("predict", "-m", tiny_folder, "-", "-f", "jsonl")
    assert nothing.returncode == 1
    assert records(nothing.stdout)[0]["error"]["kind"] == "empty_file"


def test_urls_are_downloaded_and_a_failed_download_is_an_error_record(
    site: FakeSite, tiny_folder: Path, tmp_path: Path
) -> None:
    (path,) = write_images(tmp_path, 1)
    site.pages["/a.jpg"] = lambda exchange: exchange.reply(200, path.read_bytes())
    site.pages["/page"] = lambda exchange: exchange.reply(200, b"<!doctype html><title>no image</title>")
    urls = [f"{site.url}/{name}" for name in ("a.jpg", "gone.jpg", "page")]
    done = levit("predict", "-m", tiny_folder, *urls, "-f", "jsonl")
    good, gone, page = records(done.stdout)
    assert done.returncode == 1
    assert [record["path"] for record in (good, gone, page)] == urls
    assert good["top"] == records(levit("predict", "-m", tiny_folder, path, "-f", "jsonl").stdout)[0]["top"]
    assert gone["error"]["kind"] == "download"
    assert page["error"]["kind"] == "not_an_image"


def test_file_name_that_is_not_utf8(tiny_folder: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        sample_image().save(file, "PNG")
    done = levit("predict", "-m", tiny_folder, tmp_path, "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    (record,) = records(done.stdout)
    assert record["status"] == "ok"
    assert record["path"].endswith("caf\\xe9.png")


@pytest.mark.guarantee("existing-output")
def test_output_suffix_sets_the_format_and_overwriting_needs_an_option(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "in", 1)
    output = tmp_path / "out.csv"
    command = ("predict", "-m", tiny_folder, path, "-o", output)
    assert levit(*command).returncode == 0
    written = output.read_bytes()
    assert written.startswith(b"path,status,error,")
    output.write_bytes(b"mine")
    refused = levit(*command)
    assert refused.returncode == 2
    assert str(output).encode() in refused.stderr
    assert output.read_bytes() == b"mine"
    assert levit(*command, "--overwrite").returncode == 0
    assert output.read_bytes() == written


@pytest.mark.guarantee("existing-output")
def test_output_must_not_be_an_input(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1, "png")
    before = path.read_bytes()
    done = levit("predict", "-m", tiny_folder, path, "-o", path, "--overwrite", "-f", "csv")
    assert done.returncode == 2
    assert path.read_bytes() == before


@pytest.mark.guarantee("existing-output")
@pytest.mark.parametrize("named", ["folder", "parent", "glob", "recursive glob", "list", "list of folders"])
def test_overwrite_does_not_replace_an_input_that_is_found(tiny_folder: Path, tmp_path: Path, named: str) -> None:
    path, _ = write_images(tmp_path / "in" / "photos", 2)
    before = path.read_bytes()
    listed = tmp_path / "list"
    listed.write_text(str(path.parent if "folders" in named else path))
    inputs = {
        "folder": [path.parent],
        "parent": [tmp_path / "in"],
        "glob": [path.parent / "*"],
        "recursive glob": [tmp_path / "**" / f"*{path.suffix}"],
    }.get(named, ["--files-from", listed])
    done = levit("predict", "-m", tiny_folder, *inputs, "-o", path, "--overwrite", "-f", "csv")
    assert done.returncode == 2
    assert b"is also an input" in done.stderr
    assert path.read_bytes() == before


def test_a_glob_leaves_out_the_output_of_the_run(tiny_folder: Path, tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    command = ("predict", "-m", tiny_folder, tmp_path / "*", "-o", tmp_path / "out.jsonl")
    assert levit(*command).returncode == 0
    written = (tmp_path / "out.jsonl").read_bytes()
    assert len(written.splitlines()) == 2
    done = levit(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == written
    assert levit(*command, "--overwrite").returncode == 2  # nothing tells it from an input
    assert (tmp_path / "out.jsonl").read_bytes() == written


@pytest.mark.guarantee("no-traceback", "no-inputs", "impossible-options")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], b"Nothing to classify"),
        (["--files-from", "-"], b"No images in the list -"),
        (["--files-from", "/nowhere/list"], b"Cannot read the list"),
        (["--files-from", "-", "-"], b"cannot be both"),
        (["--no-such-option"], b"No such option"),
        (["x.jpg", "-o", "x.unknown"], b"No output format matches the suffix"),
        (["x.jpg", "-k", "0"], b"--top-k"),
        (["x.jpg", "--device", "cuda", "--engine", "openvino"], b"not on cuda"),
        (["x.jpg", "--preprocessing", "hf-tensor", "--engine", "openvino"], b"--engine torch"),
        (["x.jpg", "--preprocessing", "hf-tensor"], b"--engine torch"),
        (["x.jpg", "--sha256", "96703c44"], b"--sha256 has no effect on the model"),
        (["x.jpg", "-0"], b"-0 (--null) has no effect without --files-from"),
        (["x.jpg", "--overwrite"], b"--overwrite has no effect without --output"),
    ],
)
def test_usage_errors_are_exit_2(tiny_folder: Path, arguments: list[str], message: bytes) -> None:
    done = levit("predict", "-m", tiny_folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


@pytest.mark.guarantee("no-inputs")
def test_folder_without_images_is_exit_2_and_the_message_names_the_suffixes(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    done = levit("predict", "-m", tiny_folder, tmp_path)
    assert done.returncode == 2
    assert str(tmp_path).encode() in done.stderr
    assert b".jpg" in done.stderr


@pytest.mark.parametrize("model", ["no-such-model", "./nowhere.safetensors", "levit-512", "a/b/c"])
def test_unknown_model_is_exit_3(tmp_path: Path, model: str) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", model, path)
    assert done.returncode == 3
    assert model.encode() in done.stderr
    assert done.stdout == b""


def test_unreachable_hub_is_exit_5_and_the_message_names_alternatives(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    for arguments in ([], ["--offline"]):
        done = levit("predict", path, *arguments, env=environment(HF_HOME=str(tmp_path / "hf")))
        assert done.returncode == 5
        assert b"facebook/levit-256" in done.stderr
        assert b"--model demo" in done.stderr
        assert b"--model PATH" in done.stderr
        assert done.stdout == b""


@pytest.mark.guarantee("label-and-head-counts")
def test_wrong_number_of_labels_is_exit_3_and_the_message_has_both_numbers(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "in", 1)
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    done = levit("predict", "-m", tiny_folder, path, "--labels", labels)
    assert done.returncode == 3
    assert b"3 labels" in done.stderr
    assert b"7 classes" in done.stderr
    labels.write_text("\n".join("abcdefg"))
    named = levit("predict", "-m", tiny_folder, path, "--labels", labels, "-f", "jsonl")
    assert named.returncode == 0, named.stderr
    assert records(named.stdout)[0]["top"][0]["label"] in "abcdefg"


@needs_torch
@pytest.mark.guarantee("device-unavailable")
def test_missing_device_is_exit_3(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", tiny_folder, path, "--device", "mps", env=environment(CUDA_VISIBLE_DEVICES=""))
    assert done.returncode == 3, done.stderr
    assert b"mps" in done.stderr


@needs_torch
def test_torch_engine_gives_the_same_probabilities(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    base = ("predict", "-m", tiny_folder, path, "-f", "jsonl", "--device", "cpu", "--precision", "fp32")
    runs = [levit(*base, "--engine", engine) for engine in ("openvino", "torch")]
    assert [done.returncode for done in runs] == [0, 0]
    for ours, theirs in zip(*(records(done.stdout)[0]["top"] for done in runs), strict=True):
        assert ours["index"] == theirs["index"]
        assert ours["prob"] == pytest.approx(theirs["prob"], abs=2e-6)


@pytest.mark.guarantee("full-disk")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_exit_4(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", tiny_folder, path, "-o", "/dev/full", "-f", "jsonl")
    assert done.returncode == 4, done.stderr
    assert b"/dev/full" in done.stderr
    assert b"No space left" in done.stderr
    with open("/dev/full", "wb") as full:
        command = [LEVIT, "predict", "-m", str(tiny_folder), str(path), "-f", "jsonl"]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment(), check=False)
    assert process.returncode == 4
    assert b"Traceback" not in process.stderr
    assert b"Exception ignored" not in process.stderr


@pytest.mark.guarantee("full-disk")
def test_missing_output_folder_is_exit_4(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", tiny_folder, path, "-o", tmp_path / "no" / "out.csv")
    assert done.returncode == 4
    assert b"out.csv" in done.stderr


@pytest.mark.guarantee("impossible-options")
def test_all_faults_of_a_command_line_are_named_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    options = ["-0", "--sha256", "96703c44", "--engine", "openvino", "--device", "cuda", "--resume", "--overwrite"]
    done = levit("predict", "-m", "demo", path, *options, "-o", tmp_path / "x.unknown")
    assert done.returncode == 2
    message = done.stderr.decode()
    assert message.startswith("Error: The command line has 5 faults · (1) -0 (--null) has no effect")
    for words in (
        "use only one of them",
        "--sha256 has no effect on the model demo",
        "not on cuda",
        "No output format",
    ):
        assert words in message
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("options", [[], ["-f", "jsonl"], ["--overwrite"], ["-f", "csv", "--overwrite"]])
def test_a_folder_as_output_is_named_as_one(tmp_path: Path, options: list[str]) -> None:
    write_images(tmp_path / "photos", 1)
    before = os.listdir(tmp_path / "photos")
    done = levit("predict", "-m", "demo", "photos", "-o", "photos", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"Error: The output photos is a folder")
    assert os.listdir(tmp_path / "photos") == before


def test_the_error_of_a_pattern_without_a_match_says_so(tmp_path: Path) -> None:
    done = levit("predict", "-m", "demo", "*.webp", "-f", "jsonl", cwd=tmp_path)
    assert done.returncode == 1
    (record,) = records(done.stdout)
    assert record["error"] == {"kind": "not_found", "message": "no such file, and as a pattern it matches nothing"}


@posix_only
@pytest.mark.guarantee("closed-pipe")
@pytest.mark.parametrize("arguments", ["--help", "predict --help", "--version"])
def test_a_closed_pipe_while_help_is_printed_is_exit_141(arguments: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [LEVIT, *arguments.split()]
    with open(writer, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.guarantee("closed-pipe")
def test_closed_pipe_is_exit_141_without_a_message(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_images(folder, 30)
    script = f"{LEVIT} predict -m {tiny_folder} {folder} -f jsonl -b 1 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=environment(), timeout=120, check=False)
    assert done.returncode == 141
    assert done.stderr == b""
    assert len(records(done.stdout)) == 1


@pytest.mark.guarantee("signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_run_with_its_exit_code_and_keeps_finished_records(
    tiny_folder: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    (path,) = write_images(tmp_path, 1)
    command = [LEVIT, "predict", "-m", str(tiny_folder), "-f", "jsonl", "--files-from", "-"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{path}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["status"] == "ok"
        process.send_signal(sent)  # it now waits for the next path
        assert process.wait(timeout=10) == code
        message = process.stderr.read()
    assert b"Stopped" in message
    assert b"Traceback" not in message


def test_verbose_reports_the_engine_and_stats_the_time_of_each_stage(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", "-m", tiny_folder, path, "-v", "--stats", "--threads", "1", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert b"preprocessing hf: resize to cover 73 x 73 px (bicubic), crop 64 x 64 px (floor)\nresizer " in done.stderr
    assert b"engine openvino on cpu in fp32, 1 thread, 1 stream" in done.stderr
    assert b"network" in done.stderr
    assert b"read + decode + resize" in done.stderr


def test_model_from_the_environment_variable(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    done = levit("predict", path, "-f", "json", env=environment(LEVIT_MODEL=str(tiny_folder)))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["meta"]["model"]["name"] == str(tiny_folder)


@pytest.mark.guarantee("foreign-preprocessing")
def test_a_clip_image_processor_in_the_model_folder_is_done_as_it_says_or_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    (path,) = write_images(tmp_path, 1)
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    clip = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 70}, "crop_size": 64, "resample": 2,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (model / "preprocessor_config.json").write_text(json.dumps(clip))
    document = json.loads(levit("predict", "-m", model, path, "-f", "json").stdout)
    assert (document["meta"]["preprocessing"]["resize_to"], document["meta"]["preprocessing"]["filter"]) == (
        [70, 70],
        "bilinear",
    )
    (model / "preprocessor_config.json").write_text(json.dumps({**clip, "image_processor_type": "ViTImageProcessor"}))
    done = levit("predict", "-m", model, path)
    assert done.returncode == 3
    assert b"ViTImageProcessor" in done.stderr
    assert b"--preprocessing" in done.stderr
    assert levit("predict", "-m", model, path, "--preprocessing", "hf").returncode == 0


@pytest.mark.guarantee("label-files")
def test_an_index_file_of_imagenet_as_labels_gives_names_and_wordnet_ids(tiny_folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    index = {str(number): [f"n{number:08d}", f"name{number}"] for number in range(7)}
    (tmp_path / "class_index.json").write_text(json.dumps(index))
    done = levit("predict", "-m", tiny_folder, path, "-f", "jsonl", "--labels", tmp_path / "class_index.json")
    (record,) = records(done.stdout)
    assert [[found["wnid"], found["label"]] for found in record["top"]] == [
        index[str(found["index"])] for found in record["top"]
    ]
