"""``fold`` removes the batch norms, averages the heads and regroups the rows."""

import numpy as np

from levit_cli.model.config import BATCH_NORM_EPS
from levit_cli.model.folded import fold
from tests.support.random_weights import TINY, random_state


def test_fold_does_not_change_its_input_or_share_its_memory() -> None:
    state = random_state(TINY)
    before = {name: array.copy() for name, array in state.items()}
    folded = fold(state, TINY)
    for array in folded.values():
        assert array.dtype == np.float32
        array[...] = 0
    for name, array in state.items():
        np.testing.assert_array_equal(array, before[name])


def test_batch_norms_are_removed_and_one_head_remains() -> None:
    names = fold(random_state(TINY), TINY)
    assert not any("norm" in name for name in names)
    assert {name for name in names if "head" in name} == {"head.weight", "head.bias"}
    assert names["head.weight"].shape == (TINY.num_classes, TINY.hidden_sizes[-1])


def test_attention_biases_are_gathered_for_each_pair_of_tokens() -> None:
    folded = fold(random_state(TINY), TINY)
    assert folded["stages.0.blocks.0.attention.bias"].shape == (2, 16, 16)
    assert folded["stages.1.shrink.attention.bias"].shape == (2, 4, 16)


def test_rows_are_regrouped_from_per_head_to_all_q_all_k_all_v() -> None:
    state = random_state(TINY)
    prefix, heads, dim = "stages.0.blocks.0.attention.qkv", TINY.num_heads[0], TINY.key_dims[0]
    norm = {leaf: state[f"{prefix}.norm.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")}
    scale = norm["weight"] / np.sqrt(norm["running_var"] + BATCH_NORM_EPS)
    weight = state[f"{prefix}.linear.weight"] * scale[:, None]
    bias = norm["bias"] - norm["running_mean"] * scale
    folded = fold(state, TINY)
    # The first key row of the second head follows one head's q, k and v in the file, but all q and one k when folded.
    in_file, folded_row = 4 * dim + dim, heads * dim + dim
    np.testing.assert_allclose(folded[f"{prefix}.weight"][folded_row], weight[in_file], rtol=1e-5)
    np.testing.assert_allclose(folded[f"{prefix}.bias"][folded_row], bias[in_file], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(folded[f"{prefix}.weight"][dim], weight[4 * dim] * dim**-0.5, rtol=1e-5)
