"""``--resizer``: what it accepts, what it reports, and what happens if the package is missing or broken."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from levit_cli import load
from levit_cli.engines import EngineSpec
from levit_cli.errors import RefusedError, UsageError
from levit_cli.images import resizers
from levit_cli.images.resizers import MODULE, choose_resizer
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.predict.model import ModelOptions, conflicts
from tests.support.binary import environment, levit
from tests.support.extras import hide_packages, needs_torch
from tests.support.resizers import needs_simd
from tests.support.sample_images import sample_image

HF = transform_for("hf", (64, 64))
NEAREST = Transform("custom", (64, 64), (64, 64), "floor", filter="nearest")
PIP_COMMAND = re.compile(r"-m pip install cykooz-resizer(\s|,|$)")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resizer") / "photo.png"
    sample_image(300, 200).save(path)
    return path


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizers, "is_installed", lambda _: False)
    monkeypatch.setattr(resizers, "_simd", resizers._simd.__wrapped__)


def predict(model: Path, photo: Path, *options: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    return levit("predict", "-m", model, photo, "-f", "json", *options, env=environment(**variables))


def used(done: "subprocess.CompletedProcess[bytes]") -> str:
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["meta"]["preprocessing"]["resizer"])


@needs_simd
@pytest.mark.parametrize(("wanted", "name"), [("auto", "simd"), ("simd", "simd"), ("pillow", "pillow")])
def test_json_and_verbose_name_the_resizer(wanted: str, name: str, tiny_folder: Path, photo: Path) -> None:
    done = predict(tiny_folder, photo, "--resizer", wanted, "-v")
    assert used(done) == name
    assert f"resizer {name}\n".encode() in done.stderr


@needs_simd
def test_both_resizers_agree_also_in_processes(tiny_folder: Path, photo: Path) -> None:
    probs = []
    for options in ([], ["--isolate"], ["--resizer", "pillow"], ["--resizer", "pillow", "--isolate"]):
        done = predict(tiny_folder, photo, "--precision", "fp32", *options)
        probs.append([entry["prob"] for entry in json.loads(done.stdout)["results"][0]["top"]])
    assert probs[0] == probs[1]
    assert probs[2] == probs[3]
    assert probs[0] == pytest.approx(probs[2], abs=0.01)


@pytest.mark.guarantee("resizer-failure")
def test_without_the_package_pillow_resizes(tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    hidden = hide_packages((MODULE,), tmp_path / "site")
    done = predict(tiny_folder, photo, "-v", **hidden)
    assert used(done) == "pillow"
    assert b"resizer pillow (the package cykooz-resizer is not installed)" in done.stderr


@pytest.mark.guarantee("resizer-failure")
def test_simd_without_the_package_is_a_usage_error_with_the_pip_command(
    tiny_folder: Path, photo: Path, tmp_path: Path
) -> None:
    hidden = hide_packages((MODULE,), tmp_path / "site")
    done = predict(tiny_folder, photo, "--resizer", "simd", **hidden)
    assert (done.returncode, done.stdout) == (2, b"")
    assert PIP_COMMAND.search(done.stderr.decode())


@pytest.mark.guarantee("resizer-failure")
def test_a_broken_package_is_refused_only_if_it_was_asked_for(tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "site"
    broken.mkdir()
    (broken / f"{MODULE}.py").write_text("raise OSError('undefined symbol: x')")
    done = predict(tiny_folder, photo, "-v", PYTHONPATH=str(broken))
    assert used(done) == "pillow"
    assert b"cannot be imported: undefined symbol: x" in done.stderr
    refused = predict(tiny_folder, photo, "--resizer", "simd", PYTHONPATH=str(broken))
    assert (refused.returncode, refused.stdout) == (3, b"")
    assert PIP_COMMAND.search(refused.stderr.decode())


@pytest.mark.usefixtures("no_package")
def test_the_api_has_the_same_choice(tiny_folder: Path) -> None:
    load(str(tiny_folder), precision="fp32", threads=1)
    with pytest.raises(UsageError, match="cykooz-resizer"):
        load(str(tiny_folder), resizer="simd")
    with pytest.raises(UsageError, match="Unknown resizer"):
        load(str(tiny_folder), resizer="opencv")  # type: ignore[arg-type]


def test_filters_that_the_package_lacks_are_computed_by_pillow() -> None:
    chosen = choose_resizer(NEAREST)
    assert chosen.name == "pillow"
    assert "no filter 'nearest'" in chosen.reason
    with pytest.raises(UsageError, match="no filter 'nearest'"):
        choose_resizer(NEAREST, "simd")


@needs_torch
def test_a_preprocessing_that_resizes_with_torch_takes_no_other_resizer() -> None:
    tensor = transform_for("hf-tensor", (64, 64))
    assert choose_resizer(tensor).name == "torch"
    for wanted in ("simd", "pillow"):
        with pytest.raises(UsageError, match="has no effect"):
            choose_resizer(tensor, wanted)


def test_a_resizer_without_effect_is_named_before_the_model_is_loaded() -> None:
    model, spec = ModelOptions("no such model", preprocessing="hf-tensor"), EngineSpec(engine="torch")
    (fault,) = conflicts(model, spec, "pillow")
    assert "has no effect" in str(fault)
    assert not conflicts(model, spec)


def test_a_package_that_raises_anything_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizers, "_simd", lambda: (None, RefusedError("Cannot resize", why="it is broken")))
    assert str(choose_resizer(HF)) == "pillow (it is broken)"
    with pytest.raises(RefusedError):
        choose_resizer(HF, "simd")
