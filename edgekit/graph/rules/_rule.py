"""What every rewrite shares: it remembers which nodes it refused, and why."""

from __future__ import annotations

from onnxscript import ir
from onnxscript.rewriter import RewriteRuleClassBase


class Rule(RewriteRuleClassBase):
    """A rewrite on onnxscript's rewriter.

    ``NAME`` is what reports call it and the key of its expected count in ``models/*.toml``. ``check`` returns
    ``self.refuse(node, why)`` where it will not rewrite; ``refused`` collects those sentences.
    """

    NAME = ""

    def __init__(self) -> None:
        super().__init__(self.NAME)
        self.refused: list[dict[str, str]] = []

    def refuse(self, node: ir.Node | None, why: str) -> bool:
        """Record the refusal and return False, for ``return self.refuse(...)`` in ``check``."""
        entry = {"node": (node.name if node is not None else None) or "unnamed", "why": why}
        if entry not in self.refused:
            self.refused.append(entry)
        return False
