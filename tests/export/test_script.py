"""``predict.py`` beside an exported model, with the runtime alone, gives the records of ``levit predict``."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from levit_cli.checkpoints import Threshold
from levit_cli.checkpoints.metadata import store_temperature, store_threshold
from levit_cli.choices import ExportTarget
from levit_cli.data.labels import imagenet1k
from levit_cli.export import files
from levit_cli.images.preprocess import preprocess
from levit_cli.images.transforms import Transform, transform_for
from tests.support.binary import environment, levit, records
from tests.support.extras import FINDER, needs_export
from tests.support.foreign_systems import linux_only
from tests.support.random_weights import TINY, write_folder
from tests.support.sample_images import sample_image

MIN_PROB = 0.2
TOLERANCE = 1e-4  # of a probability
HIDDEN = ("levit_cli", "torch", "torchvision", "safetensors", "huggingface_hub", "typer", "rich")
OTHER_RUNTIME: dict[ExportTarget, tuple[str, ...]] = {
    "onnx": ("openvino", "onnx", "nncf"),
    "openvino": ("onnxruntime", "onnx", "nncf"),
}
LABELS = ("plain", "two\nlines", '"quoted"', "café", " spaces ", "\u2028", "x\\y")
AS_EXPORTED = ("--precision", "fp32", "--resizer", "pillow")
TARGETS = [pytest.param("onnx", marks=needs_export), "openvino"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with hostile labels, a temperature and a threshold."""
    folder = write_folder(tmp_path_factory.mktemp("model") / "hf")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = dict(enumerate(LABELS))
    config |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    store_temperature(folder, 2.5)
    store_threshold(folder, Threshold(MIN_PROB, 2.5, 0.9, 100, 80, 80))
    return folder


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[ExportTarget], Path]:
    """Export the model once for each target."""
    folder = tmp_path_factory.mktemp("exported")

    def export(target: ExportTarget) -> Path:
        if not (folder / target).exists():
            done = levit("export", model, "-o", folder / target, "--to", target)
            assert done.returncode == 0, done.stderr
        return folder / target

    return export


def run(script: Path, *arguments: str | bytes | Path, hidden: tuple[str, ...] = (), **changes: str) -> Any:
    """Run ``predict.py`` in a process that finds neither levit nor the hidden packages.

    Args:
        changes: of the environment.
    """
    site = script.parent.parent / f"site-{script.parent.name}"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(FINDER.format(packages=(*HIDDEN, *hidden)))
    env = environment(PYTHONPATH=str(site), **changes)
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, env=env, timeout=120, check=False)


