"""Files are exchanged with transformers and timm in both directions, with random weights in all layers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from levit_cli.checkpoints import Checkpoint, load, save
from levit_cli.checkpoints.detect import convert_state_dict
from levit_cli.checkpoints.save import to_format
from levit_cli.choices import CheckpointFormat, PreprocessingName
from levit_cli.data.labels import Labels, from_names, imagenet1k, placeholders
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.attention_bias import bias_index
from levit_cli.model.config import SHRINK_STRIDE, VARIANTS, Grid, LevitConfig
from levit_cli.model.tensors import tensors
from tests.parity.test_networks import (
    TORCH_TOLERANCE,
    hf_config,
    hf_network,
    normalized,
    our_network,
    relative_error,
    timm_network,
)
from tests.support.checkpoint_files import write_model
from tests.support.random_weights import TINY, random_pixels, random_state

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

ONE_HEAD = replace(TINY, distilled=False)
HEADS = {"two heads": TINY, "one head": ONE_HEAD}
ANIMALS = Labels(("cat", "dog", "bird", "fish", "frog", "newt", "vole"))
NOTHING: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


def checkpoint_of(folder: Path, config: LevitConfig, **changes: Any) -> Checkpoint:
    """Return the checkpoint of a random model in Meta's format, with changed fields."""
    return replace(load(write_model(folder / "source.pth", "fb", config)), **changes)


def assert_same_logits(theirs: Any, config: LevitConfig) -> None:
    """Check that their network returns the logits of ours for the random weights of ``config``."""
    images = normalized(random_pixels(config), config)
    with torch.inference_mode():
        output = theirs.eval()(images)
        expected = our_network(config, random_state(config))(images)
    assert relative_error(getattr(output, "logits", output), expected) <= TORCH_TOLERANCE


def assert_random_model(checkpoint: Checkpoint, config: LevitConfig = TINY) -> None:
    assert checkpoint.config == config
    for name, array in random_state(config).items():
        np.testing.assert_array_equal(checkpoint.state[name], array, strict=True)


# --- names, shapes and index tensors


