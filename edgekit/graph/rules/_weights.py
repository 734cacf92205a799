"""Weights that rewrites make."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnxscript import ir


def initializer(op: Any, name: str, array: np.ndarray) -> Any:
    """A constant of the graph with this name, which no other has."""
    return op.initializer(ir.tensor(np.ascontiguousarray(array), name=name), name)
