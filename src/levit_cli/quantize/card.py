"""README.md of an int8 model folder."""

from levit_cli.checkpoints import Checkpoint
from levit_cli.checkpoints.model_card import LIBRARIES, card_text
from levit_cli.checkpoints.quantized import CONSTANTS, GRAPH, Int8Description
from levit_cli.model.tensors import count_parameters
from levit_cli.quantize.gate import drop_points
from levit_cli.system.text import count_noun, printable


def int8_card(checkpoint: Checkpoint, description: Int8Description) -> str:
    """Return the card: what is in the folder, and how accurate the int8 graph is."""
    gate = description.gate
    assert gate is not None
    rows = {
        "parameters": f"{count_parameters(checkpoint.config):,}",
        "classes": str(checkpoint.config.num_classes),
        "image size": "{} x {} px".format(*checkpoint.config.image_size),
        "calibrated on": f"{count_noun(description.samples, 'image')} of {description.data}",
        "compared on": f"{count_noun(gate.images, 'other image')} of {description.data}",
        "same first class": f"{100 * gate.agreement:.2f} %",
        "SHA-256 of the source": f"`{checkpoint.sha256}`",
    }
    drop = drop_points(gate)
    if drop is not None:
        rows["top-1"] = f"{gate.top1_before:.4f} in fp32, {gate.top1_after:.4f} in int8"
    intro = (
        f"LeViT (Graham et al., 2021, arXiv 2104.01136), quantized by `levit quantize` {description.levit} from "
        f"`{printable(checkpoint.files[0].name)}`. `model.safetensors` holds the original weights, which every program "
        f"can load. `{GRAPH}` and `{CONSTANTS}` are the int8 graph, which `levit` runs with OpenVINO on CPUs that have "
        "instructions for int8."
    )
    return card_text(LIBRARIES["hf"], f"{checkpoint.architecture} int8", intro, rows, checkpoint.evaluation)
