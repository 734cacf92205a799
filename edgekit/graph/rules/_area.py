"""What the lowerings of Area Attention share: when there is one to lower, and how its numbers are called.

``edgekit::AreaAttention(q, k, v; area)`` takes maps ``[B, C, H, W]`` whose channels are heads of 32, cuts their tokens
(row by row) into ``area`` chunks and attends inside each.

Letters of every lowering: B batch, C channels = N·D, N heads, D head width (32), A areas, T tokens of an area, H W map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, static

HEAD_WIDTH = 32
DOMAIN = "edgekit"
OPERATOR = "AreaAttention"


class Sizes(NamedTuple):
    """The numbers of one Area Attention; the batch may be unknown."""

    N: int
    A: int
    T: int
    H: int
    W: int

    @property
    def C(self) -> int:
        return self.N * HEAD_WIDTH


class AreaRule(Rule):
    """Matches the operator and refuses shapes that no lowering can take."""

    COUNT = "attention"

    def pattern(self, op: Operators, q: object, k: object, v: object) -> object:
        return op.AreaAttention(q, k, v, _domain=DOMAIN, _outputs=["out"])

    def check(self, context: object, q: ir.Value, k: ir.Value, v: ir.Value, out: ir.Value) -> bool:
        node = out.producer()
        assert node is not None
        shape = static(q.shape)
        if shape is None or len(shape) != 4:
            return self.refuse(node, f"its map has shape {q.shape}; channels, height and width must be known")
        _, channels, height, width = shape
        area = node.attributes["area"].as_int()
        if channels % HEAD_WIDTH:
            return self.refuse(node, f"{channels} channels are not heads of {HEAD_WIDTH}")
        if height * width % area:
            return self.refuse(
                node,
                f"{height}x{width} tokens do not divide into {area} areas; "
                "image sides that are multiples of 32 always do",
            )
        return True

    @staticmethod
    def sizes(q: ir.Value, out: ir.Value) -> Sizes:
        node, shape = out.producer(), static(q.shape)
        assert node is not None and shape is not None
        area = node.attributes["area"].as_int()
        return Sizes(shape[1] // HEAD_WIDTH, area, shape[2] * shape[3] // area, shape[2], shape[3])

    @staticmethod
    def scale(op: Operators, q: ir.Value, like: ir.Value) -> ir.Value:
        """q · 32^-0.5 in the type of ``like``."""
        kind = (like.dtype or ir.DataType.FLOAT).numpy()
        return op.Mul(q, op.Constant(value=ir.tensor(np.array(HEAD_WIDTH**-0.5, dtype=kind))))
