"""Train the teacher of the demo model: a small convolutional network for CIFAR-10's 32 x 32 images.

    python teacher.py cifar10/ -o first/ --epochs 14
    python teacher.py cifar10/ -o teacher/ --start first/state.pt --epochs 5 --peak 0.3 --crop-scale 0.5

The script writes ``teacher.onnx`` for ``levit finetune --teacher teacher.onnx``. It writes ``state.pt`` after each
epoch and continues from it when it is started again. Architecture and hyperparameters follow Jordan, "94% on CIFAR-10
in 3.29 seconds on a single GPU" (arXiv 2404.00498): few layers, early pooling, a first layer that whitens patches,
convolutions initialized to the identity, a high learning rate for biases, and a moving average of the weights. The
middle layers have a quarter fewer channels, and the network is trained in bfloat16 on a CPU. The second command
continues with random crops like the student's: a teacher that was trained only on whole images classifies crops poorly.
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

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those of levit's students
SIZE = 32
MAX_SHIFT = 2  # pixels, in the augmentation
BATCH_SIZE = 512
MOMENTUM = 0.85
LABEL_SMOOTHING = 0.1  # more smoothing hides from the student which classes resemble each other
LR, WEIGHT_DECAY = 11.5, 0.0153  # per 1024 images, with the effect of the momentum included
BIAS_LR_FACTOR = 64
WARMUP_START, FINAL_LR, WARMUP_FRACTION = 0.2, 0.01, 0.23  # learning rates relative to the peak
EMA_STEPS = 20
MAX_LOG_ASPECT_RATIO = log(4 / 3)  # of a crop
PATCH = 2
EPSILON = 5e-4


def norm(width: int) -> nn.BatchNorm2d:
    """Return a batch norm with a high momentum and a constant scale of 1."""
    layer = nn.BatchNorm2d(width, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


def convolution(in_width: int, out_width: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose first output channels are initialized to the identity."""
    layer = nn.Conv2d(in_width, out_width, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:in_width])
    return layer


def block(in_width: int, out_width: int) -> nn.Sequential:
    """(B, in_width, s, s) -> (B, out_width, s // 2, s // 2)."""
    first, second = convolution(in_width, out_width), convolution(out_width, out_width)
    return nn.Sequential(first, nn.MaxPool2d(2), norm(out_width), nn.GELU(), second, norm(out_width), nn.GELU())


class Teacher(nn.Module):
    """Normalized images (B, 3, 32, 32) -> logits (B, classes)."""

    def __init__(self, classes: int, widths: tuple[int, int, int] = (64, 192, 256)) -> None:
        super().__init__()
        patch_values = 3 * PATCH**2
        self.whiten = nn.Conv2d(3, 2 * patch_values, PATCH)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        pairs = zip((2 * patch_values, *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(block(*pair) for pair in pairs))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.gelu(self.whiten(x)))  # (B, C, 3, 3)
        return self.head(x.amax(dim=(2, 3))) / 9  # type: ignore[no-any-return]

    @torch.no_grad()
    def init_whitening(self, batch: Tensor) -> None:
        """Set the first layer to the patches' principal components, scaled to unit variance, and their negatives."""
        patches = batch.unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH**2)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        directions = (vectors / (values + EPSILON).sqrt()).T.reshape(-1, 3, PATCH, PATCH)
        self.whiten.weight.copy_(torch.cat([directions, -directions]))


