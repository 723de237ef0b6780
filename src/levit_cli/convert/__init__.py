"""Translating a checkpoint and proving that nothing was lost: both sides classify the same images."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from levit_cli.checkpoints import Checkpoint, load, save
from levit_cli.choices import CheckpointFormat, Dtype
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.errors import RefusedError, UsageError
from levit_cli.system.atomic import same_file
from levit_cli.system.output import require_free

PROOF_IMAGES = 8
PROOF_SEED = 2021
# What half a unit in the last place of each type, carried through the network, may do to the logits. A slip in a name
# or in an order of rows shows as a difference of the logits' own size.
TOLERANCE = {"float32": 1e-5, "float16": 0.05, "bfloat16": 0.3}


@dataclass(frozen=True)
class Report:
    """What a conversion did, tensor by tensor, and how far the logits moved.

    Args:
        logit_difference: the largest, over ``PROOF_IMAGES`` images of noise and all classes.
        logit_scale: the largest logit of the source, to compare with.
    """

    source: Checkpoint
    result: Checkpoint
    files: tuple[Path, ...]
    logit_difference: float
    logit_scale: float

    def as_text(self) -> str:
        """Lines for people."""
        translation, transform, names = self.source.translation, self.source.transform, self.source.labels
        lines = [
            f"source        {self.source.origin} ({self.source.format}, {self.source.dtype})",
            f"architecture  {self.source.architecture}",
            f"result        {self.files[0]} ({self.result.format}, {self.result.dtype})",
            f"mapped        {translation.mapped} tensors",
            f"derived       {_count(translation.derived)}",
            f"dropped       {_count(translation.dropped)}",
            "left over     0",
            f"labels        {'kept' if self.result.labels == names else 'no place for them in this layout'}",
            f"preprocessing {'kept' if self.result.transform == transform else 'no place for it in this layout'}",
            f"proof         logits differ by at most {self.logit_difference:.3g} (of {self.logit_scale:.3g}) "
            f"on {PROOF_IMAGES} fixed images",
        ]
        lines[4:4] = [f"note          {note}" for note in self.source.notes]
        return "\n".join(lines) + "\n"


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "0"


def with_shortest_edge(checkpoint: Checkpoint, pixels: int) -> Checkpoint:
    """The checkpoint with images resized to cover this many pixels a side before the crop."""
    transform = replace(checkpoint.transform, resize_to=(pixels, pixels))
    return replace(
        checkpoint, transform=transform if transform == checkpoint.transform else replace(transform, name="custom")
    )


def convert(
    checkpoint: Checkpoint, path: Path, format: CheckpointFormat, dtype: Dtype | None = None, *, overwrite: bool = False
) -> Report:
    """Save a checkpoint in a format, load what was written, and compare the logits of both.

    Raises:
        UsageError: the output exists, or is the source.
        RefusedError: the result does not give the source's logits.
        OutputError: the disk does not take it.
    """
    _require_other_folder(checkpoint, path)
    require_free(path, checkpoint.files, overwrite=overwrite, folder=True)
    files = save(checkpoint, path, format, dtype)
    result = load(path)
    images = _proof_images(checkpoint)
    expected, found = (_logits(side, images) for side in (checkpoint, result))
    report = Report(
        checkpoint, result, tuple(files), float(np.abs(found - expected).max()), float(np.abs(expected).max())
    )
    if not report.logit_difference <= TOLERANCE[result.dtype] * max(report.logit_scale, 1.0):
        raise RefusedError(
            f"{path} does not answer like its source", why=f"logits differ by {report.logit_difference:.3g}"
        )
    return report


def _require_other_folder(checkpoint: Checkpoint, path: Path) -> None:
    if any(same_file(str(file), str(path / "model.safetensors")) for file in checkpoint.files):
        raise UsageError(f"The output {path} is also an input", why="it was not touched")


def _proof_images(checkpoint: Checkpoint) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    shape = (PROOF_IMAGES, *checkpoint.config.image_size, 3)
    return np.random.default_rng(PROOF_SEED).integers(0, 256, shape, dtype=np.uint8)


def _logits(
    checkpoint: Checkpoint, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return make_engine(checkpoint, EngineSpec(device="cpu", engine="openvino", precision="fp32"))(images)
