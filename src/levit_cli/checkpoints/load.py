"""Load a model from any source in any supported format as a ``Checkpoint``."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from levit_cli.checkpoints.detect import StateDictConversion, convert_state_dict
from levit_cli.checkpoints.known import KnownWeights, Network
from levit_cli.checkpoints.metadata import read_metadata
from levit_cli.checkpoints.metadata_parts import CHOOSE_PREPROCESSING, Evaluation, Metadata, Threshold
from levit_cli.checkpoints.weights import (
    INT8_DESCRIPTION,
    WEIGHT_SUFFIXES,
    Weights,
    read_weights,
    sha256_of,
    unwrap,
    weight_files,
)
from levit_cli.choices import CheckpointFormat, Dtype, PreprocessingName
from levit_cli.data.inputs import is_url
from levit_cli.data.labels import Labels, imagenet1k, numbered, require_length
from levit_cli.errors import RefusedError, UsageError, raise_faults, reason_of
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig, variant_name
from levit_cli.system.cache import FolderCache
from levit_cli.system.text import count_noun

if TYPE_CHECKING:
    from levit_cli.checkpoints.quantized import QuantizedGraph

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent.parent / "assets" / "demo"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model.

    Args:
        labels: one name per class.
        transform: preprocessing of the images.
        state: arrays of the training form by name (see ``model.tensors``): float32, counters int64.
        format: format of the weight file.
        dtype: floating-point type of the stored weights.
        origin: the source as the user named it.
        files: the weight files that were read.
        conversion: report on the conversion of the file's keys.
        notes: further remarks for ``--verbose`` and ``levit info``.
        evaluation: measured accuracy, if the metadata states it.
        temperature: the logits are divided by it before the softmax, so that the probabilities are well calibrated.
        threshold: the stored threshold, from which on predictions are accepted.
        known_sha256: the hash of the weight files if it is known from an earlier run, else empty.
        known: where facts about the weight files are stored.
        int8: the int8 graph of a folder that ``levit quantize`` made.
    """

    config: LevitConfig
    labels: Labels
    transform: Transform
    state: Mapping[str, NDArray[Any]]
    format: CheckpointFormat
    dtype: Dtype
    origin: str
    files: tuple[Path, ...]
    conversion: StateDictConversion
    notes: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    temperature: float = 1.0
    threshold: Threshold | None = None
    known_sha256: str = ""
    known: KnownWeights | None = field(default=None, repr=False, compare=False)
    int8: "QuantizedGraph | None" = None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weight file, or of all shards in order."""
        if self.known_sha256:
            return self.known_sha256
        try:
            digest = sha256_of(*self.files)
        except OSError as error:
            raise RefusedError(f"Cannot read {self.files[0]}", why=reason_of(error)) from error
        if self.known is not None:
            self.known.require_unchanged()
        return digest

    def remember(self) -> None:
        """Store the facts about the weight files, unless they came from the cache."""
        if self.known is not None and not self.known_sha256:
            self.known.store(Network(self.conversion, self.dtype, self.notes, self.sha256))

    @property
    def architecture(self) -> str:
        """Name of the published variant, or "custom LeViT"."""
        return variant_name(self.config) or "custom LeViT"


def load(
    source: str | Path,
    *,
    preprocessing: PreprocessingName | None = None,
    labels: Path | None = None,
    ema: bool = False,
    offline: bool = False,
    sha256: str | None = None,
    cache: FolderCache | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """Load a model by name, path, hub id or URL.

    Args:
        source: a variant name, ``demo``, ``owner/name@revision``, a path, or the https URL of a weight file.
        preprocessing: name of a published preprocessing that replaces the checkpoint's own.
        labels: file of class names that replace the checkpoint's own.
        ema: load the exponential moving average (EMA) of the weights from a training checkpoint.
        offline: do not use the network.
        sha256: expected hash of the file at a URL. Required if the file name does not contain the hash.
        cache: storage for facts about weight files; the weights of a known file are read only if they are needed.
        warn: called with each warning message.

    Raises:
        RefusedError: the source does not exist, is not a LeViT or is damaged, or loading it could run code.
        UnreachableError: the hub or the URL cannot be reached and the model is not cached.
        UsageError: an environment variable of the hub client is invalid, or a hash is given and the source is no URL.
        OutputError: the cache cannot be written.
    """
    raise_faults(unused_hash(str(source), sha256))
    path = _locate(str(source), offline, sha256, warn)
    files = weight_files(path)
    metadata = (
        read_metadata(files[0].parent, with_transform=preprocessing is None) if _has_own_metadata(path) else Metadata()
    )
    read = partial(_read_network, files, path, metadata, ema)
    known = KnownWeights(cache, files, (metadata.image_size, metadata.drop_path_rate, ema)) if cache else None
    network = (known.recall(read) if known else None) or read()
    conversion, config = network.conversion, network.conversion.config
    return Checkpoint(
        config=config,
        labels=_labels(config, metadata, labels, str(source)),
        transform=_transform(conversion, metadata, preprocessing),
        state=conversion.state,
        format=conversion.format,
        dtype=network.dtype,
        origin=str(source),
        files=files,
        conversion=conversion,
        notes=network.notes,
        evaluation=metadata.evaluation,
        temperature=metadata.temperature,
        threshold=_valid_threshold(metadata, warn, is_changed=preprocessing is not None or ema),
        known_sha256=network.sha256,
        known=known,
        int8=_int8_graph(path),
    )


def _read_network(files: tuple[Path, ...], path: Path, metadata: Metadata, ema: bool) -> Network:
    weights = unwrap(_read_all(files, ema))
    try:
        conversion = convert_state_dict(
            weights.arrays, path, image_size=metadata.image_size, drop_path_rate=metadata.drop_path_rate
        )
        return Network(conversion, weights.dtype, weights.notes)
    except RefusedError as error:  # what was skipped may be the reason
        hint = "; ".join(part for part in (error.hint, *weights.notes) if part)
        raise RefusedError(error.what, why=error.why, hint=hint) from error


def unused_hash(source: str, sha256: str | None) -> list[UsageError]:
    """Return the fault of an expected hash that would not be compared with anything; no fault for a URL."""
    if sha256 is None or is_url(source):
        return []
    return [UsageError(
        f"--sha256 has no effect on the model {source}",
        why="it is the expected hash of a model at a URL",
        hint="leave it out; levit info shows the hash of a model",
    )]  # fmt: skip


def own_folder(source: str) -> Path | None:
    """Return ``source`` as a path if it is a local model folder of the user, which may be modified; otherwise None."""
    path = Path(source).expanduser()
    if source == DEMO and not any(path.glob("*.safetensors")):
        return None
    return path if path.is_dir() and not path.samefile(DEMO_FOLDER) else None


def _locate(source: str, offline: bool, sha256: str | None, warn: Callable[[str], None]) -> Path:
    """Return the local path of a source and download it if necessary. A local model never uses the network."""
    try:
        path = Path(source).expanduser()
        if path.is_file() or (path.is_dir() and (source != DEMO or any(path.glob("*.safetensors")))):
            return path
    except (OSError, RuntimeError) as error:  # the file name is too long, or ~user does not exist
        raise RefusedError(f"Unknown model {source[:100]}", why=str(error)[:200]) from error
    if source == DEMO:
        return DEMO_FOLDER
    if is_url(source):
        from levit_cli.checkpoints import url

        return url.fetch(source, sha256, offline=offline)
    from levit_cli.checkpoints import hub

    hub_id = hub.parse(source)
    if hub_id is None or path.suffix in WEIGHT_SUFFIXES:
        raise RefusedError(
            f"Unknown model {source}",
            why="it is not a file, a folder, a variant name or a hub id",
            hint=f"names are {', '.join(VARIANTS)} and {DEMO}; a hub id is owner/name[@rev]",
        )
    return hub.fetch(hub_id, warn, offline=offline)


def _read_all(files: tuple[Path, ...], ema: bool) -> Weights:
    parts = [read_weights(file, ema=ema) for file in files]
    if len(parts) == 1:
        return parts[0]
    dtypes = {part.dtype for part in parts}
    counts = Counter(name for part in parts for name in part.arrays)
    if duplicates := sorted(name for name, count in counts.items() if count > 1):
        raise RefusedError(
            f"The shards in {files[0].parent} contain {count_noun(len(duplicates), 'duplicate tensor')}",
            why=", ".join(duplicates[:5]),
        )
    return Weights(
        {name: array for part in parts for name, array in part.arrays.items()},
        dtypes.pop() if len(dtypes) == 1 else "float32",
        tuple(note for part in parts for note in part.notes),
    )


def _has_own_metadata(path: Path) -> bool:
    """Return whether the JSON files in the same folder belong to these weights.

    They do if ``path`` is a model folder, or a weight file with the standard name inside one.
    """
    return path.is_dir() or path.name.split(".")[0] in ("model", "pytorch_model")


def _int8_graph(path: Path) -> "QuantizedGraph | None":
    """Return the int8 graph of a model folder, if it has one. A weight file in the folder has none."""
    if not (path.is_dir() and (path / INT8_DESCRIPTION).is_file()):
        return None
    from levit_cli.checkpoints.quantized import QuantizedGraph  # most models have none

    return QuantizedGraph(path)


def _labels(config: LevitConfig, metadata: Metadata, file: Path | None, source: str) -> Labels:
    if file is not None:
        from levit_cli.data.label_files import read_labels  # most runs have no label file

        return require_length(read_labels(file), config.num_classes, str(file))
    if metadata.labels is not None:
        return require_length(metadata.labels, config.num_classes, f"The metadata of {source}")
    imagenet = imagenet1k()
    return imagenet if len(imagenet) == config.num_classes else numbered(config.num_classes)


def _valid_threshold(metadata: Metadata, warn: Callable[[str], None], *, is_changed: bool) -> Threshold | None:
    """Return the stored threshold, unless other probabilities are computed than those that it was chosen for.

    Args:
        is_changed: the preprocessing or the weights are not those that the model's files name.
    """
    if metadata.threshold is None or not is_changed:
        return metadata.threshold
    warn(
        f"The stored threshold {metadata.threshold.min_prob:g} is not used · it was chosen with the model's own "
        "preprocessing and weights"
    )
    return None


def _transform(conversion: StateDictConversion, metadata: Metadata, name: PreprocessingName | None) -> Transform:
    size = conversion.config.image_size
    transform = metadata.transform if name is None else None
    transform = transform or transform_for(name or conversion.format, size)
    if transform.crop_size != size:
        raise RefusedError(
            f"The checkpoint expects images of {size[0]} x {size[1]} px, "
            f"but its preprocessing returns {transform.crop_size[0]} x {transform.crop_size[1]} px",
            hint=CHOOSE_PREPROCESSING,
        )
    return transform
