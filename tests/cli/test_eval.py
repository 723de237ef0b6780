"""``levit eval``, the installed command, on folders of images."""

import json
import os
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levit_cli.checkpoints import load, save
from levit_cli.data.image_folder import class_folders
from levit_cli.data.inputs import Input
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.errors import ExitCode, OutputError
from levit_cli.eval.run import EvalRequest, run
from levit_cli.predict.model import ModelOptions
from levit_cli.predict.reader import Reader
from levit_cli.system.progress import silent
from tests.support.archives import tar_of_folder, zip_of_folder
from tests.support.binary import LEVIT, environment, installed_levit, levit, unprivileged
from tests.support.extras import hide_extra, names_pip_command, needs_plot
from tests.support.sample_images import sample_image, write_class_folders

FP32 = EngineSpec(precision="fp32")
IN_FP32 = ("--precision", "fp32")
SHARPNESS = 60  # of the model; one of random weights is hardly sure of anything


def labels_by(model: str | Path, folder: Path) -> dict[str, str]:
    """What ``levit predict`` says, by path."""
    lines = levit("predict", "-m", model, folder, "-f", "jsonl", *IN_FP32).stdout.splitlines()
    return {record["path"]: record["top"][0]["label"] for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number:03d}.png" for number in range(20)]
    for number, path in enumerate(paths):
        sample_image(seed=number, width=40 + 7 * number).save(path)
    return paths


