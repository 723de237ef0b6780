"""Int8 models in use: which precision runs, what is refused, and what the outputs say."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import levit_cli
from levit_cli.checkpoints import Checkpoint, load
from levit_cli.checkpoints.quantized import QuantizedGraph, compatible, release
from levit_cli.choices import Precision
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.engines.openvino import OPENVINO_VERSION
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import transform_for
from levit_cli.predict.model import make_prediction_engine
from levit_cli.system.cpu import has_int8_instructions
from tests.support.binary import levit, records
from tests.support.extras import needs_torch
from tests.support.foreign_systems import linux_only
from tests.support.int8 import loaded, quantized, replace_nncf, write_noise
from tests.support.random_weights import TINY, random_pixels, write_folder
from tests.support.sample_images import write_images

INT8 = EngineSpec("cpu", "openvino", "int8", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as quantize writes it, whose graph is a float one that differs from the original by 1 in each logit."""
    root = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        replace_nncf(patch, lambda weights: weights.update({"head.bias": weights["head.bias"] + 1}))
        quantized(write_folder(root / "source"), write_noise(root / "data"), root / "int8")
    return root / "int8"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def flags(monkeypatch: pytest.MonkeyPatch, *, vnni: bool) -> None:
    monkeypatch.setattr("levit_cli.engines.openvino.has_int8_instructions", lambda: vnni)


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "int8.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni\n", True),
        ("flags\t\t: avx2 avx_vnni\n", True),
        ("flags\t\t: avx512f amx_tile amx_int8\n", True),
        ("flags\t\t: fpu sse4_2 avx2 fma\n", False),
        ("vmx flags\t: avx512_vnni\nflags\t\t: avx2\n", False),
        ("Features\t: fp asimd asimddp i8mm\n", False),  # ARM, where int8 was not measured
        ("", False),
    ],
)
def test_int8_instructions_are_vnni_or_amx(tmp_path: Path, cpuinfo: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_int8_instructions(tmp_path / "cpuinfo") == expected


def test_a_system_without_cpuinfo_has_no_known_int8_instructions(tmp_path: Path) -> None:
    assert not has_int8_instructions(tmp_path / "none")


@pytest.mark.parametrize(
    ("precision", "vnni", "expected"),
    [("auto", True, "int8"), ("auto", False, "original"), ("int8", False, "int8"), ("fp32", True, "original")],
)
def test_the_precision_follows_the_cpu_unless_it_is_requested(
    monkeypatch: pytest.MonkeyPatch, folder: Path, precision: Precision, vnni: bool, expected: str
) -> None:
    flags(monkeypatch, vnni=vnni)
    lines: list[str] = []
    model = loaded(folder)
    engine = make_prediction_engine(model, replace(INT8, precision=precision), lines.append, verbose=True)
    assert (engine.spec.precision == "int8") == (expected == "int8")
    remarks = [line for line in lines if line.startswith("int8 graph not used")]
    assert len(remarks) == (expected == "original")
    assert not remarks or ("no instructions for int8" in remarks[0]) == (precision == "auto")


def test_logits_features_and_batches_come_from_the_graph(folder: Path) -> None:
    model = loaded(folder)
    pixels = random_pixels(TINY, 37)
    original = make_engine(model, replace(INT8, precision="fp32"))
    expected = original(pixels) + 1
    for batch_size in (0, 1, 16):
        engine = make_engine(model, replace(INT8, batch_size=batch_size))
        size = batch_size or 37
        parts = [pixels[start : start + size] for start in range(0, 37, size)]
        actual = np.concatenate([engine(part) for part in parts])
        np.testing.assert_allclose(actual, expected, rtol=0.1, atol=0.1)  # bf16, where the CPU has it
        features = np.concatenate([engine.features(part) for part in parts])
        np.testing.assert_allclose(features, original.features(pixels), rtol=0.1, atol=0.1)


def test_a_small_batch_gives_the_bits_of_a_full_one(folder: Path) -> None:
    engine = make_engine(loaded(folder), replace(INT8, batch_size=16))
    pixels = random_pixels(TINY, 16)
    full = engine(pixels)
    for _ in range(50):  # until a graph for two images was compiled
        np.testing.assert_array_equal(engine(pixels[:2]), full[:2])


def test_the_graph_cache_distinguishes_graphs_and_checks_their_files(copy: Path) -> None:
    stored: dict[str, bytes] = {}

    class Memory:
        def load(self, key: str) -> memoryview | None:
            return memoryview(stored[key]) if key in stored else None

        def store(self, key: str, content: bytes) -> None:
            stored[key] = content

    spec, pixels = replace(INT8, batch_size=1), random_pixels(TINY, 1)
    for precision in ("int8", "fp32"):
        first = make_engine(loaded(copy), replace(spec, precision=precision), Memory())
        first.save_cache()
        second = make_engine(loaded(copy), replace(spec, precision=precision), Memory())
        np.testing.assert_array_equal(second(pixels), first(pixels))
    assert len(stored) == 2
    (copy / "int8.bin").write_bytes((copy / "int8.bin").read_bytes()[:-1] + b"!")
    with pytest.raises(RefusedError, match=r"int8\.bin is not the file of this graph"):
        make_engine(loaded(copy), spec, Memory())


def test_the_python_interface_runs_int8_and_embeds(folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    model = levit_cli.load(folder, precision="int8")
    assert " in int8>" in repr(model)
    assert len(model(path).top) == 5
    assert [len(prediction.top) for prediction in model.predict([path] * 3)] == [5] * 3
    original = levit_cli.load(folder, precision="fp32").embed([path] * 2)
    np.testing.assert_allclose(model.embed([path] * 2), original, rtol=0.1, atol=0.1)
    with pytest.raises(RefusedError, match="has no int8 graph"):
        levit_cli.load("demo", precision="int8")


def test_outputs_name_the_precision_and_the_graph(folder: Path, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    output = tmp_path / "out.jsonl"
    run = ("predict", "-m", folder, path, "-f", "json", "--precision")
    meta = json.loads(levit(*run, "int8").stdout)["meta"]
    assert meta["precision"] == "int8"
    graph = loaded(folder).int8
    assert graph is not None
    assert meta["model"]["int8_sha256"] == graph.sha256
    assert "int8_sha256" not in json.loads(levit(*run, "fp32").stdout)["meta"]["model"]
    resumed = ("predict", "-m", folder, path, "-o", output, "--precision")
    assert levit(*resumed, "int8").returncode == 0
    assert levit(*resumed, "int8", "--resume").returncode == 0
    done = levit(*resumed, "fp32", "--resume")
    assert done.returncode == 2
    assert len(records(output.read_bytes())) == 1


def test_info_says_int8_and_the_measured_accuracy(folder: Path, copy: Path) -> None:
    text = levit("info", folder).stdout.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("int8 ")]
    assert "same first class on 100.00 % of 85 images" in line
    facts = json.loads(levit("info", folder, "-f", "json").stdout)["int8"]
    assert facts["problem"] is None
    assert facts["gate"]["images"] == 85
    edit(copy, openvino="2020.1.0")
    done = levit("info", copy)
    assert done.returncode == 0
    assert b"cannot be run: it was measured with OpenVINO 2020.1.0" in done.stdout
    shutil.copy(folder / "int8.json", copy)
    edit(copy, mean=[0.5, 0.5, 0.5])
    assert b"cannot be run: its image size or normalization is not that" in levit("info", copy).stdout


def test_eval_bench_and_convert_take_the_folder(folder: Path, tmp_path: Path) -> None:
    data = folder.parent / "data"
    done = levit("eval", data, "-m", folder, "-f", "json", "--precision", "int8", "-q")
    assert json.loads(done.stdout)["meta"]["precision"] == "int8", done.stderr
    timing = ("--duration", "0.05", "--warmup", "0", "--precision", "int8")
    done = levit("bench", folder, *timing, "-f", "json", "-q")
    (row,) = json.loads(done.stdout)["results"]
    assert (row["precision"], row["paper"]) == ("int8", None)
    assert b"(int8)" in levit("bench", folder, *timing, "-f", "table", "-q").stdout
    done = levit("convert-checkpoint", folder, "-o", tmp_path / "out", "--to", "hf")
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "out").int8 is None


@pytest.mark.parametrize(
    "command", [("predict", "demo.jpg", "-m", "demo"), ("eval", "data", "-m", "demo"), ("bench", "demo")]
)
def test_int8_of_a_model_without_a_graph_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    write_images(tmp_path, 1)[0].rename(tmp_path / "demo.jpg")
    write_images(tmp_path / "data" / "cat", 1)
    done = levit(*command, "--precision", "int8", cwd=tmp_path)
    assert done.returncode == 3
    assert b"make one with: levit quantize demo --data FOLDER -o NEW_FOLDER" in done.stderr


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("predict", "a.jpg", "-m"), ("--engine", "torch")),
        (("predict", "a.jpg", "-m"), ("--device", "cuda")),
        (("eval", "data", "-m"), ("--engine", "compile")),
        (("bench",), ("--engine", "torch")),
    ],
)
def test_int8_needs_the_openvino_engine(
    folder: Path, tmp_path: Path, command: tuple[str, ...], option: tuple[str, str]
) -> None:
    write_images(tmp_path / "data" / "class 0", 1)
    done = levit(*command, folder, "--precision", "int8", *option, cwd=tmp_path)
    assert done.returncode == 2
    assert f"--precision int8 cannot be used with {' '.join(option)}".encode() in done.stderr


