"""Metadata files of transformers, timm and levit are read and written; invalid ones are refused."""

import json
from dataclasses import replace
from math import floor
from pathlib import Path
from typing import Any

import pytest

from levit_cli.checkpoints.metadata import read_metadata, store_temperature, write_metadata
from levit_cli.checkpoints.metadata_parts import Evaluation, Metadata
from levit_cli.choices import CheckpointFormat, PreprocessingName
from levit_cli.data.labels import Labels, imagenet1k, numbered
from levit_cli.errors import ExitCode, RefusedError
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Transform, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig
from tests.support.random_weights import TINY

FOLDER_FORMATS: tuple[CheckpointFormat, ...] = ("hf", "timm")
ALL_PREPROCESSING: tuple[PreprocessingName, ...] = ("fb", "hf", "timm", "hf-tensor")
# The file of facebook/levit-128S on the hub.
PUBLISHED_PREPROCESSOR = {
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "LevitFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
# The file that transformers 5 writes.
NEW_PREPROCESSOR = PUBLISHED_PREPROCESSOR | {
    "image_processor_type": "LevitImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "data_format": "channels_first",
}
# The file of timm/levit_128s.fb_dist_in1k on the hub.
TIMM_CONFIG: dict[str, Any] = {
    "architecture": "levit_128s",
    "num_classes": 1000,
    "num_features": 384,
    "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "fb_dist_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "pool_size": [4, 4],
        "first_conv": "stem.conv1.linear",
        "classifier": ["head.linear", "head_dist.linear"],
    },
}


def folder_with(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / f"{name}.json").write_bytes(raw)
    return folder


def timm_with(**changes: Any) -> dict[str, Any]:
    return {**TIMM_CONFIG, "pretrained_cfg": {**TIMM_CONFIG["pretrained_cfg"], **changes}}


# --- files written by other libraries


