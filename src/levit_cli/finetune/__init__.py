"""``levit finetune``: train a LeViT on class folders. ``start`` is the entry point."""

import os
from dataclasses import replace

from levit_cli.errors import ExitCode, RefusedError, UsageError
from levit_cli.finetune.settings import FinetuneRequest, Runtime, environment_defaults
from levit_cli.system.cpu import usable_threads
from levit_cli.system.progress import Log


def start(request: FinetuneRequest, runtime: Runtime, log: Log) -> ExitCode:
    """Check that torch can be imported, set its number of threads, and train.

    Raises:
        LevitError: see ``finetune.run.finetune``.
    """
    if request.resume and (request.overwrite or request.config):
        raise UsageError(
            "--resume cannot be combined with --overwrite or --config",
            why="it continues the run in -o with the settings of that run",
        )
    if not request.resume:
        request = replace(request, options=environment_defaults(request.options, os.environ))
    try:
        import torch

        from levit_cli.finetune.run import finetune
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise RefusedError(
            "Training needs torch and torchvision, but they cannot be imported",
            why=(str(error).strip().splitlines() or [type(error).__name__])[0],
            hint="install torch and torchvision together: pip install --upgrade torch torchvision",
        ) from error
    torch.set_num_threads(usable_threads(runtime.threads or int(os.environ.get("OMP_NUM_THREADS") or 0)))
    return finetune(request, runtime, log)
