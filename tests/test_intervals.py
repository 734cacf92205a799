"""Intervals of medians: against tables, closed forms, and coverage counted on simulated noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.bench import intervals
from edgekit.bench.intervals import autocorrelation_time, block_length, median_interval, quantile, ratio_interval


def ar1(count: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """[count] standard normal values, each correlated by ``rho`` with the one before."""
    values = rng.normal(size=count)
    for i in range(1, count):
        values[i] = rho * values[i - 1] + math.sqrt(1 - rho * rho) * values[i]
    return values


@pytest.mark.parametrize(
    ("confidence", "degrees", "table"),
    [
        (0.95, 5, 2.571),
        (0.95, 10, 2.228),
        (0.95, 30, 2.042),
        (0.99, 10, 3.169),
        (0.90, 4, 2.132),
        (0.95, math.inf, 1.96),
    ],
)
def test_quantile_equals_student_tables(confidence: float, degrees: float, table: float) -> None:
    assert quantile(confidence, degrees) == pytest.approx(table, rel=0.015)


@pytest.mark.parametrize("rho", [0.5, 0.8, 0.9])
def test_autocorrelation_time_of_a_first_order_process(rho: float) -> None:
    values = ar1(40_000, rho, np.random.default_rng(1))
    assert autocorrelation_time(values) == pytest.approx((1 + rho) / (1 - rho), rel=0.2)


def test_autocorrelation_time_of_independent_and_of_constant_values() -> None:
    assert 1.0 <= autocorrelation_time(np.random.default_rng(2).normal(size=5000)) < 1.2
    assert autocorrelation_time(np.full(100, 3.0)) == 1.0
    assert autocorrelation_time([]) == 1.0


def test_median_interval_is_never_narrower_than_the_exact_binomial_one() -> None:
    """Ranks of the textbook interval: the largest r with P(Binomial(n, 1/2) < r) <= 2.5 %."""
    for n in (10, 30, 101, 400):
        values = np.random.default_rng(n).permutation(n).astype(float)  # so that an order statistic is its own rank
        below, rank = 0.0, 0
        while below + math.comb(n, rank) / 2**n <= 0.025:
            below += math.comb(n, rank) / 2**n
            rank += 1
        low, high = median_interval(values, 0.95)
        assert low <= rank - 1
        assert high >= n - rank
        assert high - low < 2.2 * (n - 2 * rank + 1)


def test_few_samples_give_their_range() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert ratio_interval([2.0, 4.0, 3.0], [1.0, 1.0, 1.0])[1:] == pytest.approx((2.0, 4.0))


@pytest.mark.parametrize(("rho", "count", "at_least"), [(0.0, 60, 0.93), (0.5, 100, 0.92), (0.9, 300, 0.87)])
def test_coverage_with_and_without_memory(
    rho: float, count: int, at_least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skewed noise around a true median (and a true ratio) of one: the 95 % intervals contain it about that often."""
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    rng, trials, medians, ratios, naive = np.random.default_rng(3), 200, 0, 0, 0
    for trial in range(trials):
        noise = np.exp(0.1 * ar1(count, rho, rng))
        low, high = median_interval(noise)
        medians += low <= 1.0 <= high
        _, low, high = ratio_interval(noise, np.ones(count), seed=trial)
        ratios += low <= 1.0 <= high
        shuffled = rng.permutation(noise)  # what an interval that ignores memory would say
        low, high = median_interval(shuffled)
        naive += low <= 1.0 <= high
    assert medians / trials >= at_least
    assert ratios / trials >= at_least
    if rho == 0.9:
        assert naive / trials < 0.7  # the same noise fools an interval that takes the calls for independent


def test_a_change_of_level_is_not_mistaken_for_outliers() -> None:
    """Half of the run at 10 ms, half at 11, one call in ten at 50: the median is between 10 and 11, not up to 50."""
    rng = np.random.default_rng(8)
    times = np.repeat([10.0, 11.0], 200) * np.exp(0.005 * rng.normal(size=400))
    times[rng.permutation(400)[:40]] = 50.0
    low, high = median_interval(times)
    assert 9.8 < low < 10.2
    assert 10.8 < high < 11.2


def test_interval_is_as_wide_as_normal_theory_says() -> None:
    """For normal data the standard error of a median is 1.2533 sigma / sqrt(n)."""
    rng, n, widths = np.random.default_rng(4), 1000, []
    for seed in range(20):
        logs = 0.05 * rng.normal(size=n)
        _, low, high = ratio_interval(np.exp(logs), np.ones(n), seed=seed)
        widths.append(math.log(high / low))
    assert np.median(widths) == pytest.approx(2 * 1.96 * 1.2533 * 0.05 / math.sqrt(n), rel=0.25)


def test_ratio_cancels_what_both_suffer() -> None:
    """A common slowdown of up to five times leaves a ratio of 0.8 exact; unpaired medians would be far off."""
    rng = np.random.default_rng(5)
    slowdown = np.exp(np.cumsum(rng.normal(size=500)) * 0.07)
    ratio, low, high = ratio_interval(0.8 * slowdown, slowdown)
    assert ratio == pytest.approx(0.8, rel=1e-9)
    assert low == pytest.approx(high, rel=1e-9)


def test_ratio_has_no_units_and_inverts() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.lognormal(size=101), rng.lognormal(size=101)
    ratio, low, high = ratio_interval(a, b)
    assert ratio_interval(1e3 * a, 1e3 * b) == pytest.approx((ratio, low, high))
    assert ratio_interval(b, a)[0] == pytest.approx(1 / ratio)


def test_blocks_follow_the_memory() -> None:
    rng = np.random.default_rng(7)
    assert block_length(rng.normal(size=1000)) <= 12
    assert 20 <= block_length(ar1(1000, 0.9, rng)) <= 200
