"""``levit finetune``: from class folders to a model of one's own classes. ``start`` is the way in."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levit_cli.choices import Preset
from levit_cli.engines.spec import usable_threads
from levit_cli.errors import ExitCode, RefusedError, UsageError
from levit_cli.system.progress import Log, shows_progress, silent

VARIABLES = {"model": "LEVIT_MODEL", "device": "LEVIT_DEVICE"}


def start(
    data: Path,
    output: Path,
    preset: Preset,
    config: Path | None,
    given: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
    workers: int,
    threads: int,
    offline: bool,
    quiet: bool,
    log: Log,
) -> ExitCode:
    """Train, with the options of the command line as they are.

    Raises:
        LevitError: of any kind; see ``finetuning.finetune``.
    """
    if resume and (overwrite or config):
        raise UsageError("--resume goes on with what is there", why="--overwrite and --config begin anew")
    given = {**given, "max_unreadable": _share(given["max_unreadable"])}
    if not resume:
        given |= {name: os.environ.get(variable) or None for name, variable in VARIABLES.items() if not given[name]}
    try:
        import torch

        from levit_cli.finetune.run import Request, finetune
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: a torchvision made for another torch
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "install torch and torchvision together: pip install --upgrade torch torchvision"
        raise RefusedError(
            "Training needs torch and torchvision, which do not load here", why=why, hint=hint
        ) from error
    torch.set_num_threads(usable_threads(threads or int(os.environ.get("OMP_NUM_THREADS") or 0)))
    request = Request(
        data, output, preset, config, given, resume=resume, overwrite=overwrite, workers=workers, offline=offline,
        shows_progress=shows_progress(quiet=quiet),
    )  # fmt: skip
    return finetune(request, silent if quiet else log)


def _share(text: str | None) -> float | None:
    """0.01 or 1%."""
    if text is None:
        return None
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise UsageError(f"--max-unreadable {text} is no share", hint="write 0.01 or 1%") from error
