"""An integer division taken through floating point stays in integers.

| before | after |
|---|---|
| ``y = Cast(i; float) / c``; ``Cast(Floor(Abs(y)) · Sign(y); int64)`` | ``Div(i, c)`` in int64 |

Both truncate towards zero. PyTorch's exporter writes the left form for a division rounded that way, as the topk head
needs it to tell a pair's cell from its class; in half precision, as TensorRT would run it, indices above 2048 go wrong.
"""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, constant


class IntegerDivision(Rule):
    NAME = "integer_division"

    def pattern(self, op: Operators, i: object, divisor: object) -> object:
        y = op.Div(op.Cast(i, to=ir.DataType.FLOAT), divisor)
        return op.Cast(op.Mul(op.Floor(op.Abs(y)), op.Sign(y)), to=ir.DataType.INT64, _outputs=["out"])

    def check(self, context: object, i: ir.Value, divisor: ir.Value, out: ir.Value) -> bool:
        number = constant(divisor)
        if i.dtype != ir.DataType.INT64 or number is None or number.size != 1:
            return False
        whole = float(number.reshape(()))
        if whole == 0 or whole != int(whole):
            return self.refuse(out.producer(), f"it divides by {whole:g}, which is no whole number")
        return True

    def rewrite(self, op: Operators, i: ir.Value, divisor: ir.Value, out: ir.Value) -> ir.Value:
        number = constant(divisor)
        assert number is not None
        return op.Div(i, op.Constant(value=ir.tensor(np.array(int(number.reshape(())), dtype=np.int64))))
