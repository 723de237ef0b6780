"""Load and save checkpoints: ``load`` reads any format from any source, ``save`` writes any format.

Both work with a ``Checkpoint``: the config, the labels, the preprocessing and the arrays of a model. The source may be
Meta's ``.pth``, a folder written by timm or transformers, the demo model in this package, a hub id or a URL.
"""

from levit_cli.checkpoints.load import DEMO, Checkpoint, load, own_folder, unused_hash
from levit_cli.checkpoints.metadata_parts import Evaluation, Threshold
from levit_cli.checkpoints.save import save

__all__ = ["DEMO", "Checkpoint", "Evaluation", "Threshold", "load", "own_folder", "save", "unused_hash"]
