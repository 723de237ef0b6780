"""Data-parallel training with ``torchrun``, or with a single process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from levit_cli.choices import Device
from levit_cli.errors import RefusedError


@dataclass(frozen=True)
class Processes:
    """The process group, as seen from one of its processes.

    Args:
        rank: number of this process, from 0. Process 0 is the main process: it writes files and logs.
        world_size: number of processes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all processes."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def ddp_model(self, network: nn.Module) -> nn.Module:
        """Wrap the network so that its gradients are averaged over all processes."""
        if self.world_size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device] if self.device.type == "cuda" else None)

    def broadcast(self, network: nn.Module) -> None:
        """Copy the main process's weights and batch-norm statistics to all processes."""
        if self.world_size > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        """Wait until all processes get here."""
        if self.world_size > 1:
            dist.barrier()


def rank_from_environment() -> int:
    """Return the rank that ``torchrun`` set; it is known before the process group exists."""
    return int(os.environ.get("RANK", 0))


@contextmanager
def process_group(device: Device) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; without ``torchrun``, this process is the only one.

    Raises:
        RefusedError: the device is not available.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    torch_device = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world_size == 1:
        yield Processes(0, 1, torch_device)
        return
    dist.init_process_group("nccl" if torch_device.type == "cuda" else "gloo")
    try:
        yield Processes(rank_from_environment(), world_size, torch_device)
    finally:
        dist.destroy_process_group()


def choose_device(device: Device, index: int = 0) -> torch.device:
    """Return the device to train on; ``auto`` is the GPU if there is one.

    Raises:
        RefusedError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device != "auto" and not available[device]:
        raise RefusedError(f"No {device} device is available", why="torch does not find one", hint="use --device cpu")
    kind = device if device != "auto" else "cuda" if available["cuda"] else "cpu"
    return torch.device(kind, index) if kind == "cuda" else torch.device(kind)
