"""What a loaded model is, whatever it was loaded from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from levit_cli.checkpoints.detect import Translation
from levit_cli.checkpoints.metadata_parts import Evaluation
from levit_cli.checkpoints.weights import sha256_of
from levit_cli.choices import CheckpointFormat, Dtype
from levit_cli.data.labels import Labels
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform
from levit_cli.model.config import LevitConfig, variant_name


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
