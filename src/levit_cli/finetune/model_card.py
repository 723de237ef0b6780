"""Write the model card, README.md, of a run folder. It names no intended use: the model's author has to add it."""

from pathlib import Path

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint
from levit_cli.checkpoints.model_card import card_text
from levit_cli.finetune.settings import Settings
from levit_cli.model.tensors import count_parameters
from levit_cli.system.text import count_noun

MAX_LISTED_CLASSES = 20
INTRO = (
    f"Trained with `levit finetune` {__version__}. The settings are in `config.toml`;"
    " `levit finetune FOLDER -o NEW_RUN --config config.toml` repeats the run."
)


def run_card(checkpoint: Checkpoint, settings: Settings, images: int, epoch: int) -> str:
    """Return the card as Markdown with the hub's front matter.

    Args:
        images: number of training images.
        epoch: the epoch of the saved weights.
    """
    config, evaluation, names = checkpoint.config, checkpoint.evaluation, checkpoint.labels.names
    rows = {
        "architecture": checkpoint.architecture,
        "parameters": f"{count_parameters(config):,}",
        "multiply-accumulates": f"{config.macs:,}",
        "image": "{} x {}, resized to cover {} pixels".format(*config.image_size, checkpoint.transform.resize_to[0]),
        "classes": f"{len(names)}: {', '.join(names[:MAX_LISTED_CLASSES])}{' …' * (len(names) > MAX_LISTED_CLASSES)}",
        "started from": f"random weights of {_name(settings.from_scratch)}"
        if settings.from_scratch
        else _name(settings.model),
        "trained on": f"{images:,} images of {Path(settings.data).name}",
        "teacher": f"{_name(settings.teacher)}, {settings.distill} distillation" if settings.teacher else "none",
        "epoch": f"{epoch} of {settings.epochs}",
    }
    if evaluation:
        rows["top-1"] = f"{evaluation.top1:.4f} on {evaluation.images:,} images, {evaluation.dataset}"
    return card_text("transformers", f"LeViT for {count_noun(len(names), 'class')}", INTRO, rows, evaluation)


def _start(settings: Settings) -> str:
    if settings.from_scratch:
        return f"random weights of {_name(settings.from_scratch)}"
    return _name(settings.model)


def _name(source: str) -> str:
    """Return the name of a model. The folders that lead to a local one are private."""
    return Path(source).name if Path(source).is_absolute() else source