def image_files(folder: Path) -> list[Path]:
    """Write images of many modes, sizes and orientations, and damaged files."""
    folder.mkdir()
    photo = sample_image(151, 113)
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (70, 90), dtype=np.uint8)
    images: dict[str, Image.Image] = {
        "rgb.jpg": photo,
        "noise.png": Image.fromarray(rng.integers(0, 256, (100, 140, 3), dtype=np.uint8)),
        "small.png": sample_image(20, 31),
        "tall.png": sample_image(70, 900),
        "wide.png": sample_image(900, 70),
        "line.png": sample_image(1, 300),
        "rgba.png": Image.merge("RGBA", (*photo.split(), Image.new("L", photo.size, 90))),
        "gray.png": photo.convert("L"),
        "gray alpha.png": photo.convert("LA"),
        "bits.png": photo.convert("1"),
        "palette.png": photo.quantize(16),
        "16 bit.png": Image.fromarray(noise.astype(np.uint16) * 251),
        "float.tif": Image.fromarray(noise.astype(np.float32) / 255),
        "cmyk.jpg": photo.convert("CMYK"),
        "photo.webp": photo,
        "frames.gif": photo.quantize(32),
        "photo.bmp": photo,
        "photo.jp2": photo,
        "photo.ppm": photo,
        **({"photo.avif": photo} if features.check("avif") else {}),
    }
    for name, image in images.items():
        image.save(folder / name)
    photo.quantize(8).save(folder / "transparent.png", transparency=2)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo.save(folder / f"exif{orientation}.jpg", exif=exif)
    photo.save(folder / "exif.tif", tiffinfo={0x0112: 6})
    (folder / "no suffix").write_bytes((folder / "rgb.jpg").read_bytes())
    (folder / "damaged exif.jpg").write_bytes((folder / "exif6.jpg").read_bytes().replace(b"MM\0*", b"MM\0!", 1))
    (folder / "cut.jpg").write_bytes((folder / "rgb.jpg").read_bytes()[:1500])
    (folder / "cut.png").write_bytes((folder / "noise.png").read_bytes()[:5000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image, but a text that is long enough")
    (folder / "page.pdf").write_bytes(b"%PDF-1.4 nothing")
    Image.fromarray(np.array([[-5, 70_000]], np.int32)).save(folder / "range.tif")
    return sorted(folder.iterdir())


def assert_same_records(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check that records are equal, apart from the last digits of probabilities and the messages of errors."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert {**ours, "top": 0, "error": 0} == {**theirs, "top": 0, "error": 0}
        assert (ours.keys(), list(ours)) == (theirs.keys(), list(theirs))
        if theirs["status"] == "error":
            assert ours["error"].keys() == theirs["error"].keys()
            assert ours["error"]["kind"] == theirs["error"]["kind"] or ours["path"].endswith(".pdf")
            continue
        for mine, other in zip(ours["top"], theirs["top"], strict=True):
            assert list(mine) == list(other)
            assert {**mine, "prob": 0} == {**other, "prob": 0}
            assert abs(mine["prob"] - other["prob"]) <= TOLERANCE


@pytest.mark.guarantee("exported-records")
@pytest.mark.parametrize("target", TARGETS)
def test_the_script_prints_the_records_of_levit_predict(
    model: Path, exported: Callable[[ExportTarget], Path], tmp_path: Path, target: ExportTarget
) -> None:
    paths = [*image_files(tmp_path / "images"), tmp_path / "missing.jpg", tmp_path]
    done = run(exported(target) / "predict.py", *paths, hidden=OTHER_RUNTIME[target])
    assert (done.returncode, done.stderr) == (1, b"")
    inputs = "".join(f"{path}\n" for path in paths[:-1])  # levit would list the folder
    reference = levit(
        "predict", "-m", model, "--files-from", "-", *AS_EXPORTED, "-f", "jsonl", "-q", stdin=inputs.encode()
    )
    expected, found = records(reference.stdout), records(done.stdout)
    assert_same_records(found[:-1], expected)
    assert {record.get("accepted") for record in expected} == {True, None}
    assert found[-1]["error"]["kind"] == "not_regular"
    kinds = {Path(record["path"]).name: record["error"]["kind"] for record in found if record["status"] == "error"}
    assert kinds == {
        "cut.jpg": "truncated", "cut.png": "truncated", "empty.jpg": "empty_file", "text.jpg": "not_an_image",
        "page.pdf": "not_an_image", "range.tif": "unsupported_mode", "missing.jpg": "not_found",
        tmp_path.name: "not_regular",
    }  # fmt: skip
    assert {entry["label"] for record in found for entry in record.get("top", ())} >= {"two\nlines", " spaces "}


@linux_only
def test_a_pipe_or_device_is_an_error_and_not_waited_for(
    exported: Callable[[ExportTarget], Path], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    done = run(exported("openvino") / "predict.py", tmp_path / "pipe.jpg", "/dev/null")
    assert [record["error"]["kind"] for record in records(done.stdout)] == 2 * ["not_regular"]


@linux_only
def test_names_that_are_not_utf8_and_the_locale_change_no_record(
    exported: Callable[[ExportTarget], Path], tmp_path: Path
) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xa9.png"
    sample_image().save(os.fsdecode(tmp_path / "image.png"))
    os.rename(tmp_path / "image.png", name)
    script = exported("openvino") / "predict.py"
    done = run(script, name, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, b"")
    (record,) = records(done.stdout)
    assert record["path"].encode("utf-8", "surrogateescape") == name or os.fsencode(record["path"]) == name
    assert record["status"] == "ok"


def test_without_images_the_script_says_how_it_is_called(exported: Callable[[ExportTarget], Path]) -> None:
    done = run(exported("openvino") / "predict.py")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"usage: python predict.py IMAGE..." in done.stderr


def test_imagenets_classes_have_their_wordnet_ids(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "model", config=replace(TINY, num_classes=1000, distilled=False))
    sample_image().save(tmp_path / "image.png")
    assert levit("export", model, "-o", tmp_path / "out", "--to", "openvino").returncode == 0
    reference = levit("predict", "-m", model, tmp_path / "image.png", *AS_EXPORTED, "-f", "jsonl", "-q")
    found = records(run(tmp_path / "out" / "predict.py", tmp_path / "image.png").stdout)
    assert_same_records(found, records(reference.stdout))
    wnids = imagenet1k().wnids or ()
    assert [entry["wnid"] for entry in found[0]["top"]] == [wnids[entry["index"]] for entry in found[0]["top"]]
    names = (tmp_path / "out" / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(names) == imagenet1k().names


@pytest.mark.parametrize("label", [*LABELS, "", '"', "\r", "a\x85b", "\ud800", "\0"])
def test_every_label_is_one_line_and_reads_back(label: str) -> None:
    line = files.label_line(label)
    assert len(f"{line}\n".splitlines()) == 1
    assert line.strip() == line != ""
    assert (json.loads(line) if line.startswith('"') else line) == label


def functions_of(folder: Path, transform: Transform, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the functions of ``predict.py`` for a preprocessing, without a network."""
    monkeypatch.setitem(files.RUNTIMES, "onnx", {"runtime": "no runtime", "package": "json", "load": ""})
    (folder / "predict.py").write_text(files.script(transform, "onnx"), encoding="utf-8")
    facts = {"resize_to": transform.resize_to, "crop_size": transform.crop_size, "filter": transform.filter}
    (folder / "preprocessing.json").write_text(json.dumps(facts))
    (folder / "labels.txt").write_text("")
    return runpy.run_path(str(folder / "predict.py"))


SIZES = [
    (64, 64), (65, 64), (64, 65), (200, 150), (150, 200), (500, 375), (1, 1), (1, 400), (400, 1), (33, 700), (700, 33),
    (219, 73), (73, 220), (2000, 1501),
]  # fmt: skip
TRANSFORMS = {
    **{name: transform_for(name, (64, 64)) for name in ("hf", "fb", "timm")},
    "rectangle": transform_for("timm", (48, 112)),
    "lanczos": Transform("custom", (71, 71), (64, 64), "half_even", "lanczos"),
    "no crop": Transform("custom", (64, 64), (64, 64), "floor", "bilinear"),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_pixels_of_the_script_are_those_of_levit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    transform = TRANSFORMS[name]
    functions = functions_of(tmp_path, transform, monkeypatch)
    for number, size in enumerate(SIZES):
        image = sample_image(*size, seed=number)
        expected = preprocess(image, transform)
        assert np.array_equal(functions["preprocess"](image), expected[None]), size
