"""Convert a checkpoint for ``levit convert-checkpoint``, and verify that the result gives the same logits."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from levit_cli.checkpoints import Checkpoint, load, save
from levit_cli.choices import CheckpointFormat, Dtype
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.errors import RefusedError, UsageError
from levit_cli.system.atomic import same_file
from levit_cli.system.output import require_free

VERIFICATION_IMAGES = 8
VERIFICATION_SEED = 2021
# Maximum difference of the logits relative to the largest logit. It allows for the rounding of the weights to each
# type. A wrong name or a wrong order of rows would cause a difference as large as the logits themselves.
TOLERANCE = {"float32": 1e-5, "float16": 0.05, "bfloat16": 0.3}


@dataclass(frozen=True)
class Report:
    """What was converted, and by how much the logits of source and result differ.

    Args:
        logit_difference: largest absolute difference over ``VERIFICATION_IMAGES`` noise images and all classes.
        logit_scale: largest absolute logit of the source.
    """

    source: Checkpoint
    result: Checkpoint
    files: tuple[Path, ...]
    logit_difference: float
    logit_scale: float

    def as_text(self) -> str:
        """Return the report as lines of text."""
        conversion, transform = self.source.conversion, self.source.transform
        not_stored = "not stored (a weight file has no metadata)"
        lines = [
            f"source        {self.source.origin} ({self.source.format}, {self.source.dtype})",
            f"architecture  {self.source.architecture}",
            f"result        {self.files[0]} ({self.result.format}, {self.result.dtype})",
            f"mapped        {conversion.mapped} tensors",
            f"derived       {_count(conversion.derived)}",
            f"dropped       {_count(conversion.dropped)}",
            "unmapped      0",
            f"labels        {self._labels_kept(not_stored)}",
            f"preprocessing {'kept' if self.result.transform == transform else not_stored}",
            f"verification  logits differ by at most {self.logit_difference:.3g} "
            f"on {VERIFICATION_IMAGES} random images (largest logit: {self.logit_scale:.3g})",
        ]
        lines[4:4] = [f"note          {note}" for note in self.source.notes]
        return "\n".join(lines) + "\n"

    def _labels_kept(self, not_stored: str) -> str:
        if self.source.labels.generated:
            return "none (the source names no classes)"
        return "kept" if self.result.labels == self.source.labels else not_stored


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "0"


def with_shortest_edge(checkpoint: Checkpoint, pixels: int) -> Checkpoint:
    """Change the preprocessing of a checkpoint: resize the shortest edge to ``pixels`` before the crop."""
    transform = replace(checkpoint.transform, resize_to=(pixels, pixels))
    if transform == checkpoint.transform:
        return checkpoint
    return replace(without_threshold(checkpoint, "preprocessing"), transform=replace(transform, name="custom"))


def without_threshold(checkpoint: Checkpoint, changed: str) -> Checkpoint:
    """Return a checkpoint without its stored threshold, and with a note about it.

    Args:
        changed: what changes the probabilities that the threshold was chosen for.
    """
    if checkpoint.threshold is None:
        return checkpoint
    note = f"the stored threshold {checkpoint.threshold.min_prob:g} is dropped, because the {changed} is another one"
    return replace(checkpoint, threshold=None, notes=(*checkpoint.notes, note))


def convert(
    checkpoint: Checkpoint, path: Path, format: CheckpointFormat, dtype: Dtype | None = None, *, overwrite: bool = False
) -> Report:
    """Save a checkpoint in a format, load the result, and compare the logits of both.

    Args:
        path: a weight file or a folder; see ``checkpoints.save``.
        dtype: type of the stored weights; None keeps the type of the source.

    Raises:
        UsageError: the output exists, or is the source.
        RefusedError: the logits of the result differ from those of the source, or a weight does not fit ``dtype``.
        OutputError: the output cannot be written.
    """
    _require_other_folder(checkpoint, path)
    require_free(path, checkpoint.files, overwrite=overwrite, folder=True)
    if dtype not in (None, "float32", checkpoint.dtype):  # float32 holds every weight exactly
        checkpoint = without_threshold(checkpoint, "type of the weights")
    files = save(checkpoint, path, format, dtype)
    result = load(path)
    images = _verification_images(checkpoint)
    expected, actual = (_logits(model, images) for model in (checkpoint, result))
    report = Report(
        checkpoint, result, tuple(files), float(np.abs(actual - expected).max()), float(np.abs(expected).max())
    )
    if not report.logit_difference <= TOLERANCE[result.dtype] * max(report.logit_scale, 1.0):
        what = f"The logits of {path} differ from those of its source"
        raise RefusedError(
            what,
            why=f"the largest difference is {report.logit_difference:.3g}, the largest logit {report.logit_scale:.3g}",
            hint=f"do not use {path}" + ("" if result.dtype == "float32" else "; --dtype float32 is more precise"),
        )
    return report


def _require_other_folder(checkpoint: Checkpoint, path: Path) -> None:
    if any(same_file(str(file), str(path / "model.safetensors")) for file in checkpoint.files):
        raise UsageError(f"The output {path} is also the source", why="it was not changed", hint="choose another name")


def _verification_images(checkpoint: Checkpoint) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    shape = (VERIFICATION_IMAGES, *checkpoint.config.image_size, 3)
    return np.random.default_rng(VERIFICATION_SEED).integers(0, 256, shape, dtype=np.uint8)


def _logits(
    checkpoint: Checkpoint, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return make_engine(checkpoint, EngineSpec(device="cpu", engine="openvino", precision="fp32"))(images)
