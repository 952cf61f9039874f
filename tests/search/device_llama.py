"""llama.cpp on the same shape: a GGUF of random Q4_0 weights, written once."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from device_ours import Turn
from device_shapes import CONTEXT, PREFILL, parameters
from gguf import GGMLQuantizationType
from llama import Llama

from trainer.architecture import Architecture
from trainer.gguf.model import Entry, tensor_name, write


def _entries(architecture: Architecture) -> Iterator[Entry]:
    generator = np.random.default_rng(0)
    for parameter, shape in parameters(architecture).items():
        name = tensor_name(parameter)
        if len(shape) == 2:
            blocks = generator.integers(0, 256, (prod(shape) // 32, 18), dtype=np.uint8)
            scale = np.array([0.2 / shape[1] ** 0.5], dtype=np.float16)  # outputs of about the inputs' size
            blocks[:, :2] = scale.view(np.uint8)
            yield Entry(name, blocks.reshape(shape[0], -1), GGMLQuantizationType.Q4_0)
        else:
            flat = np.ones((shape[0], *shape[2:]), dtype=np.float32)
            yield Entry(name, flat, GGMLQuantizationType.F32)


def gguf_of(architecture: Architecture, directory: Path) -> Path:
    """The file, written if it is not there."""
    file = directory / f"{architecture.hash[:16]}.gguf"
    if not file.exists():
        write(file, architecture, _entries(architecture), kind="q4_0", tokenizer=None)
    return file


def open_(interpreter: Path, file: Path, threads: int) -> Llama:
    return Llama(interpreter, file, context=CONTEXT, threads=threads)


def turn(llama: Llama, vocab_size: int, decode: int, seconds: float) -> Turn:
    """Prompts and tokens for about `seconds`, after one that counts for nothing."""
    prompt = np.random.default_rng(1).integers(0, vocab_size, PREFILL).tolist()
    llama.turn(prompt, decode + 1)
    turns = Turn([], [])
    while not turns.prefill or (sum(turns.prefill) + sum(turns.decode)) / 1e9 < seconds:
        _, prefill, times = llama.turn(prompt, decode + 1)
        turns.prefill.append(prefill)
        turns.decode.extend(times)
    return turns
