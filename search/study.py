"""The Optuna study of a search: rebuilt from the ledger, asked for proposals, told results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search.candidate import Candidate, Phase
from search.errors import LedgerMismatch
from search.foresight import Foresight
from search.objectives import bounds
from search.sampler import DistinctSampler, MakeSampler, tpe, trial_seed
from search.space import KNOBS, Params, architecture_of, distributions, key, propose, unseen
from search.spec import SearchSpec
from search.warm import warm_start
from trainer.architecture import Architecture

# A line per study and trial would drown the search's own progress.
optuna.logging.set_verbosity(optuna.logging.WARNING)

RAN = "ran"  # the constraint that a candidate which failed breaks
# Samplers rank what is infeasible by the sum of its excesses: a crash ranks below any budget missed by measurement.
_CRASHED = 1e6


@dataclass(frozen=True)
class Proposal:
    """The next trial."""

    number: int
    params: Params
    architecture: Architecture


class SearchStudy:
    """An in-memory Optuna study that holds nothing which the ledger does not.

    The same ledger and seed give the same proposals, whether the study lived through them or was rebuilt. A trial's
    number is its candidate's.
    """

    def __init__(self, spec: SearchSpec, candidates: Iterable[Candidate], make: MakeSampler = tpe) -> None:
        self._spec = spec
        self._startup = len(warm_start(spec))
        self._told: list[Candidate] = []
        self._foresight: Foresight | None = None
        self._sampler = DistinctSampler(spec, startup=self._startup, make=make)
        self._study = optuna.create_study(directions=["minimize"] * len(spec.objectives), sampler=self._sampler)
        self._pending: dict[int, Trial] = {}
        for candidate in sorted(candidates, key=lambda c: c.number):
            self._replay(candidate)

    def ask(self) -> Proposal | None:
        """The next proposal, or None when every Architecture that may fit was proposed."""
        number = len(self._study.get_trials(deepcopy=False))
        fallback = unseen(self._spec, self._sampler.seen, trial_seed(self._spec.seed, number))
        if fallback is None:
            return None
        foresight = self._foresee()
        self._sampler.fallback = fallback
        self._sampler.hopeless = lambda params: foresight.hopeless(architecture_of(params, self._spec))
        warm = self._next_warm(foresight) if number < self._startup else None
        if warm is not None:
            self._study.enqueue_trial(dict(warm))
        return self._ask(number)

    def _foresee(self) -> Foresight:
        if self._foresight is None:
            self._foresight = Foresight(self._spec, self._told)
        return self._foresight

    def _next_warm(self, foresight: Foresight) -> Params | None:
        """The first warm point that is left, on the front as the phones have shown it so far."""
        for params in warm_start(self._spec, foresight.cost):
            if key(params) not in self._sampler.seen and not self._sampler.hopeless(params):
                return params
        return None

    def tell(self, candidate: Candidate) -> None:
        """Tell what a finished candidate gave; a second time changes nothing.

        A failed candidate counts as complete with pessimistic values and a broken constraint, since Optuna's
        samplers learn nothing from a trial told as failed.
        """
        trial = self._pending.pop(candidate.number, None)
        if trial is None:
            return
        self._told.append(candidate)
        self._foresight = None
        for name, excess in constraints(self._spec, candidate).items():
            trial.set_constraint(name, excess)
        self._study.tell(trial, values=candidate.values)

    def trials(self) -> list[FrozenTrial]:
        """The trials as Optuna holds them."""
        return self._study.get_trials()

    def _ask(self, number: int) -> Proposal:
        trial = self._study.ask()
        params, architecture = propose(trial, self._spec)
        if trial.number != number:
            raise LedgerMismatch(f"trial {trial.number} was asked for candidate {number}: the ledger has a gap")
        self._sampler.seen.add(key(params))
        self._pending[number] = trial
        return Proposal(number, params, architecture)

    def _replay(self, candidate: Candidate) -> None:
        if candidate.values is None:
            self._study.enqueue_trial({name: int(candidate.params[name]) for name in KNOBS})
            self._ask(candidate.number)
            return
        if candidate.number != len(self._study.get_trials(deepcopy=False)):
            raise LedgerMismatch(f"candidate {candidate.number} follows a gap in the ledger")
        self._told.append(candidate)
        self._foresight = None
        self._sampler.seen.add(key(candidate.params))
        self._study.add_trial(frozen(self._spec, candidate))


def constraints(spec: SearchSpec, candidate: Candidate) -> dict[str, float]:
    """Optuna's constraints of a finished candidate: above 0 is broken."""
    known = {name: candidate.violations[name] for name in bounds(spec.budgets) if name in candidate.violations}
    return known | {RAN: _CRASHED if candidate.phase is Phase.FAILED else 0.0}


def frozen(
    spec: SearchSpec, candidate: Candidate, user_attrs: Mapping[str, int | float | str | bool] | None = None
) -> FrozenTrial:
    """A finished candidate as an Optuna trial. Raises ValueError if it has no values."""
    return create_trial(
        state=TrialState.COMPLETE,
        values=candidate.values,
        params={name: int(candidate.params[name]) for name in KNOBS},
        distributions=distributions(spec.space),
        constraints=constraints(spec, candidate),
        user_attrs=dict(user_attrs or {}),
    )