@pytest.fixture(scope="module")
def model(tiny_folder: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of our own, to write into; with biases such that the images do not all get the same answer."""
    tiny = load(tiny_folder)
    reader = Reader(tiny.transform)
    logits = make_engine(tiny, FP32)(np.stack([reader(Input(str(path))) for path in images]))
    state = dict(tiny.state)
    for head in ("head", "head_dist"):
        state[f"{head}.linear.weight"] = SHARPNESS * state[f"{head}.linear.weight"]
        state[f"{head}.linear.bias"] = SHARPNESS * (state[f"{head}.linear.bias"] - logits.mean(axis=0))
    folder = tmp_path_factory.mktemp("model") / "run"
    save(replace(tiny, state=state), folder, "hf")
    return folder


@pytest.fixture(scope="module")
def data(model: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images in folders of the classes that the model gives them, but for four; and one that is torn."""
    root = tmp_path_factory.mktemp("data")
    answers = labels_by(model, images[0].parent)
    classes = sorted(set(answers.values()))
    assert len(classes) > 1
    for number, (path, label) in enumerate(answers.items()):
        wrong = next(name for name in classes if name != label)
        folder = root / "val" / (label if number % 5 else wrong).replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    torn = next(root.rglob("007.png"))
    (torn.parent / "torn.png").write_bytes(torn.read_bytes()[:200])
    return root


def request(data: Path, model: Path, labels: Path | None = None, **changes: Any) -> EvalRequest:
    return EvalRequest(data, ModelOptions(str(model), labels), FP32, quiet=True, **changes)


@needs_plot
def test_one_run_tells_everything_and_fails_its_gate(data: Path, model: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = levit(
        "eval",
        data,
        "-m",
        model,
        *IN_FP32,
        "-f",
        "json",
        "--report",
        report,
        "--fail-under",
        "0.9",
        "--batch-size",
        "3",
    )
    assert done.returncode == 1, done.stderr
    assert b"val" in done.stderr.splitlines()[0]
    assert b"21 images in" in done.stderr
    assert b"1 failed" in done.stderr
    assert b"top-1 is below --fail-under 0.9" in done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert document["data"] == {
        "path": str(data / "val"),
        "classes": len(list((data / "val").iterdir())),
        "images": 21,
        "readable": 20,
        "failed": 1,
    }
    assert (document["top1"]["value"], document["top1"]["correct"], document["top1"]["total"]) == (0.8, 16, 20)
    assert document["top5"]["correct"] >= 16
    assert len(document["mistakes"]) == 4
    assert [failure["error"]["kind"] for failure in document["failures"]] == ["truncated"]
    assert sum(entry["images"] for entry in document["classes"]) == 20
    assert sum(map(sum, document["confusion"]["matrix"])) == 20
    assert document["meta"]["precision"] == "fp32"
    assert document["meta"]["model"]["name"] == str(model)
    assert len(document["meta"]["model"]["sha256"]) == 64
    assert report.read_text(encoding="utf-8").count("<img ") == 4


@needs_plot
@pytest.mark.guarantee("labeled-files")
@pytest.mark.parametrize("suffix", [".tar", ".zip", ".csv"])
def test_an_archive_or_a_list_gives_the_results_of_its_folder(
    suffix: str, data: Path, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"data{suffix}"
    if suffix == ".csv":
        rows = [f"{image},{image.parent.name}" for image in sorted((data / "val").rglob("*.png"))]
        path.write_text("\n".join(["path,label", *rows]))
    else:
        (tar_of_folder if suffix == ".tar" else zip_of_folder)(path, data)
    report = tmp_path / "report.html"
    results = []
    for source in (data, path):
        done = levit("eval", source, "-m", model, *IN_FP32, "-f", "json", "--report", report, "--overwrite")
        assert done.returncode == 1, done.stderr
        document = json.loads(done.stdout)
        results.append({key: document[key] for key in ("top1", "top5", "classes", "confusion", "calibration")})
        assert report.read_text(encoding="utf-8").count("<img ") == 4
        assert [failure["error"]["kind"] for failure in document["failures"]] == ["truncated"]
    assert results[0] == results[1]


def test_calibrating_stores_what_predict_then_uses(data: Path, model: Path, tmp_path: Path) -> None:
    own = shutil.copytree(model, tmp_path / "run")
    config = json.loads((own / "config.json").read_text())
    (path,) = (path for path in data.rglob("001.png"))
    predict = ("predict", "-m", own, path, "-f", "jsonl", *IN_FP32, "-k", "7")
    (before,) = map(json.loads, levit(*predict).stdout.splitlines())
    output = tmp_path / "result.txt"
    clean = shutil.copytree(data / "val", tmp_path / "clean", ignore=shutil.ignore_patterns("torn*"))
    done = levit("eval", clean, "-m", own, *IN_FP32, "--calibrate", "-o", output, "--fail-under", "0.8")
    assert done.returncode == 0, done.stderr
    assert b"Stored temperature" in done.stderr
    assert b"fitted to 20 images, and with fewer than 200 it may be far off" in done.stderr
    assert done.stdout == b""
    text = output.read_text(encoding="utf-8")
    assert "80.0 %  16 of 20 images correct" in text
    assert "Most confident errors" in text
    assert "\x1b" not in text
    after = json.loads((own / "config.json").read_text())
    temperature = after["levit_cli"].pop("temperature")
    assert after == config
    assert json.loads(levit("info", own, "-f", "json").stdout)["temperature"] == temperature != 1
    (tempered,) = map(json.loads, levit(*predict).stdout.splitlines())
    assert [entry["label"] for entry in tempered["top"]] == [entry["label"] for entry in before["top"]]
    powers = [entry["prob"] ** (1 / temperature) for entry in before["top"]]
    expected = [power / sum(powers) for power in powers]
    assert [entry["prob"] for entry in tempered["top"]] == pytest.approx(expected, abs=1e-5)


def test_class_folders_may_cover_a_part_of_the_labels(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(request(data, model, output=tmp_path / "result.json"), silent) == ExitCode.SOME_FAILED
    assert json.loads((tmp_path / "result.json").read_text())["top1"]["total"] == 20
    assert run(request(data, model), silent) == ExitCode.SOME_FAILED
    text = capsys.readouterr().out
    covered = len(class_folders(data / "val").classes)
    assert f"cover {covered} of the model's 7 classes" in text
    assert "1 of 21 images could not be read" in text
    assert "truncated" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere", "-m", "demo"], 2, "No folder nowhere"),
        (["zoo", "-m", "demo"], 3, "2 folders match no label of the model: aardvark, okapi"),
        (["good", "-m", "demo", "--calibrate"], 2, "Cannot store a temperature for demo"),
        (["good", "-m", "bare.safetensors", "--calibrate"], 2, "levit convert-checkpoint bare.safetensors"),
        (
            ["good", "-m", "demo", "--report", "taken.html"],
            2,
            "taken.html exists · it was not touched · --over",
        ),
        (["good", "-m", "demo", "--report", "no/such/r.html"], 4, "Cannot write no/such/r.html"),
        (["good", "-m", "demo", "-o", "x.json", "--report", "x.json"], 2, "the same file"),
        (["good", "-m", "demo", "-o", "x.html"], 2, "use --report for an HTML page"),
        (["good", "-m", "demo", "-o", "good/cat/000.jpg", "--overwrite", "-f", "json"], 2, "also an input"),
        (["good", "-m", "demo", "--fail-under", "90"], 2, "less than or equal to 1"),
        (["good", "-m", "demo", "--engine", "openvino", "--device", "cuda"], 2, "not on cuda"),
        (["good", "-m", "demo", "--preprocessing", "hf-tensor"], 2, "add --engine torch"),
        (["good", "-m", "demo", "--sha256", "96703c44"], 2, "--sha256 has no effect on the model demo"),
        (["good", "-m", "demo", "--overwrite"], 2, "--overwrite has no effect without --output or --report"),
        (["good", "-m", "demo", "-o", "good"], 2, "The output good is a folder"),
        (
            ["good", "-m", "demo", "-o", "x.html", "--calibrate", "--sha256", "96703c44"],
            2,
            "has 3 faults · (1) --sha256",
        ),
    ],
)
def test_what_can_be_refused_is_refused_before_any_work(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    write_class_folders(tmp_path, ("zoo/okapi", "zoo/cat", "zoo/aardvark", "good/cat", "good/Dog"))
    (tmp_path / "taken.html").write_text("mine")
    (tmp_path / "bare.safetensors").write_bytes(b"")
    before = (tmp_path / "good/cat/000.jpg").read_bytes()
    done = levit("eval", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "taken.html").read_text() == "mine"
    assert (tmp_path / "good/cat/000.jpg").read_bytes() == before
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("shut", ["data/class 0", "data/class 0/deeper"])
def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(tmp_path: Path, model: Path, shut: str) -> None:
    write_class_folders(tmp_path / "data", ("class 0", "class 0/deeper", "class 1"))
    (tmp_path / shut).chmod(0)
    command = unprivileged(LEVIT, "eval", tmp_path / "data", "-m", model)
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=120, check=False)
    (tmp_path / shut).chmod(0o700)
    assert done.returncode == 2, done.stderr
    assert str(tmp_path / shut).encode() in done.stderr
    assert b"Permission denied" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("option", ["output", pytest.param("report", marks=needs_plot)])
def test_a_full_disk_is_an_output_error_and_leaves_the_device_alone(
    data: Path, model: Path, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutputError, match="No space left") as caught:
        run(request(data, model, format="json", **{option: Path("/dev/full")}), silent)
    assert caught.value.exit_code == ExitCode.OUTPUT
    assert ("readable" in capfd.readouterr().out) == (option == "report")  # the figures are not lost with the report
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_result_that_is_there_stays_until_the_new_one_is_whole(data: Path, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    target.write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to(target)
    run(request(data, model, output=link, overwrite=True), silent)
    assert link.is_symlink()
    assert json.loads(target.read_text())["data"]["readable"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "target.json"]


def test_a_class_that_is_called_test_is_a_class(tmp_path: Path, model: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("test\ncontrol\n" + "\n".join("abcde"))
    write_class_folders(tmp_path / "data", ("test", "control"), 2)
    output = tmp_path / "result.json"
    run(request(tmp_path / "data", model, labels, output=output), silent)
    classes = json.loads(output.read_text())["classes"]
    assert [(entry["folder"], entry["index"], entry["images"]) for entry in classes] == [
        ("control", 1, 2),
        ("test", 0, 2),
    ]


@pytest.mark.parametrize(("limit", "warned"), [(20, False), (21, True)])
def test_calibrating_on_few_images_warns(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, warned: bool
) -> None:
    monkeypatch.setattr("levit_cli.eval.run.FEW_IMAGES", limit)
    lines: list[str] = []
    own = shutil.copytree(model, tmp_path / "run")
    run(replace(request(data, own, calibrate=True), quiet=False), lines.append)
    assert any("it may be far off" in line for line in lines) == warned
    assert any(line.startswith("Stored temperature") for line in lines)


def test_a_folder_name_that_is_not_utf_8_is_named(tmp_path: Path, model: Path) -> None:
    write_class_folders(tmp_path / "data", ("class 0", "caf\udce9"))
    done = levit("eval", tmp_path / "data", "-m", model)
    assert (done.returncode, done.stdout) == (3, b""), done.stderr
    assert rb"1 folder matches no label of the model: caf\udce9" in done.stderr


@pytest.mark.guarantee("class-names")
def test_a_class_called_test_with_subfolders_is_a_class(tmp_path: Path, model: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("test\ncontrol\n" + "\n".join("abcde"))
    write_class_folders(tmp_path / "data", ("test/2020", "test/2021", "control"), 2)
    output = tmp_path / "result.json"
    run(request(tmp_path / "data", model, labels, output=output), silent)
    classes = json.loads(output.read_text())["classes"]
    assert [(entry["folder"], entry["images"]) for entry in classes] == [("control", 2), ("test", 4)]


@pytest.mark.guarantee("skipped-training-files")
def test_what_is_not_evaluated_is_counted(data: Path, model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "copy")
    folder = next(path for path in sorted((copy / "val").iterdir()) if path.is_dir())
    for name in ("notes.txt", "x.dng"):
        (folder / name).write_bytes(b"x")
    (copy / "val" / "@eaDir").mkdir()
    for quiet in (False, True):
        lines: list[str] = []
        run(replace(request(copy, model, output=tmp_path / f"{quiet}.json"), quiet=quiet), lines.append)
        counted = [
            line
            for line in lines
            if line.startswith("Skipped 1 folder created by the system (@eaDir), 1 image in a format")
        ]
        assert len(counted) == (not quiet)
    lines = []
    run(replace(request(copy, model, output=tmp_path / "verbose.json"), quiet=False, verbose=True), lines.append)
    assert f"Skipped {folder / 'x.dng'}: image in a format that is not supported" in lines


def test_no_temperature_is_stored_where_none_fits(data: Path, model: Path, tmp_path: Path) -> None:
    own = shutil.copytree(model, tmp_path / "run")
    shutil.copytree(data / "val", tmp_path / "right", ignore=shutil.ignore_patterns("torn*"))
    config = (own / "config.json").read_bytes()
    answers = labels_by(own, tmp_path / "right")
    for path, label in answers.items():
        if Path(path).parent.name != label.replace(" ", "_"):
            Path(path).unlink()
    lines: list[str] = []
    assert run(request(tmp_path / "right", own, calibrate=True), lines.append) == ExitCode.SOME_FAILED
    assert any("No temperature was stored" in line for line in lines)
    assert (own / "config.json").read_bytes() == config


@pytest.mark.guarantee("missing-extra")
def test_a_report_without_its_extra_is_refused_before_any_image_is_read(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "data", ("cat",))
    hidden = environment(**hide_extra("plot", tmp_path / "hidden"))
    before = sorted(tmp_path.rglob("*"))
    command = ("eval", tmp_path / "data", "-m", "demo", "--report", tmp_path / "r.html", "-o", tmp_path / "r.json")
    done = levit(*command, env=hidden)
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert "The report needs the extra 'plot'" in line
    assert names_pip_command(line, "plot")
    assert sorted(tmp_path.rglob("*")) == before


@needs_plot
def test_a_report_whose_library_is_broken_is_exit_3(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "data", ("cat",))
    (tmp_path / "jinja2.py").write_text("raise ImportError('not for this Python')")
    env = environment(PYTHONPATH=str(tmp_path))
    done = levit("eval", tmp_path / "data", "-m", "demo", "--report", tmp_path / "r.html", env=env)
    assert (done.returncode, done.stdout) == (3, b""), done.stderr
    assert b"not for this Python" in done.stderr
    assert not (tmp_path / "r.html").exists()


@needs_plot
@pytest.mark.parametrize(
    ("settings", "code"),
    [(b"nonsense: 3\nfont.size: 90\nbackend: none\n", 0), (b"text.usetex: True\n", 0), (b"font.family: caf\xe9\n", 3)],
)
def test_settings_for_matplotlib_in_the_working_directory_do_no_harm(
    data: Path, model: Path, tmp_path: Path, settings: bytes, code: int
) -> None:
    clean = shutil.copytree(data / "val", tmp_path / "clean", ignore=shutil.ignore_patterns("torn*"))
    (tmp_path / "matplotlibrc").write_bytes(settings)
    done = installed_levit("eval", clean, "-m", model, "-q", "-o", "r.json", "--report", "r.html", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert (b"matplotlibrc" in done.stderr) == bool(code)
    assert len(done.stderr.splitlines()) == bool(code)


@needs_plot
@pytest.mark.guarantee("terminal-independence")
@pytest.mark.parametrize("config", ["", "/dev/null/matplotlib"], ids=["default", "of the user"])
def test_a_report_with_a_read_only_home_writes_nothing_to_stderr(
    data: Path, model: Path, tmp_path: Path, config: str
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    env = environment(HOME=str(home), XDG_CACHE_HOME="", XDG_CONFIG_HOME="")
    env = {**env, "MPLCONFIGDIR": config} if config else {k: v for k, v in env.items() if k != "MPLCONFIGDIR"}
    clean = shutil.copytree(data / "val", tmp_path / "clean", ignore=shutil.ignore_patterns("torn*"))
    report = tmp_path / "report.html"
    command = unprivileged(LEVIT, "eval", clean, "-m", model, "-q", "-o", tmp_path / "r.json", "--report", report)
    done = subprocess.run(command, capture_output=True, env=env, timeout=120, check=False)
    home.chmod(0o755)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert os.listdir(home) == []
