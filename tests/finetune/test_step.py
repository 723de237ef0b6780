"""A training step: accumulated gradients, and no waiting of the host for the device or for other processes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from levit_cli.finetune.data import Loaders, TrainingImages, ValidationImages
from levit_cli.finetune.ddp import Processes
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.split import find_images
from levit_cli.finetune.state import TrainState, make_train_state
from levit_cli.finetune.step import StepContext, train_step
from levit_cli.images.transforms import transform_for
from levit_cli.model.levit import Levit
from levit_cli.system.progress import silent
from tests.support.random_weights import TINY

CPU = torch.device("cpu")
TRANSFORM = transform_for("hf", TINY.image_size)
READS = {"aten::_local_scalar_dense"}  # what ``.item()``, ``int()`` and ``bool()`` of a tensor call


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the values that the host reads from tensors: on a GPU it waits for the device each time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_counter = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.int64
        self.count += func.name() in READS and not is_counter  # the counter of the moving average is on the host
        return func(*args, **(kwargs or {}))


def state_and_context(processes: Processes, **options: Any) -> tuple[TrainState, StepContext]:
    settings = Settings(
        batch_size=8, precision="fp32", device="cpu", label_smoothing=0, freeze="backbone", learning_rate=1e-2,
        **options,
    )  # fmt: skip
    torch.manual_seed(0)
    state = make_train_state(Levit(TINY), settings, processes, silent)
    return state, StepContext(settings, 10, TRANSFORM, None, None, CPU, processes.rank)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (8, 3, *TINY.image_size), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(8) % TINY.num_classes


def test_the_host_reads_no_value_in_a_part_of_a_step() -> None:
    counts = []
    for parts in (1, 4):
        state, context = state_and_context(Processes(0, 1, CPU), grad_accum_steps=parts)
        with Reads() as reads:
            train_step(state, context, 0, *images())
        counts.append(reads.count)
    assert counts[0] == counts[1]


def test_accumulated_gradients_give_the_step_of_the_whole_batch() -> None:
    """With a frozen backbone, batch norms do not depend on the batch."""
    results, weights = [], []
    for parts in (1, 3):
        state, context = state_and_context(Processes(0, 1, CPU), grad_accum_steps=1)
        context = replace(context, settings=replace(context.settings, batch_size=9, grad_accum_steps=parts))
        results.append(train_step(state, context, 0, *images()))
        weights.append(state.network.head.linear.weight.detach().clone())
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    assert results[0][1] == results[1][1]
    torch.testing.assert_close(weights[0], weights[1])


def test_accumulated_gradients_of_weighted_classes_give_the_step_of_the_whole_batch() -> None:
    class_weights = torch.linspace(0.2, 3, TINY.num_classes)
    losses, weights = [], []
    for parts, factors in ((1, class_weights), (4, class_weights), (1, None)):
        state, context = state_and_context(Processes(0, 1, CPU), grad_accum_steps=parts)
        losses.append(train_step(state, replace(context, class_weights=factors), 0, *images())[0])
        weights.append(state.network.head.linear.weight.detach().clone())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0] != pytest.approx(losses[2], abs=1e-3)
    torch.testing.assert_close(weights[0], weights[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_agrees_with_the_cpu() -> None:
    losses = []
    for device in (CPU, torch.device("cuda")):
        state, context = state_and_context(Processes(0, 1, device), grad_accum_steps=2)
        context = replace(context, device=device)
        losses.append([train_step(state, context, step, *images())[0] for step in range(3)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)


@contextmanager
def group_of_one() -> Iterator[Processes]:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=Path(folder, "store").as_uri(), rank=0, world_size=1)
        try:
            yield Processes(0, 2, CPU)  # as one of two processes, so that the network is wrapped
        finally:
            dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_processes_exchange_gradients_once_per_step() -> None:
    with group_of_one() as processes:
        state, context = state_and_context(processes, grad_accum_steps=4)
        exchanges = []

        def count(  # the hook's types are checked
            _: object,
            bucket: dist.GradBucket,  # type: ignore[name-defined]
        ) -> torch.futures.Future[torch.Tensor]:
            exchanges.append(bucket.index())
            future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        state.ddp_model.register_comm_hook(None, count)  # type: ignore[operator]
        train_step(state, context, 0, *images())
        assert exchanges == [0]


def test_workers_live_for_the_whole_run_and_each_epoch_has_its_own_order(dataset: Path) -> None:
    split = find_images(dataset, 0.1, 0)
    settings = Settings(batch_size=4)
    loaders = [
        Loaders(
            TrainingImages(split.train, settings, (32, 32)),
            ValidationImages(split.val, transform_for("hf", (32, 32))),
            settings, workers,
        )
        for workers in (1, 0)
    ]  # fmt: skip
    pids, epochs = set(), []
    for epoch, first_step in ((0, 0), (1, 1)):
        with_worker, without = ([*each.training(epoch, first_step)] for each in loaders)
        pids.add(loaders[0].training(epoch, first_step)._iterator._workers[0].pid)  # type: ignore[union-attr]
        assert len(with_worker) == loaders[0].steps_per_epoch - first_step
        for one, other in zip(with_worker, without, strict=True):
            assert torch.equal(one[0], other[0])
        epochs.append(with_worker[-1][0])
    assert len(pids) == 1
    assert not torch.equal(*epochs)
