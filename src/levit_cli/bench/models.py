"""Who is measured: LeViTs, with random weights or those of a checkpoint, and other people's networks beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from levit_cli.bench.paper import CLAIMS, PUBLISHED
from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import BASELINES, Baseline
from levit_cli.data.labels import Labels, imagenet1k
from levit_cli.errors import RefusedError, UsageError
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig, variant_name
from levit_cli.model.tensors import random_state

Load = Callable[[str], Checkpoint]


class RandomWeights:
    """A variant that nobody trained. Its weights are made when they are asked for, and not kept."""

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
class Net:
    """Somebody to be measured.

    Args:
        name: of its row.
        published: under which name the paper lists it; None where it does not.
        made_of: a LeViT's weights, or a baseline's name.
    """

    name: str
    published: str | None
    made_of: RandomWeights | Checkpoint | Baseline

    @property
    def is_trained(self) -> bool:
        """Whether its weights are a checkpoint's, and not random."""
        return isinstance(self.made_of, Checkpoint)


def levits(names: tuple[str, ...], load: Load) -> list[Net]:
    """The LeViTs of these names, each once; all five variants where none is named.

    Args:
        names: variants, which get random weights, or whatever else a MODEL may be, which is loaded.

    Raises:
        RefusedError: no such model.
    """
    variants = {name.lower(): name for name in VARIANTS}
    nets: dict[str, Net] = {}
    for name in names or VARIANTS:
        variant = variants.get(name.lower())
        if variant is not None and not Path(name).exists():
            nets[variant] = Net(variant, variant, RandomWeights(VARIANTS[variant]))
        elif name not in nets:
            weights = load(name)
            nets[name] = Net(name, _published(weights.config), weights)
    return [*nets.values()]


def _published(config: LevitConfig) -> str | None:
    """The variant that the paper measured, which takes images of 224 pixels and tells 1000 classes apart."""
    name = variant_name(config)
    same = name is not None and replace(config, drop_path_rate=VARIANTS[name].drop_path_rate) == VARIANTS[name]
    return name if same else None


def baselines(names: str | None, nets: list[Net]) -> list[Net]:
    """The baselines to run beside some LeViTs.

    Args:
        names: separated by commas; None for those that the paper's claims compare these LeViTs with.

    Raises:
        UsageError: there is no such baseline.
    """
    if names is None:
        ours = {net.published for net in nets}
        wanted = {claim.slow for claim in CLAIMS if claim.fast in ours}
    else:
        wanted = {name.strip().lower().replace("-", "_") for name in names.split(",")}
    for name in sorted(wanted.difference(BASELINES)):
        raise UsageError(f"There is no baseline {name!r}", hint=f"there are {', '.join(BASELINES)}")
    return [Net(name, name if name in PUBLISHED else None, name) for name in BASELINES if name in wanted]


def require_torchvision() -> None:
    """Find out before any work that baselines cannot be built.

    Raises:
        RefusedError: torchvision is missing, or is another torch's.
    """
    try:
        import levit_cli.bench.baselines  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # RuntimeError: "operator torchvision::nms does not exist", of a torchvision built for another torch
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise RefusedError(
            "The baselines need torchvision, which does not import",
            why=reason,
            hint="install the torchvision that belongs to this torch (pip install --upgrade torch torchvision), "
            "or leave them out with --no-baselines",
        ) from error
