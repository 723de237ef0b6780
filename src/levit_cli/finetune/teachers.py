"""Teachers for distillation: networks with the student's classes, called with the student's batches.

A teacher is one of our own checkpoints in its training form, a torchvision network with the weights of a file or
torchvision's own, or any network in an ONNX file, which OpenVINO runs.
"""

import glob
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from levit_cli.checkpoints import Checkpoint, load, save
from levit_cli.checkpoints.weights import read_weights, write_safetensors
from levit_cli.data.labels import composed
from levit_cli.errors import RefusedError, UnreachableError
from levit_cli.finetune.conflicts import NETWORK_SUFFIXES
from levit_cli.finetune.onnx_teacher import OnnxNetwork
from levit_cli.finetune.settings import Settings
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Transform
from levit_cli.model.levit import Levit, load_arrays, to_tensor
from levit_cli.system.cpu import usable_threads
from levit_cli.system.progress import Log, silent
from levit_cli.system.text import count_noun

Network = Callable[[Tensor], Tensor]
IMAGENET_SIZE = 224
MAX_LISTED = 5
TORCHVISION_FILE = "torchvision.safetensors"


class Teacher:
    """Callable from the student's normalized batch (B, 3, H, W) to logits (B, classes) in the student's class order.

    Args:
        network: takes images of ``image_size`` that are normalized with ``mean`` and ``std``.
        student: the student's preprocessing; its normalization is undone.
        store: writes a copy of the teacher into a folder, see ``stored_teacher``.
        order: the teacher's index of each of the student's classes; None if both have the same order.
    """

    def __init__(
        self,
        network: Network,
        student: Transform,
        image_size: tuple[int, int],
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        order: list[int] | None = None,
        store: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self.network, self.image_size, self.order, self.store = network, image_size, order, store
        column = (1, 3, 1, 1)
        student_std, teacher_std = (torch.tensor(values).view(column) for values in (student.std, std))
        self.scale = student_std / teacher_std
        self.shift = (torch.tensor(student.mean).view(column) - torch.tensor(mean).view(column)) / teacher_std

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
    log: Log = silent,
    offline: bool = False,
) -> Teacher:
    """Return the teacher with this name: an ONNX file, a torchvision network or a MODEL.

    Args:
        weights: a weights file for a torchvision network; empty for torchvision's ImageNet weights.
        image_size: height and width of a torchvision network's images; 0 for its default.
        offline: do not download anything.

    Raises:
        RefusedError: there is no such teacher, or it has other classes.
        UnreachableError: torchvision's weights cannot be downloaded.
    """
    if name.endswith(NETWORK_SUFFIXES):
        return _onnx_teacher(Path(name), classes, student)
    if not Path(name).exists() and name in _torchvision_names():
        if offline and not weights:
            why = "torchvision may have to download its weights, and --offline was given"
            raise UnreachableError(f"Cannot use the teacher {name}", why=why, hint="use --teacher-weights FILE")
        return _torchvision_teacher(name, weights, classes, student, image_size, device)
    checkpoint = load(name, offline=offline, warn=lambda message: log(f"Warning: {message}"))
    return _checkpoint_teacher(checkpoint, classes, student, device)


def stored_teacher(settings: Settings, folder: Path) -> Settings:
    """Return the settings with the copy of the teacher in a run's folder, which ``Teacher.store`` wrote."""
    if not folder.is_dir():
        return settings
    if (file := folder / TORCHVISION_FILE).is_file():
        size = settings.teacher_size or (0 if settings.teacher_weights else IMAGENET_SIZE)
        return replace(settings, teacher_weights=str(file), teacher_size=size)
    network = next((path for path in sorted(folder.iterdir()) if path.name.endswith(NETWORK_SUFFIXES)), folder)
    return replace(settings, teacher=str(network))


