"""The front against brute force, and against Optuna's own."""

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st

from search.front import dominates, front_of

points = st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 4)] * n), max_size=25))


@settings(max_examples=200, deadline=None)
@given(points)
def test_the_front_is_what_nothing_dominates(cloud: list[tuple[int, ...]]) -> None:
    brute = [i for i, p in enumerate(cloud) if not any(dominates(q, p) for q in cloud)]
    assert front_of(cloud) == brute


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=20))
def test_the_front_is_optunas(cloud: list[tuple[int, ...]]) -> None:
    study = optuna.create_study(directions=["minimize"] * 3)
    for point in cloud:
        study.add_trial(optuna.trial.create_trial(values=point))
    assert front_of(cloud) == sorted(trial.number for trial in study.best_trials)
