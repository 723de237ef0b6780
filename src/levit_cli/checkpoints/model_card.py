"""The README.md that travels in a converted folder: what it is, where it came from, how it wants its images."""

from levit_cli import __version__
from levit_cli.checkpoints.load import Checkpoint
from levit_cli.choices import CheckpointFormat
from levit_cli.model.tensors import count_parameters

LIBRARIES = {"hf": "transformers", "timm": "timm", "fb": "levit"}


def model_card(checkpoint: Checkpoint, format: CheckpointFormat, dtype: str) -> str:
    """Markdown with the hub's front matter. The licence is the source's and not ours to state."""
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
        "LeViT (Graham et al., 2021, arXiv 2104.01136) as converted by "
        f"`levit convert-checkpoint` {__version__} from `{checkpoint.files[0].name}`.",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {count_parameters(config):,} |",
        f"| multiply-accumulates | {config.macs:,} |",
        f"| classes | {config.num_classes} |",
        f"| heads | {len(config.head_names)} |",
        f"| stored as | {dtype} |",
        f"| image | {height} x {width}, resized to cover {transform.resize_to[0]} x {transform.resize_to[1]}, "
        f"{transform.filter}, centre crop ({transform.name}) |",
        f"| SHA-256 of the source | `{checkpoint.sha256}` |",
    ]
    if checkpoint.evaluation:
        measured = checkpoint.evaluation
        lines.append(f"| top-1 | {measured.top1:.3f} on {measured.images:,} images of {measured.dataset} |")
    return "\n".join(lines) + "\n"
