"""Describe what the predictions of a run depend on, for ``meta`` in json, table captions and the fingerprint."""

from dataclasses import asdict, dataclass
from typing import Any

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint, Evaluation
from levit_cli.choices import Decoding, Device, EngineName, Precision
from levit_cli.engines import EngineSpec
from levit_cli.images.resizers import ResizerName
from levit_cli.images.transforms import Transform
from levit_cli.predict.reader import Reader


@dataclass(frozen=True)
class ModelDescription:
    """The model of a run.

    Args:
        name: the name that the user gave.
        classes: the number of classes.
        sha256: the hash of the weight files; None if it is not needed, because hashing large files takes time.
        evaluation: the measured accuracy that the model's files report, if any.
        int8_sha256: identifies the int8 graph, if the predictions are computed with one.
    """

    name: str
    architecture: str
    classes: int
    temperature: float
    sha256: str | None = None
    evaluation: Evaluation | None = None
    int8_sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class RunDescription:
    """The model, its preprocessing, and the engine that computes the predictions.

    Args:
        min_prob: the threshold of the run; None if predictions are not judged.
    """

    model: ModelDescription
    transform: Transform
    decode: Decoding
    resizer: ResizerName
    engine: EngineName
    device: Device
    precision: Precision
    threads: int
    top_k: int
    version: str = __version__
    min_prob: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the ``meta`` object of the JSON output."""
        return {
            "version": self.version,
            "model": self.model.as_json(),
            "preprocessing": {**asdict(self.transform), "decode": self.decode, "resizer": self.resizer},
            "engine": self.engine,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "top_k": self.top_k,
            **({} if self.min_prob is None else {"min_prob": self.min_prob}),
        }


def describe_run(
    checkpoint: Checkpoint,
    spec: EngineSpec,
    reader: Reader,
    top_k: int,
    *,
    with_hash: bool,
    min_prob: float | None = None,
) -> RunDescription:
    """Return the description of a run.

    Args:
        spec: the engine's settings, with ``auto`` values resolved.
        with_hash: include the hash of the weight files.
        min_prob: the threshold of the run.
    """
    model = ModelDescription(
        checkpoint.origin, checkpoint.architecture, checkpoint.config.num_classes, checkpoint.temperature,
        checkpoint.sha256 if with_hash else None, checkpoint.evaluation,
        checkpoint.int8.sha256 if checkpoint.int8 and spec.precision == "int8" else None,
    )  # fmt: skip
    return RunDescription(
        model, checkpoint.transform, reader.decoding, reader.resizer.name,
        spec.engine, spec.device, spec.precision, spec.threads, top_k, min_prob=min_prob,
    )  # fmt: skip
