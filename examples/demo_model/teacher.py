"""Train the teacher of the demo model: a small convolutional network for CIFAR-10's 32-pixel images.

    python teacher.py cifar10/ -o first/ --epochs 14
    python teacher.py cifar10/ -o teacher/ --start first/state.pt --epochs 5 --peak 0.3 --crop-scale 0.5

Writes ``teacher.onnx``, which ``levit finetune --teacher teacher.onnx`` takes, and ``state.pt`` after each epoch, from
which a broken-off run goes on. Shape and hyperparameters follow Jordan, "94% on CIFAR-10 in 3.29 seconds on a single
GPU" (arXiv 2404.00498): few layers, pooled early, behind a layer that whitens patches; identity-like beginnings; fast
biases; a moving average of the weights. Narrower by a quarter in the middle, in bfloat16 on a CPU. The second command
goes on with crops like those that a student is shown, for which a teacher of whole images has poor advice.
"""

import argparse
import time
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as levit's students see their images
SIDE = 32
SHIFT = 2  # pixels by which an image may be moved in training
BATCH_SIZE = 512
MOMENTUM, SMOOTHING = 0.85, 0.1  # more smoothing teaches less of what resembles what
RATE, DECAY = 11.5, 0.0153  # of 1024 images, once the momentum has come to bear
BIAS_RATE = 64  # times that of the weights
FIRST_RATE, LAST_RATE, WARM_SHARE = 0.2, 0.01, 0.23
STEPS_OF_AVERAGE = 20
LOG_RATIO = log(4 / 3)  # between the sides of a crop
PATCH = 2
EPSILON = 5e-4


def norm(width: int) -> nn.BatchNorm2d:
    """A batch norm that follows quickly, and whose scale stays one."""
    layer = nn.BatchNorm2d(width, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


def convolution(in_width: int, out_width: int) -> nn.Conv2d:
    """3x3; at first its first channels pass on what comes in."""
    layer = nn.Conv2d(in_width, out_width, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:in_width])
    return layer


def group(in_width: int, out_width: int) -> nn.Sequential:
    """(B, in_width, s, s) -> (B, out_width, s // 2, s // 2)."""
    first, second = convolution(in_width, out_width), convolution(out_width, out_width)
    return nn.Sequential(first, nn.MaxPool2d(2), norm(out_width), nn.GELU(), second, norm(out_width), nn.GELU())


class Teacher(nn.Module):
    """Normalised images (B, 3, 32, 32) -> logits (B, classes)."""

    def __init__(self, classes: int, widths: tuple[int, int, int] = (64, 192, 256)) -> None:
        super().__init__()
        patch_values = 3 * PATCH**2
        self.whiten = nn.Conv2d(3, 2 * patch_values, PATCH)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        pairs = zip((2 * patch_values, *widths), widths, strict=False)
        self.groups = nn.Sequential(*(group(*pair) for pair in pairs))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(F.gelu(self.whiten(x)))  # (B, C, 3, 3)
        return self.head(x.amax(dim=(2, 3))) / 9  # type: ignore[no-any-return]

    @torch.no_grad()
    def whiten_as(self, batch: Tensor) -> None:
        """Set the first layer to the principal directions of the patches, each scaled to one, and their opposites."""
        patches = batch.unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH**2)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        directions = (vectors / (values + EPSILON).sqrt()).T.reshape(-1, 3, PATCH, PATCH)
        self.whiten.weight.copy_(torch.cat([directions, -directions]))


