"""Ranges that clip by more than edgekit's own: for comparing them with ``percentile`` in ``int8_methods.py``.

limits(ranges.collect(graph, batches), "mse")["model.2.cv1.act/Mul"]        # (-0.278, 6.1)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.quantize import ranges

STEPS = 80  # clipping thresholds that `mse` tries


def limits(statistics: Mapping[str, ranges.Statistics], method: str, symmetric: bool = True) -> ranges.Limits:
    """As ``ranges.limits``, and by ``mse`` and ``entropy`` too."""
    if method not in METHODS:
        return ranges.limits(statistics, method, symmetric)
    seen = ranges.limits(statistics, "minmax", symmetric)
    return {name: METHODS[method](s, *seen[name]) for name, s in statistics.items()}


def least_error(s: ranges.Statistics, low: float, high: float) -> tuple[float, float]:
    """The fraction of the range with the least squared error: rounding inside, clipping outside."""
    used = np.flatnonzero(s.counts)
    centres, weights = s.centres[used], s.counts[used].astype(np.float64)
    best, chosen = np.inf, (low, high)
    for part in np.linspace(1.0, 0.2, STEPS):
        # The short side of an activation such as SiLU's is no tail: it stays.
        a, b = (part * low, part * high) if -low == high else (max(low, -part * max(high, -low)), part * high)
        if b <= a:
            continue
        step = (b - a) / 255
        inside = np.clip(centres, a, b)
        error = float((weights * (np.round((inside - a) / step) * step + a - centres) ** 2).sum())
        if error < best:
            best, chosen = error, (float(a), float(b))
    return chosen


def least_divergence(s: ranges.Statistics, low: float, high: float) -> tuple[float, float]:
    """The range whose distribution after rounding is nearest to the original's (Kullback-Leibler divergence; S. Migacz,
    "8-bit inference with TensorRT", GTC 2017)."""
    half = ranges.BINS // 2
    sizes = s.counts[half:] + s.counts[half - 1 :: -1]  # of absolute values
    top = int(np.ceil(max(-low, high) / s.reach * half))
    best, chosen = np.inf, top
    for edge in range(128, top + 1, max((top - 128) // 64, 1)):
        kept = sizes[:edge].astype(np.float64)
        outside = sizes[edge:].sum()
        clipped = kept.copy()
        clipped[-1] += outside
        bins = np.minimum(np.arange(edge) * 128 // edge, 127)
        filled = (kept > 0).astype(np.float64)
        share = np.bincount(bins, kept, 128) / np.maximum(np.bincount(bins, filled, 128), 1)
        rough = share[bins] * filled
        p, q = clipped / max(clipped.sum(), 1), rough / max(rough.sum(), 1)
        both = (p > 0) & (q > 0)
        missed = p[(p > 0) & (q == 0)].sum()
        divergence = float((p[both] * np.log(p[both] / q[both])).sum() + missed * 20)
        if divergence < best:
            best, chosen = divergence, edge
    reach = s.reach * chosen / half
    return max(low, -reach), min(high, reach)


METHODS = {"mse": least_error, "entropy": least_divergence}
