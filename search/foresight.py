"""What measured blocks let a search expect of an Architecture before a phone runs it.

A claim is made only with its error: a predictor that has not been held to at least three measurements rules nothing
out, and then only what is beyond a budget by more than the largest error it has made.
"""

import math
from collections.abc import Sequence

from search.candidate import Candidate, Predicted
from search.estimate import predicted_decode
from search.latency import LatencyPredictor
from search.objectives import bounds, errors
from search.spec import SearchSpec
from trainer.architecture import Architecture

LATENCIES = ("decode_ms", "ttft_ms")
_PROVED = 3  # predictions that a measurement followed
_LEAST = 0.05  # an error that no phone repeats within


class Foresight:
    """Expectations of one ledger; made anew when the ledger has grown."""

    def __init__(self, spec: SearchSpec, candidates: Sequence[Candidate]) -> None:
        self._spec = spec
        self._predictors = {phone: LatencyPredictor.of(spec, candidates, phone) for phone in spec.phones}
        self._errors = {(p, name): errors(candidates, p, name) for p in spec.phones for name in LATENCIES}

    def cost(self, architecture: Architecture) -> float:
        """Of a decoded token, for ranking: milliseconds on the slowest phone; without times of blocks, bytes."""
        known = [p.predict(architecture).decode_ms for p in self._predictors.values() if p is not None]
        return max(known) if len(known) == len(self._predictors) else predicted_decode(architecture, self._spec)

    def hopeless(self, architecture: Architecture) -> bool:
        """Whether some phone would surely take longer than a budget allows."""
        limits = {name: bound for name, bound in bounds(self._spec.budgets).items() if name in LATENCIES}
        for phone, predictor in self._predictors.items():
            expected = predictor.predict(architecture) if predictor is not None and limits else None
            if expected and any(self._beyond(expected, phone, name, bound) for name, bound in limits.items()):
                return True
        return False

    def _beyond(self, expected: Predicted, phone: str, name: str, bound: float) -> bool:
        made = self._errors[phone, name]
        if len(made) < _PROVED:
            return False
        return bool(getattr(expected, name) > bound * math.exp(max(_LEAST, *map(abs, made))))
