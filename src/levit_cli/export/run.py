"""``levit export``: write a model for another runtime and prove that it answers like the original."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import ExportTarget, PreprocessingName
from levit_cli.errors import GateError, RefusedError, UsageError
from levit_cli.export.files import GRAPHS, facts_of, text_files
from levit_cli.export.proof import TOLERANCE, Pixels, largest_difference, proof_images
from levit_cli.export.reference import reference_logits
from levit_cli.model.folded import fold
from levit_cli.system.atomic import writing
from levit_cli.system.extras import require_extra
from levit_cli.system.new_folder import new_folder, require_new

Weights = dict[str, NDArray[Any]]
NEEDS_TORCH = "it resizes with torch, which the script of an exported model does not use"
USE_HF = "use --preprocessing hf, which resizes with Pillow"


@dataclass(frozen=True)
class Report:
    """What was exported, and how well it agrees with the original.

    Args:
        num_images: images of the proof.
        difference: largest difference of a probability.
    """

    graph: Path
    kind: str
    num_images: int
    difference: float

    def as_text(self) -> str:
        """Return the report as one line."""
        return (
            f"{self.graph}: {self.kind}, probabilities differ by at most {self.difference:.2g} "
            f"on {self.num_images} images (limit {TOLERANCE:g})\n"
        )


def export(checkpoint: Checkpoint, output: Path, target: ExportTarget) -> Report:
    """Export a checkpoint to a new folder.

    Raises:
        UsageError: the folder exists, or a package is missing.
        RefusedError: the preprocessing needs torch, or the weights do not fit in one file.
        GateError: the exported graph computes other probabilities.
        OutputError: the folder cannot be written.
    """
    require_exportable(checkpoint)
    graph_of = _onnx_graph if target == "onnx" else _openvino_graph
    graph = graph_of(checkpoint, fold(checkpoint.state, checkpoint.config))
    path = output / GRAPHS[target]
    with new_folder(output) as folder:
        with writing(path):
            graph.write(folder / GRAPHS[target])
        pixels = proof_images(*checkpoint.config.image_size)
        reference = reference_logits(graph.weights, checkpoint.config, checkpoint.transform, pixels)
        with writing(path):  # the graph is read back
            difference = largest_difference(
                lambda batches: graph.run(folder / GRAPHS[target], batches), pixels, reference, checkpoint.temperature
            )
        if not difference <= TOLERANCE:
            raise _unequal(checkpoint, graph.kind, difference)
        for name, text in text_files(checkpoint, target, graph.facts).items():
            with writing(output / name):
                (folder / name).write_bytes(text.encode())
    return Report(path, graph.kind, len(pixels), difference)


def require_possible(output: Path, target: ExportTarget, preprocessing: PreprocessingName | None) -> None:
    """Check what is known without the model.

    Raises:
        UsageError: the folder exists, a package is missing, or the preprocessing needs torch.
        OutputError: the folder cannot be created.
    """
    require_new(output)
    if preprocessing == "hf-tensor":
        raise UsageError("The preprocessing hf-tensor cannot be exported", why=NEEDS_TORCH, hint=USE_HF)
    if target == "onnx":
        require_extra("export", "Exporting to ONNX", otherwise="use --to openvino, which needs no extra")


def require_exportable(checkpoint: Checkpoint) -> None:
    """Check the preprocessing.

    Raises:
        RefusedError: it resizes with torch, which the script beside an exported model does not have.
    """
    if checkpoint.transform.resizer == "torch":
        raise RefusedError(
            f"The preprocessing {checkpoint.transform.name} of {checkpoint.origin} cannot be exported",
            why=NEEDS_TORCH,
            hint=USE_HF,
        )


def _unequal(checkpoint: Checkpoint, kind: str, difference: float) -> GateError:
    found = "a probability is not a number" if np.isnan(difference) else f"a probability differs by {difference:.2g}"
    return GateError(
        f"The exported model ({kind}) does not answer like {checkpoint.origin}",
        why=f"on fixed images {found}; the limit is {TOLERANCE:g}",
        hint="nothing was written",
    )


@dataclass(frozen=True)
class _Graph:
    """A graph that can be written and run in its runtime."""

    kind: str
    weights: Weights
    facts: dict[str, Any]
    write: Callable[[Path], None]
    run: Callable[[Path, Sequence[Pixels]], Sequence[NDArray[np.float32]]]


def _onnx_graph(checkpoint: Checkpoint, weights: Weights) -> _Graph:
    from levit_cli.export import onnx_graph

    facts = facts_of(checkpoint, "onnx", {"onnx_opset": onnx_graph.OPSET})
    model = onnx_graph.build_graph(weights, checkpoint.config, checkpoint.transform, _as_texts(facts))
    kind = f"ONNX, opset {onnx_graph.OPSET}"
    return _Graph(kind, weights, facts, lambda path: onnx_graph.write_onnx(path, model), onnx_graph.run_onnx)


def _openvino_graph(checkpoint: Checkpoint, weights: Weights) -> _Graph:
    from levit_cli.export import openvino_ir

    facts = facts_of(checkpoint, "openvino", {})
    graph = openvino_ir.named_graph(weights, checkpoint.config, checkpoint.transform, _as_texts(facts))
    return _Graph("OpenVINO IR", weights, facts, lambda path: openvino_ir.write_ir(path, graph), openvino_ir.run_ir)


def _as_texts(facts: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
