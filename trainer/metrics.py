"""What a training costs: operations of the model, operations that the device could do, memory."""

import time
from functools import cache
from pathlib import Path

import torch

from trainer.architecture import Architecture, ShortConv
from trainer.linear import product

# Dense bfloat16 FLOP/s of the vendors' data sheets by what torch calls the device; longer names first.
_PEAKS = {"H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "4090": 165.2e12}
_TF32_SHARE = 0.5  # float32 on these, where products may use tensor cores


def training_flops(architecture: Architecture, sequence: int) -> float:
    """Operations that a token of training needs, forward and backward (after PaLM, arXiv 2204.02311, appendix B).

    A product with a matrix of n weights is 2n operations, and twice that backward. Attention multiplies with keys and
    values of the positions up to its own, (sequence + 1) / 2 in the mean; PaLM's figure counts all of `sequence`, so
    that utilisations here are lower than by it. Norms, rotations, gates and recomputed activations do not count.
    """
    width, forward = architecture.width, 0.0
    for block in architecture.blocks:
        forward += 2 * 3 * width * architecture.ffn_width
        if isinstance(block, ShortConv):
            forward += 2 * (4 * width * width + block.kernel * width)
        else:
            queries, keys = block.heads * block.head_dim, block.kv_heads * block.head_dim
            forward += 2 * width * (2 * queries + 2 * keys) + 4 * queries * (sequence + 1) / 2
    return 3 * (forward + 2 * width * architecture.vocab_size)


@cache
def peak_flops(device: torch.device, kind: torch.dtype, threads: int) -> float | None:  # noqa: ARG001  # names what is kept
    """FLOP/s of `device` at best: measured on a CPU with `threads`, a GPU's data sheet's, None if it is unknown."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        found = next((peak for known, peak in _PEAKS.items() if known in name), None)
        return None if found is None else found * (_TF32_SHARE if kind == torch.float32 else 1.0)
    return _measured(kind) if device.type == "cpu" else None


def memory_bytes(device: torch.device) -> int:
    """The most that was in use so far: of the device's memory on a GPU, else of this process's (VmHWM)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _measured(kind: torch.dtype, size: int = 768, seconds: float = 0.15) -> float:
    a = torch.ones(size, size, dtype=kind)
    multiply = product if torch.backends.mkldnn.is_available() else torch.mm
    best, until = float("inf"), time.perf_counter() + seconds
    with torch.no_grad():
        while time.perf_counter() < until:
            start = time.perf_counter()
            multiply(a, a)
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
