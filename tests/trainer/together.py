"""Runs a function in several processes that know of each other, over the loopback interface."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from trainer.ranks import Ranks

# What they need is imported once, in the process that they are forked from.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["trainer.pipeline", "torch.distributed.fsdp", "torch._dynamo", "pytest"])


def together(world: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `job(ranks, *arguments)` gives on each rank."""
    with started(world, job, *arguments) as ranks:
        return [answer.recv() for _, answer in ranks]


@contextmanager
def started(
    world: int, job: Callable[..., Any], *arguments: Any
) -> Iterator[list[tuple[BaseProcess, "Connection[Any, Any]"]]]:
    """Each rank's process, and where its answer will come from."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(world):
            answer, given = _CONTEXT.Pipe(duplex=False)
            child = (rank, world, Path(folder) / "store", job, arguments, given)
            process = _CONTEXT.Process(target=_rank, args=child)
            process.start()
            given.close()
            ranks.append((process, answer))
        try:
            yield ranks
        finally:
            for process, _ in ranks:
                process.join(timeout=20)
                process.kill()


def _rank(
    rank: int, world: int, store: Path, job: Callable[..., Any], arguments: tuple[Any, ...], answer: Connection
) -> None:
    torch.set_num_threads(1)
    if world == 1:
        answer.send(job(Ranks.alone(), *arguments))
        return
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.FileStore(str(store), world), rank=rank, world_size=world)
    answer.send(job(Ranks(rank, world, init_device_mesh("cpu", (world,))), *arguments))
    dist.barrier()
    dist.destroy_process_group()
