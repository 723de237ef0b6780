"""The five variants have the counts of the paper, and invalid configs are refused."""

from dataclasses import FrozenInstanceError, replace
from math import prod
from typing import Any

import pytest

from levit_cli.errors import RefusedError
from levit_cli.model.config import VARIANTS, Grid, LevitConfig, variant_name
from levit_cli.model.folded import fold
from levit_cli.model.tensors import count_folded_parameters, count_parameters, tensors
from tests.support.random_weights import TINY, random_state

# Multiply-accumulates, and parameters with two heads, with one head, and with two folded heads.
COUNTS = {
    "levit-128S": (305_108_946, 7_777_058, 7_391_290, 7_756_466),
    "levit-128": (406_114_880, 9_213_936, 8_828_168, 9_188_864),
    "levit-192": (657_601_916, 10_947_069, 10_561_301, 10_918_613),
    "levit-256": (1_128_024_056, 18_893_876, 18_379_852, 18_856_276),
    "levit-384": (2_352_935_380, 39_128_836, 38_358_300, 39_074_100),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_equal_those_of_the_paper(variant: str) -> None:
    config = VARIANTS[variant]
    one_head = replace(config, distilled=False)
    assert (
        config.macs,
        count_parameters(config),
        count_parameters(one_head),
        count_folded_parameters(config),
    ) == COUNTS[variant]


def test_one_head_saves_one_linear_layer() -> None:
    config = VARIANTS["levit-256"]
    assert config.macs - replace(config, distilled=False).macs == 512 * 1000


@pytest.mark.parametrize("config", [TINY, replace(TINY, distilled=False), VARIANTS["levit-128S"]])
def test_the_count_of_folded_parameters_equals_the_folded_arrays(config: LevitConfig) -> None:
    folded = fold(random_state(config), config)
    numbers = sum(array.size for name, array in folded.items() if not name.endswith("attention.bias"))
    tables = sum(prod(tensor.shape) for tensor in tensors(config) if tensor.kind == "attention_bias")
    second_head = (config.hidden_sizes[-1] + 1) * config.num_classes if config.distilled else 0  # folding merges them
    assert count_folded_parameters(config) == numbers + tables + second_head


@pytest.mark.parametrize(
    ("image_size", "grids"),
    [
        ((224, 224), ((14, 14), (7, 7), (4, 4))),
        ((96, 96), ((6, 6), (3, 3), (2, 2))),
        ((16, 16), ((1, 1), (1, 1), (1, 1))),
        ((80, 80), ((5, 5), (3, 3), (2, 2))),
        ((240, 176), ((15, 11), (8, 6), (4, 3))),
        ((32, 512), ((2, 32), (1, 16), (1, 8))),
    ],
)
def test_a_shrink_block_keeps_every_second_row_and_column(image_size: Grid, grids: tuple[Grid, ...]) -> None:
    assert replace(TINY, image_size=image_size).grids == grids


@pytest.mark.parametrize(
    ("variant", "stem_widths", "shrink_heads"),
    [
        ("levit-128S", (16, 32, 64, 128), [8, 16]),
        ("levit-128", (16, 32, 64, 128), [8, 16]),
        ("levit-192", (24, 48, 96, 192), [6, 9]),
        ("levit-256", (32, 64, 128, 256), [8, 12]),
        ("levit-384", (48, 96, 192, 384), [12, 16]),
    ],
)
def test_stem_and_heads_follow_from_widths(variant: str, stem_widths: tuple[int, ...], shrink_heads: list[int]) -> None:
    config = VARIANTS[variant]
    assert config.stem_widths == stem_widths
    assert [config.shrink_heads(stage) for stage in (1, 2)] == shrink_heads


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hidden_sizes": ()}, "one entry per stage"),
        ({"hidden_sizes": (16, 24)}, "one entry per stage"),
        ({"depths": (1, 2, 1, 1)}, "one entry per stage"),
        ({"hidden_sizes": (20, 24, 32), "key_dims": (4, 4, 4)}, "multiple of 8"),
        ({"hidden_sizes": (16, 20, 32)}, "multiple of the first key dim"),
        ({"hidden_sizes": (16, 0, 32)}, "must be positive"),
        ({"key_dims": (0, 8, 8)}, "must be positive"),
        ({"num_heads": (2, -3, 4)}, "must be positive"),
        ({"depths": (1, 0, 1)}, "must be positive"),
        ({"num_classes": 0}, "must be positive"),
        ({"image_size": (0, 64)}, "multiples of 16"),
        ({"image_size": (64, 100)}, "multiples of 16"),
        ({"image_size": (-64, 64)}, "multiples of 16"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate"),
    ],
)
def test_an_invalid_config_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RefusedError, match=problem) as caught:
        replace(TINY, **changes)
    assert int(caught.value.exit_code) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_recognized_by_its_widths_only(variant: str) -> None:
    other = replace(VARIANTS[variant], num_classes=10, image_size=(96, 128), distilled=False, drop_path_rate=0.5)
    assert variant_name(other) == variant


def test_a_custom_levit_has_no_variant_name() -> None:
    assert variant_name(TINY) is None


def test_a_config_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        TINY.num_classes = 3  # type: ignore[misc]
