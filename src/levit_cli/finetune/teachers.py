"""Teachers: any network that tells the same classes apart, shown the student's batches in the form that it expects.

Of a MODEL of ours its training form is run; of torchvision's networks a fresh one with the weights of a file, or with
those that torchvision offers; and any other as an ONNX file, through OpenVINO.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from levit_cli.checkpoints import Checkpoint, load
from levit_cli.checkpoints.weights import read_weights
from levit_cli.engines.spec import usable_threads
from levit_cli.errors import RefusedError, UnreachableError
from levit_cli.finetune.onnx_teacher import NETWORK_SUFFIXES, NetworkFile
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Transform
from levit_cli.model.levit import Levit, load_arrays, to_tensor
from levit_cli.system.progress import Log

Network = Callable[[Tensor], Tensor]
IMAGENET_SIDE = 224


class Teacher:
    """Callable from the student's normalised batch (B, 3, H, W) to logits (B, classes) in the student's order.

    Args:
        network: what takes normalised images of ``image_size``.
        mean, std: by which it wants them normalised.
        order: for each of the student's classes, the teacher's.
    """

    def __init__(
        self,
        network: Network,
        student: Transform,
        image_size: tuple[int, int],
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        order: list[int] | None = None,
    ) -> None:
        self.network, self.image_size, self.order = network, image_size, order
        column = (1, 3, 1, 1)
        ours, theirs = (torch.tensor(values).view(column) for values in (student.std, std))
        self.scale = ours / theirs
        self.shift = (torch.tensor(student.mean).view(column) - torch.tensor(mean).view(column)) / theirs

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        x = x.float() * self.scale.to(x.device) + self.shift.to(x.device)
        if x.shape[2:] != self.image_size:
            x = F.interpolate(x, self.image_size, mode="bilinear", antialias=True)
        logits = self.network(x).float()
        return logits if self.order is None else logits[:, self.order]


def make_teacher(
    name: str,
    weights: str,
    classes: tuple[str, ...],
    student: Transform,
    *,
    image_size: int,
    device: torch.device,
    log: Log = lambda _: None,
) -> Teacher:
    """A teacher by the name of a MODEL, of a torchvision network, or of an ONNX file.

    Args:
        weights: a file for the torchvision network; its own last layer decides the classes.
        image_size: pixels a side that a torchvision network is shown; 0 for the student's.

    Raises:
        RefusedError: no such teacher, or one of other classes.
        UnreachableError: torchvision's weights cannot be fetched.
    """
    if name.endswith(NETWORK_SUFFIXES):
        return _from_file(Path(name), classes, student)
    if not Path(name).exists() and name in _torchvision_names():
        return _from_torchvision(name, weights, classes, student, image_size, device)
    checkpoint = load(name, warn=lambda message: log(f"Warning: {message}"))
    return _from_checkpoint(checkpoint, classes, student, device)


def _from_checkpoint(
    checkpoint: Checkpoint, classes: tuple[str, ...], student: Transform, device: torch.device
) -> Teacher:
    theirs = checkpoint.labels.names
    if sorted(theirs) != sorted(classes):
        strange = sorted(set(theirs) ^ set(classes))
        raise RefusedError(
            f"The teacher {checkpoint.origin} knows other classes",
            why=f"{len(theirs)} against {len(classes)} of the data; not in both: {', '.join(strange[:5])}",
        )
    network = Levit(checkpoint.config)
    load_arrays(network, checkpoint.state)
    transform = checkpoint.transform
    order = [theirs.index(name) for name in classes]
    return Teacher(_still(network, device), student, checkpoint.config.image_size, transform.mean, transform.std, order)


def _from_file(path: Path, classes: tuple[str, ...], student: Transform) -> Teacher:
    network = NetworkFile(path, usable_threads())
    _require_classes(str(path), network.num_classes, classes)

    def run(x: Tensor) -> Tensor:
        return to_tensor(network(x.cpu().numpy().astype(np.float32))).to(x.device)

    return Teacher(run, student, network.image_size)


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _from_torchvision(
    name: str, weights: str, classes: tuple[str, ...], student: Transform, image_size: int, device: torch.device
) -> Teacher:
    from torchvision import models

    if not weights:
        if len(classes) != len(models.get_model_weights(name).DEFAULT.meta["categories"]):
            raise RefusedError(
                f"torchvision's {name} knows ImageNet's 1000 classes, the data has {len(classes)}",
                hint="train one on these classes and name its weights with --teacher-weights",
            )
        network = _fetched(name)
        side = image_size or IMAGENET_SIDE
        return Teacher(_still(network, device), student, (side, side))
    state = read_weights(Path(weights)).arrays
    network = models.get_model(name, weights=None, num_classes=len(classes))
    last_bias = next(reversed(network.state_dict()))
    if last_bias in state:
        _require_classes(weights, len(state[last_bias]), classes)
    try:
        load_arrays(network, state)
    except RuntimeError as error:
        raise RefusedError(f"{weights} does not fit torchvision's {name}", why=str(error)[:300]) from error
    return Teacher(_still(network, device), student, (image_size, image_size) if image_size else student.crop_size)


def _fetched(name: str) -> nn.Module:
    from torchvision import models

    try:
        network: nn.Module = models.get_model(name, weights="DEFAULT")
    except OSError as error:  # of urllib's kinds
        raise UnreachableError(f"Cannot fetch torchvision's weights of {name}", why=str(error)) from error
    return network


def _require_classes(origin: str, count: int, classes: tuple[str, ...]) -> None:
    if count != len(classes):
        raise RefusedError(f"The teacher {origin} tells {count} classes apart, the data has {len(classes)}")


def _still(network: nn.Module, device: torch.device) -> Network:
    still: Any = network.eval().requires_grad_(False).to(device)
    return still  # type: ignore[no-any-return]
