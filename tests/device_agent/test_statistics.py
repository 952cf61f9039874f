"""Statistics against the standard library, tables of Student's t, and their own definitions."""

import math
from statistics import NormalDist, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.contracts import statistics as ours

SAMPLES = st.lists(st.floats(0.001, 1e6), min_size=2, max_size=30)


@pytest.mark.parametrize(
    ("freedom", "share", "t"),  # NIST/SEMATECH e-Handbook, table 1.3.6.7.2
    [(1, 0.975, 12.706), (2, 0.975, 4.303), (4, 0.975, 2.776), (9, 0.95, 1.833), (30, 0.995, 2.750), (100, 0.9, 1.290)],
)
def test_students_t_is_the_tables(freedom: int, share: float, t: float) -> None:
    assert ours.t_quantile(share, freedom) == pytest.approx(t, abs=6e-4)
    assert ours.t_cdf(t, freedom) == pytest.approx(share, abs=1e-4)
    assert ours.t_cdf(-t, freedom) == pytest.approx(1 - share, abs=1e-4)


def test_students_t_becomes_a_normal() -> None:
    assert ours.t_cdf(1.3, 2000) == pytest.approx(NormalDist().cdf(1.3), abs=1e-3)


@given(SAMPLES)
def test_quantiles_are_the_standard_librarys(samples: list[float]) -> None:
    assert [ours.quantile(samples, i / 20) for i in range(1, 20)] == pytest.approx(
        quantiles(samples, n=20, method="inclusive"), rel=1e-9
    )


@given(SAMPLES)
def test_an_interval_holds_the_mean_and_one_value_is_its_own(samples: list[float]) -> None:
    low, high = ours.t_interval(samples)
    assert low <= math.fsum(samples) / len(samples) * (1 + 1e-12)
    assert high >= math.fsum(samples) / len(samples) * (1 - 1e-12)
    assert ours.t_interval(samples[:1]) == (samples[0], samples[0])


def test_an_interval_by_hand() -> None:
    low, high = ours.t_interval([1.0, 2.0, 3.0])  # 2 +- 4.303 x 1 / sqrt(3)
    assert (low, high) == (pytest.approx(-0.4841, abs=1e-3), pytest.approx(4.4841, abs=1e-3))


def test_small_statistics() -> None:
    assert ours.mad([1, 2, 3, 4, 100]) == 1
    assert ours.spread([1, 1, 1]) == 0
    assert ours.spread([9, 11]) == pytest.approx(math.sqrt(2) / 10)
    assert ours.spread([5]) == 0
    assert ours.drift([1, 1, 9, 9, 2, 2]) == pytest.approx(1.0)
    assert ours.drift([1, 2]) == 0
    assert ours.hodges_lehmann([1.0, 2.0, 9.0]) == 3.5  # of 1, 1.5, 5, 2, 5.5, 9
    low, high = ours.bootstrap_interval([1.0, 2.0, 3.0])
    assert (low, high) == (1.0, 3.0)
