"""Find options of ``levit finetune`` that contradict each other, or that would be ignored because of another one."""

import os
from collections.abc import Mapping
from typing import Any

from levit_cli.model.config import VARIANTS

NETWORK_SUFFIXES = (".onnx", ".xml")  # of a teacher that OpenVINO runs
TEACHER_OPTIONS = ("teacher_weights", "teacher_size", "distill", "alpha", "distill_temperature")


def option(name: str) -> str:
    """Return the option of a setting, such as ``--batch-size``."""
    return f"--{name.replace('_', '-')}"


def conflicts(given: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each option that contradicts another one or would be ignored because of it.

    Args:
        given: the options of the command line.
        values: all settings, by field of ``Settings``.
    """
    lr, min_lr, warmup, epochs = (
        float(values[name]) for name in ("learning_rate", "min_lr", "warmup_epochs", "epochs")
    )
    checks = (
        ({"model", "from_scratch"} <= given.keys(), "--model and --from-scratch contradict each other"),
        ("clip_mode" in given and values["clip_grad"] == 0, "--clip-mode has no effect with --clip-grad 0"),
        (
            bool({"min_lr", "learning_rate"} & given.keys()) and 0 < lr < min_lr,
            f"--min-lr {min_lr:g} is larger than --learning-rate {lr:g}",
        ),
        (
            "warmup_epochs" in given and warmup > epochs,
            f"--warmup-epochs {warmup:g} is larger than --epochs {epochs:g}",
        ),
        (
            "patience" in given and values["patience"] >= epochs,
            f"--patience {values['patience']} has no effect with --epochs {epochs:g}",
        ),
        (
            values["class_weights"] == values["sampler"] == "balanced",
            "--class-weights balanced and --sampler balanced both balance the classes: use one of them",
        ),
    )
    return [sentence for is_conflict, sentence in checks if is_conflict] + _teacher_conflicts(given, values)


def _teacher_conflicts(given: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    teacher, names = values["teacher"], [name for name in TEACHER_OPTIONS if name in given]
    if not teacher:
        needs = "needs" if len(names) == 1 else "need"
        return [f"{' and '.join(map(option, names))} {needs} --teacher"] if names else []
    faults = []
    if not _may_be_torchvision(teacher):
        torchvision_only = [name for name in ("teacher_weights", "teacher_size") if name in given]
        faults += [f"{option(name)} needs a torchvision network as --teacher" for name in torchvision_only]
    if "distill_temperature" in given and values["distill"] != "soft":
        faults.append("--distill-temperature needs --distill soft")
    if "alpha" in given and given["alpha"] == 0:
        faults.append("--alpha 0 leaves --teacher without effect")
    return faults


def _may_be_torchvision(teacher: str) -> bool:
    """Return whether the name of a teacher can be that of a torchvision network, which only torchvision knows."""
    is_ours = teacher in (*VARIANTS, "demo") or "/" in teacher or os.path.exists(teacher)
    return not is_ours and not teacher.endswith(NETWORK_SUFFIXES)