def test_a_folder_without_metadata_has_default_metadata(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == Metadata()


@pytest.mark.parametrize(
    ("preprocessor", "transform"),
    [
        (PUBLISHED_PREPROCESSOR, transform_for("hf", (224, 224))),
        (NEW_PREPROCESSOR, transform_for("hf", (224, 224))),
        ({"size": 96}, transform_for("hf", (96, 96))),
        ({"size": 384}, transform_for("hf", (384, 384))),
        ({"size": {"shortest_edge": 224}}, transform_for("hf", (224, 224))),
        ({"size": {"shortest_edge": 256}}, Transform("custom", (292, 292), (224, 224), "floor")),
        ({"size": {"shortest_edge": 210}, "crop_size": 224}, Transform("custom", (240, 240), (224, 224), "floor")),
        (
            {"size": 224, "crop_size": {"height": 192, "width": 160}},
            Transform("custom", (256, 256), (192, 160), "floor"),
        ),
        ({"size": 224, "resample": 2}, Transform("custom", (256, 256), (224, 224), "floor", "bilinear")),
        (
            {"size": 224, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
            Transform("custom", (256, 256), (224, 224), "floor", mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
        ({"do_resize": True}, transform_for("hf", (224, 224))),
    ],
)
def test_a_preprocessor_config_of_transformers_is_read(
    tmp_path: Path, preprocessor: dict[str, Any], transform: Transform
) -> None:
    assert read_metadata(folder_with(tmp_path, preprocessor_config=preprocessor)).transform == transform


CLIP_PREPROCESSOR = NEW_PREPROCESSOR | {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "size": {"shortest_edge": 112},
    "crop_size": {"height": 112, "width": 112},
}
CLIP_TRANSFORM = Transform("custom", (112, 112), (112, 112), "floor")  # not scaled by 256/224 as LeViT's


@pytest.mark.guarantee("foreign-preprocessing")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_processor_type": "CLIPImageProcessorFast"},
        {"image_processor_type": "CLIPImageProcessorPil"},
        {"image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor"},
        {"size": 112, "crop_size": 112},
        {"size": {"shortest_edge": 112, "longest_edge": None}, "do_pad": None, "pad_size": None},
        {"size": {"shortest_edge": 112.0}},
    ],
)
def test_the_processor_of_another_family_is_done_as_it_says(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = folder_with(tmp_path, preprocessor_config=CLIP_PREPROCESSOR | changes)
    assert read_metadata(folder).transform == CLIP_TRANSFORM


def test_an_image_processor_in_processor_config_takes_precedence(tmp_path: Path) -> None:
    files = {"preprocessor_config": PUBLISHED_PREPROCESSOR, "processor_config": {"image_processor": CLIP_PREPROCESSOR}}
    assert read_metadata(folder_with(tmp_path, **files)).transform == CLIP_TRANSFORM
    without = files | {"processor_config": {"processor_class": "LevitProcessor"}}
    assert read_metadata(folder_with(tmp_path, **without)).transform == transform_for("hf", (224, 224))


def test_the_published_preprocessing_is_recognized_by_name(tmp_path: Path) -> None:
    transform = read_metadata(folder_with(tmp_path, preprocessor_config=PUBLISHED_PREPROCESSOR)).transform
    assert transform is not None
    assert (transform.name, transform.resize_to, transform.crop_size) == (
        "hf",
        (256, 256),
        (224, 224),
    )  # 224 is the final size


@pytest.mark.parametrize(
    ("changes", "transform"),
    [
        ({}, transform_for("timm", (224, 224))),
        ({"input_size": [3, 96, 96]}, transform_for("timm", (96, 96))),
        ({"crop_pct": 0.875}, Transform("custom", (256, 256), (224, 224), "half_even")),
        ({"crop_pct": 1.0}, Transform("custom", (224, 224), (224, 224), "half_even")),
        ({"interpolation": "bilinear"}, Transform("custom", (248, 248), (224, 224), "half_even", "bilinear")),
        ({"input_size": [3, 128, 256]}, transform_for("timm", (128, 256))),
    ],
)
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "pretrained_cfg"])
def test_a_config_of_timm_is_read(tmp_path: Path, changes: dict[str, Any], transform: Transform, flat: bool) -> None:
    config = timm_with(**changes)
    if flat:  # as timm wrote it before 2023
        config |= config.pop("pretrained_cfg")
    metadata = read_metadata(folder_with(tmp_path, config=config))
    assert (metadata.transform, metadata.image_size, metadata.labels) == (transform, transform.crop_size, None)


def test_labels_of_timm_are_read(tmp_path: Path) -> None:
    assert read_metadata(folder_with(tmp_path, config=timm_with(label_names=["cat", "dog"]))).labels == Labels(
        ("cat", "dog")
    )


CAT_AND_DOG = Labels(("cat", "dog"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "levit", "image_size": 224}, Metadata(image_size=(224, 224))),
        ({"image_size": [96, 160]}, Metadata(image_size=(96, 160))),
        ({"drop_path_rate": 0.1}, Metadata(drop_path_rate=0.1)),
        ({"id2label": {"1": "dog", "0": "cat"}}, Metadata(labels=Labels(("cat", "dog")))),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, Metadata()),
        ({"id2label": {"0": "cat", "1": "LABEL_1"}}, Metadata(labels=Labels(("cat", "LABEL_1")))),
        ({"architectures": ["LevitForImageClassification"], "torch_dtype": "float32"}, Metadata()),
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}, Metadata(labels=CAT_AND_DOG)),
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": "0"}}, Metadata(labels=CAT_AND_DOG)),
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}},
         Metadata(labels=CAT_AND_DOG)),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"dog": 1, "cat": 0}},
         Metadata(labels=CAT_AND_DOG)),
        ({"id2label": None, "label2id": {"dog": 1, "cat": 0}}, Metadata(labels=CAT_AND_DOG)),
        ({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}, Metadata()),
        ({"id2label": {"0": "crane", "1": "crane"}, "label2id": {"crane": 1}}, Metadata(labels=Labels(("crane",) * 2))),
        ({"id2label": {"0": "cafe\u0301"}, "label2id": {"caf\u00e9": 0}}, Metadata(labels=Labels(("cafe\u0301",)))),
    ],
)  # fmt: skip
def test_a_config_of_transformers_is_read(tmp_path: Path, config: dict[str, Any], expected: Metadata) -> None:
    assert read_metadata(folder_with(tmp_path, config=config)) == expected


def test_labels_with_synonyms_get_their_wordnet_ids(tmp_path: Path) -> None:
    id2label = {str(index): f"{name}, {name} cat" for index, name in enumerate(imagenet1k().names)}
    assert read_metadata(folder_with(tmp_path, config={"id2label": id2label})).labels is imagenet1k()


