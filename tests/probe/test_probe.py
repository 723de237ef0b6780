"""One probe of a small model: the run folder, what loads it, the cache, and what is refused."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levit_cli.checkpoints import Threshold, load
from levit_cli.checkpoints.metadata import store_threshold
from levit_cli.data.image_folder import class_folders
from levit_cli.engines import make_engine
from levit_cli.errors import LevitError, OutputError, RefusedError, UsageError
from levit_cli.eval import evaluate
from levit_cli.finetune.split import find_images
from levit_cli.predict.reader import Reader
from levit_cli.probe.features import both_views
from tests.finetune.sets import COLORS
from tests.probe.runs import FP32, run, write_colors
from tests.support.archives import tar_of_folder
from tests.support.extras import needs_probe, needs_torch
from tests.support.random_weights import random_pixels, write_folder
from tests.support.sample_images import sample_image

pytestmark = needs_probe
FILES = {
    *("README.md", "config.json", "images.jsonl", "model.safetensors", "preprocessor_config.json"),
    *("probe.json", "unreadable.tsv"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colors(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def report(data: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    text, _ = run(data, tmp_path_factory.mktemp("runs") / "deeper" / "run", tiny_folder, val_split=0.25)
    return text


@pytest.fixture(scope="module")
def finished(report: str) -> Path:
    """The run folder."""
    return Path(report.rpartition("-m ")[2].removesuffix(" IMAGE\n"))


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.guarantee("probe")
def test_the_run_folder_has_a_single_head_on_the_unchanged_backbone(finished: Path, tiny_folder: Path) -> None:
    source, result = load(tiny_folder), load(finished)
    assert {path.name for path in finished.iterdir()} == FILES
    assert result.labels.names == ("blue", "green", "red")
    assert result.config == replace(source.config, num_classes=3, distilled=False)
    assert result.transform == source.transform
    backbone = {name for name in source.state if not name.startswith("head")}
    assert backbone == {name for name in result.state if not name.startswith("head")}
    assert all(source.state[name].tobytes() == result.state[name].tobytes() for name in backbone)


def test_the_threshold_of_the_source_is_not_kept(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_folder, tmp_path / "source")
    store_threshold(source, Threshold(0.5, 1.0, 0.9, 200, 150, 140))
    run(data, tmp_path / "run", source)
    assert "threshold" not in json.loads((tmp_path / "run" / "config.json").read_text())["levit_cli"]


@pytest.mark.guarantee("probe")
def test_the_batch_norm_of_the_head_standardizes_the_features_of_all_views(finished: Path, data: Path) -> None:
    checkpoint = load(finished)
    engine, reader = make_engine(checkpoint, FP32), Reader(checkpoint.transform)
    pixels = [reader(image) for image, _ in class_folders(data).samples]
    views = np.concatenate([both_views(engine)(np.stack(pixels[start : start + 4])) for start in range(0, 24, 4)])
    features = views.reshape(48, -1)
    assert checkpoint.state["head.norm.running_mean"] == pytest.approx(features.mean(axis=0), abs=1e-4)
    assert checkpoint.state["head.norm.running_var"] == pytest.approx(features.var(axis=0), rel=1e-3)


def test_the_second_view_is_that_of_the_mirrored_image(tiny_folder: Path) -> None:
    checkpoint = load(tiny_folder)
    engine, reader = make_engine(checkpoint, FP32), Reader(checkpoint.transform)
    image = sample_image(91, 70)
    pixels, of_mirrored = (
        np.stack([reader.preprocess(view)]) for view in (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    )
    differences = np.abs(of_mirrored.astype(int) - pixels[:, :, ::-1])
    assert differences.max() <= 2  # rounding; the margins of this image are even
    upright, second = np.split(both_views(engine)(pixels), 2, axis=1)
    assert (upright == engine.features(pixels)).all()
    assert (second == engine.features(np.ascontiguousarray(pixels[:, :, ::-1]))).all()
    assert (upright != second).any()


@pytest.mark.guarantee("probe")
def test_the_stated_accuracy_is_that_of_the_validation_images_alone(finished: Path, data: Path) -> None:
    stored = json.loads((finished / "probe.json").read_text())
    split = find_images(data.resolve(), 0.25, 0)
    lines = [json.loads(line) for line in (finished / "images.jsonl").read_text().splitlines()]
    held_out = {key for part, _, _, key in lines if part == "val"}
    assert held_out == {Path(image.path).relative_to(data.resolve()).as_posix() for image, _ in split.val}
    assert stored["images"] == {"train": 18, "val": 6, "unreadable": 0}
    assert stored["val"]["images"] == 6
    assert stored["cross_validation"]["images"] == 18
    evaluation = load(finished).evaluation
    assert evaluation is not None
    assert (evaluation.images, evaluation.top1) == (6, stored["val"]["top1"])


def test_the_report_names_accuracy_strength_temperature_and_folder(report: str, finished: Path) -> None:
    stored = json.loads((finished / "probe.json").read_text())
    low, high = stored["val"]["top1_interval"]
    assert f"{stored['val']['correct']} of 6 images; 95 % confidence interval {100 * low:.1f} to" in report
    assert f"{100 * high:.1f} %" in report
    assert f"C = {stored['strength']:.3g}, chosen by cross-validation on 18 images" in report
    assert f"temperature  {stored['temperature']:.3f}" in report
    assert "fitted to    24 images, the validation images included" in report


@pytest.mark.guarantee("probe")
def test_a_val_folder_is_only_measured_and_eval_finds_the_same(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "set" / "train")
    for number, name in enumerate(COLORS):
        (tmp_path / "set" / "val" / name).mkdir(parents=True)
        for position in range(3):  # of the wrong class, so that the accuracy depends on which images are measured
            source = data / [*COLORS][(number + (position == 0)) % 3] / f"{position:03d}.png"
            shutil.copy(source, tmp_path / "set" / "val" / name)
    text, _ = run(tmp_path / "set", tmp_path / "run", tiny_folder)
    stored = json.loads((tmp_path / "run" / "probe.json").read_text())
    assert stored["val"]["images"] == 9
    assert stored["fitted_to"] == "train"
    assert "fitted to    24 images\n" in text
    checkpoint = load(tmp_path / "run")
    evaluated = evaluate(checkpoint, class_folders(tmp_path / "set" / "val"), FP32)
    assert int((evaluated.ranked[:, 0] == evaluated.targets).sum()) == stored["val"]["correct"]
    assert stored["val"]["correct"] < 9


@pytest.mark.guarantee("probe")
@needs_torch
def test_transformers_loads_the_run_folder_with_equal_logits(finished: Path) -> None:
    import torch

    transformers = pytest.importorskip("transformers")
    network = transformers.LevitForImageClassification.from_pretrained(finished).eval()
    assert [*network.config.id2label.values()] == ["blue", "green", "red"]
    checkpoint = load(finished)
    pixels = random_pixels(checkpoint.config, 4)
    mean, std = (np.array(values, np.float32) for values in (checkpoint.transform.mean, checkpoint.transform.std))
    normalized = torch.from_numpy((pixels / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network(normalized).logits.numpy()
    ours = make_engine(checkpoint, FP32)(pixels)
    assert ours == pytest.approx(logits, abs=5e-5 * float(np.abs(logits).max()))


@pytest.mark.guarantee("probe")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_images(
    finished: Path, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "again", tiny_folder, val_split=0.25, workers=3, spec=replace(FP32, batch_size=3))
    assert content_of(tmp_path / "again") == content_of(finished)
    run(data, tmp_path / "other", tiny_folder, val_split=0.25, seed=1)
    assert content_of(tmp_path / "other")["images.jsonl"] != content_of(finished)["images.jsonl"]


@pytest.mark.guarantee("probe", "labeled-files")
@pytest.mark.parametrize("kind", ["tar", "csv"])
def test_an_archive_and_a_list_give_the_same_model_as_the_folder(
    kind: str, finished: Path, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    if kind == "tar":
        source = tar_of_folder(tmp_path / "data.tar", data)
    else:
        source = tmp_path / "labels.csv"
        rows = [f"{path},{path.parent.name}\n" for path in sorted(data.rglob("*.png"))]
        source.write_text("path,label\n" + "".join(rows))
    run(source, tmp_path / "run", tiny_folder, val_split=0.25)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def unreadable(folder: Path, count: int = 1) -> None:
    for number in range(count):
        (folder / f"broken{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.mark.guarantee("probe-unreadable")
def test_unreadable_images_are_listed_and_left_out(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    unreadable(copy / "red")
    with pytest.raises(RefusedError, match=r"1 of 25 images cannot be read.*broken0.png: .*--max-unreadable"):
        run(copy, tmp_path / "run", tiny_folder)
    assert not (tmp_path / "run").exists()
    _, lines = run(copy, tmp_path / "run", tiny_folder, max_unreadable="10%")
    assert (tmp_path / "run" / "unreadable.tsv").read_text().startswith('"red/broken0.png"\t')
    assert any("broken0.png" in line for line in lines)
    assert json.loads((tmp_path / "run" / "probe.json").read_text())["images"]["unreadable"] == 1


@pytest.mark.guarantee("probe-unreadable")
def test_a_class_without_a_readable_image_is_refused(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    (copy / "gone").mkdir()
    unreadable(copy / "gone", 3)
    with pytest.raises(RefusedError, match="No readable image in class gone"):
        run(copy, tmp_path / "run", tiny_folder, max_unreadable="50%")
    shutil.rmtree(copy)
    for name in "ab":
        (copy / name).mkdir(parents=True)
        unreadable(copy / name, 3)
    with pytest.raises(RefusedError, match="6 of 6 images cannot be read"):
        run(copy, tmp_path / "run", tiny_folder)
    with pytest.raises(RefusedError, match="No readable image in class a, b"):
        run(copy, tmp_path / "run", tiny_folder, max_unreadable="1")
    assert not (tmp_path / "run").exists()


def test_listed_files_that_are_missing_are_unreadable(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name}\n" for path in sorted(data.rglob("*.png"))]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(rows) + "nowhere.png,red\n")
    with pytest.raises(RefusedError, match=r"nowhere.png: not_found"):
        run(tmp_path / "labels.csv", tmp_path / "run", tiny_folder)
    run(tmp_path / "labels.csv", tmp_path / "run", tiny_folder, max_unreadable="10%")
    assert "not_found" in (tmp_path / "run" / "unreadable.tsv").read_text()


@pytest.mark.guarantee("probe-cache")
def test_the_cache_computes_only_new_and_changed_images(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    counts = []

    def probe(name: str, **options: object) -> Mapping[str, bytes]:
        _, lines = run(copy, tmp_path / name, tiny_folder, cache=tmp_path / "cache", **options)
        counts.append(lines[0])
        return content_of(tmp_path / name)

    first = probe("first")
    assert probe("second") == first
    (copy / "red" / "000.png").rename(copy / "red" / "0000.png")
    (copy / "red" / "0000.png").rename(copy / "red" / "000.png")
    shutil.copy(copy / "blue" / "000.png", copy / "red" / "000.png")  # known
    third = probe("third")
    Image.new("RGB", (50, 60), (90, 80, 10)).save(copy / "red" / "000.png")
    fourth = probe("fourth")
    assert len({first["model.safetensors"], third["model.safetensors"], fourth["model.safetensors"]}) == 3
    shutil.rmtree(tmp_path / "cache")
    assert probe("fifth") == fourth
    assert [line.partition(" in ")[0] for line in counts] == [
        *("24 images", "24 from the cache", "24 from the cache"),
        *("1 image", "24 images"),
    ]
    assert counts[3].endswith(", 23 from the cache")


@pytest.mark.guarantee("probe-cache")
def test_a_damaged_cache_and_one_of_another_model_are_computed_again(
    data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cache.npz"
    run(data, tmp_path / "first", tiny_folder, cache=file)
    file.write_bytes(file.read_bytes()[:-100])
    _, lines = run(data, tmp_path / "second", tiny_folder, cache=file)
    assert any("cache.npz are computed again" in line for line in lines)
    assert content_of(tmp_path / "second") == content_of(tmp_path / "first")
    other = write_folder(tmp_path / "other", dtype="float16")
    _, lines = run(data, tmp_path / "third", other, cache=file)
    assert lines[0].startswith("24 images in")


@pytest.mark.guarantee("probe-cache")
def test_an_interruption_keeps_the_features_computed_so_far(
    data: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = 0

    def interrupt(*_: object) -> None:
        nonlocal computed
        computed += 1
        if computed == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("levit_cli.system.progress.Progress.advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "run", tiny_folder, cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()
    _, lines = run(data, tmp_path / "run", tiny_folder, cache=tmp_path / "cache")
    assert lines[0].endswith(", 10 from the cache")


def test_a_model_in_half_precision_keeps_its_values(data: Path, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "half", dtype="float16")
    run(data, tmp_path / "run", source)
    before, after = load(source), load(tmp_path / "run")
    assert after.dtype == "float32"
    for name, array in before.state.items():
        if not name.startswith("head"):
            assert (after.state[name] == array).all()


def write_classes(root: Path, counts: Mapping[str, int]) -> Path:
    for name, count in counts.items():
        write_colors(root, count, (name,))
    return root


@pytest.mark.guarantee("impossible-probe")
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "No class folders in"),
        ({"a": 3}, "has only one class, a"),
        ({"a": 3, "b": 1}, "has only 1 image"),
        ({"a": 3, "b": 0}, "No images in"),
    ],
)
def test_sets_that_cannot_be_learned_are_refused_before_any_work(
    counts: Mapping[str, int], message: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match=message):
        run(write_classes(tmp_path / "data", counts), tmp_path / "run", "no model is loaded")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.guarantee("impossible-probe")
def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError) as caught:
        run(
            write_classes(tmp_path / "data", {"a": 3}), tmp_path / "run", "x",
            spec=replace(FP32, precision="int8"), val_split=2.0, cache=tmp_path / "data" / "cache",
        )  # fmt: skip
    for message in ("only one class", "--precision int8", "--val-split 2.0", "exists"):
        assert message in str(caught.value)


@pytest.mark.guarantee("impossible-probe")
@pytest.mark.parametrize("place", ["data/cache", "data/red/x.npz", "run/cache", "run"])
def test_a_cache_among_the_images_or_in_the_run_folder_is_refused(place: str, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    with pytest.raises(UsageError, match=r"The cache .* lies"):
        run(copy, tmp_path / "run", "x", cache=tmp_path / place)


@pytest.mark.parametrize("name", ["set", "set/red/new", "set/run"])
def test_a_run_folder_among_the_images_is_no_class(name: str, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "set"))
    if name == "set":
        with pytest.raises(UsageError, match="is also the image folder"):
            run(copy, copy, tiny_folder)
        return
    run(copy, tmp_path / name, tiny_folder)
    text, _ = run(copy, tmp_path / "again", tiny_folder)
    assert "on 21 images" in text
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / name / "model.safetensors"
    ).read_bytes()


def test_a_run_folder_that_appears_during_the_run_is_kept(
    data: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(*_: object) -> None:
        (tmp_path / "run").mkdir(exist_ok=True)

    monkeypatch.setattr("levit_cli.system.progress.Progress.advance", create)
    with pytest.raises(UsageError, match="exists"):
        run(data, tmp_path / "run", tiny_folder)
    assert [*(tmp_path / "run").iterdir()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_folder_that_cannot_be_created_is_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="is not a folder"):
        run(data, tmp_path / "file" / "run", "x")


def test_images_that_do_not_differ_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (80, 70), (9, 9, 9)).save(tmp_path / "data" / name / f"{number}.png")
    with pytest.raises(LevitError, match="The features of all images are the same"):
        run(tmp_path / "data", tmp_path / "run", tiny_folder)
    assert not (tmp_path / "run").exists()


def test_two_images_per_class_are_enough(tiny_folder: Path, tmp_path: Path) -> None:
    text, _ = run(write_colors(tmp_path / "data", 2), tmp_path / "run", tiny_folder)
    assert "strength     C = 0.1\n" in text  # one training image per class cannot be cross-validated
    stored = json.loads((tmp_path / "run" / "probe.json").read_text())
    assert (stored["images"]["train"], stored["images"]["val"]) == (3, 3)
    assert load(tmp_path / "run").temperature == 1


@pytest.mark.guarantee("impossible-probe")
def test_a_share_for_validation_has_no_effect_beside_a_val_folder(data: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        shutil.copytree(data, tmp_path / "set" / part)
    with pytest.raises(UsageError, match="--val-split has no effect"):
        run(tmp_path / "set", tmp_path / "run", "x", val_split=0.2)


def test_uneven_classes_are_reported_unless_they_are_weighted(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"a": 20})
    write_colors(data, 3, ("b",))
    lines = {}
    for class_weights in ("none", "balanced"):
        _, lines[class_weights] = run(data, tmp_path / class_weights, tiny_folder, class_weights=class_weights)
    assert any("--class-weights balanced" in line for line in lines["none"])
    assert not any("--class-weights" in line for line in lines["balanced"])
    contents = [content_of(tmp_path / name) for name in lines]
    assert contents[0]["model.safetensors"] != contents[1]["model.safetensors"]