def load_images(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Return all images (N, 3, 32, 32) uint8, their class indices (N,), and the class names."""
    data = ImageFolder(str(folder), transform=pil_to_tensor)
    return torch.stack([image for image, _ in data]), torch.tensor(data.targets), data.classes


def normalize(batch: Tensor) -> Tensor:
    scaled = (batch / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)


def shift(batch: Tensor) -> Tensor:
    """Mirror half of the images, and shift each by up to ``MAX_SHIFT`` pixels."""
    count = len(batch)
    batch = torch.where((torch.rand(count, 1, 1, 1) < 0.5), batch.flip(3), batch)
    padded = F.pad(batch, (MAX_SHIFT,) * 4, mode="reflect")
    rows = torch.randint(0, 2 * MAX_SHIFT + 1, (count, 1)) + torch.arange(SIZE)
    columns = torch.randint(0, 2 * MAX_SHIFT + 1, (count, 1)) + torch.arange(SIZE)
    index = torch.arange(count).view(count, 1, 1)
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def crop(batch: Tensor, min_scale: float) -> Tensor:
    """Crop each image as ``RandomResizedCrop`` does, and mirror half of them: -> (B, 3, 32, 32) float32."""
    count = len(batch)
    area = torch.empty(count).uniform_(min_scale, 1)
    stretch = torch.empty(count).uniform_(-MAX_LOG_ASPECT_RATIO / 2, MAX_LOG_ASPECT_RATIO / 2).exp()
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    mirror = torch.randint(0, 2, (count,)) * 2 - 1
    left, top = ((torch.rand(count) * 2 - 1) * (1 - extent) for extent in (width, height))
    zero = torch.zeros(count)
    theta = torch.stack([torch.stack([width * mirror, zero, left], 1), torch.stack([zero, height, top], 1)], 1)
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    return F.grid_sample(batch.float(), grid, padding_mode="reflection", align_corners=False)


def relative_lr(step: int, steps: int) -> float:
    """Return the learning rate relative to its peak: a linear warm-up, then a linear decay."""
    warmup_steps = WARMUP_FRACTION * steps
    if step < warmup_steps:
        return WARMUP_START + (1 - WARMUP_START) * step / warmup_steps
    return 1 - (1 - FINAL_LR) * (step - warmup_steps) / (steps - warmup_steps)


def make_optimizer(network: Teacher, peak: float) -> torch.optim.SGD:
    """Return SGD for the mean loss. ``peak`` scales the learning rate and the weight decay."""
    kilosteps = 1024 * (1 + 1 / (1 - MOMENTUM))
    lr, decay = peak * LR / kilosteps * BATCH_SIZE, peak * WEIGHT_DECAY / kilosteps * BATCH_SIZE
    biases = [value for name, value in network.named_parameters() if name.endswith("bias") and value.requires_grad]
    weights = [value for name, value in network.named_parameters() if name.endswith("weight") and value.requires_grad]
    bias_lr = BIAS_LR_FACTOR * lr
    groups = [
        {"params": biases, "lr": bias_lr, "weight_decay": decay / bias_lr},
        {"params": weights, "lr": lr, "weight_decay": decay / lr},
    ]
    return torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, targets: Tensor) -> float:
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        predictions = torch.cat([network(normalize(batch)).argmax(1) for batch in images.split(1000)])
    return (predictions == targets).float().mean().item()


class Training:
    """A training run that saves its state after each epoch and continues from it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.images, self.targets, classes = load_images(arguments.data / "train")
        self.val_images, self.val_targets, _ = load_images(arguments.data / "val")
        torch.manual_seed(arguments.seed)
        self.arguments = arguments
        self.network = Teacher(len(classes)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if arguments.start:
            ema_state = torch.load(arguments.start, weights_only=True)["ema_model"]
            prefix = "module."
            self.network.load_state_dict(
                {name.removeprefix(prefix): value for name, value in ema_state.items() if name.startswith(prefix)}
            )
        else:
            self.network.init_whitening(normalize(self.images[:5000]))
        self.ema_model = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / EMA_STEPS), use_buffers=True
        )
        self.optimizer = make_optimizer(self.network, arguments.peak)
        self.epoch_steps = len(self.images) // BATCH_SIZE
        steps = arguments.epochs * self.epoch_steps
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: relative_lr(step, steps))
        self.parts: dict[str, Any] = {
            "network": self.network,
            "ema_model": self.ema_model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }

    def run(self) -> nn.Module:
        """Continue from ``state.pt`` if it exists, train to the last epoch, and return the averaged network."""
        state_file, first_epoch = self.arguments.output / "state.pt", 0
        if state_file.exists():
            state = torch.load(state_file, weights_only=True)
            first_epoch = state.pop("epoch")
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        for epoch in range(first_epoch, self.arguments.epochs):
            start = time.perf_counter()
            loss = self.train_epoch(epoch)
            parts = {name: part.state_dict() for name, part in self.parts.items()}
            torch.save({**parts, "epoch": epoch + 1}, state_file)
            top1 = accuracy(self.ema_model.module, self.val_images, self.val_targets)
            results = f"loss {loss:.3f}, val {top1:.4f}, {time.perf_counter() - start:.0f} s"
            print(f"epoch {epoch + 1}/{self.arguments.epochs}: {results}", flush=True)
        return self.ema_model.module.eval()

    def train_epoch(self, epoch: int) -> float:
        torch.manual_seed(self.arguments.seed * 1000 + epoch)
        losses = []
        self.network.train()
        for indices in torch.randperm(len(self.images)).split(BATCH_SIZE)[: self.epoch_steps]:
            images, scale = self.images[indices], self.arguments.crop_scale
            batch = normalize(crop(images, scale) if scale < 1 else shift(images))
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.network(batch)
            loss = F.cross_entropy(logits.float(), self.targets[indices], label_smoothing=LABEL_SMOOTHING)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            self.ema_model.update_parameters(self.network)
            losses.append(loss.item())
        return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="CIFAR-10 as class folders in train/ and val/")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--start", type=Path, help="state.pt of an earlier run; start with its averaged weights")
    parser.add_argument("--peak", type=float, default=1.0, help="factor of the learning rate")
    parser.add_argument("--crop-scale", type=float, default=1.0, help="smallest area of a crop; 1 shifts instead")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    network = Training(arguments).run()
    axes = {"pixels": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        network, (torch.zeros(2, 3, SIZE, SIZE),), arguments.output / "teacher.onnx", dynamo=False,
        input_names=["pixels"], output_names=["logits"], dynamic_axes=axes,
    )  # fmt: skip


if __name__ == "__main__":
    main()