# --- invalid files


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config": b""}, "Cannot read"),
        ({"config": b"\xff"}, "Cannot read"),
        ({"config": b"[" * 200_000}, "Cannot read"),
        ({"config": []}, "not a JSON object"),
        ({"preprocessor_config": b"{"}, "Cannot read"),
        ({"config": {"model_type": "vit"}}, "the architecture is vit, not levit"),
        ({"config": {"stride": 1}}, "stride is 1.*only 2 is supported"),
        ({"config": {"kernel_size": 5}}, "kernel_size is 5"),
        ({"config": {"padding": 0}}, "padding is 0"),
        ({"config": TIMM_CONFIG | {"global_pool": "max"}}, "global_pool 'max'"),
        ({"config": TIMM_CONFIG | {"model_args": {"global_pool": ""}}}, "global_pool ''"),
        ({"config": {"image_size": "large"}}, "metadata .* invalid"),
        ({"config": {"image_size": []}}, "metadata .* invalid"),
        ({"config": b'{"image_size": Infinity}'}, "metadata .* invalid"),
        ({"config": {"id2label": ["cat"]}}, "metadata .* invalid"),
        ({"config": {"id2label": {"cat": 0}}}, "not keyed by class index"),
        ({"config": {"id2label": {"1": "dog"}}}, "without a gap"),
        ({"config": {"id2label": {"0": "cat", "2": "dog"}}}, "without a gap.*1 is missing among 2 labels"),
        ({"config": {"id2label": {"0": "cat", "01": "dog"}}}, "not keyed by class index.*01"),
        ({"config": {"id2label": {"0": "cat", "1.0": "dog"}}}, "not keyed by class index"),
        ({"config": {"id2label": {"0": "cat", "-1": "dog"}}}, "not keyed by class index"),
        ({"config": {"id2label": {"0": 7}}}, "Labels must be.*found 7"),
        ({"config": {"id2label": {"0": None}}}, "found null"),
        ({"config": {"id2label": {"0": ["cat"]}}}, "found"),
        ({"config": b'{"id2label": {"0": "cat", "0": "dog"}}'}, "'0' occurs twice"),
        ({"config": {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 1, "dog": 0}}},
         "contradict each other.*class 1 is dog in one and cat in the other"),
        ({"config": {"id2label": {"0": "cat"}, "label2id": {"cat": 0, "dog": 1}}}, "class 1 is missing in one"),
        ({"config": {"id2label": {"0": "cat"}, "label2id": {"cat": "first"}}}, "not keyed by class index"),
        ({"config": {"label2id": {"cat": 0, "dog": 0}}}, "same class index"),
        ({"config": {"levit_cli": {"evaluation": {"top1": 1}}}}, "metadata .* invalid"),
        ({"config": {"levit_cli": "ours"}}, "metadata .* invalid"),
        ({"config": {"levit_cli": {"temperature": 0}}}, "the temperature is 0"),
        ({"config": {"levit_cli": {"temperature": -1.5}}}, "the temperature is -1.5"),
        ({"config": b'{"levit_cli": {"temperature": NaN}}'}, "the temperature is nan"),
        ({"config": b'{"levit_cli": {"temperature": Infinity}}'}, "the temperature is inf"),
        ({"config": {"levit_cli": {"temperature": "warm"}}}, "metadata .* invalid"),
        ({"config": TIMM_CONFIG | {"levit_cli": {"temperature": 0}}}, "the temperature is 0"),
        ({"preprocessor_config": {"do_resize": False}}, "disables do_resize"),
        ({"preprocessor_config": {"do_center_crop": False}}, "disables do_center_crop"),
        ({"preprocessor_config": {"do_rescale": False}}, "disables do_rescale"),
        ({"preprocessor_config": {"do_normalize": False}}, "disables do_normalize"),
        ({"preprocessor_config": {"rescale_factor": 1 / 127.5}}, "rescale_factor other than 1/255"),
        ({"preprocessor_config": {"size": {"height": 224, "width": 224}}}, "without keeping the aspect ratio"),
        ({"preprocessor_config": {"size": {"shortest_edge": 100}}}, "the crop is larger than the resized image"),
        ({"preprocessor_config": {"resample": 9}}, "metadata .* invalid"),
        ({"preprocessor_config": {"image_std": [0, 0, 0]}}, "the standard deviation"),
        ({"preprocessor_config": {"image_mean": [0.5, 0.5]}}, "metadata .* invalid"),
        ({"preprocessor_config": b'{"image_mean": [NaN, 0, 0]}'}, "the mean"),
        ({"preprocessor_config": {"levit_cli": {}}}, "metadata .* invalid"),
        ({"preprocessor_config": {"image_processor_type": "ViTImageProcessor"}}, "a ViTImageProcessor.*only those"),
        ({"preprocessor_config": {"feature_extractor_type": "DeiTFeatureExtractor"}}, "is a DeiTFeatureExtractor"),
        ({"preprocessor_config": {"image_processor_type": 7}}, "is a 7"),
        ({"preprocessor_config": {"do_pad": True}}, "enables do_pad"),
        ({"preprocessor_config": {"do_flip_channel_order": True}}, "enables do_flip_channel_order"),
        ({"preprocessor_config": {"do_center_crop": None}}, "disables do_center_crop"),
        ({"preprocessor_config": {"size": 224, "default_to_square": True}}, "without keeping the aspect ratio"),
        ({"preprocessor_config": {"size": [224, 224]}}, "without keeping the aspect ratio"),
        ({"preprocessor_config": {"size": {"max_height": 9, "max_width": 9}}}, "only shortest_edge is supported"),
        ({"preprocessor_config": {"size": {"shortest_edge": 224, "longest_edge": 300}}}, "only shortest_edge"),
        ({"preprocessor_config": {"size": 10**30}}, "Cannot resize to"),
        ({"config": timm_with(crop_pct=1e-9)}, "Cannot resize to 224,0"),
        ({"preprocessor_config": {"size": "224"}}, r"invalid · '224' is not a number"),
        ({"preprocessor_config": {"size": 224.7}}, "224.7 is not a number of pixels"),
        ({"preprocessor_config": {"size": True}}, "True is not a number"),
        ({"preprocessor_config": {"size": -224}}, "-224 is not a number of pixels"),
        ({"preprocessor_config": {"crop_size": {"shortest_edge": 224}}}, "metadata .* invalid"),
        ({"preprocessor_config": {"resample": "bicubic"}}, "resample is 'bicubic'"),
        ({"preprocessor_config": {"resample": True}}, "resample is True"),
        ({"preprocessor_config": {"image_mean": ["0.5", "0.5", "0.5"]}}, "'0.5' is not a number"),
        ({"preprocessor_config": {"image_processor_type": "CLIPImageProcessor"}},
         "does not state size, resample, image_mean, image_std"),
        ({"preprocessor_config": {key: value for key, value in CLIP_PREPROCESSOR.items() if key != "crop_size"}},
         "does not state crop_size"),
        ({"processor_config": {"image_processor": []}}, "image_processor is not a JSON object"),
        ({"processor_config": {"image_processor": {"do_resize": False}}}, "disables do_resize"),
        ({"config": timm_with(input_size=[1, 224, 224])}, "images of 1 channel, not RGB"),
        ({"config": timm_with(input_size=[3, "224", 224])}, "'224' is not a number"),
        ({"config": timm_with(crop_pct="0.9")}, "'0.9' is not a number"),
        ({"config": timm_with(interpolation="")}, "Unknown value ''"),
        ({"config": {"architecture": "resnet50"}}, "timm's architecture resnet50 is not supported"),
        ({"config": {"architecture": "levit_512d"}}, "timm's architecture levit_512d"),
        ({"config": {"architecture": "levit_384_s8"}}, "timm's architecture levit_384_s8"),
        ({"config": TIMM_CONFIG | {"model_args": {"act_layer": "silu"}}}, "timm's architecture levit_128s"),
        ({"config": TIMM_CONFIG | {"model_args": 3}}, "metadata .* invalid"),
        ({"config": timm_with(crop_mode="border")}, "crop mode border"),
        ({"config": timm_with(crop_mode="squash")}, "crop mode squash"),
        ({"config": timm_with(crop_pct=0)}, "metadata .* invalid"),
        ({"config": timm_with(crop_pct=1.1)}, "the crop is larger than the resized image"),
        ({"config": timm_with(interpolation="random")}, "'random'"),
        ({"config": timm_with(input_size=[])}, "metadata .* invalid"),
        ({"config": timm_with(label_names=7)}, "a list of names"),
        ({"config": timm_with(label_names=["cat", ["dog"]])}, "a list of names"),
        ({"config": {"levit_cli": {"evaluation": {"dataset": "a", "images": "x", "top1": 1}}}}, "metadata .* invalid"),
        ({"config": {"architecture": "levit_128s", "pretrained_cfg": 3}}, "metadata .* invalid"),
    ],
)  # fmt: skip
def test_invalid_metadata_is_refused_with_its_path(tmp_path: Path, files: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        read_metadata(folder_with(tmp_path, **files))
    assert caught.value.exit_code == ExitCode.REFUSED
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config": b"{"},
        {"preprocessor_config": {"image_processor_type": "ViTImageProcessor"}},
        {"processor_config": {"image_processor": []}},
        {"preprocessor_config": {"do_resize": False}},
        {"config": timm_with(crop_mode="border")},
        {"config": timm_with(interpolation="random")},
    ],
)
def test_an_invalid_preprocessing_is_ignored_if_it_is_not_used(tmp_path: Path, files: dict[str, Any]) -> None:
    assert read_metadata(folder_with(tmp_path, **files), with_transform=False).transform is None


