"""What stands beside the weights: Hugging Face's two JSON files, and timm's one. Read here, written here.

Each dialect has a place for labels, image size and preprocessing, though not for all that we know: what is exact and
has no key of theirs travels in a section of our own, ``levit_cli``, which both libraries leave alone.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import floor, isfinite
from pathlib import Path
from typing import Any

from levit_cli import labels as label_sets
from levit_cli.atomic import replace_text
from levit_cli.choices import Dialect, RecipeName
from levit_cli.config import MLP_RATIO, PATCH_SIZE, VALUE_RATIO, Grid, LevitConfig, variant_name
from levit_cli.errors import RefusedError
from levit_cli.labels import Labels
from levit_cli.recipes import IMAGENET_MEAN, IMAGENET_STD, Filter, Recipe, recipe_for

OURS = "levit_cli"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FILTERS: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
HF_PROCESSOR = "LevitImageProcessor"
HF_MARGIN = 256 / 224  # by which it multiplies its size
TIMM_CROP = 0.9  # timm's crop_pct for LeViT
TIMM_LEVITS = re.compile(r"levit(_conv)?_(128s|128|192|256|384)")
NAME_ONE = "name a recipe with --recipe"


@dataclass(frozen=True)
class Evaluation:
    """How good somebody measured a checkpoint to be: top-1 in [0, 1] on so many pictures."""

    dataset: str
    images: int
    top1: float


@dataclass(frozen=True)
class Metadata:
    """What the files beside some weights say; None where they do not.

    Args:
        temperature: what the logits are divided by before the softmax (Guo et al. 2017), as ``levit eval --calibrate``
            found it.
    """

    image_size: Grid | None = None
    labels: Labels | None = None
    recipe: Recipe | None = None
    drop_path_rate: float = 0.0
    evaluation: Evaluation | None = None
    temperature: float = 1.0


def read_metadata(folder: Path, *, with_recipe: bool = True) -> Metadata:
    """Read ``config.json`` and ``preprocessor_config.json`` of a folder, of whichever dialect; both may be missing.

    Args:
        with_recipe: False where another recipe is wanted, so that nobody has to understand theirs.

    Raises:
        RefusedError: one is there and makes no sense.
    """
    config, preprocessor = _read_json(folder / CONFIG), _read_json(folder / PREPROCESSOR) if with_recipe else {}
    try:
        if "architecture" in config:
            return _from_timm(config, with_recipe)
        return _from_hf(config, preprocessor)
    except RefusedError as error:
        what = f"The configuration in {folder} is refused: {error.what}"
        raise RefusedError(what, why=error.why, hint=error.hint) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RefusedError(f"Cannot make sense of the configuration in {folder}", why=repr(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RefusedError(f"Cannot read {path}", why=str(error)) from error
    if not isinstance(content, dict):
        raise RefusedError(f"Cannot read {path}", why="it is not a JSON object")
    return content


def _pair(value: Any) -> Grid:
    if isinstance(value, Mapping):
        return int(value["height"]), int(value["width"])
    return (int(value[0]), int(value[1])) if isinstance(value, (list, tuple)) else (int(value), int(value))


def _from_hf(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Metadata:
    model_type = config.get("model_type", "levit")
    if model_type != "levit":
        raise RefusedError(f"it is of another architecture, {model_type}")
    ours = config.get(OURS, {})
    id2label = config.get("id2label", {})
    named = any(name != f"LABEL_{index}" for index, name in id2label.items())  # those are what nobody named
    return Metadata(
        image_size=_pair(config["image_size"]) if "image_size" in config else None,
        labels=label_sets.from_id2label(id2label) if named else None,
        recipe=_recipe_from_hf(preprocessor) if preprocessor else None,
        drop_path_rate=float(ours.get("drop_path_rate", config.get("drop_path_rate", 0.0))),
        evaluation=_evaluation(ours),
        temperature=require_temperature(float(ours.get("temperature", 1.0))),
    )


def _evaluation(ours: Mapping[str, Any]) -> Evaluation | None:
    if "evaluation" not in ours:
        return None
    measured = ours["evaluation"]
    return Evaluation(str(measured["dataset"]), int(measured["images"]), float(measured["top1"]))


def require_temperature(value: float) -> float:
    """The temperature, if logits can be divided by it.

    Raises:
        RefusedError: it is not a finite number above zero.
    """
    if not (isfinite(value) and value > 0):
        raise RefusedError(f"its temperature is {value}", why="no logits can be divided by that")
    return value


def _recipe_from_hf(preprocessor: Mapping[str, Any]) -> Recipe:
    if OURS in preprocessor:
        recipe = _recipe_from_ours(preprocessor[OURS]["recipe"])
        if _hf_preprocessor(recipe).items() <= preprocessor.items():  # else somebody has edited the rest since
            return recipe
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not preprocessor.get(step, True):
            raise RefusedError(f"preprocessor_config.json has {step} switched off", hint=NAME_ONE)
    if round(255 * preprocessor.get("rescale_factor", 1 / 255), 3) != 1:
        raise RefusedError("preprocessor_config.json scales by another factor than 1/255", hint=NAME_ONE)
    size = preprocessor.get("size", 224)
    if isinstance(size, Mapping) and "shortest_edge" not in size:
        raise RefusedError("preprocessor_config.json stretches pictures", hint=NAME_ONE)
    # Before there was a crop_size, the size was both; since then, what is not given is 224.
    edge, implied_crop = (size["shortest_edge"], 224) if isinstance(size, Mapping) else (size, size)
    edge = int(HF_MARGIN * edge)
    crop_size = _pair(preprocessor.get("crop_size", implied_crop))
    recipe = Recipe(
        "custom",
        resize_to=(edge, edge),
        crop_size=crop_size,
        crop_rounding="floor",
        filter=FILTERS[preprocessor.get("resample", 3)],
        mean=_triple(preprocessor.get("image_mean", IMAGENET_MEAN)),
        std=_triple(preprocessor.get("image_std", IMAGENET_STD)),
    )
    return _named(recipe, "hf")


def _recipe_from_ours(section: Mapping[str, Any]) -> Recipe:
    pairs = {key: _pair(section[key]) for key in ("resize_to", "crop_size")}
    triples = {key: _triple(section[key]) for key in ("mean", "std")}
    return Recipe(**{**section, **pairs, **triples})


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _named(recipe: Recipe, name: RecipeName) -> Recipe:
    """The published recipe, if this is it."""
    published = recipe_for(name, recipe.crop_size)
    return published if asdict(published) | {"name": "custom"} == asdict(recipe) else recipe


def _from_timm(config: Mapping[str, Any], with_recipe: bool) -> Metadata:
    _require_timm_levit(config)
    trained = {**config, **config.get("pretrained_cfg", {})}
    names = trained.get("label_names")
    ours = config.get(OURS, {})
    return Metadata(
        image_size=_pair(trained["input_size"][1:]) if "input_size" in trained else None,
        labels=label_sets.from_list(names) if names else None,
        recipe=_recipe_from_timm(trained) if with_recipe and "input_size" in trained else None,
        drop_path_rate=float(config.get("model_args", {}).get("drop_path_rate", ours.get("drop_path_rate", 0.0))),
        evaluation=_evaluation(ours),
        temperature=require_temperature(float(ours.get("temperature", 1.0))),
    )


def _require_timm_levit(config: Mapping[str, Any]) -> None:
    """timm has LeViTs with another stem, and with SiLU, of which the weights do not tell."""
    architecture, options = str(config["architecture"]), config.get("model_args", {})
    activations = {options.get("act_layer"), options.get("attn_act_layer")}
    if not TIMM_LEVITS.fullmatch(architecture) or not activations <= {None, "hard_swish"}:
        raise RefusedError(f"it is of another architecture, timm's {architecture}", why=f"its options are {options}")


def _recipe_from_timm(trained: Mapping[str, Any]) -> Recipe:
    if OURS in trained and "recipe" in trained[OURS]:
        recipe = _recipe_from_ours(trained[OURS]["recipe"])
        if _timm_preprocessing(recipe).items() <= trained.items():  # else somebody has edited the rest since
            return recipe
    if trained.get("crop_mode", "center") != "center":
        raise RefusedError(f"timm's crop mode {trained['crop_mode']} is not known", hint=NAME_ONE)
    height, width = _pair(trained["input_size"][1:])
    kept = float(trained.get("crop_pct", TIMM_CROP))
    recipe = Recipe(
        "custom",
        resize_to=(floor(height / kept), floor(width / kept)),
        crop_size=(height, width),
        crop_rounding="half_even",
        filter=trained.get("interpolation", "bicubic"),
        mean=_triple(trained.get("mean", IMAGENET_MEAN)),
        std=_triple(trained.get("std", IMAGENET_STD)),
    )
    return _named(recipe, "timm")


def store_temperature(folder: Path, temperature: float) -> Path:
    """Write a temperature into the ``config.json`` of a model's folder, and leave all else in it as it stands.

    Returns:
        The file.

    Raises:
        RefusedError: the file is there and is no JSON object, or the temperature is none.
        OutputError: the disk does not take it.
    """
    path = folder / CONFIG
    config = _read_json(path)
    config[OURS] = {**config.get(OURS, {}), "temperature": require_temperature(temperature)}
    replace_text(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return path


def write_metadata(
    dialect: Dialect,
    config: LevitConfig,
    labels: Labels,
    recipe: Recipe,
    evaluation: Evaluation | None,
    temperature: float = 1.0,
) -> dict[str, dict[str, Any]]:
    """The JSON files that belong beside the weights in a folder, by name."""
    exact_recipe = {"recipe": asdict(recipe)}
    ours: dict[str, Any] = {"drop_path_rate": config.drop_path_rate}
    if evaluation:
        ours["evaluation"] = asdict(evaluation)
    if temperature != 1:
        ours["temperature"] = temperature
    if dialect == "timm":
        return {CONFIG: {**_timm_config(config, labels, recipe), OURS: ours | exact_recipe}}
    return {
        CONFIG: {**_hf_config(config, labels), OURS: ours},
        PREPROCESSOR: {"image_processor_type": HF_PROCESSOR, **_hf_preprocessor(recipe), OURS: exact_recipe},
    }


def _square_or_pair(size: Grid) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def _hf_config(config: LevitConfig, labels: Labels) -> dict[str, Any]:
    stages = config.num_stages
    return {
        "architectures": [f"LevitForImageClassification{'WithTeacher' if config.distilled else ''}"],
        "model_type": "levit",
        "image_size": _square_or_pair(config.image_size),
        "num_channels": 3,
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
        "patch_size": PATCH_SIZE,
        "hidden_sizes": list(config.hidden_sizes),
        "num_attention_heads": list(config.num_heads),
        "depths": list(config.depths),
        "key_dim": list(config.key_dims),
        "drop_path_rate": 0,  # transformers takes an integer only; the rate itself is in our section
        "mlp_ratio": [MLP_RATIO] * stages,
        "attention_ratio": [VALUE_RATIO] * stages,
        "initializer_range": 0.02,
        "id2label": {str(index): name for index, name in enumerate(labels.names)},
        "label2id": {name: index for index, name in enumerate(labels.names)},
    }


def _hf_preprocessor(recipe: Recipe) -> dict[str, Any]:
    height, width = recipe.crop_size
    return {
        "do_resize": True,
        "size": {"shortest_edge": _hf_shortest_edge(min(recipe.resize_to))},
        "resample": {name: number for number, name in FILTERS.items()}[recipe.filter],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(recipe.mean),
        "image_std": list(recipe.std),
    }


def _hf_shortest_edge(edge: int) -> int:
    """The size from which transformers' processor arrives at ``edge``, or one pixel past it where it cannot."""
    size = int(edge / HF_MARGIN)
    while int(HF_MARGIN * size) < edge:
        size += 1
    return size


