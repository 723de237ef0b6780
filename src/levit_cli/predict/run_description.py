"""Describe what the predictions of a run depend on, for ``meta`` in json, table captions and the fingerprint."""

from dataclasses import asdict, dataclass
from typing import Any

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint, Evaluation
from levit_cli.choices import Decoding, Device, EngineName, Precision
from levit_cli.engines import EngineSpec
from levit_cli.images.transforms import Transform


@dataclass(frozen=True)
class ModelDescription:
    """The model of a run.

    Args:
        name: as given by the user.
        classes: number of classes.
        sha256: of the weight files; None if it is not needed, because hashing a large file takes time.
        evaluation: its measured accuracy, if its files have one.
    """

    name: str
    architecture: str
    classes: int
    temperature: float
    sha256: str | None = None
    evaluation: Evaluation | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class RunDescription:
    """The model, its preprocessing, and the engine that computes the predictions."""

    model: ModelDescription
    transform: Transform
    decode: Decoding
    engine: EngineName
    device: Device
    precision: Precision
    threads: int
    top_k: int
    version: str = __version__

    def as_json(self) -> dict[str, Any]:
        """The ``meta`` object of the json formats."""
        return {
            "version": self.version,
            "model": self.model.as_json(),
            "preprocessing": {**asdict(self.transform), "decode": self.decode},
            "engine": self.engine,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "top_k": self.top_k,
        }


def describe_run(
    checkpoint: Checkpoint, spec: EngineSpec, decoding: Decoding, top_k: int, *, with_hash: bool
) -> RunDescription:
    """Return the description of a run.

    Args:
        spec: of the engine, without ``auto`` values.
        with_hash: include the hash of the weight files.
    """
    model = ModelDescription(
        checkpoint.origin, checkpoint.architecture, checkpoint.config.num_classes, checkpoint.temperature,
        checkpoint.sha256 if with_hash else None, checkpoint.evaluation,
    )  # fmt: skip
    return RunDescription(
        model, checkpoint.transform, decoding, spec.engine, spec.device, spec.precision, spec.threads, top_k
    )