@pytest.mark.parametrize(
    "changes",
    [
        {"filter": "sinc"},
        {"crop_rounding": "up"},
        {"resizer": "magick"},
        {"mean": (float("nan"), 0.5, 0.5)},
        {"std": (0.2, 0.0, 0.2)},
        {"std": (0.2, -0.1, 0.2)},
        {"std": (0.2, float("inf"), 0.2)},
        {"crop_size": (224, 257)},
    ],
)
def test_an_invalid_transform_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        replace(transform_for("fb", (224, 224)), **changes)


# --- files written by levit


def written(
    folder: Path,
    format: CheckpointFormat,
    transform: Transform,
    config: LevitConfig = TINY,
    labels: Labels | None = None,
    evaluation: Evaluation | None = None,
    temperature: float = 1.0,
) -> Path:
    labels = labels or numbered(config.num_classes)
    contents = write_metadata(format, config, labels, transform, evaluation, temperature)
    return folder_with(folder, **{name.removesuffix(".json"): content for name, content in contents.items()})


@pytest.mark.parametrize("format", FOLDER_FORMATS)
@pytest.mark.parametrize(
    "transform",
    [
        *(transform_for(name, size) for name in ALL_PREPROCESSING for size in ((224, 224), (64, 64), (96, 160))),
        Transform("custom", (96, 96), (96, 96), "half_even"),
        Transform("custom", (97, 300), (64, 96), "floor", "lanczos", (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)),
    ],
    ids=str,
)
def test_written_metadata_is_read_back_unchanged(
    tmp_path: Path, format: CheckpointFormat, transform: Transform
) -> None:
    config = replace(TINY, image_size=transform.crop_size, drop_path_rate=0.1)
    labels, evaluation = Labels(tuple("abcdefg")), Evaluation("the test set", 5000, 0.815)
    assert read_metadata(written(tmp_path, format, transform, config, labels, evaluation)) == Metadata(
        config.image_size, labels, transform, 0.1, evaluation
    )


