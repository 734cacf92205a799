"""What values a graph's tensors take on calibration images, and which range of them INT8 should cover.

    statistics = collect(Path("model.onnx"), batches)
    limits(statistics, "percentile")["model.2.cv1.act/Mul"]        # (-6.1, 6.1)

One pass keeps a histogram of every value. ``minmax`` is everything that was seen, ``percentile`` all but one value in
10 000 on either side. Other methods lose as much or more (``benchmarks/clipping.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekit.errors import InputError, UsageError, optional

METHODS = ("minmax", "percentile")
BINS = 4096  # over [-reach, reach]
OUTSIDE = 1e-4  # share of values that `percentile` leaves out on either side
SAMPLED = 1 << 13  # values of one tensor and batch that enter its histogram, evenly spread; its extremes are exact

Limits = dict[str, tuple[float, float]]


@dataclass
class Statistics:
    """The values of one tensor: smallest, largest, a histogram over [-reach, reach] (``reach`` a power of two), and the
    sum of each channel's means over ``batches`` batches (of maps ``[B, C, H, W]`` only)."""

    low: float = np.inf
    high: float = -np.inf
    reach: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    sums: np.ndarray | None = None
    batches: int = 0

    def add(self, values: np.ndarray) -> None:
        """Count ``values`` (any shape). The histogram widens by doubling, two bins becoming one, so that the result
        does not depend on the order of what is added."""
        if values.ndim == 4:
            means = values.mean((0, 2, 3)).astype(np.float64)
            self.sums = means if self.sums is None else self.sums + means
            self.batches += 1
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        largest = max(abs(self.low), abs(self.high))
        needed = float(2.0 ** np.ceil(np.log2(largest))) if largest > 0 else 2.0**-40
        if self.reach == 0:
            self.reach = needed
        while self.reach < needed:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([np.zeros(BINS // 4, np.int64), pairs, np.zeros(BINS // 4, np.int64)])
            self.reach *= 2
        some = values.ravel()[:: -(-values.size // SAMPLED)]
        places = ((some + np.float32(self.reach)) * np.float32(BINS / 2 / self.reach)).astype(np.int64)
        self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    @property
    def channel_means(self) -> np.ndarray | None:
        """[C] mean of every channel of a map, else None."""
        return None if self.sums is None else self.sums / self.batches

    @property
    def centres(self) -> np.ndarray:
        """[BINS] the middle of every bin."""
        return (np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach


def collect(graph: Path, batches: Iterable[np.ndarray], names: Iterable[str] | None = None) -> dict[str, Statistics]:
    """Run ``graph`` in ONNX Runtime on ``batches`` and keep statistics of its values.

    Args:
        graph: an ONNX file, float32.
        batches: float32 ``[B, 3, H, W]`` each.
        names: values to keep; all float ones made by an operator, and the input, by default.

    Raises:
        InputError: there are no batches, or a value is not a finite number.
        MissingPackageError: onnxruntime is not installed.
    """
    with optional("calibration", "onnx"):
        import onnxruntime
    model = onnx.load(graph)
    wanted = set(names) if names is not None else None
    source = model.graph.input[0].name
    kept = [n for n in _float_values(model) if wanted is None or n in wanted]
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in kept if n not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, Statistics] = {}
    for batch in batches:
        values: dict[str, Any] = dict(zip(kept, session.run(kept, {source: batch}), strict=True))
        if wanted is None or source in wanted:
            values[source] = batch
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise InputError(f"{graph}: {name!r} is not a finite number on a calibration image; check the weights")
            if value.size:
                each = len(batch) if value.ndim and len(value) % len(batch) == 0 else 1
                for part in np.split(value, each):  # image by image: ranges do not depend on the artifact's batch
                    found.setdefault(name, Statistics()).add(part)
    if not found:
        raise InputError(f"{graph}: no calibration images to run it on")
    return found


def _float_values(model: onnx.ModelProto) -> list[str]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    made = [name for node in model.graph.node for name in node.output]
    return [name for name in made if kinds.get(name) == onnx.TensorProto.FLOAT]


def limits(statistics: Mapping[str, Statistics], method: str, symmetric: bool = True) -> Limits:
    """Value → (low, high) that eight bits should cover; low is ``-high`` where ``symmetric``.

    Raises:
        UsageError: no such method.
    """
    if method not in METHODS:
        raise UsageError(f"there is no calibration method {method!r}; methods are {', '.join(METHODS)}")
    return {name: _limit(s, method, symmetric) for name, s in statistics.items()}


def _limit(s: Statistics, method: str, symmetric: bool) -> tuple[float, float]:
    low, high = min(s.low, 0.0), max(s.high, 0.0)
    if method == "percentile":
        share = np.cumsum(s.counts) / max(int(s.counts.sum()), 1)
        low = max(low, float(s.centres[min(int(np.searchsorted(share, OUTSIDE)), BINS - 1)]))
        high = min(high, float(s.centres[min(int(np.searchsorted(share, 1 - OUTSIDE)), BINS - 1)]))
        low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    return (low, high) if high > low else (-1e-6, 1e-6)
