"""``load``: any format from anywhere, as one ``Checkpoint``."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from levit_cli.checkpoints.detect import Translation, translate
from levit_cli.checkpoints.metadata import read_metadata
from levit_cli.checkpoints.metadata_parts import Evaluation, Metadata
from levit_cli.checkpoints.weights import WEIGHT_SUFFIXES, Weights, read_weights, sha256_of, unwrap, weight_files
from levit_cli.choices import CheckpointFormat, Dtype, PreprocessingName
from levit_cli.data import labels as label_sets
from levit_cli.data.inputs import is_url
from levit_cli.data.labels import Labels
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig, variant_name

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent.parent / "assets" / "demo"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model.

    Args:
        labels: one name a class.
        preprocessing: how it wants its images.
        state: float32 arrays of the training form, by our names.
        format: of the file.
        dtype: the type in which the file stored its weights.
        origin: what the user called it.
        files: the weight files that were read.
        translation: what became of the file's keys.
        notes: what else was noticed, for ``--verbose`` and ``info``.
        evaluation: its measured accuracy, where the files tell.
        temperature: what its logits are divided by before the softmax, for probabilities that can be believed.
    """

    config: LevitConfig
    labels: Labels
    transform: Transform
    state: Mapping[str, NDArray[Any]]
    format: CheckpointFormat
    dtype: Dtype
    origin: str
    files: tuple[Path, ...]
    translation: Translation
    notes: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    temperature: float = 1.0

    @cached_property
    def sha256(self) -> str:
        """Of the weight file; of all shards one after another where it is sharded."""
        try:
            return sha256_of(*self.files)
        except OSError as error:
            raise RefusedError(f"Cannot read {self.files[0]}", why=error.strerror or str(error)) from error

    @property
    def architecture(self) -> str:
        """The published variant of these widths, or that it is none."""
        return variant_name(self.config) or "LeViT of its own widths"


def load(
    source: str | Path,
    *,
    preprocessing: PreprocessingName | None = None,
    labels: Path | None = None,
    ema: bool = False,
    offline: bool = False,
    sha256: str | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """Load a model by name, path, hub id or address.

    Args:
        source: a variant's name, ``demo``, ``owner/name@revision``, a path, or an https address of a weight file.
        preprocessing: a published preprocessing instead of the checkpoint's own.
        labels: a file of class names instead of the checkpoint's own.
        ema: take the moving average out of one of Meta's training checkpoints.
        offline: never touch the network.
        sha256: what an address must hash to, where its name does not tell.
        warn: told what the user should know though it is no error.

    Raises:
        RefusedError: not to be found, not a LeViT, damaged, or more than weights.
        UnreachableError: on the hub, which does not answer, and not cached.
    """
    path = _locate(str(source), offline, sha256, warn)
    files = weight_files(path)
    weights = unwrap(_read_all(files, ema))
    metadata = (
        read_metadata(files[0].parent, with_transform=preprocessing is None) if _has_own_metadata(path) else Metadata()
    )
    translation = translate(
        weights.arrays, path, image_size=metadata.image_size, drop_path_rate=metadata.drop_path_rate
    )
    config = translation.config
    return Checkpoint(
        config=config,
        labels=_labels(config, metadata, labels, str(source)),
        transform=_transform(translation, metadata, preprocessing),
        state=translation.state,
        format=translation.format,
        dtype=weights.dtype,
        origin=str(source),
        files=files,
        translation=translation,
        notes=weights.notes,
        evaluation=metadata.evaluation,
        temperature=metadata.temperature,
    )


def own_folder(source: str) -> Path | None:
    """The local folder that a source names as a model and that is the user's to change; None for all other sources."""
    path = Path(source).expanduser()
    if source == DEMO and not any(path.glob("*.safetensors")):
        return None
    return path if path.is_dir() and not path.samefile(DEMO_FOLDER) else None


def _locate(source: str, offline: bool, sha256: str | None, warn: Callable[[str], None]) -> Path:
    """The local path of a source, fetched first if it must be. A local model never touches the network."""
    try:
        path = Path(source).expanduser()
        if path.is_file() or (path.is_dir() and (source != DEMO or any(path.glob("*.safetensors")))):
            return path
    except (OSError, RuntimeError) as error:  # a name too long for a file, the home of nobody
        raise RefusedError(f"Unknown model {source[:100]}", why=str(error)[:200]) from error
    if source == DEMO:
        return DEMO_FOLDER
    if is_url(source):
        from levit_cli.checkpoints import url as address

        return address.fetch(source, sha256, offline=offline)
    from levit_cli.checkpoints import hub

    hub_id = hub.parse(source)
    if hub_id is None or path.suffix in WEIGHT_SUFFIXES:
        raise RefusedError(
            f"Unknown model {source}",
            why="no such file or folder, and neither a name nor a hub id",
            hint=f"names are {', '.join(VARIANTS)} and {DEMO}; a hub id is owner/name",
        )
    return hub.fetch(hub_id, warn, offline=offline)


def _read_all(files: tuple[Path, ...], ema: bool) -> Weights:
    parts = [read_weights(file, ema=ema) for file in files]
    if len(parts) == 1:
        return parts[0]
    dtypes = {part.dtype for part in parts}
    twice = sorted(name for name, count in Counter(name for part in parts for name in part.arrays).items() if count > 1)
    if twice:
        raise RefusedError(f"The shards of {files[0].parent} hold {len(twice)} tensors twice", why=", ".join(twice[:5]))
    return Weights(
        {name: array for part in parts for name, array in part.arrays.items()},
        dtypes.pop() if len(dtypes) == 1 else "float32",
        tuple(note for part in parts for note in part.notes),
    )


def _has_own_metadata(path: Path) -> bool:
    """Whether the JSON files beside these weights are theirs: in a folder, or under the one name they have there."""
    return path.is_dir() or path.name.split(".")[0] in ("model", "pytorch_model")


def _labels(config: LevitConfig, metadata: Metadata, file: Path | None, source: str) -> Labels:
    if file is not None:
        return label_sets.require_length(label_sets.read_labels(file), config.num_classes, str(file))
    if metadata.labels is not None:
        return label_sets.require_length(metadata.labels, config.num_classes, f"The configuration of {source}")
    imagenet = label_sets.imagenet1k()
    return imagenet if len(imagenet) == config.num_classes else label_sets.numbered(config.num_classes)


def _transform(translation: Translation, metadata: Metadata, name: PreprocessingName | None) -> Transform:
    size = translation.config.image_size
    transform = metadata.transform if name is None else None
    transform = transform or transform_for(name or translation.format, size)
    if transform.crop_size != size:
        raise RefusedError(
            f"The checkpoint takes images of {size} pixels, its preprocessing makes {transform.crop_size}",
            hint="name a preprocessing with --preprocessing",
        )
    return transform
