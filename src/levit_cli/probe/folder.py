"""Write the run folder of a probe: the model in Hugging Face's layout, and the run's own files.

``probe.json`` holds the settings and what was chosen and measured, ``images.jsonl`` lists the images of the run and
``unreadable.tsv`` those that were left out, as in a run of ``levit finetune``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint, save
from levit_cli.checkpoints.model_card import card_text
from levit_cli.errors import OutputError, reason_of
from levit_cli.finetune.model_card import MAX_LISTED_CLASSES
from levit_cli.finetune.run_folder import RunFolder
from levit_cli.finetune.split import Split
from levit_cli.model.tensors import count_parameters
from levit_cli.probe.results import Result, as_json
from levit_cli.system.atomic import replace_text
from levit_cli.system.new_folder import new_folder
from levit_cli.system.text import count_noun, printable

INTRO = (
    "LeViT (Graham et al., 2021, arXiv 2104.01136) with a new head, which `levit probe` {version} fitted by logistic "
    "regression to the features of the model that it started from. The other weights are unchanged. `probe.json` holds "
    "the settings and the results."
)


def write_run(
    path: Path, checkpoint: Checkpoint, result: Result, settings: Mapping[str, Any], images: str, start: str
) -> None:
    """Create the run folder with all its files in one step, and the folders that it lies in.

    Args:
        checkpoint: the model to save.
        images: the content of ``images.jsonl``.
        start: the name of the model that the probe started from.

    Raises:
        UsageError: the folder exists.
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot write to {path}", why=reason_of(error)) from error
    content = {"levit": __version__, "settings": dict(settings), **as_json(result)}
    with new_folder(path) as folder:
        save(checkpoint, folder, "hf", card=probe_card(checkpoint, result, start))
        replace_text(folder / "probe.json", json.dumps(content, indent=2) + "\n")
        replace_text(folder / "images.jsonl", images)
        RunFolder(folder).write_unreadable(result.split)


def probe_card(checkpoint: Checkpoint, result: Result, start: str) -> str:
    """Return README.md as Markdown with the hub's front matter."""
    config, names, split = checkpoint.config, checkpoint.labels.names, result.split
    rows = {
        "architecture": checkpoint.architecture,
        "parameters": f"{count_parameters(config):,}",
        "multiply-accumulates": f"{config.macs:,}",
        "image": "{} x {}, resized to cover {} pixels".format(*config.image_size, checkpoint.transform.resize_to[0]),
        "classes": f"{len(names)}: {', '.join(names[:MAX_LISTED_CLASSES])}{' …' * (len(names) > MAX_LISTED_CLASSES)}",
        "started from": start,
        "fitted to": f"{_fitted_to(split)} of {printable(split.root.name)}",
        "top-1": f"{result.measured.top1.value:.4f} on {count_noun(len(split.val), 'validation image')}, by the head "
        "that was fitted to the training images",
    }
    title = f"LeViT for {count_noun(len(names), 'class')}"
    return card_text("transformers", title, INTRO.format(version=__version__), rows, checkpoint.evaluation)


def _fitted_to(split: Split) -> str:
    training, val = f"{len(split.train):,} training", f"{len(split.val):,} validation"
    return f"{training} images" if split.has_val_folder else f"{training} and {val} images"