@pytest.mark.parametrize("distilled", [True, False], ids=["two heads", "one head"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_equal_those_of_transformers_and_timm(variant: str, distilled: bool) -> None:
    config = replace(VARIANTS[variant], distilled=distilled)
    suffix = "WithTeacher" if distilled else ""
    with torch.device("meta"):
        hf = getattr(transformers, f"LevitForImageClassification{suffix}")(hf_config(config))
        timms = timm.create_model(variant.replace("-", "_").lower()) if distilled else None
    networks: dict[CheckpointFormat, Any] = {"hf": hf, **({"timm": timms} if timms else {})}
    for format, network in networks.items():
        theirs = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        assert {tensor.names.of(format): tensor.shape for tensor in tensors(config)} == theirs
    assert sum(parameter.numel() for parameter in hf.parameters()) == sum(
        int(np.prod(tensor.shape)) for tensor in tensors(config) if tensor.kind not in ("statistic", "counter")
    )


def index_tensors(network: torch.nn.Module) -> list[NDArray[Any]]:
    """Return the index tensors in network order."""
    return [
        np.asarray(module.attention_bias_idxs) for module in network.modules() if hasattr(module, "attention_bias_idxs")
    ]


def our_index_tensors(config: LevitConfig) -> list[NDArray[Any]]:
    indexes: list[NDArray[Any]] = []
    for stage, depth in enumerate(config.depths):
        indexes += [bias_index(config.grids[stage - 1], SHRINK_STRIDE)] if stage else []
        indexes += [bias_index(config.grids[stage])] * depth
    return indexes


@pytest.mark.parametrize("image_size", [(224, 224), (96, 96), (16, 16), (80, 80), (96, 160), (240, 64)], ids=str)
def test_index_tensors_equal_those_of_transformers_and_timm(image_size: Grid) -> None:
    config = replace(TINY, image_size=image_size)
    state = random_state(config)
    networks = [timm_network(config, state)] + ([hf_network(config, state)] if image_size[0] == image_size[1] else [])
    for network in networks:
        for ours, theirs in zip(our_index_tensors(config), index_tensors(network), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_imagenet_classes_equal_those_of_timm() -> None:
    theirs, ours = timm.data.ImageNetInfo("imagenet-1k"), imagenet1k()
    assert tuple(theirs.label_names()) == ours.wnids
    synonyms = [theirs.index_to_description(index) for index in range(1000)]
    assert sum("," in names for names in synonyms) > 400
    assert from_names(synonyms) is ours


# --- our files in their libraries


@pytest.mark.parametrize(
    "config",
    [TINY, ONE_HEAD, VARIANTS["levit-128S"], replace(TINY, drop_path_rate=VARIANTS["levit-384"].drop_path_rate)],
    ids=["tiny", "one head", "levit-128S", "levit-384's drop path rate of 0.1"],
)
def test_transformers_loads_our_folder(tmp_path: Path, config: LevitConfig) -> None:
    drop_path_rate = config.drop_path_rate
    checkpoint = checkpoint_of(tmp_path, replace(config, drop_path_rate=0.0))
    save(replace(checkpoint, config=config), tmp_path / "hf", "hf")
    network, report = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True, local_files_only=True
    )
    assert report == NOTHING
    assert type(network).__name__ == f"LevitForImageClassification{'WithTeacher' if config.distilled else ''}"
    labels = checkpoint.labels
    names = placeholders(len(labels)) if labels.generated else labels.names
    assert network.config.id2label == dict(enumerate(names))
    assert_same_logits(network, config)
    assert load(tmp_path / "hf").config.drop_path_rate == drop_path_rate


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_transformers_loads_our_half_precision_weights(tmp_path: Path, dtype: Any) -> None:
    save(checkpoint_of(tmp_path, TINY), tmp_path / "hf", "hf", dtype)
    network, report = transformers.LevitForImageClassificationWithTeacher.from_pretrained(
        tmp_path / "hf", output_loading_info=True, local_files_only=True, dtype="auto"
    )
    assert report == NOTHING
    name = "levit.encoder.stages.0.layers.0.module.attention_biases"
    assert network.state_dict()[name].dtype == getattr(torch, dtype)
    expected = load(tmp_path / "hf").state["stages.0.blocks.0.attention.biases"]
    np.testing.assert_array_equal(network.state_dict()[name].float().numpy(), expected)


@pytest.mark.parametrize(
    "transform",
    [
        Transform("custom", (96, 96), (96, 96), "half_even"),
        transform_for("fb", (224, 224)),
        transform_for("hf", (224, 224)),
        transform_for("hf", (64, 64)),
        Transform("custom", (120, 120), (96, 64), "floor", "bilinear", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("image_size", [(300, 200), (180, 300), (96, 96)], ids=str)
def test_transformers_computes_the_same_pixels_from_our_preprocessor_config(
    tmp_path: Path, transform: Transform, image_size: tuple[int, int]
) -> None:
    config = replace(TINY, image_size=transform.crop_size)
    checkpoint = replace(checkpoint_of(tmp_path, TINY), config=config, transform=transform)
    save(checkpoint, tmp_path / "hf", "hf")
    auto = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf", local_files_only=True, backend="pil")
    processor = transformers.LevitImageProcessorPil.from_pretrained(tmp_path / "hf", local_files_only=True)
    assert type(auto) is type(processor)
    assert_same_pixels(image_size, transform, lambda image: processor(image).pixel_values[0])


@pytest.mark.parametrize("name", ["fb", "timm"])
@pytest.mark.parametrize("image_size", [(300, 200), (180, 301), (64, 64)], ids=str)
def test_timm_computes_the_same_pixels_from_our_config(
    tmp_path: Path, name: PreprocessingName, image_size: tuple[int, int]
) -> None:
    checkpoint = checkpoint_of(tmp_path, TINY, transform=transform_for(name, (64, 64)))
    save(checkpoint, tmp_path / "timm", "timm")
    network = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network), is_training=False)
    assert_same_pixels(image_size, checkpoint.transform, transform)


def assert_same_pixels(size: tuple[int, int], transform: Transform, theirs: Any) -> None:
    """Check that their pixels equal a literal implementation: Pillow resizes the whole image, then it is cropped."""
    noise = np.random.default_rng(3).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    width, height = transform.resized_size(*size)
    rows, columns = transform.crop_size
    left, top = transform.crop_offset(width, columns), transform.crop_offset(height, rows)
    resized = image.resize((width, height), Image.Resampling[transform.filter.upper()])
    pixels = np.asarray(resized.crop((left, top, left + columns, top + rows))).transpose(2, 0, 1)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (transform.mean, transform.std))
    np.testing.assert_allclose(np.asarray(theirs(image)) * std + mean, pixels / 255, atol=1e-6)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("variant", ["levit_128s", "levit_conv_128s"])
def test_timm_loads_our_weight_file_of_a_variant(tmp_path: Path, variant: str, suffix: str) -> None:
    config = VARIANTS["levit-128S"]
    path = tmp_path / f"timm{suffix}"
    save(checkpoint_of(tmp_path, config), path, "timm")
    if variant == "levit_128s":  # timm cannot convert the linear layout to the convolutional one
        assert_same_logits(timm.create_model(variant, checkpoint_path=str(path)), config)
    state = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)["model"]
    with torch.device("meta"):
        network = timm.create_model("levit_128s")
    assert network.load_state_dict(state, strict=True, assign=True).missing_keys == []


@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS)
def test_timm_loads_our_weight_file_strictly(tmp_path: Path, config: LevitConfig) -> None:
    save(checkpoint_of(tmp_path, config), tmp_path / "timm.safetensors", "timm")
    network = timm_network(config, random_state(config, seed=9))
    network.load_state_dict(load_file(tmp_path / "timm.safetensors"), strict=True)
    assert_same_logits(network, config)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, image_size=(48, 80)),
    ],
    ids=["tiny", "rectangle"],
)
def test_timm_loads_our_folder(tmp_path: Path, config: LevitConfig) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"image_size": config.image_size}))
    source = load(write_model(tmp_path / "model.safetensors", "timm", config))
    save(replace(source, config=replace(config, drop_path_rate=0.1)), tmp_path / "timm", "timm")
    network = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert_same_logits(network, config)
    assert network.pretrained_cfg["input_size"] == (3, *config.image_size)
    assert network.pretrained_cfg.get("label_names") == (None if source.labels.generated else [*source.labels.names])


