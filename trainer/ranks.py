"""Which of several processes this one is, and what they do together.

Every rank runs the same stages on the same values. A training step is what they share: each takes its rows of the one
global batch, which is a function of the step alone, so the loss curve does not depend on how many there are. Weights,
gradients and the optimiser's state are sharded over them (FSDP2, torch.distributed.fsdp.fully_shard; arXiv 2304.11277).
"""

import copy
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.rendezvous import rendezvous

from trainer.data import Batch
from trainer.errors import RankLost, TrainerError, UnevenBatch
from trainer.model import HybridLM
from trainer.sharded import whole

T = TypeVar("T")

# One rank may quantise or write for long while the others wait; that a process died is noticed by its connections.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """This process among others, and the device that it trains on; `mesh` is None where it is alone."""

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def alone(cls) -> "Ranks":
        """One process on the CPU, without torch.distributed."""
        return cls()

    @property
    def first(self) -> bool:
        """Whether this one writes and reports."""
        return self.rank == 0

    def part(self, batch: Batch) -> Batch:
        """This rank's rows of the global batch.

        Raises:
            UnevenBatch: its rows cannot be dealt out evenly.
        """
        if self.mesh is None:
            return batch
        rows, left = divmod(len(batch.inputs), self.world)
        if left:
            raise UnevenBatch(
                f"a batch of {len(batch.inputs)} sequences cannot be dealt out evenly to {self.world} ranks",
                advice=f"make the batch a multiple of {self.world}",
            )
        mine = slice(self.rank * rows, (self.rank + 1) * rows)
        parts = {name: value[mine] for name, value in vars(batch).items() if isinstance(value, Tensor)}
        return replace(batch, **parts)

    def shard(self, model: HybridLM) -> HybridLM:
        """A copy of `model` of which every rank holds its rows; `model` itself where this process is alone."""
        if self.mesh is None:
            return model
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # a view, which nothing here changes in place
        sharded = copy.deepcopy(model)
        for part in _apart(sharded):
            # What is not gathered again for the backward pass is there for `factors`, which is not forward.
            fully_shard(part, mesh=self.mesh, reshard_after_forward=not isinstance(part, nn.Embedding))
        for layer in sharded.model.layers:
            fully_shard(layer, mesh=self.mesh)
        fully_shard(sharded, mesh=self.mesh)
        for name in ("hidden", "logits"):  # losses call them without forward
            register_fsdp_forward_method(sharded, name)
        return sharded

    def reshard(self, sharded: HybridLM) -> None:
        """Let go of what a forward pass gathered and no backward pass followed."""
        for module in sharded.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def gather(self, sharded: HybridLM, model: HybridLM) -> None:
        """Fill `model` with what `shard` made of it and was trained since, on every rank."""
        if sharded is model:
            return
        with torch.no_grad():
            for known, part in zip(model.state_dict().values(), sharded.state_dict().values(), strict=True):
                known.copy_(whole(part))

    def mean(self, value: Tensor) -> float:
        """The mean over all ranks of a number that each has."""
        if self.mesh is None:
            return value.item()
        total = value.detach().clone()
        dist.all_reduce(total)
        return total.item() / self.world

    def any(self, *flags: bool) -> list[bool]:
        """Which hold on some rank: what is agreed before one of them stops, or saves."""
        if self.mesh is None:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.float32, device=self.device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def told(self, do: Callable[[], T]) -> list[T]:
        """What `do` gives on each rank, by rank; an error of one is raised on all, as the others would wait for it."""
        if self.mesh is None:
            return [do()]
        heard: list[tuple[list[T], Exception | None]] = [([], None)] * self.world
        dist.all_gather_object(heard, _attempt(do))
        for _, error in heard:
            if error is not None:
                raise error
        return [value for values, _ in heard for value in values]

    def once(self, do: Callable[[], T]) -> T:
        """What `do` gives on the first rank, which alone does it; its error is raised on all."""
        return self.told(lambda: do() if self.first else None)[0]  # type: ignore[return-value]  # the first's


def _apart(model: HybridLM) -> list[nn.Module]:
    """Modules to shard apart from their layer, the inner ones first: FSDP2 gathers weights of one type together.

    In a model whose matrices are kept in bfloat16 those are its matrices, and what else such a module holds.
    """
    if all(parameter.dtype is torch.float32 for parameter in model.parameters()):
        return []
    found: list[nn.Module] = []
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if any(parameter.dtype is torch.bfloat16 for parameter in own):
            inner = [child for child in module.modules() if list(child.parameters(recurse=False))]
            found += reversed(inner)
    return found


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun started, with one GPU each where there are some; alone without torchrun.

    Raises:
        RankLost: another rank died; torchrun can start all of them again.
    """
    world, kind = int(os.environ.get("WORLD_SIZE", "1")), "cuda" if torch.cuda.is_available() else "cpu"
    if world == 1:
        yield Ranks(device=torch.device(kind))
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == str(world):
        _stay_on_this_host()
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank = int(os.environ["RANK"])
    backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=_meeting_place(), rank=rank, world_size=world, timeout=_PATIENCE)
    try:
        yield Ranks(rank, world, init_device_mesh(kind, (world,)), torch.device(kind))
    except RuntimeError as wrong:
        if "gloo" not in str(wrong) and not isinstance(wrong, dist.DistError):
            raise
        raise RankLost(
            f"rank {rank} lost another: {str(wrong).splitlines()[0]}",
            advice="the same command carries on from the last checkpoint; torchrun --max-restarts gives it by itself",
        ) from wrong
    finally:
        dist.destroy_process_group()


def _meeting_place() -> Store:
    """Where ranks find each other's addresses.

    Torchrun gives ranks that it starts again the store of those that died, whose addresses are still in it. On one
    host its count of restarts tells them apart; over several, each counts its own.
    """
    store: Store = next(rendezvous("env://", timeout=_PATIENCE))[0]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store
    if os.environ["GROUP_WORLD_SIZE"] != "1" and os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0":
        raise RankLost(
            "over several hosts, ranks that torchrun starts again would look for those that died",
            advice="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every host before torchrun, or say --max-restarts 0",
        )
    return PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def _attempt(do: Callable[[], T]) -> tuple[list[T], Exception | None]:
    try:
        return [do()], None
    except (TrainerError, OSError) as wrong:
        return [], wrong


def _stay_on_this_host() -> None:
    """Where all ranks are on one host, they talk over its loopback interface."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
