"""One front door for weights: ``load`` any format from anywhere, ``save`` any format.

What comes out is one thing, a ``Checkpoint``: shape, labels, preprocessing and arrays under our own names, whether the
source was Meta's ``.pth``, timm's or Hugging Face's files, the model inside this package, the hub or an address.
"""

from levit_cli.checkpoints.load import DEMO, Checkpoint, load, own_folder
from levit_cli.checkpoints.metadata_parts import Evaluation
from levit_cli.checkpoints.save import save

__all__ = ["DEMO", "Checkpoint", "Evaluation", "load", "own_folder", "save"]
