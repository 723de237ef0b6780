"""Measure LeViT on a GPU and print the table for docs/performance.md: the network, a folder of images, a training step.

python -m benchmarks.gpu [--device cuda] [--batch-sizes 256,2048] [--budget 420] [--quick]

Weights are random. The rivals run in one process, in interleaved rounds: levit eager, compiled and as a CUDA graph,
timm compiled with channels-last images, and transformers; a rival whose package is missing is left out. All use fp16
in the forward pass. When the budget in seconds is spent, the remaining rows are printed as "not measured". ``--quick``
with ``--device cpu`` runs every part once on small batches; this shows that the script works and measures nothing.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.measuring import machine, versions
from benchmarks.models import write_random_model
from levit_cli.api import load
from levit_cli.bench.protocol import Protocol, Step, interleave
from levit_cli.choices import Device
from levit_cli.engines.torch import FoldedLevit
from levit_cli.finetune.ddp import Processes
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.state import make_train_state
from levit_cli.finetune.step import StepContext, train_step
from levit_cli.finetune.student import random_init
from levit_cli.images.transforms import transform_for
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.model.folded import fold
from levit_cli.model.tensors import random_state
from levit_cli.system.progress import silent

FULL = Protocol("quick", warmup_s=0.3, duration_s=1.5, rounds=3, average="median")
QUICK = Protocol("quick", warmup_s=0, duration_s=0, rounds=1, average="median", untimed=0)
NOT_MEASURED = "not measured"
WARM_UP_CALLS = 3


class Gpu:
    """The device and how to wait for it."""

    def __init__(self, name: str) -> None:
        self.device, self.is_cuda = torch.device(name), name == "cuda"
        self.dtype = torch.float16 if self.is_cuda else torch.bfloat16

    def step(self, call: Callable[[], object]) -> Step:
        """Return a step that ends when the device has finished."""

        def run() -> None:
            with torch.inference_mode():
                call()
            self.synchronize()

        return run

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def describe(self) -> str:
        return torch.cuda.get_device_name() if self.is_cuda else machine()


def folded(config: LevitConfig, gpu: Gpu) -> FoldedLevit:
    weights = fold(random_state(config), config)
    return (
        FoldedLevit(weights, config, transform_for("fb", config.image_size)).to_dtype(gpu.dtype).eval().to(gpu.device)
    )


def graph_of(call: Callable[[], object]) -> Callable[[], object]:
    """Capture a call as a CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay


def our_calls(config: LevitConfig, batch_size: int, gpu: Gpu, *, compiles: bool) -> dict[str, Callable[[], object]]:
    network = folded(config, gpu)
    pixels = torch.zeros(batch_size, *config.image_size, 3, dtype=torch.uint8, device=gpu.device)
    calls: dict[str, Callable[[], object]] = {"levit, eager": lambda: network(pixels)}
    if gpu.is_cuda:
        calls["levit, CUDA graph"] = graph_of(lambda: network(pixels))
    if compiles:
        compiled = torch.compile(network, fullgraph=True, dynamic=False)
        calls["levit, compiled"] = lambda: compiled(pixels)
        if gpu.is_cuda:
            calls["levit, compiled, CUDA graph"] = graph_of(lambda: compiled(pixels))
    return calls


