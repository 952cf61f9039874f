"""A copy of the trials in an Optuna storage that the user names, so that optuna-dashboard shows the search."""

import warnings
from collections.abc import Iterable

import optuna
from optuna.storages import BaseStorage

from search.candidate import Candidate
from search.errors import MirrorUnreachable
from search.spec import SearchSpec
from search.study import frozen

_NUMBER = "fulcrum_candidate"


class Mirror:
    """Copies finished candidates, each once, however often it is called or restarted.

    Args:
        storage: an Optuna storage that the caller opened, e.g. by `optuna.storages.get_storage(url)`.
        name: the study's name there.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self._storage, self._name = storage, name

    def update(self, spec: SearchSpec, candidates: Iterable[Candidate]) -> None:
        """Add the finished candidates that are not there yet. Raises MirrorUnreachable."""
        try:
            study = optuna.create_study(
                storage=self._storage,
                study_name=self._name,
                directions=["minimize"] * len(spec.objectives),
                load_if_exists=True,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(spec.objectives))
            there = {trial.user_attrs.get(_NUMBER) for trial in study.get_trials(deepcopy=False)}
            for candidate in candidates:
                if candidate.values is not None and candidate.number not in there:
                    study.add_trial(frozen(spec, candidate, _attributes(candidate)))
        except optuna.exceptions.StorageInternalError as error:
            raise MirrorUnreachable(
                f"the Optuna storage for study {self._name} failed: {error}",
                advice="Check the storage's address and that its database runs, or search without a mirror.",
            ) from error


def _attributes(candidate: Candidate) -> dict[str, int | float | str | bool]:
    architecture = candidate.architecture
    return {
        _NUMBER: candidate.number,
        "architecture": architecture.hash,
        "operators": "".join(block.operator[0] for block in architecture.blocks),
        "width": architecture.width,
        "depth": architecture.depth,
        "ffn_width": architecture.ffn_width,
        "parameters": candidate.parameters,
        "feasible": candidate.feasible,
        "fault": candidate.fault.slug if candidate.fault else "",
    }
