"""``levit finetune``: train a LeViT on class folders. ``start`` is the entry point."""

import os

from levit_cli.errors import ExitCode, UsageError
from levit_cli.finetune.settings import FinetuneRequest, Runtime
from levit_cli.system.cpu import usable_threads
from levit_cli.system.extras import extra
from levit_cli.system.progress import Log


def start(request: FinetuneRequest, runtime: Runtime, log: Log) -> ExitCode:
    """Check the request, set torch's number of threads, and train.

    Raises:
        LevitError: see ``finetune.run.finetune``.
    """
    if request.resume and (request.overwrite or request.config):
        raise UsageError(
            "--resume cannot be combined with --overwrite or --config",
            why="it continues the run in -o with the settings of that run",
        )
    with extra("torch", "Training"):
        import torch

        from levit_cli.finetune.run import finetune
    torch.set_num_threads(usable_threads(runtime.threads or int(os.environ.get("OMP_NUM_THREADS") or 0)))
    return finetune(request, runtime, log)
