"""The README.md of a run folder. What the weights may be used for is for their maker to say."""

from pathlib import Path

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint
from levit_cli.finetune.settings import Settings
from levit_cli.model.tensors import count_parameters

SHOWN_CLASSES = 20


def run_card(checkpoint: Checkpoint, settings: Settings, images: int, epoch: int) -> str:
    """Markdown with the hub's front matter.

    Args:
        images: that it was trained on.
        epoch: whose weights these are.
    """
    config, names = checkpoint.config, [name.replace("|", "/") for name in checkpoint.labels.names]
    height, width = config.image_size
    rows = {
        "architecture": checkpoint.architecture,
        "parameters": f"{count_parameters(config):,}",
        "multiply-accumulates": f"{config.macs:,}",
        "image": f"{height} x {width}, resized to cover {checkpoint.transform.resize_to[0]} pixels",
        "classes": f"{len(names)}: {', '.join(names[:SHOWN_CLASSES])}{' …' if len(names) > SHOWN_CLASSES else ''}",
        "started from": f"random weights of {settings.from_scratch}" if settings.from_scratch else settings.model,
        "trained on": f"{images:,} images of {Path(settings.data).name}",
        "teacher": f"{settings.teacher}, {settings.distill} distillation" if settings.teacher else "none",
        "epoch": f"{epoch} of {settings.epochs}",
    }
    if checkpoint.evaluation:
        measured = checkpoint.evaluation
        rows["top-1"] = f"{measured.top1:.4f} on {measured.images:,} images, {measured.dataset}"
    front = ["---", "library_name: transformers", "pipeline_tag: image-classification"]
    front += ["tags: [levit, image-classification]", "---", ""]
    title = [f"# LeViT for {len(names)} classes", ""]
    made = [f"Trained by `levit finetune` {__version__}. `config.toml` beside it repeats the run.", ""]
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join([*front, *title, *made, *table]) + "\n"
