"""Our proposals against Optuna's own samplers, equal evaluations, on a synthetic landscape (no phone, no training).

    make bench-search

Prints, per sampler and number of evaluations, the median over seeds of the feasible hypervolume as a share of the
whole space's front, and of the best feasible bits per byte above the best there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume  # Optuna offers it only as a plot in public
from synthetic import bits_per_byte, decode_ms, memory_bytes, spec_of

from search.candidate import Candidate, Phase
from search.front import front_of
from search.sampler import MakeSampler, tpe
from search.space import architecture_of, distinct, propose, walk
from search.spec import SearchSpec
from search.study import SearchStudy
from trainer.architecture import Architecture

SPACE = {
    "width": (96, 128, 160, 192, 256, 320, 384),
    "depth": (2, 4, 6, 8, 10, 12, 16),
    "ffn_ratio": (1.5, 2.0, 2.5, 3.0, 4.0),
    "attention_share": (0.0, 0.125, 0.25, 0.375, 0.5, 0.75),
    "kv_heads": (1, 2, 4),
    "kernel": (3, 4),
}
BUDGETS = {"decode_ms": 3.0, "peak_memory_mb": 5.0}
CHECKPOINTS = (8, 16, 32, 64, 100)
Point = tuple[float, float, float]


def point(architecture: Architecture) -> Point:
    return (bits_per_byte(architecture), decode_ms(architecture), memory_bytes(architecture) / 1e6)


def excess(values: Point) -> dict[str, float]:
    return {
        "decode_ms": values[1] / BUDGETS["decode_ms"] - 1,
        "peak_memory_mb": values[2] / BUDGETS["peak_memory_mb"] - 1,
    }


def of_search(spec: SearchSpec, make: MakeSampler = tpe) -> Iterator[Point]:
    """The search as it runs, by batches."""
    study, batch = SearchStudy(spec, [], make), spec.effort.batch
    while True:
        asked = [proposal for _ in range(batch) if (proposal := study.ask()) is not None]
        for proposal in asked:
            values = point(proposal.architecture)
            yield values
            study.tell(
                Candidate(
                    number=proposal.number,
                    params=dict(proposal.params),
                    architecture=proposal.architecture,
                    parameters=proposal.architecture.parameters,
                    phase=Phase.DONE,
                    values=values,
                    violations=excess(values),
                )
            )


def of_optuna(spec: SearchSpec, sampler: optuna.samplers.BaseSampler) -> Iterator[Point]:
    """An Optuna study as its manual shows it, with the same batches and constraints."""
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    while True:
        asked = []
        for _ in range(spec.effort.batch):
            trial = study.ask()
            asked.append((trial, point(propose(trial, spec)[1])))
        for trial, values in asked:
            yield values
            for name, value in excess(values).items():
                trial.set_constraint(name, value)
            study.tell(trial, values)


def volume(points: list[Point], reference: Point) -> float:
    feasible = [p for p in points if max(excess(p).values()) <= 0]
    if not feasible:
        return 0.0
    front = np.array([feasible[i] for i in front_of(feasible)])
    return float(compute_hypervolume(front, np.array(reference)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8)
    seeds = range(parser.parse_args().seeds)
    samplers = {
        "fulcrum": lambda spec: of_search(spec),
        "fulcrum, multivariate": lambda spec: of_search(
            spec, lambda s, n: optuna.samplers.TPESampler(seed=s, n_startup_trials=n, multivariate=True)
        ),
        "fulcrum, random after the warm start": lambda spec: of_search(
            spec, lambda s, _: optuna.samplers.RandomSampler(s)
        ),
        "Optuna TPE": lambda spec: of_optuna(spec, optuna.samplers.TPESampler(seed=spec.seed)),
        "Optuna NSGA-II": lambda spec: of_optuna(spec, optuna.samplers.NSGAIISampler(seed=spec.seed)),
        "Optuna random": lambda spec: of_optuna(spec, optuna.samplers.RandomSampler(spec.seed)),
    }
    base = spec_of(space=SPACE, budgets=BUDGETS, effort={"candidates": CHECKPOINTS[-1]})
    whole = [
        p for params in walk(base.space, 0) if max(excess(p := point(architecture_of(params, base))).values()) <= 0
    ]
    reference = (max(p[0] for p in whole), BUDGETS["decode_ms"], BUDGETS["peak_memory_mb"])
    best, best_bits = volume(whole, reference), min(p[0] for p in whole)
    print(
        f"{distinct(base.space)} architectures, {len(whole)} feasible, best {best_bits:.3f} bits per byte; "
        f"median of {len(seeds)} seeds: share of hypervolume | bits per byte above the best"
    )
    print(f"{'':38}" + "".join(f"{n:>16}" for n in CHECKPOINTS))
    for name, start in samplers.items():
        runs = [
            [p for _, p in zip(range(CHECKPOINTS[-1]), start(base.model_copy(update={"seed": s})), strict=False)]
            for s in seeds
        ]
        cells = []
        for n in CHECKPOINTS:
            share = median(volume(points[:n], reference) / best for points in runs)
            bits = median(
                min((p[0] for p in points[:n] if max(excess(p).values()) <= 0), default=9.0) for points in runs
            )
            cells.append(f"{share:.1%} | {bits - best_bits:.3f}")
        print(f"{name:38}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
