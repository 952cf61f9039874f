"""An Optuna sampler that never proposes the same Architecture twice, around any sampler that knows no such rule."""

from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.space import Key, Params, canonical, distributions, key, may_fit
from search.spec import SearchSpec

_ATTEMPTS = 16

MakeSampler = Callable[[int, int], BaseSampler]


def tpe(seed: int, startup: int) -> BaseSampler:
    """Optuna's TPE for several objectives with constraints; random until `startup` trials are told."""
    return TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


class DistinctSampler(BaseSampler):
    """Asks an inner sampler until its proposal is a new Architecture that may keep the budgets.

    The inner sampler is made anew for every trial, seeded by the trial's number: a study rebuilt from the ledger
    goes on as the one that died would have. After a bounded number of refusals the first new Architecture is taken
    that was refused as `hopeless` alone, a prediction that may be wrong; where there is none, `fallback`.
    """

    def __init__(self, spec: SearchSpec, startup: int, make: MakeSampler = tpe) -> None:
        self._spec, self._startup, self._make = spec, startup, make
        self.seen: set[Key] = set()
        self.fallback: Params | None = None
        self.hopeless: Callable[[Params], bool] = lambda _: False

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All knobs, always: which of them matter is settled by the canonical form."""
        del study, trial
        return distributions(self._spec.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Canonical parameters of a new Architecture."""
        inner = self._make(trial_seed(self._spec.seed, trial.number), self._startup)
        hopeless: Params | None = None
        for _ in range(_ATTEMPTS):
            params = canonical(_draw(inner, study, trial, search_space), self._spec.space)
            if key(params) not in self.seen and may_fit(params, self._spec):
                if not self.hopeless(params):
                    return dict(params)
                hopeless = hopeless or params
        return dict(hopeless or self.fallback or {})

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """For a parameter of somebody else's study: the inner sampler's business."""
        inner = self._make(trial_seed(self._spec.seed, trial.number), self._startup)
        return inner.sample_independent(study, trial, param_name, param_distribution)


def trial_seed(seed: int, number: int) -> int:
    """One seed per trial, far apart."""
    return (seed * 1_000_003 + number * 7919 + 17) % 2**32


def _draw(inner: BaseSampler, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
    joint = inner.infer_relative_search_space(study, trial)
    params = inner.sample_relative(study, trial, joint)
    for name, distribution in space.items():
        if distribution.single():
            params[name] = 0
        elif name not in params:
            params[name] = inner.sample_independent(study, trial, name, distribution)
    return params
