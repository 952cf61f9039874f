"""What each lever after pretraining does, from one base model: `make bench-levers`.

A small model is pretrained once on the standard library's source, lines of sums, and transcripts of chats about sums.
From it, or from its SFT model, every lever's own stage goes on over several seeds: of data, of order and of sampling.
All are judged on held-out problems, which are in no training. Differences are taken within a seed; one whose 95 %
interval (Student's t) holds zero is said not to be there.

With --home what is finished is kept: after Ctrl-C, or a kill, the same command carries on. With --minutes no more is
begun or carried on when they are over; seeds that were not finished are counted.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from intervals import effect, interval, machine
from levers import curated, merging, practised, preferred, sft, synthetic
from levers.ground import SHAPES, Figure, Ground, Lever, Rows, within

from trainer.errors import Interrupted

LEVERS: dict[str, Lever] = {
    each.LEVER.name: each.LEVER for each in (sft, curated, synthetic, merging, preferred, practised)
}
BASE_TOKENS = 700_000


def code() -> str:
    """sha256 of what determines the figures beside the product: results of other settings are not taken up."""
    files = sorted((Path(__file__).parent / "levers").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def done(name: str, ground: Ground, seed: int, threads: int) -> tuple[Rows, float] | None:
    """(rows, seconds) of a lever and a seed, kept; None if the time was over. In a process of its own."""
    torch.set_num_threads(threads)
    kept = ground.home / "results" / f"{name}-{seed}-{ground.base_tokens}-{code()}.json"
    if kept.exists():
        rows, seconds = json.loads(kept.read_text())
        return rows, seconds
    begun = time.monotonic()
    try:
        ground.stop_if_late()
        rows = LEVERS[name].rows(ground, seed)
    except Interrupted:
        return None
    seconds = time.monotonic() - begun
    kept.parent.mkdir(exist_ok=True)
    draft = kept.with_suffix(".draft")
    draft.write_text(json.dumps([rows, seconds]))
    draft.rename(kept)
    return rows, seconds


def prepared(given: argparse.Namespace, home: Path) -> Ground:
    """The text and the base, made before any lever."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    deadline = None if given.minutes is None else time.time() + 60 * given.minutes
    ground = Ground(home, given.shape, given.device, given.base_tokens)
    print("base model", file=sys.stderr, flush=True)
    if given.minutes is not None:
        file = home / f"base-tokens-{given.shape}"  # the same one when the bench goes on
        if not file.exists():
            file.write_text(str(within(ground, given.minutes)))
        ground = Ground(home, given.shape, given.device, int(file.read_text()), deadline)
    _ = ground.base
    return Ground(home, given.shape, given.device, ground.base_tokens, deadline)


