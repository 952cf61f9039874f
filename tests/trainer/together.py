"""Runs a function in several processes that know of each other, over the loopback interface."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from trainer.ranks import Ranks

# What they need is imported once, in the process that they are forked from.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["trainer.pipeline", "torch.distributed.fsdp", "pytest"])


def together(world: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `job(ranks, *arguments)` gives on each rank."""
    with tempfile.TemporaryDirectory() as folder:
        ends = [_CONTEXT.Pipe(duplex=False) for _ in range(world)]
        ranks = [
            _CONTEXT.Process(target=_rank, args=(rank, world, Path(folder) / "store", job, arguments, ends[rank][1]))
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        try:
            for _, theirs in ends:
                theirs.close()
            return [ours.recv() for ours, _ in ends]
        finally:
            for process in ranks:
                process.join(timeout=20)
                process.kill()


def _rank(
    rank: int, world: int, store: Path, job: Callable[..., Any], arguments: tuple[Any, ...], answer: Connection
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(store), world), rank=rank, world_size=world)
    answer.send(job(Ranks(rank, world, init_device_mesh("cpu", (world,))), *arguments))
    dist.barrier()
    dist.destroy_process_group()
