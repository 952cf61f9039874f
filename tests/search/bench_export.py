"""What exporting a candidate costs: CPU seconds and peak memory, in fresh processes.

For each shape: the first candidate ever (templates are learnt), a new candidate of the shape once templates are known,
and one whose pieces have all been seen; where asked, the plain way beside it, piece by piece. Seconds are user and
system time of the process and its children; memory is the largest resident set of one of them.

    python tests/search/bench_export.py --shapes 350M --context 1024 4096
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from device_agent.contracts import Protocol
from search.export import export_candidates
from search.spec import SearchSpec
from trainer.architecture import LFM2_1_2B, LFM2_350M, LFM2_700M, Architecture, Attention, ShortConv

DEMO = Architecture(
    vocab_size=1024,
    width=128,
    ffn_width=384,
    blocks=(ShortConv(kernel=3), Attention(heads=4, kv_heads=2, head_dim=32)) * 2,
)
SHAPES = {"demo": DEMO, "350M": LFM2_350M, "700M": LFM2_700M, "1.2B": LFM2_1_2B}


class Directory:
    """A store and a cache in a directory; what was stored is counted, and thrown away."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bytes = 0

    def put(self, *arguments: Any) -> str:
        """A blob, or a value under a key."""
        if len(arguments) == 2:
            (self.directory / arguments[0]).write_text(arguments[1])
            return ""
        self.bytes += len(arguments[0])
        return hashlib.sha256(arguments[0]).hexdigest()

    def get(self, key: str) -> Any:
        """The value, or None."""
        path = self.directory / key
        return path.read_text() if path.exists() else None


class Inline(Executor):
    """Does at once what is submitted: peak memory is then that of one piece after the other."""

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        """Run it."""
        future: Future[Any] = Future()
        future.set_result(fn(*arguments, **named))
        return future


def export(shape: str, context: int, cache: Path) -> None:
    """In a process of its own: export once, and print what it took."""
    spec = SearchSpec(
        corpus="any",
        phones=("any",),
        vocab_size=SHAPES[shape].vocab_size,
        context_length=context,
        prefill_chunk=128,
        protocol=Protocol(prefill_tokens=128, decode_tokens=32),
    )
    here = Directory(cache)
    (exported,) = export_candidates([SHAPES[shape]], spec, here, here, Inline())
    if isinstance(exported, Exception):
        raise exported
    print(json.dumps(_used() | {"megabytes": here.bytes / 1e6}))


def plain(shape: str, context: int) -> None:
    """In a process of its own: lower every distinct piece without templates."""
    from device_agent.contracts import Quantisation
    from search.export.lower import lower
    from search.export.pieces import pieces_of

    pieces = pieces_of(SHAPES[shape], context=context, chunk=128, quantisation=Quantisation())
    size = 0
    for piece in {piece.key: piece for _, piece, _ in pieces}.values():
        module = piece.module(piece.random_weights())
        data, _ = lower(module, piece.example(), piece.chunk, piece.takes_position, piece.states())
        size += len(data)
    print(json.dumps(_used() | {"megabytes": size / 1e6}))


def _used() -> dict[str, float]:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = sum(one.ru_utime + one.ru_stime for one in (own, children))
    return {"seconds": seconds, "peak": max(own.ru_maxrss, children.ru_maxrss) / 1024}


def _fresh(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as unlearnt:
        environment = os.environ | {"FULCRUM_CACHE": unlearnt}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    used: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return used


def _rows(shape: str, context: int, with_plain: bool) -> Iterator[tuple[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory() as cache:
        yield "first candidate ever, templates learnt", _fresh(shape, context, cache)
        for kept in Path(cache).iterdir():  # what names a file is a piece; the others are templates
            if "file" in json.loads(kept.read_text()):
                kept.unlink()
        yield "new candidate, templates known", _fresh(shape, context, cache)
        yield "candidate whose pieces were seen", _fresh(shape, context, cache)
    if with_plain:
        yield "the plain way, piece by piece", _fresh(shape, context, "plain")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--context", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--plain", nargs="*", choices=SHAPES, default=["demo"], help="shapes for the plain way too")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        shape, context, cache = arguments.child
        if cache == "plain":
            plain(shape, int(context))
        else:
            export(shape, int(context), Path(cache))
        return
    load, threads = ", ".join(f"{one:.1f}" for one in os.getloadavg()), os.environ.get("OMP_NUM_THREADS")
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}; OMP_NUM_THREADS={threads}")
    print("| shape | context | | CPU s | peak RSS MB | lowered MB |\n|---|---|---|---|---|---|")
    for shape in arguments.shapes:
        for context in arguments.context:
            for what, used in _rows(shape, context, shape in arguments.plain):
                numbers = f"{used['seconds']:.1f} | {used['peak']:.0f} | {used['megabytes']:.1f}"
                print(f"| {shape} | {context} | {what} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
