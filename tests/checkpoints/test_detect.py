"""The format and config are inferred from keys and shapes; inconsistent state dicts are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.checkpoints.detect import StateDictConversion, convert_state_dict
from levit_cli.choices import CHECKPOINT_FORMATS, CheckpointFormat
from levit_cli.errors import ExitCode, RefusedError
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.model.tensors import BIAS_INDEX, tensors
from tests.support.checkpoint_files import arrays_of
from tests.support.random_weights import TINY, random_state

PATH = Path("some/model.pth")
# Three blocks per stage, so that two correct tensors outvote a wrong one.
THREE_DEEP = LevitConfig((16, 24), (8, 8), (2, 3), (3, 3), num_classes=7, image_size=(64, 64))
Arrays = dict[str, NDArray[Any]]


def hollow(format: CheckpointFormat, config: LevitConfig) -> Arrays:
    """Return arrays of the right shapes that use no memory."""
    return {tensor.names.of(format): ones(tensor.shape, tensor.kind == "counter") for tensor in tensors(config)}


def ones(shape: tuple[int, ...], counter: bool = False) -> NDArray[Any]:
    return np.broadcast_to(np.array(1, np.int64 if counter else np.float32), shape)


def refusal(arrays: Arrays, **options: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        convert_state_dict(arrays, PATH, **options)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert str(PATH) in str(caught.value)
    return str(caught.value)


def weights_of(format: CheckpointFormat, config: LevitConfig) -> list[str]:
    return [tensor.names.of(format) for tensor in tensors(config) if tensor.kind != "counter"]


# --- detection from keys and shapes


@pytest.mark.parametrize("distilled", [True, False], ids=["two heads", "one head"])
@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_published_variants_are_detected_by_shape(variant: str, format: CheckpointFormat, distilled: bool) -> None:
    config = replace(VARIANTS[variant], distilled=distilled, drop_path_rate=0.0)
    conversion = convert_state_dict(hollow(format, config), PATH)
    assert (conversion.config, conversion.format) == (config, format)


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, num_classes=1, image_size=(16, 16)),
        replace(TINY, key_dims=(8, 4, 16), num_heads=(1, 7, 3)),
        LevitConfig((16,), (4,), (2,), (1,), image_size=(48, 48)),
        LevitConfig((16, 16), (16, 8), (2, 2), (12, 1), image_size=(80, 80)),
        LevitConfig((16, 24, 32, 40, 48), (4, 4, 4, 4, 4), (2, 3, 4, 5, 6), (1, 2, 1, 2, 1), image_size=(240, 240)),
    ],
    ids=str,
)
def test_custom_configs_are_detected_from_their_shapes(config: LevitConfig, format: CheckpointFormat) -> None:
    assert convert_state_dict(hollow(format, config), PATH).config == config


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_every_array_is_converted_to_our_name(format: CheckpointFormat) -> None:
    state, arrays = random_state(TINY), arrays_of(format)
    conversion = convert_state_dict(dict(sorted(arrays.items())), PATH)  # in any order
    assert list(conversion.state) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(conversion.state[name], array, strict=True)
    assert conversion.mapped == len(state)
    assert conversion.derived == ()


def test_a_rectangular_image_size_must_be_given() -> None:
    config = replace(TINY, image_size=(48, 80))
    arrays = hollow("timm", config)
    assert convert_state_dict(arrays, PATH, image_size=(48, 80)).config == config
    assert convert_state_dict(arrays, PATH, image_size=(80, 48)).config.image_size == (80, 48)
    message = refusal(arrays)
    assert "not square (15 tokens)" in message
    assert "the weights do not determine height and width" in message


@pytest.mark.parametrize("options", [{"image_size": (64, 100)}, {"image_size": (0, 0)}, {"drop_path_rate": 2.0}])
def test_an_invalid_config_is_refused(options: dict[str, Any]) -> None:
    assert "The config does not describe a LeViT" in refusal(hollow("fb", TINY), **options)


def test_an_image_size_that_contradicts_the_bias_tables_is_refused() -> None:
    message = refusal(hollow("hf", TINY), image_size=(224, 224))
    assert (
        "6 mis-shaped: levit.encoder.stages.0.layers.0.module.attention_biases (expected (2, 196), found (2, 16))"
        in message
    )


def test_the_drop_path_rate_is_kept() -> None:
    assert convert_state_dict(hollow("hf", TINY), PATH, drop_path_rate=0.1).config == replace(TINY, drop_path_rate=0.1)


# --- equivalent layouts


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_one_by_one_convolutions_become_matrices(format: CheckpointFormat) -> None:
    arrays = arrays_of(format)
    as_convolutions = {
        name: array.reshape(*array.shape, 1, 1) if array.ndim == 2 and "attention_bias" not in name else array
        for name, array in arrays.items()
    }
    assert_same(convert_state_dict(as_convolutions, PATH), convert_state_dict(arrays, PATH))


def assert_same(one: StateDictConversion, other: StateDictConversion) -> None:
    assert one.config == other.config
    for name, array in other.state.items():
        np.testing.assert_array_equal(one.state[name], array, strict=True)


@pytest.mark.guarantee("index-tensors")
@pytest.mark.parametrize(
    "index",
    [
        np.array([[-1, 10**9]]),
        np.full((16, 16), 10**12),
        np.full((16, 16), np.nan, np.float32),
        np.zeros((0,), np.int64),
        np.array(True),
    ],
)
@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_index_tensors_with_any_content_are_dropped(format: CheckpointFormat, index: NDArray[Any]) -> None:
    arrays = {name: array for name, array in arrays_of(format).items() if not name.endswith(BIAS_INDEX)}
    hostile = {
        name.replace("attention_biases", BIAS_INDEX): index for name in arrays if name.endswith("attention_biases")
    }
    conversion = convert_state_dict(arrays | hostile, PATH)
    assert_same(conversion, convert_state_dict(arrays, PATH))
    assert conversion.dropped == tuple(hostile)


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_counters_may_be_missing(format: CheckpointFormat) -> None:
    arrays = {name: array for name, array in arrays_of(format).items() if not name.endswith("num_batches_tracked")}
    conversion = convert_state_dict(arrays, PATH)
    counters = [tensor.names.ours for tensor in tensors(TINY) if tensor.kind == "counter"]
    assert list(conversion.derived) == counters
    assert all(conversion.state[name] == 0 and conversion.state[name].dtype == np.int64 for name in counters)


@pytest.mark.parametrize("counter", [np.array(41.5, np.float32), np.array(41, np.int32), np.array(41, np.uint8)])
def test_a_counter_may_have_any_numeric_type(counter: NDArray[Any]) -> None:
    state = convert_state_dict(arrays_of("timm") | {"stem.conv1.bn.num_batches_tracked": counter}, PATH).state
    np.testing.assert_array_equal(state["stem.0.norm.num_batches_tracked"], np.array(41), strict=True)


@pytest.mark.parametrize("stored", [np.float16, np.float64, np.dtype(">f4")])
def test_every_floating_point_type_becomes_float32(stored: Any) -> None:
    arrays = {name: array.astype(stored) for name, array in arrays_of("timm").items() if array.dtype.kind == "f"}
    state = convert_state_dict(arrays, PATH).state
    expected = arrays["stem.conv1.linear.weight"].astype(np.float32)
    np.testing.assert_array_equal(state["stem.0.conv.weight"], expected, strict=True)


# --- inconsistent keys


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_any_single_missing_tensor_is_named(format: CheckpointFormat) -> None:
    arrays = hollow(format, THREE_DEEP)
    for name in weights_of(format, THREE_DEEP):
        rest = {other: array for other, array in arrays.items() if other != name}
        assert refusal(rest).endswith(f"1 missing: {name}")


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_any_single_mis_shaped_tensor_is_named_with_both_shapes(format: CheckpointFormat) -> None:
    arrays = hollow(format, THREE_DEEP)
    for name in arrays:
        shape = arrays[name].shape
        wrong = (*(length + 1 for length in shape), *((2,) if not shape else ()))
        message = refusal(arrays | {name: ones(wrong)})
        assert message.endswith(f"1 mis-shaped: {name} (expected {shape}, found {wrong})")


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_any_single_missing_tensor_is_named_without_other_blocks(format: CheckpointFormat) -> None:
    arrays = hollow(format, replace(TINY, depths=(1, 1, 1), distilled=False))
    for name in weights_of(format, replace(TINY, depths=(1, 1, 1), distilled=False)):
        assert name in refusal({other: array for other, array in arrays.items() if other != name})


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_an_unexpected_key_is_named(format: CheckpointFormat) -> None:
    assert refusal(hollow(format, TINY) | {"ema.decay": ones(())}).endswith("1 unexpected: ema.decay")


@pytest.mark.guarantee("architecture-mismatch")
def test_one_message_lists_all_problems_with_counts_and_the_first_five_keys() -> None:
    arrays = hollow("timm", THREE_DEEP)
    missing = [name for name in arrays if ".bn.weight" in name][10:17]
    misshaped = [name for name in arrays if ".bn.bias" in name][20:28]
    unexpected = {f"extra.{number}": ones((1,)) for number in range(6)}
    kept = {name: array for name, array in arrays.items() if name not in missing}
    message = refusal(kept | {name: ones((1,)) for name in misshaped} | unexpected)
    assert (
        f"7 missing: {', '.join(missing[:5])} …; 6 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4 …; "
        in message
    )
    assert f"8 mis-shaped: {misshaped[0]} (expected" in message
    assert message.endswith(" …")
    assert missing[5] not in message
    assert misshaped[5] not in message


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_a_state_dict_truncated_after_any_key_is_refused(format: CheckpointFormat) -> None:
    arrays = hollow(format, TINY)
    for count in range(0, len(arrays) - 1, 7):
        refusal(dict(list(arrays.items())[:count]))


def test_a_mix_of_two_formats_is_refused() -> None:
    fb, timm = hollow("fb", TINY), hollow("timm", TINY)
    message = refusal(dict(list(fb.items())[:60] + list(timm.items())[60:]))
    assert "unexpected" in message or "missing" in message


@pytest.mark.guarantee("architecture-mismatch")
@pytest.mark.parametrize(
    ("keys", "guess"),
    [
        (["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"], "a ResNet"),
        (["resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"], "a ResNet"),
        (["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"], "ViT or DeiT"),
        (["vit.embeddings.cls_token", "vit.embeddings.patch_embeddings.projection.weight"], "ViT or DeiT"),
        (["conv_stem.weight", "bn1.weight"], "an EfficientNet or MobileNet"),
        (["model.embed_tokens.weight"], "a language model"),
        ([tensor.names.ours for tensor in tensors(TINY)], "our own training form"),
        (["weight", "bias"], "an unknown architecture"),
    ],
)  # fmt: skip
def test_another_architecture_is_refused_with_a_guess(keys: list[str], guess: str) -> None:
    message = refusal({key: ones((3, 3)) for key in keys})
    assert "is not a LeViT checkpoint: it looks like" in message
    assert guess in message
    assert f"none of its {len(keys)} keys" in message
    assert f"the first keys are {', '.join(keys[:5])}" in message


def test_an_empty_state_dict_is_refused() -> None:
    assert "none of its 0 keys" in refusal({})


# --- invalid values


@pytest.mark.guarantee("invalid-weights")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_nan_or_infinity_is_detected_in_any_tensor(value: float) -> None:
    arrays = arrays_of("fb")
    for tensor in tensors(TINY):
        if tensor.kind != "counter":
            damaged = arrays[tensor.names.fb].copy()
            damaged.flat[-1] = value
            assert f"holds NaN or infinity · in {tensor.names.ours}" in refusal(arrays | {tensor.names.fb: damaged})


@pytest.mark.guarantee("invalid-weights")
@pytest.mark.parametrize("value", [0.0, -0.0, -1e-9, -3.0])
def test_a_variance_must_be_positive(value: float) -> None:
    variance = np.ones(24, np.float32)
    variance[7] = value
    arrays = arrays_of("timm") | {"stages.1.blocks.1.attn.proj.ln.bn.running_var": variance}
    assert "variance is not positive · in stages.1.blocks.1.attention.proj.norm.running_var" in refusal(arrays)


@pytest.mark.guarantee("invalid-weights")
@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint8, np.bool_, np.complex64])
def test_weights_must_be_floating_point(kind: Any) -> None:
    arrays = arrays_of("hf")
    name = "classifier.linear.weight"
    message = refusal(arrays | {name: np.ones(arrays[name].shape, kind)})
    assert f"not floating-point numbers · head.linear.weight is {np.dtype(kind)}" in message


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("patch_embed.0.bn.weight", 1e300, "NaN or infinity · in stem.0.norm.weight"),
        ("patch_embed.0.bn.running_var", 1e-300, "not positive · in stem.0.norm.running_var"),
        ("patch_embed.0.bn.num_batches_tracked", np.nan, "NaN or infinity · in stem.0.norm.num_batches_tracked"),
    ],
)
def test_a_float64_value_out_of_range_of_float32_is_refused(name: str, value: float, reason: str) -> None:
    arrays = arrays_of("fb")
    assert reason in refusal(arrays | {name: np.full(arrays[name].shape, value, np.float64)})
