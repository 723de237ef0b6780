"""One process or several of ``torchrun``: who this is, and what all of them add up to."""

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
    """One process among those that train together.

    Args:
        rank: its number; the first one writes and speaks.
        world: how many there are.
    """

    rank: int
    world: int
    device: torch.device

    @staticmethod
    def named_rank() -> int:
        """The number of this process, known before any of them is joined."""
        return int(os.environ.get("RANK", 0))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def together(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over all processes."""
        if self.world == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device] if self.device.type == "cuda" else None)

    def share(self, network: nn.Module) -> None:
        """Give all processes the first one's weights and statistics."""
        if self.world > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined(device: Device) -> Iterator[Processes]:
    """The processes that ``torchrun`` started, or this one alone.

    Raises:
        RefusedError: no such device.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, chosen)
    finally:
        dist.destroy_process_group()


def choose_device(device: Device, index: int = 0) -> torch.device:
    """The device to train on; ``auto`` is a GPU where there is one.

    Raises:
        RefusedError: no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device != "auto" and not present[device]:
        raise RefusedError(f"There is no {device} device here", why="torch finds none", hint="--device cpu")
    kind = device if device != "auto" else "cuda" if present["cuda"] else "cpu"
    return torch.device(kind, index) if kind == "cuda" else torch.device(kind)
