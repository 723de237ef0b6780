"""``levit finetune``: train a LeViT on class folders. ``start`` is the entry point."""

import os

from levit_cli.errors import ExitCode, UsageError
from levit_cli.finetune.plan import make_plan
from levit_cli.finetune.run_folder import RunFolder
from levit_cli.finetune.settings import FinetuneRequest, Runtime
from levit_cli.system.cpu import usable_threads
from levit_cli.system.extras import extra
from levit_cli.system.progress import Log


def start(request: FinetuneRequest, runtime: Runtime, log: Log) -> ExitCode:
    """Check the request, set torch's number of threads, and train.

    Raises:
        LevitError: see ``make_plan`` and ``finetune.run.finetune``.
    """
    if request.resume and (request.overwrite or request.config or request.preset):
        raise UsageError(
            "--resume cannot be combined with --overwrite, --config or --preset",
            why="it continues the run in -o with the settings of that run",
        )
    folder = RunFolder(request.output)
    try:
        if (request.resume or request.overwrite) and folder.path.is_dir() and os.environ.get("RANK", "0") == "0":
            folder.lock.acquire()
        plan = make_plan(request, folder, os.environ)
        with extra("torch", "Training"):
            import torch

            from levit_cli.finetune.run import finetune
        torch.set_num_threads(usable_threads(runtime.threads or int(os.environ.get("OMP_NUM_THREADS") or 0)))
        return finetune(plan, runtime, log)
    finally:
        folder.lock.release()