@contextmanager
def ended_with(pool: ProcessPoolExecutor) -> Iterator[None]:
    """What was not begun is not, once somebody stops the bench or a job fails."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def measured(given: argparse.Namespace, names: Sequence[str], ground: Ground) -> dict[str, list[tuple[Rows, float]]]:
    """By lever, what its finished seeds found."""
    found: dict[str, list[tuple[Rows, float]]] = {name: [] for name in names}
    begun, seeds = time.monotonic(), range(given.first_seed, given.first_seed + given.seeds)
    threads = max(1, len(os.sched_getaffinity(0)) // given.processes) if given.device != "cpu" else 1
    with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool, ended_with(pool):
        # The SFT model is where other levers begin: made first, and not twice at the same time.
        first: dict[Future[Any], tuple[str, int]] = {}
        rest: dict[Future[Any], tuple[str, int]] = {}
        for name in ("sft", *(each for each in reversed(names) if each != "sft")):
            chosen = first if name == "sft" else rest
            if name != "sft" and not rest:
                for future in as_completed(first):
                    future.result()
            for seed in seeds:
                chosen[pool.submit(done, name, ground, seed, threads)] = (name, seed)
        jobs = first | rest
        for count, future in enumerate(as_completed(jobs), start=1):
            name, seed = jobs[future]
            took = future.result()
            told = "not finished" if took is None else f"{took[1]:.0f} s"
            passed = time.monotonic() - begun
            print(f"{count} of {len(jobs)}: {name}, seed {seed}: {told}; {passed:.0f} s in all", file=sys.stderr)
        for future, (name, _) in jobs.items():
            if name in found and (result := future.result()) is not None:
                found[name].append(result)
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    if markdown:
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for row in rows:
            print("| " + " | ".join(row) + " |")
        return
    wide = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(wide[0]) if at == 0 else cell.rjust(wide[at]) for at, cell in enumerate(row)))


def told(lever: Lever, results: Sequence[tuple[Rows, float]], seeds: int, markdown: bool) -> list[dict[str, Any]]:
    """Print the figures of a lever and its effects; the effects."""
    seconds = sum(each[1] for each in results) / max(1, len(results))
    print(f"\n{'### ' if markdown else ''}{lever.name}\n\n{lever.about}.")
    print(f"{len(results)} of {seeds} seeds finished, {seconds:.0f} s each.\n")
    if not results:
        return []
    found = [rows for rows, _ in results]

    def cell(name: str, figure: Figure) -> str:
        if any(figure.name not in rows[name] for rows in found):
            return ""
        mean, half = interval([figure.factor * rows[name][figure.name] for rows in found])
        return f"{mean:.{figure.digits}f} ± {half:.{figure.digits}f}"

    table(
        ["", *found[0]],
        [[figure.heading, *(cell(name, figure) for name in found[0])] for figure in lever.figures],
        markdown,
    )
    entries = [dict[str, Any](effect=what) for what, _, _ in lever.effects]
    lines = []
    for figure in lever.figures:
        line = [figure.heading]
        for entry, (_, with_it, without) in zip(entries, lever.effects, strict=True):
            if any(figure.name not in rows[name] for rows in found for name in (with_it, without)):
                line.append("")
                continue
            seen = effect(
                [tuple(figure.factor * rows[name][figure.name] for name in (with_it, without)) for rows in found]
            )
            entry[figure.name] = seen
            there = "yes" if seen["there"] else "no"
            line.append(f"{seen['mean']:+.{figure.digits}f} ± {seen['half']:.{figure.digits}f} {there}")
        lines.append(line)
    print()
    table(["difference within a seed; is it there?", *(what for what, _, _ in lever.effects)], lines, markdown)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(LEVERS), help="levers, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--base-tokens", type=int, default=BASE_TOKENS, help="at most, with --minutes")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, help="that it may take; some of them go to the base model")
    parser.add_argument("--processes", type=int, help="all cores on a CPU, one on a GPU without it")
    parser.add_argument("--home", type=Path, help="keep everything here, and use what is there")
    parser.add_argument("--out", type=Path, help="write everything here as JSON")
    parser.add_argument("--markdown", action="store_true", help="tables as Markdown")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in LEVERS]:
        parser.error(f"there is no lever {unknown[0]}; there are {', '.join(LEVERS)}")
    given.processes = given.processes or (len(os.sched_getaffinity(0)) if given.device == "cpu" else 1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        home = given.home or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        try:
            ground = prepared(given, home)
            results = measured(given, names, ground)
        except KeyboardInterrupt:
            carries_on = "the same command carries on" if given.home else "with --home the same command would carry on"
            sys.exit(f"\nstopped; {carries_on}")
    print(
        f"{SHAPES[given.shape].parameters:,} parameters, {ground.base_tokens:,} tokens of pretraining, once; seeds "
        f"{given.first_seed} to {given.first_seed + given.seeds - 1}, mean ± half a 95 % interval"
    )
    effects = {name: told(LEVERS[name], results[name], given.seeds, given.markdown) for name in names}
    print(f"\n{machine()}\n{time.monotonic() - begun:.0f} s in {given.processes} processes")
    if given.out:
        arguments = {name: str(value) for name, value in vars(given).items()}
        given.out.write_text(json.dumps({"arguments": arguments, "results": results, "effects": effects}, indent=2))


if __name__ == "__main__":
    main()