def _checkpoint_teacher(
    checkpoint: Checkpoint, classes: tuple[str, ...], student: Transform, device: torch.device
) -> Teacher:
    teacher_classes = tuple(map(composed, checkpoint.labels.names))
    if sorted(teacher_classes) != sorted(classes):
        different = ", ".join(sorted(set(teacher_classes) ^ set(classes))[:MAX_LISTED])
        raise RefusedError(
            f"The teacher {checkpoint.origin} has other classes than the data",
            why=f"it has {len(teacher_classes)}, the data has {len(classes)}; not in both: {different}",
        )
    network = Levit(checkpoint.config)
    load_arrays(network, checkpoint.state)
    transform = checkpoint.transform
    indices = {name: index for index, name in enumerate(teacher_classes)}
    order = [indices[name] for name in classes]
    frozen = freeze(network, device)
    return Teacher(
        frozen, student, checkpoint.config.image_size, transform.mean, transform.std, order,
        store=lambda folder: _ignore(save(checkpoint, folder, "hf", card="The teacher of the run.\n")),
    )  # fmt: skip


def _ignore(_: object) -> None:
    """Return nothing."""


def _onnx_teacher(path: Path, classes: tuple[str, ...], student: Transform) -> Teacher:
    network = OnnxNetwork(path, usable_threads())
    _require_num_classes(str(path), network.num_classes, classes)

    def run(x: Tensor) -> Tensor:
        return to_tensor(network(x.cpu().numpy().astype(np.float32))).to(x.device)

    def store(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for file in path.parent.glob(f"{glob.escape(path.stem)}.*"):  # an XML file has its weights in a .bin file
            shutil.copyfile(file, folder / file.name)

    return Teacher(run, student, network.image_size, store=store)


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _torchvision_teacher(
    name: str, weights: str, classes: tuple[str, ...], student: Transform, image_size: int, device: torch.device
) -> Teacher:
    network = _torchvision_network(name, weights, classes) if weights else _imagenet_network(name, classes)
    size = student.crop_size if weights else (IMAGENET_SIZE, IMAGENET_SIZE)
    if image_size:
        size = (image_size, image_size)

    def store(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        arrays = {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
        write_safetensors(folder / TORCHVISION_FILE, arrays, "float32")

    return Teacher(freeze(network, device), student, size, store=store)


def _imagenet_network(name: str, classes: tuple[str, ...]) -> nn.Module:
    """Return torchvision's network with its ImageNet weights."""
    from torchvision import models

    if len(classes) != len(models.get_model_weights(name).DEFAULT.meta["categories"]):
        raise RefusedError(
            f"torchvision's {name} has ImageNet's 1000 classes, but the data has {len(classes)}",
            hint="train this network on your classes and give its weights with --teacher-weights",
        )
    try:
        network: nn.Module = models.get_model(name, weights="DEFAULT")
    except OSError as error:  # urllib's errors are subclasses
        raise UnreachableError(f"Cannot download torchvision's weights of {name}", why=str(error)) from error
    return network


def _torchvision_network(name: str, weights: str, classes: tuple[str, ...]) -> nn.Module:
    """Return torchvision's network with the weights of a file."""
    from torchvision import models

    state = read_weights(Path(weights)).arrays
    network: nn.Module = models.get_model(name, weights=None, num_classes=len(classes))
    last_bias = next(reversed(network.state_dict()))
    if last_bias in state:
        _require_num_classes(weights, len(state[last_bias]), classes)
    try:
        load_arrays(network, state)
    except RuntimeError as error:
        raise RefusedError(f"{weights} does not fit torchvision's {name}", why=str(error)[:300]) from error
    return network


def _require_num_classes(origin: str, count: int, classes: tuple[str, ...]) -> None:
    if count != len(classes):
        raise RefusedError(f"The teacher {origin} has {count_noun(count, 'class')}, but the data has {len(classes)}")


def freeze(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network on the device, in evaluation mode and without gradients."""
    return network.eval().requires_grad_(False).to(device)
