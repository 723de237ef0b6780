"""Write the model card, README.md, of a run folder. It names no intended use: the model's author has to add it."""

from pathlib import Path

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint
from levit_cli.checkpoints.model_card import card_text
from levit_cli.finetune.metrics import NAMES, Metrics, reason_to_stop
from levit_cli.finetune.settings import Settings
from levit_cli.model.tensors import count_parameters
from levit_cli.system.text import count_noun

MAX_LISTED_CLASSES = 20
INTRO = (
    f"Trained with `levit finetune` {__version__}. The settings are in `config.toml`;"
    " `levit finetune FOLDER -o NEW_RUN --config config.toml` repeats the run."
)


def run_card(
    checkpoint: Checkpoint, settings: Settings, images: int, best: Metrics, *, num_epochs: int | None = None
) -> str:
    """Return the card as Markdown with the hub's front matter.

    Args:
        images: number of training images.
        best: the metrics of the epoch of the saved weights.
        num_epochs: number of trained epochs; None while the training goes on.
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
        **_balancing(settings),
        "epoch": f"{best['epoch']} of {settings.epochs}, with the best {NAMES[settings.best_metric]}",
    }
    if num_epochs is not None and num_epochs < settings.epochs:
        rows["stopped"] = f"after epoch {num_epochs}: {reason_to_stop(settings)}"
    if evaluation:
        rows["top-1"] = f"{evaluation.top1:.4f} on {evaluation.images:,} images, {evaluation.dataset}"
    if settings.best_metric == "balanced_accuracy":
        rows["balanced accuracy"] = f"{best['val_balanced_accuracy']:.4f} on the same images, during the training"
    return card_text("transformers", f"LeViT for {count_noun(len(names), 'class')}", INTRO, rows, evaluation)


def _balancing(settings: Settings) -> dict[str, str]:
    """Return the rows about unbalanced classes, without those of the defaults."""
    rows: dict[str, str] = {}
    if settings.class_weights != "none":
        rows["class weights"] = settings.class_weights
    if settings.sampler != "random":
        rows["sampler"] = settings.sampler
    return rows


def _name(source: str) -> str:
    """Return the name of a model. The folders that lead to a local one are private."""
    return Path(source).name if Path(source).is_absolute() else source
