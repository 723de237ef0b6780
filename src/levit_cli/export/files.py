"""The text files of an exported model: its labels, its preprocessing, and a script that uses it."""

import json
from importlib import resources
from string import Template
from typing import Any

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import ExportTarget
from levit_cli.images.transforms import Transform

GRAPHS: dict[ExportTarget, str] = {"onnx": "model.onnx", "openvino": "model.xml"}
SQUARE = """\
edge = FACTS["resize_to"][0]
    sizes = [int(edge * side / min(image.size)) for side in image.size]"""
RECTANGLE = """\
ratio = min(side / edge for side, edge in zip(image.size, FACTS["resize_to"][::-1]))
    sizes = [round(side / ratio) for side in image.size]"""
STARTS = {"floor": "(length - side) // 2", "half_even": "round((length - side) / 2)"}
RUNTIMES: dict[ExportTarget, dict[str, str]] = {
    "onnx": {
        "runtime": "onnxruntime",
        "package": "onnxruntime",
        "load": """\
SESSION = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])


def network(pixels):
    \"""Return the logits (B, classes) of pixels (B, H, W, 3).\"""
    return SESSION.run(None, {"pixels": pixels})[0]""",
    },
    "openvino": {
        "runtime": "OpenVINO",
        "package": "openvino",
        "load": """\
MODEL = openvino.Core().compile_model(HERE / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def network(pixels):
    \"""Return the logits (B, classes) of pixels (B, H, W, 3).\"""
    return MODEL({"pixels": pixels})["logits"]""",
    },
}


def text_files(checkpoint: Checkpoint, target: ExportTarget, facts: dict[str, Any]) -> dict[str, str]:
    """Return the contents of the text files by name."""
    wnids = {"wnids": checkpoint.labels.wnids} if checkpoint.labels.wnids else {}
    return {
        "labels.txt": "".join(f"{label_line(name)}\n" for name in checkpoint.labels.names),
        "preprocessing.json": _one_line_each({**facts, **wnids}),
        "predict.py": script(checkpoint.transform, target),
    }


def facts_of(checkpoint: Checkpoint, target: ExportTarget, version: dict[str, Any]) -> dict[str, Any]:
    """Return what a program that uses the exported graph has to know.

    Args:
        version: the version of the graph's format or of the library that wrote it.
    """
    transform, (height, width) = checkpoint.transform, checkpoint.config.image_size
    return {
        "graph": GRAPHS[target],
        "input": f"pixels: uint8 (batch, {height}, {width}, 3), RGB from 0 to 255",
        "output": f"logits: float32 (batch, {checkpoint.config.num_classes})",
        "resize_to": transform.resize_to,  # height, width
        "crop_size": transform.crop_size,
        "crop_rounding": transform.crop_rounding,
        "filter": transform.filter,
        "mean": transform.mean,
        "std": transform.std,
        "normalization": "done by the graph",
        "temperature": checkpoint.temperature,
        **({"min_prob": checkpoint.threshold.min_prob} if checkpoint.threshold else {}),
        "architecture": checkpoint.architecture,
        "weights_sha256": checkpoint.sha256,
        "levit": __version__,
        **version,
    }


def label_line(label: str) -> str:
    """Return a label as one line of text: itself, or a JSON string in quotation marks if it could be read wrongly."""
    is_plain = label and label.isprintable() and label == label.strip() and not label.startswith('"')
    return label if is_plain else json.dumps(label)


def script(transform: Transform, target: ExportTarget) -> str:
    """Return ``predict.py`` for a preprocessing and a runtime."""
    text = resources.files("levit_cli").joinpath("assets/export_predict.py.in").read_text(encoding="utf-8")
    height, width = transform.resize_to
    resize = SQUARE if height == width else RECTANGLE
    return Template(text).substitute(RUNTIMES[target], resize=resize, start=STARTS[transform.crop_rounding])


def _one_line_each(facts: dict[str, Any]) -> str:
    """Return JSON with one line for each key."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