@pytest.mark.parametrize("format", FOLDER_FORMATS)
def test_storing_a_temperature_keeps_the_other_metadata(tmp_path: Path, format: CheckpointFormat) -> None:
    transform, evaluation = transform_for("fb", (64, 64)), Evaluation("the test set", 5000, 0.815)
    assert (
        read_metadata(written(tmp_path, format, transform, evaluation=evaluation, temperature=1.25)).temperature == 1.25
    )
    assert read_metadata(written(tmp_path, format, transform, evaluation=evaluation)).temperature == 1
    before = json.loads((tmp_path / "config.json").read_text())
    assert "temperature" not in before["levit_cli"]
    assert store_temperature(tmp_path, 0.8) == tmp_path / "config.json"
    after = json.loads((tmp_path / "config.json").read_text())
    assert after["levit_cli"].pop("temperature") == 0.8
    assert after == before
    assert read_metadata(tmp_path) == replace(
        read_metadata(written(tmp_path, format, transform, evaluation=evaluation)), temperature=0.8
    )


def test_a_temperature_is_stored_in_a_new_config_file(tmp_path: Path) -> None:
    store_temperature(tmp_path, 2.0)
    assert read_metadata(tmp_path) == Metadata(temperature=2.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_temperature_is_not_stored(tmp_path: Path, value: float) -> None:
    with pytest.raises(RefusedError, match="must be a finite number above 0"):
        store_temperature(tmp_path, value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("format", FOLDER_FORMATS)
def test_imagenet_labels_are_recognized_after_a_round_trip(tmp_path: Path, format: CheckpointFormat) -> None:
    config, transform = VARIANTS["levit-384"], transform_for("fb", (224, 224))
    metadata = read_metadata(written(tmp_path, format, transform, config, imagenet1k()))
    assert metadata.labels is imagenet1k()
    assert metadata.drop_path_rate == config.drop_path_rate == 0.1


@pytest.mark.parametrize("format", FOLDER_FORMATS)
@pytest.mark.parametrize(
    "labels",
    [
        Labels(tuple(f"LABEL_{index}" for index in range(7))),
        Labels(tuple(f"class {index}" for index in range(7))),
        Labels(tuple(str(index) for index in range(6, -1, -1))),
        Labels(("train", "val", " tea ", "10", "caf\u00e9", "cafe\u0301", "LABEL_0")),
        Labels(tuple("abcdefg"), tuple(f"n0000000{index}" for index in range(7))),
        numbered(7),
    ],
    ids=lambda labels: labels.names[0],
)
def test_written_labels_are_read_back_whatever_they_are_called(
    tmp_path: Path, format: CheckpointFormat, labels: Labels
) -> None:
    metadata = read_metadata(written(tmp_path, format, transform_for("fb", (64, 64)), labels=labels))
    assert metadata.labels == (None if labels.generated else labels)


def test_generated_names_are_written_as_the_placeholders_of_transformers(tmp_path: Path) -> None:
    written(tmp_path, "hf", transform_for("fb", (64, 64)), labels=numbered(7))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {str(index): f"LABEL_{index}" for index in range(7)}
    assert config["label2id"] == {f"LABEL_{index}": index for index in range(7)}


@pytest.mark.parametrize(
    ("format", "file", "edit", "transform"),
    [
        (
            "hf",
            "preprocessor_config",
            {"size": {"shortest_edge": 84}},
            Transform("custom", (96, 96), (64, 64), "floor"),
        ),
        ("hf", "preprocessor_config", {"resample": 2}, Transform("custom", (73, 73), (64, 64), "floor", "bilinear")),
        (
            "hf",
            "preprocessor_config",
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 80}},
            Transform("custom", (80, 80), (64, 64), "floor"),
        ),
        ("timm", "config", {"crop_pct": 1.0}, Transform("custom", (64, 64), (64, 64), "half_even")),
    ],
)
def test_edited_keys_take_precedence_over_our_section(
    tmp_path: Path, format: CheckpointFormat, file: str, edit: dict[str, Any], transform: Transform
) -> None:
    written(tmp_path, format, transform_for("fb", (64, 64)))
    content = json.loads((tmp_path / f"{file}.json").read_text())
    (content["pretrained_cfg"] if format == "timm" else content).update(edit)
    assert read_metadata(folder_with(tmp_path, **{file: content})).transform == transform


