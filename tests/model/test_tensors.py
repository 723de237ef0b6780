"""Every tensor has the names and the shape of the published files."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from levit_cli.checkpoints.save import to_format
from levit_cli.model.attention_bias import bias_index
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.model.levit import Levit
from levit_cli.model.tensors import BIAS_INDEX, Names, tensors
from tests.support.random_weights import TINY, random_state

REFERENCE = Path(os.environ.get("LEVIT_TEST_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
KINDS = {"w": {"matrix"}, "p": {"vector", "matrix"}, "ab": {"attention_bias"}, "buf": {"statistic", "counter"}}


def keymap(variant: str) -> list[dict[str, str]]:
    """Return rows with the names in three formats, shape and kind, generated from the published classes."""
    path = REFERENCE / f"keymap_{variant.removeprefix('levit-')}.tsv"
    if not path.is_file():
        pytest.skip(f"{path} does not exist; set LEVIT_TEST_REFERENCE to its folder")
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_equal_those_of_the_published_classes(variant: str) -> None:
    rows = [row for row in keymap(variant) if row["kind"] != "idx"]
    expected = {(row["fb"], row["timm"], row["hf"], tuple(json.loads(row["shape"]))): row["kind"] for row in rows}
    ours = {(*tensor.names[1:], tensor.shape): tensor.kind for tensor in tensors(VARIANTS[variant])}
    assert ours.keys() == expected.keys()
    assert len(ours) == len(rows)
    assert all(ours[key] in KINDS[kind] for key, kind in expected.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_index_tensors_have_the_names_and_shapes_of_the_published_classes(variant: str) -> None:
    rows = {row["fb"]: json.loads(row["shape"]) for row in keymap(variant) if row["kind"] == "idx"}
    config = VARIANTS[variant]
    arrays = to_format(random_state(config), config, "fb")
    assert {name: list(array.shape) for name, array in arrays.items() if name.endswith(BIAS_INDEX)} == rows


@pytest.mark.parametrize(
    "config", [*VARIANTS.values(), TINY, replace(TINY, distilled=False, image_size=(48, 80))], ids=str
)
def test_names_and_shapes_equal_those_of_our_training_form(config: LevitConfig) -> None:
    with torch.device("meta"):
        network = Levit(config)
    theirs = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert {tensor.names.ours: tensor.shape for tensor in tensors(config)} == theirs
    trained = {name for name, _ in network.named_parameters()}
    assert {tensor.names.ours for tensor in tensors(config) if tensor.kind not in ("statistic", "counter")} == trained


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_no_two_tensors_share_a_name(stages: int) -> None:
    widths = (16, 24, 32, 40)[:stages]
    config = LevitConfig(widths, (8,) * stages, (2,) * stages, (3, 1, 2, 1)[:stages])
    listed = list(tensors(config))
    for format in range(len(Names._fields)):
        assert len({tensor.names[format] for tensor in listed}) == len(listed)


def test_the_index_covers_the_columns_of_the_bias_table() -> None:
    for tensor in tensors(TINY):
        if tensor.kind == "attention_bias" and ".shrink." not in tensor.names.ours:
            stage = int(tensor.names.ours.split(".")[1])
            assert bias_index(TINY.grids[stage]).max() == tensor.shape[1] - 1