# --- their files in levit


@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"], ids=["whole", "sharded"])
def test_a_folder_of_transformers_is_loaded(tmp_path: Path, config: LevitConfig, max_shard_size: str) -> None:
    network = hf_network(config, random_state(config))
    network.config.id2label = dict(enumerate(ANIMALS.names))
    network.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    transformers.LevitImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    ).save_pretrained(tmp_path)
    checkpoint = load(tmp_path)
    assert_random_model(checkpoint, config)
    assert (checkpoint.format, checkpoint.labels) == ("hf", ANIMALS)
    assert checkpoint.transform == transform_for("hf", (64, 64))
    assert (len(checkpoint.files) > 1) == (max_shard_size == "20KB")


def test_a_folder_of_an_older_transformers_is_loaded(tmp_path: Path) -> None:
    """The files on the hub: a pickle with index tensors, and one ``size``."""
    network = hf_network(TINY, random_state(TINY))
    index = {
        f"{name}.attention_bias_idxs": module.attention_bias_idxs
        for name, module in network.named_modules()
        if hasattr(module, "attention_bias_idxs")
    }
    torch.save({**network.state_dict(), **index}, tmp_path / "pytorch_model.bin")
    network.config.to_json_file(tmp_path / "config.json")
    published = {"feature_extractor_type": "LevitFeatureExtractor", "resample": 3, "size": 64}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(published))
    checkpoint = load(tmp_path)
    assert_random_model(checkpoint)
    assert len(checkpoint.conversion.dropped) == sum(TINY.depths) + 2
    assert checkpoint.transform == transform_for("hf", (64, 64))