def test_resize_edges_are_written_for_transformers_within_one_pixel(tmp_path: Path) -> None:
    reachable = {int((256 / 224) * size) for size in range(1, 1000)}  # the formula of LevitImageProcessor
    for edge in range(64, 1000):
        transform = Transform("custom", (edge, edge), (64, 64), "floor")
        content = write_metadata("hf", TINY, numbered(7), transform, None)["preprocessor_config.json"]
        actual = int((256 / 224) * content["size"]["shortest_edge"])
        assert actual == (edge if edge in reachable else edge + 1)


def test_resize_edges_are_written_exactly_for_timm() -> None:
    for side in range(16, 400, 16):
        for edge in range(side, 2 * side, 7):
            transform = Transform("custom", (edge, edge), (side, side), "half_even")
            content = write_metadata("timm", TINY, numbered(7), transform, None)["config.json"]["pretrained_cfg"]
            assert floor(side / content["crop_pct"]) == edge


def test_the_published_preprocessing_is_written_with_timms_crop_pct() -> None:
    content = write_metadata("timm", TINY, numbered(7), transform_for("timm", (224, 224)), None)
    assert content["config.json"]["pretrained_cfg"]["crop_pct"] == 0.9


def test_the_published_preprocessing_is_written_with_transformers_numbers() -> None:
    content = write_metadata("hf", TINY, numbered(7), transform_for("hf", (224, 224)), None)["preprocessor_config.json"]
    assert (content["size"], content["crop_size"]) == ({"shortest_edge": 224}, {"height": 224, "width": 224})
    assert (content["image_mean"], content["image_std"]) == (list(IMAGENET_MEAN), list(IMAGENET_STD))
