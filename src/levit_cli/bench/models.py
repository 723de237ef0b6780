"""Choose the models to measure: LeViTs with random weights or from a checkpoint, and baselines to compare with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from levit_cli.bench.paper import CLAIMS, PUBLISHED, Claim
from levit_cli.checkpoints import Checkpoint, load
from levit_cli.choices import BASELINES, BaselineName
from levit_cli.data.inputs import is_url
from levit_cli.data.labels import Labels, imagenet1k
from levit_cli.errors import UsageError
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig, variant_name
from levit_cli.model.tensors import random_state
from levit_cli.system.extras import extra, missing_package
from levit_cli.system.progress import Log

Load = Callable[[str], Checkpoint]


class RandomWeights:
    """A variant with random weights. They are generated at each access, so that they do not stay in memory."""

    sha256, int8 = "", None

    def __init__(self, config: LevitConfig) -> None:
        self.config = config
        self.transform: Transform = transform_for("fb", config.image_size)

    @property
    def labels(self) -> Labels:
        return imagenet1k()

    @property
    def state(self) -> Mapping[str, NDArray[Any]]:
        return random_state(self.config)


@dataclass(frozen=True)
class BenchModel:
    """A model to measure.

    Args:
        name: its name in the results.
        published: its name in the paper; None if the paper does not list it.
        weights: a LeViT's weights, or the name of a baseline, which gets random weights.
    """

    name: str
    published: str | None
    weights: RandomWeights | Checkpoint | BaselineName

    @property
    def is_trained(self) -> bool:
        """Whether the weights come from a checkpoint."""
        return isinstance(self.weights, Checkpoint)


@dataclass(frozen=True)
class Selection:
    """The models that the command line names.

    Args:
        names: LeViTs; empty for the five variants.
        against: names of baselines, separated by commas; None for the defaults.
        no_baselines: measure no baselines.
        sha256: expected hash of a model from a URL.
        offline: never use the network.
    """

    names: tuple[str, ...] = ()
    against: str | None = None
    no_baselines: bool = False
    sha256: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class Selected:
    """The models to measure, and the claims that cannot be judged because their baselines need torch."""

    models: list[BenchModel]
    unjudged: tuple[Claim, ...] = ()


def select_models(selection: Selection, log: Log, *, default_baselines: bool = True) -> Selected:
    """Return the models to measure: LeViTs first, then baselines. Without torch, the default baselines are left out.

    Args:
        log: called with each warning of loading.
        default_baselines: add the baselines of the paper's claims if ``against`` is None.

    Raises:
        RefusedError: a model cannot be loaded, or torch or torchvision cannot be imported.
        UsageError: a baseline is unknown or needs the extra ``torch``, or two models have the same name.
    """

    def load_model(name: str) -> Checkpoint:
        # Of several models, the hash belongs to the one at a URL.
        sha256 = selection.sha256 if is_url(name) or not any(map(is_url, selection.names)) else None
        return load(name, offline=selection.offline, sha256=sha256, warn=lambda text: log(f"Warning: {text}"))

    models = select_levits(selection.names, load_model)
    if selection.no_baselines or (selection.against is None and not default_baselines):
        return Selected(models)
    compared = select_baselines(selection.against, models)
    if compared and selection.against is None and missing_package("torch"):
        return Selected(models, claims_about(models))
    if compared:
        with extra("torch", "A baseline", otherwise="leave the baselines out with --no-baselines"):
            import levit_cli.bench.baselines  # noqa: F401
    for name in {model.name for model in models} & {model.name for model in compared}:
        raise UsageError(f"Two models have the name {name}", hint=f"write the file or folder as ./{name}")
    return Selected(models + compared)


def select_levits(names: tuple[str, ...], load_model: Load) -> list[BenchModel]:
    """Return the LeViTs with these names, each once. Without names, return the five variants.

    Args:
        names: a variant gets random weights. Any other model is loaded.

    Raises:
        RefusedError: a model cannot be loaded.
    """
    variants = {name.lower(): name for name in VARIANTS}
    models: dict[str, BenchModel] = {}
    for name in names or VARIANTS:
        variant = variants.get(name.lower())
        if variant is not None and not Path(name).exists():
            models[variant] = BenchModel(variant, variant, RandomWeights(VARIANTS[variant]))
        elif name not in models:
            checkpoint = load_model(name)
            published = None if checkpoint.int8 else _published_name(checkpoint.config)  # the paper has no int8
            models[name] = BenchModel(name, published, checkpoint)
    return [*models.values()]


def _published_name(config: LevitConfig) -> str | None:
    """Return the variant if the paper measured this config (224 x 224 images, 1000 classes); otherwise None."""
    name = variant_name(config)
    same = name is not None and replace(config, drop_path_rate=VARIANTS[name].drop_path_rate) == VARIANTS[name]
    return name if same else None


def select_baselines(names: str | None, models: list[BenchModel]) -> list[BenchModel]:
    """Return the baselines to compare with LeViTs.

    Args:
        names: separated by commas; None for the baselines with which the paper's claims compare ``models``.

    Raises:
        UsageError: a baseline is unknown.
    """
    if names is None:
        chosen = {claim.slow for claim in claims_about(models)}
    else:
        chosen = {name.strip().lower().replace("-", "_") for name in names.split(",")}
    for name in sorted(chosen.difference(BASELINES)):
        raise UsageError(f"Unknown baseline {name!r}", hint=f"use one of {', '.join(BASELINES)}")
    return [BenchModel(name, name if name in PUBLISHED else None, name) for name in BASELINES if name in chosen]


def claims_about(models: list[BenchModel]) -> tuple[Claim, ...]:
    """Return the paper's claims about these LeViTs."""
    published = {model.published for model in models}
    return tuple(claim for claim in CLAIMS if claim.fast in published)
