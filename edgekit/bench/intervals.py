"""Confidence intervals of medians that stay honest when successive measurements resemble each other.

Times on a real machine are skewed and autocorrelated: a neighbour wakes up, a clock drops, and a hundred calls in a
row are slow together. Treating them as independent gives intervals that are far too narrow. Two tools:

- ``median_interval``: the distribution-free interval between two order statistics, its ranks spread by the
  autocorrelation time of "above or below the median";
- ``ratio_interval``: the median of paired ratios with a circular block bootstrap, whose blocks are as long as the
  memory found in the data, stretched for small samples.

    low, high = median_interval(times_N, confidence=0.95)
    ratio, low, high = ratio_interval(times_N, baseline_N, confidence=0.95, seed=0)
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1000
TENTHS = 10
_BOOTSTRAP_CELLS = 4_000_000  # resamples times samples held at once


def autocorrelation_time(values: ArrayLike) -> float:
    """How many successive values count as one independent one; 1.0 for independent data, never less.

    Integrated autocorrelation time 1 + 2·Σρ(k) with Sokal's self-consistent window (the first k of at least five
    times the estimate), after A. Sokal, "Monte Carlo Methods in Statistical Mechanics", 1997, section 3.

    Args:
        values: [N] in the order they were measured.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    x = x - x.mean() if n else x
    if n < 8 or not np.any(x):
        return 1.0
    size = 1 << (2 * n - 1).bit_length()  # padded with zeros, so that the transform does not wrap around
    spectrum = np.fft.rfft(x, size)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum), size)[: max(n // 3, 2)]
    times = 2.0 * np.cumsum(covariance / covariance[0]) - 1.0
    inside = np.arange(len(times)) >= 5.0 * times
    window = int(np.argmax(inside)) if inside.any() else len(times) - 1
    if times[window] <= 1.0:
        return 1.0
    error = math.sqrt(2.0 * (2 * window + 1) / n)  # relative standard error of the estimate (Sokal, eq. 3.19)
    return float(min(times[window] * (1.0 + error), n / 4))


def median_memory(values: ArrayLike) -> float:
    """``autocorrelation_time`` of the signs around the median: what governs the spread of a sample median."""
    x = np.asarray(values, dtype=np.float64)
    return autocorrelation_time(np.sign(x - np.median(x))) if len(x) else 1.0


def median_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """The two order statistics that enclose the true median with the stated confidence.

    The number of samples below the true median is binomial(N, 1/2) for independent samples; with memory its
    variance is N/4 times the autocorrelation time. Where the memory is about as long as the run, that would reach
    into the outliers, so the part of the interval that is owed to memory ends at the lowest and highest median of the
    tenths of the run. Fewer than six samples give their whole range.

    Args:
        values: [N] in the order they were measured, N >= 1.
    """
    x = np.asarray(values, dtype=np.float64)
    ordered = np.sort(x)
    low, high = _ranked(ordered, median_memory(x), confidence)
    if len(x) < 4 * TENTHS:
        return low, high
    inner_low, inner_high = _ranked(ordered, 1.0, confidence)
    levels = [float(np.median(part)) for part in np.array_split(x, TENTHS)]
    return max(low, min(inner_low, *levels)), min(high, max(inner_high, *levels))


def ratio_interval(
    values: ArrayLike, baseline: ArrayLike, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """(ratio, low, high): the median of the paired ratios ``values / baseline`` and its confidence interval.

    Circular block bootstrap (Politis and Romano, 1992) of the median of the log ratios: blocks of neighbouring
    rounds are drawn whole, so what they share stays shared. The percentile interval is stretched by Student's t
    over z, with as many degrees of freedom as there are blocks, since the bootstrap alone is too narrow for small
    samples (Hesterberg, "What teachers should know about the bootstrap", 2015).

    Args:
        values, baseline: [N] positive times of the same rounds, N >= 1.
    """
    logs = np.log(np.asarray(values, dtype=np.float64)) - np.log(np.asarray(baseline, dtype=np.float64))
    n = len(logs)
    centre = float(np.median(logs))
    if n < 6:
        return math.exp(centre), math.exp(float(logs.min())), math.exp(float(logs.max()))
    block = block_length(logs)
    medians = _bootstrap_medians(logs, block, np.random.default_rng(seed))
    tail = (1.0 - confidence) / 2.0
    low, high = (float(v) for v in np.quantile(medians, [tail, 1.0 - tail]))
    stretch = quantile(confidence, n / block - 1.0) / quantile(confidence, math.inf)
    down, up = stretch * max(centre - low, 0.0), stretch * max(high - centre, 0.0)
    ranked_low, ranked_high = median_interval(logs, confidence)
    return math.exp(centre), math.exp(min(centre - down, ranked_low)), math.exp(max(centre + up, ranked_high))


def _ranked(ordered: Floats, memory: float, confidence: float) -> tuple[float, float]:
    n = len(ordered)
    half = quantile(confidence, n / memory - 1.0) * math.sqrt(n * memory) / 2.0
    low, high = math.floor(n / 2.0 - half), math.ceil(n / 2.0 + half)
    return float(ordered[max(low - 1, 0)]), float(ordered[min(high, n - 1)])


def block_length(values: ArrayLike) -> int:
    """Length of a bootstrap block: the cube root of N, or twice the memory of the data where that is more."""
    x = np.asarray(values, dtype=np.float64)
    wanted = max(math.pow(len(x), 1.0 / 3.0), 2.0 * median_memory(x))
    return max(1, min(math.ceil(wanted), len(x) // 5))


def quantile(confidence: float, degrees: float) -> float:
    """Two-sided quantile of Student's t (of the normal for infinite degrees), to 1 % from three degrees on.

    Cornish and Fisher's expansion in 1/degrees (Abramowitz and Stegun 26.7.5). Fewer than three degrees count as three.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    nu = max(degrees, 3.0)
    first = (z**3 + z) / 4.0
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96.0
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384.0
    return z + first / nu + second / nu**2 + third / nu**3


def _bootstrap_medians(values: Floats, block: int, rng: np.random.Generator) -> Floats:
    """[RESAMPLES] medians of series put together from random blocks of ``values`` (the end joins the start)."""
    n = len(values)
    blocks = math.ceil(n / block)
    ring = np.concatenate([values, values[: block - 1]])
    at_once = max(1, _BOOTSTRAP_CELLS // n)
    medians: list[Floats] = []
    for first in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - first)
        starts = rng.integers(0, n, size=(rows, blocks, 1))
        drawn = ring[starts + np.arange(block)].reshape(rows, -1)[:, :n]
        medians.append(np.median(drawn, axis=1))
    return np.concatenate(medians)