def _timm_config(config: LevitConfig, labels: Labels, recipe: Recipe) -> dict[str, Any]:
    return {
        "architecture": _timm_architecture(config),
        "num_classes": config.num_classes,
        "num_features": config.hidden_sizes[-1],
        "global_pool": "avg",
        "model_args": {
            "img_size": _square_or_pair(config.image_size),
            "embed_dim": list(config.hidden_sizes),
            "key_dim": config.key_dims[0],
            "num_heads": list(config.num_heads),
            "depth": list(config.depths),
            "drop_path_rate": config.drop_path_rate,
        },
        "pretrained_cfg": {
            **_timm_preprocessing(recipe),
            "fixed_input_size": True,
            "num_classes": config.num_classes,
            "pool_size": list(config.grids[-1]),
            "first_conv": "stem.conv1.linear",
            "classifier": ["head.linear", "head_dist.linear"] if config.distilled else "head.linear",
            "label_names": list(labels.names),
        },
    }


def _timm_preprocessing(recipe: Recipe) -> dict[str, Any]:
    return {
        "input_size": [3, *recipe.crop_size],
        "interpolation": recipe.filter,
        "crop_pct": _crop_pct(recipe),
        "crop_mode": "center",
        "mean": list(recipe.mean),
        "std": list(recipe.std),
    }


def _crop_pct(recipe: Recipe) -> float:
    """The share of the resized edge that the crop keeps, such that timm's floor(side / share) gives the edge."""
    side, edge = recipe.crop_size[0], recipe.resize_to[0]
    return TIMM_CROP if floor(side / TIMM_CROP) == edge else side / (edge + 0.5) if side != edge else 1.0


def _timm_architecture(config: LevitConfig) -> str:
    name = variant_name(config) or "levit-256"  # timm builds any LeViT from one of its names and the model_args
    return name.replace("levit-", "levit_").lower()
