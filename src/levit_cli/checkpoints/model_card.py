"""Write the model card (README.md) of a converted model folder."""

from levit_cli import __version__
from levit_cli.checkpoints.load import Checkpoint
from levit_cli.choices import CheckpointFormat
from levit_cli.model.tensors import count_parameters

LIBRARIES = {"hf": "transformers", "timm": "timm", "fb": "levit"}


def model_card(checkpoint: Checkpoint, format: CheckpointFormat, dtype: str) -> str:
    """Return the card as Markdown with the hub's front matter. It states no license, because that is the source's."""
    config, transform = checkpoint.config, checkpoint.transform
    height, width = config.image_size
    lines = [
        "---",
        f"library_name: {LIBRARIES[format]}",
        "pipeline_tag: image-classification",
        "tags: [levit, image-classification]",
        "---",
        "",
        f"# {checkpoint.architecture}",
        "",
        "LeViT (Graham et al., 2021, arXiv 2104.01136), converted from "
        f"`{checkpoint.files[0].name}` by `levit convert-checkpoint` {__version__}.",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {count_parameters(config):,} |",
        f"| multiply-accumulates | {config.macs:,} |",
        f"| classes | {config.num_classes} |",
        f"| heads | {len(config.head_names)} |",
        f"| data type | {dtype} |",
        f"| image size | {height} x {width} px |",
        f"| preprocessing | {transform.name}: resize to cover {transform.resize_to[0]} x {transform.resize_to[1]} px "
        f"({transform.filter}), center crop |",
        f"| SHA-256 of the source | `{checkpoint.sha256}` |",
    ]
    if checkpoint.evaluation:
        evaluation = checkpoint.evaluation
        lines.append(f"| top-1 | {evaluation.top1:.3f} on {evaluation.images:,} images of {evaluation.dataset} |")
    return "\n".join(lines) + "\n"