@needs_torch
def test_the_torch_engine_runs_the_original_weights(folder: Path) -> None:
    model = loaded(folder)
    pixels = random_pixels(TINY, 2)
    theirs = make_engine(model, EngineSpec("cpu", "torch", "fp32"))(pixels)
    np.testing.assert_allclose(make_engine(model, replace(INT8, precision="fp32"))(pixels), theirs, atol=1e-4)


VALUES: dict[str, Any] = {
    "levit": "99.0.0",
    "openvino": "2020.1.0-1",
    "format": 2,
    "seed": float("inf"),
    "gate": {"images": 9, "unreadable": 0, "agreement": float("nan"), "top1_before": None, "top1_after": None,
             "drop_interval": None},
}  # fmt: skip


@pytest.mark.guarantee("quantized-graph-checked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("levit", "levit 99.0.0 made it, and this is levit"),
        ("openvino", "it was measured with OpenVINO 2020.1.0"),
        ("format", "damaged or from another version of levit: its format is 2"),
        ("graph", "int8.xml is not the file of this graph"),
        ("constants", "int8.bin is not the file of this graph"),
        ("weights", "model.safetensors is not the file of this graph"),
        ("no constants", "int8.bin cannot be read"),
        ("json", "int8.json is damaged"),
        ("other files", "it lists the files"),
        ("seed", "int8.json is damaged"),
        ("gate", "int8.json is damaged"),
        pytest.param("pipe", "int8.bin cannot be read: it is a folder, pipe", marks=linux_only),
    ],
)
def test_a_graph_that_cannot_be_trusted_is_refused(
    copy: Path, tmp_path: Path, folder: Path, change: str, words: str
) -> None:
    names = {"graph": "int8.xml", "constants": "int8.bin"}
    if change in names:
        (copy / names[change]).write_bytes((folder / names[change]).read_bytes() + b" ")
    elif change == "weights":
        state = {name: 2 * array for name, array in load(folder).state.items()}
        other = write_folder(tmp_path / "other", state)
        shutil.copy(other / "model.safetensors", copy)
    elif change == "no constants":
        (copy / "int8.bin").unlink()
    elif change == "pipe":
        (copy / "int8.bin").unlink()
        os.mkfifo(copy / "int8.bin")
    elif change == "json":
        (copy / "int8.json").write_text("{")
    elif change == "other files":
        edit(copy, files={"int8.xml": "", "int8.bin": "", "../../model.safetensors": ""})
    else:
        edit(copy, **{change: VALUES[change]})
    (path,) = write_images(tmp_path / "images", 1)
    done = levit("predict", "-m", copy, path, "--precision", "int8")
    assert done.returncode == 3
    assert words in done.stderr.decode()
    assert f"make it again with: levit quantize {copy} --data " in done.stderr.decode()
    assert levit("predict", "-m", copy, path, "--precision", "fp32").returncode == 0


