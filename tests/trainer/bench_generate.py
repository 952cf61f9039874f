"""Tokens per second beside transformers.generate, with the same weights in one run; and what the prefix cache saves.

    make bench-generate

Speed: prompts that share a prefix, in one batch, greedy; transformers gets them padded on the left, as its users do.
Runs are interleaved, the engine's cache is empty at the start of each, and the ratio is of the medians; the ratio of
processor seconds suffers less from what else the machine does, and counts threads that only wait. Savings: a
stream of conversations and groups of roll-outs, at two budgets; there, only counts are reported, no times.
"""

import argparse
import os
import platform
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import Lfm2ForCausalLM

from trainer.architecture import LFM2_350M, Architecture, Attention, ShortConv
from trainer.generation import CacheStatistics, Engine, SamplingParams, rollouts
from trainer.interop import save_folder
from trainer.model import HybridLM


def _shape(vocab: int, width: int, ffn: int, heads: int, kv_heads: int, depth: int) -> Architecture:
    attention = Attention(heads=heads, kv_heads=kv_heads, head_dim=width // heads)
    blocks = tuple(attention if i % 2 == 0 and i else ShortConv() for i in range(depth))
    return Architecture(vocab_size=vocab, width=width, ffn_width=ffn, blocks=blocks)


SIZES = {
    "demo": _shape(2_048, 192, 512, 6, 2, 6),
    "50M": _shape(16_384, 512, 2_048, 8, 4, 10),
    "350M": LFM2_350M,
}


def prompts_of(vocab: int, count: int, prefix: int, own: range) -> list[list[int]]:
    """`count` prompts that begin with the same `prefix` tokens and end with different ones, as many as `own` says."""
    draw = random.Random(3)
    common = [draw.randrange(vocab) for _ in range(prefix)]
    return [common + [draw.randrange(vocab) for _ in range(draw.choice(own))] for _ in range(count)]


@dataclass
class Spent:
    """Seconds of the clock and of the processors, run by run."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def once(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def ours(engine: Engine, prompts: list[list[int]], new: int) -> list[list[int]]:
    handles = [engine.submit(prompt, SamplingParams(max_tokens=new)) for prompt in prompts]
    engine.run()
    return [handle.result().tokens for handle in handles]


@torch.inference_mode()
def theirs(model: Lfm2ForCausalLM, prompts: list[list[int]], new: int) -> list[list[int]]:
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    said = model.generate(
        input_ids=tokens, attention_mask=mask, do_sample=False, max_new_tokens=new, min_new_tokens=new, pad_token_id=0
    )
    rows: list[list[int]] = said[:, longest:].tolist()
    return rows


def beside_transformers(name: str, arguments: argparse.Namespace, console: Console) -> list[str]:
    architecture = SIZES[name]
    model = HybridLM(architecture, seed=1).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(5)
    with tempfile.TemporaryDirectory() as folder:
        save_folder(model, Path(folder))
        judge = Lfm2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = prompts_of(architecture.vocab_size, arguments.prompts, arguments.prefix, range(4, 25))
    begun = time.perf_counter()
    Engine(model, context=2_048, slots=len(prompts))
    prepared = time.perf_counter() - begun
    spent = {who: Spent() for who in ("engine", "plain", "theirs")}
    for _ in track(range(arguments.repetitions), f"{name}", console=console, transient=True):
        cached = Engine(model, context=2_048, slots=len(prompts))
        plain = Engine(model, context=2_048, slots=len(prompts), cache_bytes=0)
        with spent["engine"].once():
            mine = ours(cached, prompts, arguments.new)
        with spent["theirs"].once():
            other = theirs(judge, prompts, arguments.new)
        with spent["plain"].once():
            uncached = ours(plain, prompts, arguments.new)
        assert uncached == mine, "the cache changed an answer"
    equal = sum(a == b for m, t in zip(mine, other, strict=True) for a, b in zip(m, t, strict=True))
    total = len(prompts) * arguments.new
    rates = {who: total / median(times.wall) for who, times in spent.items()}
    ratios = [t / o for o, t in zip(spent["engine"].wall, spent["theirs"].wall, strict=True)]
    return [
        f"{name} ({architecture.parameters / 1e6:.1f} M)",
        f"{rates['engine']:.0f}",
        f"{rates['plain']:.0f}",
        f"{rates['theirs']:.0f}",
        f"{rates['engine'] / rates['theirs']:.2f}",
        f"{min(ratios):.2f}..{max(ratios):.2f}",
        f"{median(spent['theirs'].cpu) / median(spent['engine'].cpu):.2f}",
        f"{equal}/{total}",
        f"{prepared:.1f}",
    ]


def conversations(vocab: int, count: int, draw: random.Random) -> Iterator[tuple[int, list[int], int]]:
    """(conversation, what to add, tokens kept of it so far or -1 for all): turns of many conversations, interleaved.

    Eight system prompts of 60 to 500 tokens, chosen by Zipf's law; a turn adds 8 to 80 tokens; after each, 30 % are
    abandoned; one turn in ten is sent again with the user's last words edited.
    """
    systems = [[draw.randrange(vocab) for _ in range(draw.randrange(60, 500))] for _ in range(8)]
    weights = [1 / rank for rank in range(1, 9)]
    living: list[int] = []
    begun = 0
    while begun < count or living:
        if begun < count and (not living or draw.random() < 0.4):
            yield begun, draw.choices(systems, weights)[0] + _words(vocab, draw), -1
            living.append(begun)
            begun += 1
        elif draw.random() < 0.3:
            living.remove(draw.choice(living))
        else:
            yield draw.choice(living), _words(vocab, draw), 0 if draw.random() < 0.1 else -1


def _words(vocab: int, draw: random.Random) -> list[int]:
    return [draw.randrange(vocab) for _ in range(draw.randrange(8, 80))]


def multi_turn(engine: Engine, vocab: int, count: int) -> CacheStatistics:
    said: dict[int, list[int]] = {}
    before: dict[int, list[int]] = {}
    for number, words, kept in conversations(vocab, count, random.Random(5)):
        history = before.get(number, []) if kept == 0 else said.get(number, [])
        prompt = history + words
        if len(prompt) + 24 > engine.context:
            continue
        before[number] = history
        said[number] = prompt + engine.submit(prompt, SamplingParams(max_tokens=24)).result().tokens
    return engine.statistics


def groups(engine: Engine, vocab: int) -> CacheStatistics:
    params = SamplingParams(temperature=1.0, max_tokens=16)
    rollouts(engine, [p[100 * i :] for i, p in enumerate(prompts_of(vocab, 16, 1_700, range(20, 90)))], params, 8)
    return engine.statistics


def savings(console: Console, count: int) -> None:
    architecture = SIZES["demo"]
    model = HybridLM(architecture, seed=1).eval()
    table = Table(title="What the prefix cache saves (demo shape)")
    for column in ("stream", "budget MB", "requests", "hit rate", "prefill saved", "evictions", "refused", "MB held"):
        table.add_column(column, justify="left" if column == "stream" else "right")
    for name in ("multi-turn", "GRPO 16 x 8"):
        for budget in (2 << 20, 64 << 20):
            engine = Engine(model, context=2_048, cache_bytes=budget)
            vocab = architecture.vocab_size
            s = multi_turn(engine, vocab, count) if name == "multi-turn" else groups(engine, vocab)
            table.add_row(
                name,
                f"{budget >> 20}",
                f"{s.requests}",
                f"{s.hits / s.requests:.1%}",
                f"{s.saved:.1%}",
                f"{s.evictions}",
                f"{s.refused}",
                f"{s.bytes / 2**20:.1f}",
            )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["demo", "50M"])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--conversations", type=int, default=60)
    arguments = parser.parse_args()
    console = Console(width=140)
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )
    table = Table(
        title=f"{arguments.prompts} prompts sharing {arguments.prefix} tokens, {arguments.new} new ones each, tokens/s"
    )
    for column in (
        "model",
        "engine",
        "no cache",
        "transformers",
        "ratio",
        "range",
        "CPU ratio",
        "equal tokens",
        "prepared s",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name in arguments.sizes:
        table.add_row(*beside_transformers(name, arguments, console))
    console.print(table)
    savings(console, arguments.conversations)
    console.print(f"Load {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
