"""Describe a checkpoint as JSON or text, for ``levit info``."""

import json
from dataclasses import asdict
from typing import Any

from levit_cli.checkpoints import Checkpoint
from levit_cli.errors import RefusedError
from levit_cli.model.tensors import count_folded_parameters, count_parameters
from levit_cli.system.cpu import has_int8_instructions
from levit_cli.system.text import count_noun

SHOWN_LABELS = 5


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe a checkpoint as a dict of JSON values."""
    config, conversion = checkpoint.config, checkpoint.conversion
    return {
        "model": checkpoint.origin,
        "architecture": checkpoint.architecture,
        "dialect": checkpoint.format,
        "files": [str(path) for path in checkpoint.files],
        "sha256": checkpoint.sha256,
        "dtype": checkpoint.dtype,
        "config": asdict(config),
        "parameters": count_parameters(config),
        "parameters_folded": count_folded_parameters(config),
        "macs": config.macs,
        "preprocessing": asdict(checkpoint.transform),
        "labels": {"count": len(checkpoint.labels), "first": list(checkpoint.labels.names[:SHOWN_LABELS])},
        "evaluation": asdict(checkpoint.evaluation) if checkpoint.evaluation else None,
        "temperature": checkpoint.temperature,
        "threshold": asdict(checkpoint.threshold) if checkpoint.threshold else None,
        "int8": _int8(checkpoint),
        "tensors": {
            "mapped": conversion.mapped,
            "derived": list(conversion.derived),
            "dropped": list(conversion.dropped),
        },
        "notes": list(checkpoint.notes),
    }


def _int8(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Describe the int8 graph of a folder that ``levit quantize`` made.

    ``problem`` tells why it cannot be run. ``is_default`` is whether this CPU runs it without ``--precision int8``.
    """
    graph = checkpoint.int8
    if graph is None:
        return None
    from importlib.metadata import version

    try:
        made = graph.description.as_json()
    except RefusedError as error:
        return {"problem": error.why, "is_default": False}
    problem = graph.problem(version("openvino"))
    if not problem and not graph.matches(checkpoint.config, checkpoint.transform):
        problem = graph.other_preprocessing().why
    return {**made, "problem": problem or None, "is_default": not problem and has_int8_instructions()}


def as_json(facts: dict[str, Any]) -> str:
    """Return the facts as an indented JSON object."""
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def as_text(facts: dict[str, Any]) -> str:
    """Return the facts as text, one per line."""
    config, transform, tensors = facts["config"], facts["preprocessing"], facts["tensors"]
    evaluation, labels = facts["evaluation"], facts["labels"]
    rows = {
        "model": facts["model"],
        "architecture": facts["architecture"],
        "widths": _list(config["hidden_sizes"]),
        "key dims": _list(config["key_dims"]),
        "heads": _list(config["num_heads"]),
        "depths": _list(config["depths"]),
        "image size": "{} x {} px".format(*config["image_size"]),
        "classes": f"{labels['count']}: {', '.join(labels['first'])}{', …' if labels['count'] > SHOWN_LABELS else ''}",
        "outputs": "two heads, averaged" if config["distilled"] else "one head",
        "parameters": f"{facts['parameters']:,} ({facts['parameters_folded']:,} folded)",
        "MACs": f"{facts['macs']:,}",
        "preprocessing": (
            f"{transform['name']}: resize to cover {_size(transform['resize_to'])} ({transform['filter']}), "
            f"crop {_size(transform['crop_size'])} ({transform['crop_rounding']})"
        ),
        "accuracy": (
            f"top-1 {evaluation['top1']:.4f} on {count_noun(evaluation['images'], 'image')} of {evaluation['dataset']}"
            if evaluation
            else "not stated in the metadata"
        ),
        "temperature": f"{facts['temperature']:.4g}{' (divides the logits)' if facts['temperature'] != 1 else ''}",
        **_threshold_rows(facts["threshold"]),
        **_int8_rows(facts["int8"]),
        "format": f"{facts['dialect']}, {facts['dtype']}",
        "tensors": (
            f"{tensors['mapped']} mapped, {len(tensors['derived'])} derived, "
            f"{len(tensors['dropped'])} dropped on purpose"
        ),
        "files": ", ".join(facts["files"]),
        "SHA-256": facts["sha256"],
    }
    rows |= {f"note {number}": note for number, note in enumerate(facts["notes"], start=1)}
    return "".join(f"{name:<14} {value}\n" for name, value in rows.items())


def _threshold_rows(threshold: dict[str, Any] | None) -> dict[str, str]:
    if threshold is None:
        return {}
    measured = f"{threshold['correct']:,} of {count_noun(threshold['accepted'], 'accepted image')} correct"
    target = f"chosen for an accuracy of {threshold['target_accuracy']:g}"
    return {"threshold": f"{threshold['min_prob']:g} ({target}; {measured})"}


def _int8_rows(int8: dict[str, Any] | None) -> dict[str, str]:
    if int8 is None:
        return {}
    if int8["problem"]:
        return {"int8": f"cannot be run: {int8['problem']}"}
    used = "is the default on this CPU" if int8["is_default"] else "runs with --precision int8"
    gate = int8["gate"]
    top1 = (
        ""
        if gate["top1_after"] is None
        else f"top-1 {gate['top1_before']:.4f} in fp32, {gate['top1_after']:.4f} in int8; "
    )
    measured = f"{top1}same first class on {100 * gate['agreement']:.2f} % of {count_noun(gate['images'], 'image')}"
    return {"int8": f"{used}; {measured}"}


def _list(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def _size(size: Any) -> str:
    height, width = size
    return f"{height} x {width} px"
