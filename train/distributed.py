"""Training in one process, or in several under ``torchrun``: who does which share, and how results come together."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from runtime.cores import available_cores

T = TypeVar("T")

# Rank 0 validates while the others wait. On a large set that takes longer than PyTorch's default allows.
TIMEOUT = timedelta(hours=6)

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of <malloc.h>


def use_threads(threads: int | None) -> None:
    """Has PyTorch use so many threads of the CPU; None for as many as it takes, but no more than this process may.

    It also has this process keep the memory that it frees, without which threads wait for pages.
    """
    torch.set_num_threads(threads or min(torch.get_num_threads(), available_cores()))
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Has glibc's malloc keep what is freed; another C library is left alone.

    By default it gives every large block back at once, and the system hands out the next one as empty pages, one fault
    for each: more than half of the time of a step on photos of 480 pixels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)):
            mallopt(option, value)


@dataclass(frozen=True)
class ProcessGroup:
    """This process, its rank among ``world`` processes, and the device that it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and progress."""
        return self.rank == 0

    @property
    def hides_progress(self) -> bool | None:
        """For tqdm's ``disable``: the first process shows its bars if it writes to a terminal, the others never do."""
        return None if self.is_first else True

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every ``world``-th item."""
        return items[self.rank :: self.world]

    def gather(self, part: Any) -> list[Any]:
        """The parts of all processes, by rank; every process gets them all."""
        if self.world == 1:
            return [part]
        parts: list[Any] = [None] * self.world
        distributed.all_gather_object(parts, part)
        return parts

    def from_first(self, value: Any) -> Any:
        """The first process's value; the others wait for it."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """Joins the group that ``torchrun`` started, or makes a group of one; on a GPU if there is one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world == 1:
        yield ProcessGroup(0, 1, device)
        return
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield ProcessGroup(distributed.get_rank(), world, device)
        distributed.barrier()  # rank 0 hosts the store that the other ranks still query while they shut down
    finally:
        distributed.destroy_process_group()
