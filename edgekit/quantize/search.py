"""The fewest and cheapest groups to put back into floating point so that accuracy holds.

    found = put_back(ranking, score, limit=0.005, before=0.435, after=0.401)
    found.groups, found.after, found.tried

First the worst groups of the ranking, one, two, four … of them, until the limit holds; of the last doubling only as
many as it takes, by bisection; then those that turn out not to be needed are quantized again, the most expensive
first. Every step is judged by the real metric on the artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_TRIALS = 20


@dataclass
class Found:
    """``groups`` put back (None: nothing sufficed), the metric ``after`` it, and every trial."""

    groups: tuple[str, ...] | None
    after: float
    tried: list[dict[str, Any]] = field(default_factory=list)


def put_back(
    ranking: Sequence[dict[str, Any]],
    score: Callable[[Sequence[str]], float],
    limit: float,
    before: float,
    after: float,
    most_trials: int = MOST_TRIALS,
) -> Found:
    """Search.

    Args:
        ranking: rows of ``sensitivity.rank``, worst first.
        score: groups put back → the artifact's metric, a fraction.
        limit: largest drop allowed, a fraction.
        before, after: the metric of the float model, and with nothing put back.
    """
    order = [str(row["group"]) for row in ranking]
    cost = {str(row["group"]): float(row["cost"]) for row in ranking}
    found = Found(None, after)

    def holds(chosen: Sequence[str]) -> bool:
        value = score(chosen)
        found.tried.append({"put_back": list(chosen), "after": value, "drop_points": 100 * (before - value)})
        if before - value <= limit:
            found.groups, found.after = tuple(chosen), value
            return True
        return False

    failed, size = 0, 1
    while not holds(order[:size]):
        if size >= len(order) or len(found.tried) >= most_trials:
            return found
        failed, size = size, min(2 * size, len(order))
    while size - failed > 1 and len(found.tried) < most_trials:
        middle = (failed + size) // 2
        failed, size = (failed, middle) if holds(order[:middle]) else (middle, size)
    needed = list(found.groups or ())
    for group in sorted(needed, key=lambda g: -cost[g]):
        fewer = [g for g in needed if g != group]
        if not fewer or len(found.tried) >= most_trials:
            break
        if holds(fewer):
            needed = fewer
    return found
