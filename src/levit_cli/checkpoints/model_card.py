"""Write the model card (README.md) of a model folder: front matter for the hub, and a table."""

from collections.abc import Mapping

from levit_cli import __version__
from levit_cli.checkpoints.load import Checkpoint
from levit_cli.checkpoints.metadata_parts import Evaluation
from levit_cli.choices import CheckpointFormat
from levit_cli.model.tensors import count_parameters
from levit_cli.system.text import printable

LIBRARIES = {"hf": "transformers", "timm": "timm", "fb": "levit"}


def model_card(checkpoint: Checkpoint, format: CheckpointFormat, dtype: str) -> str:
    """Return the card of a converted model. It states no license: the source's license applies."""
    config, transform, evaluation = checkpoint.config, checkpoint.transform, checkpoint.evaluation
    rows = {
        "parameters": f"{count_parameters(config):,}",
        "multiply-accumulates": f"{config.macs:,}",
        "classes": str(config.num_classes),
        "heads": str(len(config.head_names)),
        "data type": dtype,
        "image size": "{} x {} px".format(*config.image_size),
        "preprocessing": str(transform),
        "SHA-256 of the source": f"`{checkpoint.sha256}`",
    }
    if evaluation:
        rows["top-1"] = f"{evaluation.top1:.3f} on {evaluation.images:,} images of {evaluation.dataset}"
    intro = (
        "LeViT (Graham et al., 2021, arXiv 2104.01136), converted from "
        f"`{printable(checkpoint.files[0].name)}` by `levit convert-checkpoint` {__version__}."
    )
    return card_text(LIBRARIES[format], checkpoint.architecture, intro, rows, evaluation)


def card_text(library: str, title: str, intro: str, rows: Mapping[str, str], evaluation: Evaluation | None) -> str:
    """Return a card as Markdown: the hub's front matter, a title, a paragraph and a table with two columns.

    Args:
        library: the library that loads the model, as the hub names it.
        evaluation: the accuracy that the front matter states.
    """
    table = "".join(f"| {name} | {_cell(value)} |\n" for name, value in rows.items())
    return f"---\n{_front_matter(library, title, evaluation)}---\n\n# {title}\n\n{intro}\n\n| | |\n|---|---|\n{table}"


def _front_matter(library: str, title: str, evaluation: Evaluation | None) -> str:
    """Return the card's data as YAML.

    Importing the hub's client costs 50 ms; it is imported only when a card is written.

    Raises:
        UsageError: an environment variable of the hub client is invalid.
    """
    from levit_cli.checkpoints.hub import client_constants  # predictions import this module, but write no card

    client_constants()
    from huggingface_hub import EvalResult, ModelCardData

    results = evaluation and [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name=printable(evaluation.dataset),
            metric_type="accuracy",
            metric_name="top-1",
            metric_value=round(evaluation.top1, 6),
        )
    ]
    data = ModelCardData(
        library_name=library,
        pipeline_tag="image-classification",
        tags=["levit", "image-classification"],
        model_name=title,
        eval_results=results or None,
    )
    return f"{data.to_yaml()}\n"


def _cell(value: str) -> str:
    """Return a text for one cell of a table: on one line and without the character that separates cells."""
    return printable(value).replace("|", "\\|")