@pytest.mark.guarantee("quantized-graph-checked")
def test_patches_of_the_versions_are_compatible(copy: Path) -> None:
    assert compatible("0.1.0") == compatible("0.1.9") != compatible("0.2.0")
    assert compatible("1.2.0") == compatible("1.9.1") != compatible("2.0.0")
    assert release("2026.4.1-22982-e213a147257-releases/2026/4") == release("2026.4.0") == "2026.4"
    edit(copy, openvino=f"{release(OPENVINO_VERSION)}.99")
    graph = loaded(copy).int8
    assert isinstance(graph, QuantizedGraph)
    assert graph.problem(OPENVINO_VERSION) == ""


def test_another_normalization_runs_the_original_weights(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    flags(monkeypatch, vnni=True)
    transform = replace(transform_for("hf", TINY.image_size), mean=(0.5, 0.5, 0.5))
    model: Checkpoint = replace(loaded(folder), transform=transform)
    lines: list[str] = []
    engine = make_prediction_engine(model, replace(INT8, precision="auto"), lines.append, verbose=True)
    assert engine.spec.precision != "int8"
    assert "int8 graph not used: it was made for another preprocessing" in lines
    with pytest.raises(RefusedError, match="not that of the preprocessing"):
        make_engine(model, INT8)


def test_a_weight_file_of_the_folder_is_the_original_model(folder: Path) -> None:
    assert load(folder / "model.safetensors").int8 is None


@needs_torch
def test_transformers_loads_the_folder_as_the_original(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    network = transformers.LevitForImageClassificationWithTeacher.from_pretrained(folder).eval()
    pixels = random_pixels(TINY, 2)
    transform = load(folder).transform
    mean, std = (np.array(values, np.float32) for values in (transform.mean, transform.std))
    normalized = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = network(normalized).logits.numpy()
    expected = make_engine(loaded(folder), replace(INT8, precision="fp32"))(pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-3)
