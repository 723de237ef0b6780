"""Every file that holds a LeViT is loaded; every other file is refused with a reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.checkpoints import load, own_folder, save
from levit_cli.checkpoints.load import DEMO_FOLDER
from levit_cli.checkpoints.weights import sha256_of
from levit_cli.choices import CHECKPOINT_FORMATS, CheckpointFormat, PreprocessingName
from levit_cli.data.labels import Labels, imagenet1k, numbered
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import VARIANTS
from tests.support.checkpoint_files import arrays_of, write_arrays, write_model
from tests.support.random_weights import TINY, random_state
from tests.support.torch_archive import Namespace, write_archive

Arrays = dict[str, NDArray[Any]]
ANIMALS = Labels(("cat", "dog", "bird", "fish", "frog", "newt", "vole"))


def refusal(source: Path | str, **options: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        load(source, **options)
    assert int(caught.value.exit_code) == 3
    return caught.value


def assert_random_model(state: Any, seed: int = 0) -> None:
    for name, array in random_state(TINY, seed).items():
        np.testing.assert_array_equal(state[name], array, strict=True)


def shard(folder: Path, arrays: Arrays, count: int, pickled: bool = False) -> Path:
    """Write the arrays to ``count`` shards and an index."""
    stem, suffix = ("pytorch_model", ".bin") if pickled else ("model", ".safetensors")
    names = [f"{stem}-{number:05}-of-{count:05}{suffix}" for number in range(1, count + 1)]
    weight_map = {name: names[index % count] for index, name in enumerate(arrays)}
    for file in names:
        write_arrays(folder / file, {name: arrays[name] for name in arrays if weight_map[name] == file})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return folder


# --- supported sources


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_a_weight_file_of_any_format_is_loaded(tmp_path: Path, format: CheckpointFormat, suffix: str) -> None:
    path = write_model(tmp_path / f"weights{suffix}", format)
    checkpoint = load(path)
    assert_random_model(checkpoint.state)
    assert (checkpoint.config, checkpoint.format, checkpoint.dtype) == (TINY, format, "float32")
    assert (checkpoint.origin, checkpoint.files, checkpoint.sha256) == (str(path), (path,), sha256_of(path))
    assert checkpoint.transform == transform_for(format, (64, 64))
    assert checkpoint.labels == numbered(7)
    assert checkpoint.notes == ()
    assert checkpoint.architecture == "custom LeViT"


def test_a_published_variant_has_its_name_and_imagenet_labels(tmp_path: Path) -> None:
    checkpoint = load(write_model(tmp_path / "a.safetensors", "timm", VARIANTS["levit-128S"]))
    assert checkpoint.architecture == "levit-128S"
    assert checkpoint.labels is imagenet1k()


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_a_folder_of_any_format_is_loaded(tmp_path: Path, format: CheckpointFormat, weights: str) -> None:
    path = write_model(tmp_path / "folder" / weights, format)
    for source in (tmp_path / "folder", path, str(tmp_path / "folder") + "/"):
        assert_random_model(load(source).state)


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickles"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_are_combined(tmp_path: Path, count: int, pickled: bool) -> None:
    folder = shard(tmp_path / "model", arrays_of("hf"), count, pickled)
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(ANIMALS.names))}))
    checkpoint = load(folder)
    assert_random_model(checkpoint.state)
    assert len(checkpoint.files) == count
    assert checkpoint.sha256 == sha256_of(*sorted(checkpoint.files))
    assert checkpoint.labels == ANIMALS
    assert load(next(folder.glob("*.index.json"))).labels == ANIMALS


def random_arrays(format: CheckpointFormat, seed: int) -> Arrays:
    from levit_cli.checkpoints.save import to_format

    return to_format(random_state(TINY, seed), TINY, format)


def test_timms_training_checkpoint_is_loaded(tmp_path: Path) -> None:
    content = {
        "epoch": 3,
        "arch": "levit_128s",
        "state_dict": arrays_of("timm"),
        "args": Namespace({}),
    }
    content["state_dict_ema"] = random_arrays("timm", seed=5)
    write_archive(tmp_path / "last.pth.tar", content)
    assert_random_model(load(tmp_path / "last.pth.tar").state)
    assert_random_model(load(tmp_path / "last.pth.tar", ema=True).state, seed=5)


@pytest.mark.guarantee("key-prefixes")
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_wrapper_prefixes_are_removed_with_a_note(tmp_path: Path, format: CheckpointFormat, prefix: str) -> None:
    state = {prefix + name: array for name, array in arrays_of(format).items()}
    write_archive(tmp_path / "a.pth", {"model": state})
    checkpoint = load(tmp_path / "a.pth")
    assert_random_model(checkpoint.state)
    assert all("removed the prefix" in note for note in checkpoint.notes)
    assert len(checkpoint.notes) == prefix.count(".")


WRAPPED = {
    "net": ({"net": ""}, ""),
    "model_state_dict": ({"model_state_dict": ""}, ""),
    "state_dict with model.": ({"state_dict": "model."}, "model."),
    "state_dict with net.": ({"state_dict": "net."}, "net."),
    "backbone.": ({"model": "backbone."}, "backbone."),
    "network with module.": ({"network": "module."}, "module."),
    "timm_model.": ({"state_dict": "timm_model."}, "timm_model."),
}


@pytest.mark.guarantee("other-trainers")
@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
@pytest.mark.parametrize("case", WRAPPED)
def test_checkpoints_of_other_trainers_are_read_with_a_note(
    tmp_path: Path, case: str, format: CheckpointFormat
) -> None:
    wrapper, prefix = WRAPPED[case]
    ((key, added),) = wrapper.items()
    state = {added + name: array for name, array in arrays_of(format).items()}
    content = {"epoch": 3, "optimizer": {"lr": 0.1}, key: state, "acc": 0.5}
    checkpoint = load(write_archive(tmp_path / "a.ckpt", content))
    assert_random_model(checkpoint.state)
    assert checkpoint.notes[0] == f"read {key!r}, skipped epoch, optimizer, acc"
    assert checkpoint.notes[1:] == ((f"removed the prefix {prefix!r} from every name",) if prefix else ())


@pytest.mark.guarantee("other-trainers")
def test_names_beside_the_network_are_listed(tmp_path: Path) -> None:
    state = {f"model.{name}": array for name, array in arrays_of("timm").items()}
    others = {"criterion.weight": np.ones(7, np.float32), **{f"teacher.{name}": array for name, array in state.items()}}
    checkpoint = load(write_archive(tmp_path / "a.ckpt", {"state_dict": others | state}))
    assert_random_model(checkpoint.state)
    assert checkpoint.notes == (
        f"removed the prefix 'model.' from {len(state)} names, skipped the other {len(others)}: "
        "criterion.weight, teacher.model.stem.conv1.linear.weight, teacher.model.stem.conv1.bn.weight, "
        "teacher.model.stem.conv1.bn.bias, teacher.model.stem.conv1.bn.running_mean …",
    )


@pytest.mark.guarantee("other-trainers")
@pytest.mark.parametrize("heads", ["head.", "head_dist.", "head"])
def test_heads_without_the_prefix_are_kept(tmp_path: Path, heads: str) -> None:
    arrays = arrays_of("timm")
    state = {name if name.startswith(heads) else f"backbone.{name}": array for name, array in arrays.items()}
    count = len(arrays) - sum(name.startswith(heads) for name in arrays)
    checkpoint = load(write_archive(tmp_path / "a.ckpt", {"state_dict": state}))
    assert_random_model(checkpoint.state)
    assert checkpoint.notes == (
        f"removed the prefix 'backbone.' from {count} names, kept {len(arrays) - count} names of heads without it",
    )


@pytest.mark.guarantee("other-trainers")
def test_a_network_that_only_partly_has_the_prefix_is_refused_with_the_note(tmp_path: Path) -> None:
    state = {name if ".0." in name else f"model.{name}": array for name, array in arrays_of("timm").items()}
    error = refusal(write_archive(tmp_path / "a.ckpt", {"state_dict": state}))
    assert "missing" in str(error)
    assert "removed the prefix 'model.'" in error.hint


@pytest.mark.guarantee("other-trainers")
def test_an_unknown_wrapper_is_refused_with_its_keys(tmp_path: Path) -> None:
    content = {"generator": arrays_of("timm"), "discriminator": arrays_of("timm"), "step": 3}
    error = refusal(write_archive(tmp_path / "a.ckpt", content))
    assert "it holds generator, discriminator, step" in str(error)
    assert "model_state_dict" in str(error)


def test_the_demo_model_is_in_the_package() -> None:
    checkpoint = load("demo", offline=True)
    assert checkpoint.labels.names[:2] == ("airplane", "automobile")
    assert checkpoint.transform.resize_to == (
        120,
        120,
    )  # margin: objects look larger in training crops
    assert checkpoint.temperature != 1  # calibrated
    assert checkpoint.config.num_stages == 3  # transformers builds no other number
    assert checkpoint.evaluation is not None
    assert checkpoint.evaluation.top1 >= 0.88


def test_a_folder_named_demo_without_weights_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load("demo").labels.names[:2] == ("airplane", "automobile")
    write_model(tmp_path / "demo" / "model.safetensors", "hf")
    assert load("demo").config == TINY


def test_own_folder_returns_only_local_folders_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "run" / "model.safetensors", "hf")
    for source in ("run", "./run/", str(tmp_path / "run")):
        assert own_folder(source) == Path(source)
    for source in ("demo", "run/model.safetensors", "levit-256", "facebook/levit-256", "https://x.org/run", "nowhere"):
        assert own_folder(source) is None
    assert own_folder(str(DEMO_FOLDER)) is None
    write_model(tmp_path / "demo" / "model.safetensors", "hf")
    assert own_folder("demo") == Path("demo")


def test_a_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_model(tmp_path / "a.pth", "fb")
    assert load("~/a.pth").config == TINY


# --- labels


def with_config(folder: Path, **config: Any) -> Path:
    write_model(folder / "model.safetensors", "hf")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [("animals.txt", "\n".join(ANIMALS.names)), ("animals.json", json.dumps(dict(enumerate(ANIMALS.names))))],
)
def test_the_users_labels_take_precedence(tmp_path: Path, name: str, content: str) -> None:
    folder = with_config(tmp_path / "model", id2label={str(index): "theirs" for index in range(7)})
    (tmp_path / name).write_text(content)
    assert load(folder).labels == Labels(("theirs",) * 7)
    assert load(folder, labels=tmp_path / name).labels == ANIMALS


@pytest.mark.guarantee("label-and-head-counts")
def test_labels_of_another_length_are_refused_with_both_numbers(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.pth", "fb")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    error = refusal(path, labels=tmp_path / "names.txt")
    assert error.what == f"{tmp_path}/names.txt has 2 labels, but the model has 7 classes"
    folder = with_config(tmp_path / "model", id2label={"0": "cat", "1": "dog", "2": "bird"})
    error = refusal(folder)
    assert error.what == f"The metadata of {folder} has 3 labels, but the model has 7 classes"
    assert "--labels" in error.hint
    (tmp_path / "names.txt").write_text("\n".join(ANIMALS.names))
    assert load(folder, labels=tmp_path / "names.txt").labels == ANIMALS  # the hint helps


def test_placeholder_labels_are_replaced_by_numbers(tmp_path: Path) -> None:
    folder = with_config(tmp_path, id2label={str(index): f"LABEL_{index}" for index in range(7)})
    assert load(folder).labels == numbered(7)


# --- preprocessing


def with_preprocessor(folder: Path, **preprocessor: Any) -> Path:
    write_model(folder / "pytorch_model.bin", "hf")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def test_the_size_of_an_old_preprocessor_is_the_crop_size(tmp_path: Path) -> None:
    checkpoint = load(with_preprocessor(tmp_path, feature_extractor_type="LevitFeatureExtractor", size=64))
    assert checkpoint.transform == transform_for("hf", (64, 64))
    assert checkpoint.transform.resize_to == (73, 73)


@pytest.mark.parametrize("name", ["fb", "hf", "timm", "hf-tensor"])
@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_a_named_preprocessing_takes_precedence_over_that_of_the_format(
    tmp_path: Path, format: CheckpointFormat, name: PreprocessingName
) -> None:
    assert load(write_model(tmp_path / "a.pth", format), preprocessing=name).transform == transform_for(name, (64, 64))


@pytest.mark.parametrize(
    ("preprocessor", "reason"),
    [
        ({"size": 224}, r"images of 64 x 64 px, but its preprocessing returns 224 x 224 px"),
        ({"do_resize": False}, "disables do_resize"),
        ({"size": {"height": 64, "width": 64}}, "without keeping the aspect ratio"),
    ],
)
def test_the_hint_to_choose_a_preprocessing_works(tmp_path: Path, preprocessor: dict[str, Any], reason: str) -> None:
    folder = with_preprocessor(tmp_path, **preprocessor)
    with pytest.raises(RefusedError, match=reason) as caught:
        load(folder)
    assert caught.value.hint == "choose a published preprocessing with --preprocessing"
    assert load(folder, preprocessing="fb").transform == transform_for("fb", (64, 64))


def test_metadata_is_ignored_for_weight_files_with_other_names(tmp_path: Path) -> None:
    folder = with_config(tmp_path, id2label=dict(enumerate(ANIMALS.names)), model_type="levit")
    write_model(folder / "other.safetensors", "timm")
    assert load(folder / "model.safetensors").labels == ANIMALS
    assert load(folder / "other.safetensors").labels == numbered(7)


# --- refused sources


@pytest.mark.parametrize(
    "source",
    [
        "missing",
        "missing.pth",
        "missing/folder/model.safetensors",
        "levit-512",
        "two words",
        "",
        "x" * 5000,
        "~no-such-user/model",
        "nul\0byte",
    ],
)
def test_an_unknown_source_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(source)
    assert source[:50] in error.what


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "holds no weights" in refusal(tmp_path).what


Damage = Callable[[Arrays], Arrays]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda arrays: dict(list(arrays.items())[1:]), "1 missing: "),
    "unexpected": (lambda arrays: {**arrays, "more": np.ones(3, np.float32)}, "1 unexpected: more"),
    "mis-shaped": (lambda arrays: first_changed(arrays, lambda array: array[:, :2]), "1 mis-shaped: "),
    "NaN": (lambda arrays: first_changed(arrays, lambda array: array * np.float32("nan")), "in stem.0.conv.weight"),
    "integers": (lambda arrays: first_changed(arrays, lambda array: array.astype(int)), "stem.0.conv.weight is int"),
    "other network": (lambda _: {"layer1.0.conv1.weight": np.ones((3, 3), np.float32)}, "it looks like a ResNet"),
}  # fmt: skip


def first_changed(arrays: Arrays, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Arrays:
    name = next(iter(arrays))
    return {**arrays, name: change(arrays[name])}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "folder/model.safetensors", "folder/pytorch_model.bin"])
@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_with_its_path_and_a_reason(
    tmp_path: Path, damage: str, format: CheckpointFormat, name: str
) -> None:
    change, reason = DAMAGES[damage]
    path = write_arrays(tmp_path / name, change(arrays_of(format)))
    source = path.parent if name.startswith("folder") else path
    error = refusal(source)
    assert reason in str(error)
    assert str(source) in str(error)


def test_a_rectangular_image_size_requires_a_config(tmp_path: Path) -> None:
    config = replace(TINY, image_size=(32, 96))
    error = refusal(write_model(tmp_path / "wide.safetensors", "hf", config))
    assert "(12 tokens)" in error.what
    assert "config.json" in error.hint
    path = write_model(tmp_path / "model" / "model.safetensors", "hf", config)
    (path.parent / "config.json").write_text('{"image_size": [32, 96]}')
    assert load(path.parent).config == load(path).config == config


@pytest.mark.guarantee("label-and-head-counts")
def test_heads_of_different_class_counts_are_refused_with_both_numbers(tmp_path: Path) -> None:
    ten = arrays_of("fb", replace(TINY, num_classes=10))
    arrays = arrays_of("fb") | {name: array for name, array in ten.items() if name.startswith("head_dist.")}
    message = str(refusal(write_arrays(tmp_path / "a.pth", arrays)))
    assert "2 mis-shaped: head_dist.l.weight (expected (7, 32), found (10, 32)), head_dist.l.bias" in message


@pytest.mark.guarantee("label-and-head-counts")
def test_a_model_with_one_head_is_loaded(tmp_path: Path) -> None:
    arrays = {name: array for name, array in arrays_of("timm").items() if not name.startswith("head_dist.")}
    checkpoint = load(write_arrays(tmp_path / "a.safetensors", arrays))
    assert checkpoint.config == replace(TINY, distilled=False)


def test_an_incomplete_second_head_is_refused(tmp_path: Path) -> None:
    arrays = {name: array for name, array in arrays_of("timm").items() if not name.startswith("head_dist.bn")}
    assert "4 missing: head_dist.bn.weight" in str(refusal(write_arrays(tmp_path / "a.safetensors", arrays)))


def test_a_missing_truncated_or_duplicate_shard_is_refused(tmp_path: Path) -> None:
    folder = shard(tmp_path / "model", arrays_of("hf"), 3)
    second = folder / "model-00002-of-00003.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-1])
    assert "but the file has" in str(refusal(folder))
    second.unlink()
    assert "No such file" in str(refusal(folder))
    second.write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    assert "duplicate tensors" in str(refusal(folder))


def test_missing_ema_weights_are_refused(tmp_path: Path) -> None:
    for path in (write_model(tmp_path / "a.pth", "fb"), write_model(tmp_path / "a.safetensors", "fb")):
        assert "has no EMA weights" in refusal(path, ema=True).what


# --- saving a loaded model


def test_a_custom_preprocessing_is_saved_in_a_folder(tmp_path: Path) -> None:
    transform = Transform("custom", (64, 64), (64, 64), "half_even")
    checkpoint = replace(load(write_model(tmp_path / "a.pth", "fb")), transform=transform, labels=ANIMALS)
    for format in ("hf", "timm"):
        save(checkpoint, tmp_path / format, format)
        loaded = load(tmp_path / format)
        assert (loaded.transform, loaded.labels) == (transform, ANIMALS)
        assert load(tmp_path / format, preprocessing="timm").transform == transform_for("timm", (64, 64))
