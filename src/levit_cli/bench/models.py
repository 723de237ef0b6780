"""Choose the models to measure: LeViTs with random weights or from a checkpoint, and baselines to compare with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from levit_cli.bench.paper import CLAIMS, PUBLISHED
from levit_cli.checkpoints import Checkpoint, load
from levit_cli.choices import BASELINES, BaselineName
from levit_cli.data.labels import Labels, imagenet1k
from levit_cli.errors import RefusedError, UsageError
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig, variant_name
from levit_cli.model.tensors import random_state
from levit_cli.system.progress import Log

Load = Callable[[str], Checkpoint]


class RandomWeights:
    """A variant with random weights. They are generated at each access and not kept in memory."""

    sha256 = ""

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


def select_models(selection: Selection, log: Log, *, default_baselines: bool = True) -> list[BenchModel]:
    """Return the models to measure: LeViTs first, then baselines.

    Args:
        log: gets the warnings of loading.
        default_baselines: without ``against``, add the baselines of the paper's claims.

    Raises:
        RefusedError: a model cannot be loaded, or torchvision cannot be imported.
        UsageError: a baseline is unknown, or two models have the same name.
    """

    def load_model(name: str) -> Checkpoint:
        return load(name, offline=selection.offline, sha256=selection.sha256, warn=lambda text: log(f"Warning: {text}"))

    models = levits(selection.names, load_model)
    if selection.no_baselines or (selection.against is None and not default_baselines):
        return models
    compared = baselines(selection.against, models)
    if compared:
        require_torchvision()
    for name in {model.name for model in models} & {model.name for model in compared}:
        raise UsageError(f"Two models have the name {name}", hint=f"write the file or folder as ./{name}")
    return models + compared


def levits(names: tuple[str, ...], load_model: Load) -> list[BenchModel]:
    """Return the LeViTs of these names, each once; without names, the five variants.

    Args:
        names: a variant gets random weights; any other model is loaded.

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
            models[name] = BenchModel(name, _published_name(checkpoint.config), checkpoint)
    return [*models.values()]


def _published_name(config: LevitConfig) -> str | None:
    """Return the variant if the paper measured this config, with 224 x 224 images and 1000 classes; else None."""
    name = variant_name(config)
    same = name is not None and replace(config, drop_path_rate=VARIANTS[name].drop_path_rate) == VARIANTS[name]
    return name if same else None


def baselines(names: str | None, models: list[BenchModel]) -> list[BenchModel]:
    """Return the baselines to measure beside LeViTs.

    Args:
        names: separated by commas; None for the baselines with which the paper's claims compare ``models``.

    Raises:
        UsageError: a baseline is unknown.
    """
    if names is None:
        published = {model.published for model in models}
        chosen = {claim.slow for claim in CLAIMS if claim.fast in published}
    else:
        chosen = {name.strip().lower().replace("-", "_") for name in names.split(",")}
    for name in sorted(chosen.difference(BASELINES)):
        raise UsageError(f"Unknown baseline {name!r}", hint=f"use one of {', '.join(BASELINES)}")
    return [BenchModel(name, name if name in PUBLISHED else None, name) for name in BASELINES if name in chosen]


def require_torchvision() -> None:
    """Check before any work that baselines can be built.

    Raises:
        RefusedError: torchvision is missing, or was built for another version of torch.
    """
    try:
        import levit_cli.bench.baselines  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # RuntimeError: "operator torchvision::nms does not exist", if torchvision was built for another torch
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise RefusedError(
            "The baselines need torchvision, which cannot be imported",
            why=reason,
            hint="install the torchvision that matches this torch (pip install --upgrade torch torchvision), "
            "or leave the baselines out with --no-baselines",
        ) from error