def images(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """All images (N, 3, 32, 32) uint8, their classes (N,), the classes' names."""
    data = ImageFolder(str(folder), transform=pil_to_tensor)
    return torch.stack([image for image, _ in data]), torch.tensor(data.targets), data.classes


def normalised(batch: Tensor) -> Tensor:
    scaled = (batch / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)


def moved(batch: Tensor) -> Tensor:
    """Half of the images mirrored, each shifted by up to ``SHIFT`` pixels."""
    count = len(batch)
    batch = torch.where((torch.rand(count, 1, 1, 1) < 0.5), batch.flip(3), batch)
    padded = F.pad(batch, (SHIFT,) * 4, mode="reflect")
    rows = torch.randint(0, 2 * SHIFT + 1, (count, 1)) + torch.arange(SIDE)
    columns = torch.randint(0, 2 * SHIFT + 1, (count, 1)) + torch.arange(SIDE)
    index = torch.arange(count).view(count, 1, 1)
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cropped(batch: Tensor, smallest: float) -> Tensor:
    """A crop of each image, mirrored or not, as ``RandomResizedCrop`` draws them: (B, 3, 32, 32) floats."""
    count = len(batch)
    area = torch.empty(count).uniform_(smallest, 1)
    stretch = torch.empty(count).uniform_(-LOG_RATIO / 2, LOG_RATIO / 2).exp()
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    mirror = torch.randint(0, 2, (count,)) * 2 - 1
    left, top = ((torch.rand(count) * 2 - 1) * (1 - side) for side in (width, height))
    zero = torch.zeros(count)
    theta = torch.stack([torch.stack([width * mirror, zero, left], 1), torch.stack([zero, height, top], 1)], 1)
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    return F.grid_sample(batch.float(), grid, padding_mode="reflection", align_corners=False)


def rate(step: int, steps: int) -> float:
    """The learning rate as a share of its peak: up, then down, in straight lines."""
    warm = WARM_SHARE * steps
    if step < warm:
        return FIRST_RATE + (1 - FIRST_RATE) * step / warm
    return 1 - (1 - LAST_RATE) * (step - warm) / (steps - warm)


def make_optimizer(network: Teacher, peak: float) -> torch.optim.SGD:
    """SGD on the mean loss, with decay that does not depend on the rate; ``peak`` is a share of the usual rate."""
    kilosteps = 1024 * (1 + 1 / (1 - MOMENTUM))
    weight_rate, decay = peak * RATE / kilosteps * BATCH_SIZE, peak * DECAY / kilosteps * BATCH_SIZE
    biases = [value for name, value in network.named_parameters() if name.endswith("bias") and value.requires_grad]
    weights = [value for name, value in network.named_parameters() if name.endswith("weight") and value.requires_grad]
    bias_rate = BIAS_RATE * weight_rate
    groups = [
        {"params": biases, "lr": bias_rate, "weight_decay": decay / bias_rate},
        {"params": weights, "lr": weight_rate, "weight_decay": decay / weight_rate},
    ]
    return torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, targets: Tensor) -> float:
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        guesses = torch.cat([network(normalised(batch)).argmax(1) for batch in images.split(1000)])
    return (guesses == targets).float().mean().item()


class Training:
    """A run that can be broken off after any epoch."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.images, self.targets, classes = images(arguments.data / "train")
        self.val_images, self.val_targets, _ = images(arguments.data / "val")
        torch.manual_seed(arguments.seed)
        self.arguments = arguments
        self.network = Teacher(len(classes)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if arguments.start:
            average = torch.load(arguments.start, weights_only=True)["average"]
            prefix = "module."
            self.network.load_state_dict(
                {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}
            )
        else:
            self.network.whiten_as(normalised(self.images[:5000]))
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / STEPS_OF_AVERAGE), use_buffers=True
        )
        self.optimizer = make_optimizer(self.network, arguments.peak)
        self.epoch_steps = len(self.images) // BATCH_SIZE
        steps = arguments.epochs * self.epoch_steps
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rate(step, steps))
        self.parts: dict[str, Any] = {
            "network": self.network, "average": self.average, "optimizer": self.optimizer, "schedule": self.schedule,
        }  # fmt: skip

    def run(self) -> nn.Module:
        """Go on from ``state.pt``, if there is one, to the last epoch; the average of the weights is the result."""
        saved, first = self.arguments.output / "state.pt", 0
        if saved.exists():
            state = torch.load(saved, weights_only=True)
            first = state.pop("epoch")
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        for epoch in range(first, self.arguments.epochs):
            began = time.perf_counter()
            loss = self.epoch(epoch)
            torch.save({**{name: part.state_dict() for name, part in self.parts.items()}, "epoch": epoch + 1}, saved)
            top1 = accuracy(self.average.module, self.val_images, self.val_targets)
            told = f"loss {loss:.3f}, val {top1:.4f}, {time.perf_counter() - began:.0f} s"
            print(f"epoch {epoch + 1}/{self.arguments.epochs}: {told}", flush=True)
        return self.average.module.eval()

    def epoch(self, number: int) -> float:
        torch.manual_seed(self.arguments.seed * 1000 + number)
        losses = []
        self.network.train()
        for indices in torch.randperm(len(self.images)).split(BATCH_SIZE)[: self.epoch_steps]:
            images, smallest = self.images[indices], self.arguments.crop_scale
            batch = normalised(cropped(images, smallest) if smallest < 1 else moved(images))
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.network(batch)
            loss = F.cross_entropy(logits.float(), self.targets[indices], label_smoothing=SMOOTHING)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            self.average.update_parameters(self.network)
            losses.append(loss.item())
        return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="CIFAR-10 as class folders in train/ and val/")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--start", type=Path, help="state.pt of an earlier run, whose average this one begins with")
    parser.add_argument("--peak", type=float, default=1.0, help="learning rate, as a share of the usual one")
    parser.add_argument("--crop-scale", type=float, default=1.0, help="smallest share of an image; 1 shifts it instead")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    network = Training(arguments).run()
    axes = {"pixels": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        network, (torch.zeros(2, 3, SIDE, SIDE),), arguments.output / "teacher.onnx", dynamo=False,
        input_names=["pixels"], output_names=["logits"], dynamic_axes=axes,
    )  # fmt: skip


if __name__ == "__main__":
    main()
