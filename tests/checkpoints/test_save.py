"""Converting through every format is lossless. Values that cannot be represented are refused."""

import json
from dataclasses import replace
from itertools import chain, permutations
from pathlib import Path

import numpy as np
import pytest

from levit_cli.checkpoints import Evaluation, load, save
from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import read_weights
from levit_cli.choices import CHECKPOINT_FORMATS, CheckpointFormat, Dtype, PreprocessingName
from levit_cli.data.labels import Labels
from levit_cli.errors import ExitCode, OutputError, RefusedError, UsageError
from levit_cli.model.attention_bias import bias_index
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.model.tensors import BIAS_INDEX
from tests.support.checkpoint_files import arrays_of, write_arrays, write_model
from tests.support.extras import needs_torch
from tests.support.random_weights import TINY, random_state

DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")
CYCLES = [
    (start, *others, start)
    for start in CHECKPOINT_FORMATS
    for others in chain(
        *(permutations([format for format in CHECKPOINT_FORMATS if format != start], n) for n in (1, 2))
    )
]


def convert(source: Path, target: Path, format: CheckpointFormat, dtype: Dtype | None = None) -> Path:
    save(load(source), target, format, dtype)
    return target


# --- round trips


@pytest.mark.parametrize(
    ("suffix", "config"),
    [pytest.param(".pth", TINY, marks=needs_torch), (".safetensors", replace(TINY, distilled=False))],
    ids=["two heads in a pickle", "one head in safetensors"],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cycle", CYCLES, ids=" to ".join)
def test_weight_files_are_identical_after_a_round_trip(
    tmp_path: Path, cycle: tuple[CheckpointFormat, ...], dtype: Dtype, config: LevitConfig, suffix: str
) -> None:
    path = first = write_model(tmp_path / f"0{suffix}", cycle[0], config, dtype)
    for step, format in enumerate(cycle[1:], 1):
        path = convert(path, tmp_path / f"{step}{suffix}", format)
    assert path.read_bytes() == first.read_bytes()
    assert_same_state(first, path)


def assert_same_state(one: Path, other: Path) -> None:
    before, after = load(one), load(other)
    assert (before.config, before.dtype, before.labels) == (after.config, after.dtype, after.labels)
    assert before.state.keys() == after.state.keys()
    for name, array in before.state.items():
        np.testing.assert_array_equal(after.state[name], array, strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transform", ["fb", "hf", "timm"])
@pytest.mark.parametrize("start", ["hf", "timm"])
def test_folders_keep_all_metadata_in_a_round_trip(
    tmp_path: Path, start: CheckpointFormat, transform: PreprocessingName, dtype: Dtype
) -> None:
    """Only the model card differs, because it names its source."""
    bare = load(write_model(tmp_path / "bare.pth", "fb", TINY, dtype), preprocessing=transform)
    known = replace(
        bare,
        labels=Labels(("Katze", "猫", "a, b", '"', "[red]", "", "x" * 300)),
        evaluation=Evaluation("somewhere", 5000, 0.8154),
        temperature=1.37,
        config=replace(bare.config, drop_path_rate=0.1),
    )
    other: CheckpointFormat = "timm" if start == "hf" else "hf"
    save(known, tmp_path / "first", start)
    convert(convert(tmp_path / "first", tmp_path / "second", other), tmp_path / "third", start)
    names = sorted(path.name for path in (tmp_path / "first").iterdir() if path.name != "README.md")
    assert names == (["config.json", "model.safetensors"] + ["preprocessor_config.json"] * (start == "hf"))
    for name in names:
        assert (tmp_path / "third" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    for folder in ("first", "second", "third"):
        loaded = load(tmp_path / folder)
        for field in ("labels", "evaluation", "temperature", "config", "transform", "dtype"):
            assert getattr(loaded, field) == getattr(known, field)


@needs_torch
def test_the_file_of_a_published_variant_is_identical_after_a_round_trip(tmp_path: Path) -> None:
    first = write_model(tmp_path / "first.pth", "fb", VARIANTS["levit-128S"])
    hf = convert(first, tmp_path / "hf", "hf")
    timm = convert(hf, tmp_path / "timm", "timm")
    last = convert(timm, tmp_path / "last.pth", "fb")
    assert last.read_bytes() == first.read_bytes()
    assert_same_state(first, last)


def test_a_rectangular_image_size_is_kept_in_a_round_trip(tmp_path: Path) -> None:
    config = replace(TINY, image_size=(48, 80))
    write_arrays(tmp_path / "source" / "model.safetensors", arrays_of("timm", config))
    (tmp_path / "source" / "config.json").write_text('{"image_size": [48, 80]}')
    hf = convert(tmp_path / "source", tmp_path / "hf", "hf")
    timm = convert(hf, tmp_path / "timm", "timm")
    for folder in (hf, timm):
        assert load(folder).config == config
        assert load(folder).transform.crop_size == (48, 80)
    assert (timm / "model.safetensors").read_bytes() == (tmp_path / "source" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_widening_is_lossless(tmp_path: Path, source: Dtype) -> None:
    narrow = write_model(tmp_path / "narrow.safetensors", "hf", TINY, source)
    wide = convert(narrow, tmp_path / "wide.safetensors", "hf", "float32")
    again = convert(wide, tmp_path / "again.safetensors", "hf", source)
    assert again.read_bytes() == narrow.read_bytes()
    assert read_weights(wide).dtype == "float32"


# --- contents of a format


def test_index_tensors_are_recomputed_for_metas_format(tmp_path: Path) -> None:
    arrays = arrays_of("fb")
    hostile = {name: np.full_like(array, -1) for name, array in arrays.items() if name.endswith(BIAS_INDEX)}
    assert len(hostile) == sum(TINY.depths) + 2
    source = write_arrays(tmp_path / "hostile.pth", arrays | hostile)
    written = read_weights(convert(source, tmp_path / "fb.safetensors", "fb")).arrays
    for name in hostile:
        np.testing.assert_array_equal(written[name], arrays[name], strict=True)
    np.testing.assert_array_equal(written["blocks.0.m.attention_bias_idxs"], bias_index((4, 4)))
    np.testing.assert_array_equal(written["blocks.2.attention_bias_idxs"], bias_index((4, 4), stride=2))
    for format in ("hf", "timm"):
        assert not any(name.endswith(BIAS_INDEX) for name in to_format(random_state(TINY), TINY, format))


@needs_torch
def test_pickles_have_metas_layout_and_safetensors_name_their_framework(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open

    assert torch.load(write_model(tmp_path / "a.pth", "fb"), weights_only=True).keys() == {"model"}
    with safe_open(write_model(tmp_path / "a.safetensors", "timm"), "np") as file:
        assert file.metadata() == {"format": "pt"}  # required by transformers


def test_a_folder_contains_a_model_card(tmp_path: Path) -> None:
    source = load(write_model(tmp_path / "source.pth", "fb", VARIANTS["levit-128S"]))
    known = replace(source, evaluation=Evaluation("the test set", 5000, 0.8154))
    files = save(known, tmp_path / "deep" / "hf", "hf")
    assert sorted(files) == sorted((tmp_path / "deep" / "hf").iterdir())
    card = (tmp_path / "deep" / "hf" / "README.md").read_text()
    for fact in (
        "library_name: transformers",
        "# levit-128S",
        "`source.pth`",
        "7,777,058",
        "305,108,946",
        "| classes | 1000 |",
        "256 x 256",
        source.sha256,
        "0.815 on 5,000 images of the test set",
    ):
        assert fact in card


def test_converting_a_folder_into_itself_keeps_the_hash_of_the_source(tmp_path: Path) -> None:
    folder = convert(write_model(tmp_path / "bare.pth", "fb"), tmp_path / "model", "hf")
    source = load(folder)
    before = load(folder).sha256
    save(source, folder, "timm")
    assert before in (folder / "README.md").read_text()
    assert load(folder).format == "timm"
    assert load(folder).sha256 != before


def test_json_files_keep_all_characters(tmp_path: Path) -> None:
    known = replace(
        load(write_model(tmp_path / "a.pth", "fb")), labels=Labels(("猫", "é", "\u2028", "\\", "", "b", "c"))
    )
    save(known, tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert tuple(config["id2label"].values()) == known.labels.names


# --- refused output


@pytest.mark.parametrize(
    ("name", "value", "dtype", "hint"),
    [
        ("head.linear.weight", 70_000.0, "float16", "use bfloat16"),
        ("head.linear.weight", -70_000.0, "float16", "use bfloat16"),
        ("stem.0.norm.running_var", 1e-9, "float16", "use bfloat16"),
        ("stem.0.norm.running_mean", 3.4e38, "bfloat16", "use float32"),
        ("stem.0.norm.running_var", 1e-44, "bfloat16", "use float32"),
    ],
)
@pytest.mark.parametrize("target", ["new.safetensors", "new.pth", "folder"])
def test_a_weight_that_overflows_is_refused_by_name(
    tmp_path: Path, name: str, value: float, dtype: Dtype, hint: str, target: str
) -> None:
    checkpoint = load(write_model(tmp_path / "source.pth", "fb"))
    array = checkpoint.state[name].copy()
    array.flat[-1] = value
    damaged = replace(checkpoint, state={**checkpoint.state, name: array})
    with pytest.raises(RefusedError, match=f"{name} cannot be stored as {dtype}") as caught:
        save(damaged, tmp_path / target, "timm", dtype)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert caught.value.hint == hint
    assert [path.name for path in tmp_path.iterdir()] == ["source.pth"]


@needs_torch
def test_small_weights_and_means_may_underflow(tmp_path: Path) -> None:
    checkpoint = load(write_model(tmp_path / "source.pth", "fb"))
    small = np.full_like(checkpoint.state["head.linear.weight"], 1e-30)
    save(
        replace(checkpoint, state={**checkpoint.state, "head.linear.weight": small}),
        tmp_path / "a.pth",
        "fb",
        "float16",
    )
    assert not load(tmp_path / "a.pth").state["head.linear.weight"].any()


def test_metas_format_cannot_be_saved_as_a_folder(tmp_path: Path) -> None:
    checkpoint = load(write_model(tmp_path / "source.pth", "fb"))
    with pytest.raises(UsageError, match=r"use a name that ends in \.pth") as caught:
        save(checkpoint, tmp_path / "folder", "fb")
    assert caught.value.exit_code == ExitCode.USAGE
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("target", ["source.pth/folder", "missing/a.safetensors"])
def test_an_unwritable_path_is_an_output_error(tmp_path: Path, target: str) -> None:
    checkpoint = load(write_model(tmp_path / "source.pth", "fb"))
    before = (tmp_path / "source.pth").read_bytes()
    with pytest.raises(OutputError, match="Cannot") as caught:
        save(checkpoint, tmp_path / target, "hf")
    assert caught.value.exit_code == ExitCode.OUTPUT
    assert str(tmp_path / target) in str(caught.value)
    assert (tmp_path / "source.pth").read_bytes() == before