def timm_calls(name: str, batch_size: int, gpu: Gpu, *, compiles: bool) -> dict[str, Callable[[], object]]:
    """Return timm's network on normalized images, as its benchmark runs it: channels-last, in half precision."""
    import timm

    network = timm.create_model(name.replace("-", "_").lower()).eval().to(gpu.device, gpu.dtype)
    network = network.to(memory_format=torch.channels_last)
    x = torch.zeros(batch_size, 3, 224, 224, device=gpu.device, dtype=gpu.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    run = torch.compile(network, dynamic=False) if compiles else network
    return {f"timm, channels-last{', compiled' if compiles else ''}": lambda: run(x)}


def transformers_calls(name: str, batch_size: int, gpu: Gpu) -> dict[str, Callable[[], object]]:
    import transformers

    config = VARIANTS[name]
    network = transformers.LevitForImageClassificationWithTeacher(
        transformers.LevitConfig(
            hidden_sizes=list(config.hidden_sizes), num_attention_heads=list(config.num_heads),
            depths=list(config.depths), key_dim=list(config.key_dims), num_labels=config.num_classes,
        )
    ).eval().to(gpu.device, gpu.dtype)  # fmt: skip
    x = torch.zeros(batch_size, 3, 224, 224, device=gpu.device, dtype=gpu.dtype)
    return {"transformers, eager": lambda: network(x)}


def network_rows(name: str, batch_size: int, gpu: Gpu, *, quick: bool) -> list[str]:
    """Measure a variant at one batch size: a row of the table for each way to run it."""
    compiles = not quick
    makers: list[Callable[[], dict[str, Callable[[], object]]]] = [
        lambda: our_calls(VARIANTS[name], batch_size, gpu, compiles=compiles),
        lambda: timm_calls(name, batch_size, gpu, compiles=compiles),
        lambda: transformers_calls(name, batch_size, gpu),
    ]
    steps: dict[str, Step] = {}
    rows = []
    for make in makers:
        try:
            steps |= {label: gpu.step(call) for label, call in make().items()}
        except (ImportError, RuntimeError) as error:  # a missing package, too little memory, no compiler
            rows.append(row(name, "left out", batch_size, str(error).splitlines()[0][:80]))
    timings = interleave(steps, QUICK if quick else FULL)
    timed = [row(name, label, batch_size, f"{batch_size / timing.median_s:,.0f}") for label, timing in timings.items()]
    return timed + rows


def training_rows(name: str, batch_size: int, gpu: Gpu, *, quick: bool) -> list[str]:
    """Measure ``levit finetune``'s step on a loaded batch."""
    config = replace(VARIANTS[name], num_classes=10)
    settings = Settings(model=name, batch_size=batch_size, learning_rate=1e-3, precision="bf16")
    state = make_train_state(random_init(config), settings, Processes(0, 1, gpu.device), silent)
    context = StepContext(settings, 1000, transform_for("hf", config.image_size), None, None, gpu.device)
    pixels = torch.zeros(batch_size, 3, *config.image_size, dtype=torch.uint8, pin_memory=gpu.is_cuda)
    targets = torch.arange(batch_size) % 10

    def step() -> None:
        train_step(state, context, 0, pixels, targets)
        gpu.synchronize()

    timing = interleave({"step": step}, QUICK if quick else FULL)["step"]
    return [row(name, "training step, bf16", batch_size, f"{batch_size / timing.median_s:,.0f}")]


def write_photos(folder: Path, count: int) -> list[Path]:
    """Write JPEGs of 500 x 375 pixels with smooth random content."""
    from PIL import Image

    random = np.random.default_rng(0)
    paths = []
    for index in range(count):
        small = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        path = folder / f"{index}.jpg"
        small.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths


def folder_rows(name: str, batch_size: int, gpu: Gpu, *, quick: bool) -> list[str]:
    """Measure photos on a disk to logits: ``levit``'s pipeline, and torchvision's decoder on the GPU (nvJPEG)."""
    with TemporaryDirectory() as text:
        folder = Path(text)
        paths = write_photos(folder, 8 if quick else 4000)
        device: Device = "cuda" if gpu.is_cuda else "cpu"
        model = load(str(write_random_model(name, folder / "model")), device=device, engine="torch")
        steps: dict[str, Step] = {
            "folder, decoded on the CPU": lambda: list(model.predict(paths, batch_size=batch_size))
        }
        if gpu.is_cuda:
            network = folded(VARIANTS[name], gpu)
            steps["folder, decoded by nvJPEG"] = gpu.step(lambda: nvjpeg(paths, network, batch_size))
        timings = interleave(steps, QUICK if quick else replace(FULL, duration_s=0, warmup_s=0, untimed=0))
    return [row(name, label, batch_size, f"{len(paths) / timing.median_s:,.0f}") for label, timing in timings.items()]


def nvjpeg(paths: list[Path], network: FoldedLevit, batch_size: int) -> None:
    """Decode and resize on the GPU, with torchvision. The resizing differs from ``levit predict``'s in rounding."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms.v2 import functional as transforms

    for start in range(0, len(paths), batch_size):
        files = [read_file(str(path)) for path in paths[start : start + batch_size]]
        images = decode_jpeg(files, mode=ImageReadMode.RGB, device="cuda")
        crops = [
            transforms.center_crop(transforms.resize(image, [256], antialias=True), [224, 224]) for image in images
        ]
        network(torch.stack(crops).permute(0, 2, 3, 1))[0].cpu()


def row(name: str, label: str, batch_size: int, value: str) -> str:
    return f"| {name} | {label} | {batch_size} | {value} |"


def parts(options: argparse.Namespace, gpu: Gpu) -> list[tuple[str, str, int, Callable[[], list[str]]]]:
    """Return the measurements in order of importance: variant, title, batch size, function that returns table rows."""
    sizes, names = [int(size) for size in options.batch_sizes.split(",")], options.variants.split(",")
    quick = options.quick
    first = names[0]
    networks = [
        (name, "network", size, partial(network_rows, name, size, gpu, quick=quick)) for size in sizes for name in names
    ]
    others = [
        (first, "folder", sizes[0], partial(folder_rows, first, sizes[0], gpu, quick=quick)),
        (first, "training step", sizes[0], partial(training_rows, first, sizes[0], gpu, quick=quick)),
    ]
    return [*others, *networks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu only shows that the script works"
    )
    parser.add_argument("--variants", default=",".join(VARIANTS), help="published variants, separated by commas")
    parser.add_argument("--batch-sizes", default="256,2048", help="images per batch, separated by commas")
    parser.add_argument("--budget", type=float, default=420, help="seconds after which no other row is started")
    parser.add_argument("--quick", action="store_true", help="one step of everything, without compilation")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device; --device cpu --quick shows that the script works")
    gpu, start = Gpu(options.device), time.perf_counter()
    print(f"{gpu.describe()}; {gpu.dtype}; {versions('torch')}\n")
    print("| network | how | batch | images/s |\n|---|---|---|---|")
    for name, title, size, rows in parts(options, gpu):
        in_time = time.perf_counter() - start < options.budget
        try:
            lines = rows() if in_time else [row(name, title, size, NOT_MEASURED)]
        except RuntimeError as error:  # of CUDA: out of memory, or an operation that a graph cannot hold
            lines = [row(name, title, size, f"{NOT_MEASURED}: {str(error).splitlines()[0][:80]}")]
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