def test_half_precision_weights_of_transformers_are_loaded(tmp_path: Path) -> None:
    network = hf_network(TINY, random_state(TINY)).half()
    network.save_pretrained(tmp_path)
    checkpoint = load(tmp_path)
    assert checkpoint.dtype == "float16"
    expected = random_state(TINY)["head.linear.weight"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(checkpoint.state["head.linear.weight"], expected, strict=True)


def test_transformers_keeps_our_section_and_edited_keys_take_precedence(tmp_path: Path) -> None:
    transform = Transform("custom", (84, 84), (64, 64), "half_even")
    save(checkpoint_of(tmp_path, TINY, transform=transform), tmp_path / "ours", "hf")
    processor = transformers.LevitImageProcessorPil.from_pretrained(tmp_path / "ours", local_files_only=True)
    network = transformers.LevitForImageClassificationWithTeacher.from_pretrained(tmp_path / "ours")
    network.save_pretrained(tmp_path / "theirs")
    processor.save_pretrained(tmp_path / "theirs")
    assert load(tmp_path / "theirs").transform == transform
    processor.size = {"shortest_edge": 64}
    processor.save_pretrained(tmp_path / "theirs")
    assert load(tmp_path / "theirs").transform == transform_for("hf", (64, 64))


@pytest.mark.parametrize("use_conv", [False, True], ids=["linear", "convolutions"])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS)
def test_a_state_dict_of_timm_is_loaded(tmp_path: Path, config: LevitConfig, pickled: bool, use_conv: bool) -> None:
    network = timm_of(config, use_conv)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path = tmp_path / ("timm.pth" if pickled else "timm.safetensors")
    torch.save(state, path) if pickled else save_file(state, path)
    checkpoint = load(path)
    assert_random_model(checkpoint, config)
    assert checkpoint.format == "timm"
    assert_same_logits(network, config)


def timm_of(config: LevitConfig, use_conv: bool) -> Any:
    """Return timm's network with the random weights, as linear layers or 1x1 convolutions."""
    if not use_conv:
        return timm_network(config, random_state(config))
    kind = timm.models.levit.LevitDistilled if config.distilled else timm.models.levit.Levit
    network = kind(
        img_size=config.image_size, embed_dim=config.hidden_sizes, key_dim=config.key_dims[0], depth=config.depths,
        num_heads=config.num_heads, num_classes=config.num_classes, use_conv=True,
    )  # fmt: skip
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    arrays = to_format(random_state(config), config, "timm")
    network.load_state_dict(
        {name: torch.from_numpy(np.array(arrays[name])).reshape(shape) for name, shape in shapes.items()}
    )
    return network


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_a_folder_of_timm_is_loaded(tmp_path: Path, safe: bool) -> None:
    config = replace(VARIANTS["levit-128S"], num_classes=7)
    network = timm.create_model("levit_128s", num_classes=7)
    network.load_state_dict({
        name: torch.from_numpy(np.array(array))
        for name, array in to_format(random_state(config), config, "timm").items()
    })  # fmt: skip
    timm.models.save_for_hf(network, tmp_path, model_config={"label_names": ANIMALS.names}, safe_serialization=safe)
    checkpoint = load(tmp_path)
    assert_random_model(checkpoint, config)
    assert checkpoint.labels == ANIMALS
    assert checkpoint.transform == transform_for("timm", (224, 224))


# --- other architectures


@pytest.mark.parametrize(
    ("architecture", "guess"),
    [
        ("resnet18", "a ResNet"),
        ("vit_tiny_patch16_224", "ViT or DeiT"),
        ("deit_tiny_distilled_patch16_224", "ViT or DeiT"),
        ("efficientnet_b0", "EfficientNet"),
        ("efficientformer_l1", "an unknown architecture"),
        ("swin_tiny_patch4_window7_224", "ViT or DeiT"),
        ("convnext_atto", "an unknown architecture"),
    ],
)
def test_another_architecture_of_timm_is_refused(architecture: str, guess: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(architecture).state_dict()
    with pytest.raises(RefusedError, match=f"not a LeViT checkpoint: it looks like .*{guess}"):
        convert_state_dict(hollow(state), Path("model.safetensors"))


@pytest.mark.parametrize("architecture", ["levit_384_s8", "levit_512_s8"])
def test_a_levit_with_another_stem_is_refused(architecture: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(architecture).state_dict()
    with pytest.raises(RefusedError, match=r"stem\.conv4"):
        convert_state_dict(hollow(state), Path("model.safetensors"))


def hollow(state: dict[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    """Return arrays of the same shapes that use no memory."""
    return {name: np.broadcast_to(np.float32(1), tuple(tensor.shape)) for name, tensor in state.items()}
