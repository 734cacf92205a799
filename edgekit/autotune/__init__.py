"""The fastest plan for the machine at hand: what could be built, timed and judged until one candidate is left.

| file | does |
|---|---|
| ``candidates.py`` | what this machine can run, and why not the rest |
| ``select.py`` | who is timed again, who is judged, who is dropped, who wins: no clock and no model in it |
| ``tuner.py`` | builds, times and judges what ``select.py`` asks for |
| ``auto.py`` | ``edgekit build --target auto``: all of it, and the winner's bundle with the plan inside |
| ``ladder.py`` | which change is made next, and when it is enough: no clock and no model in it |
| ``reach.py`` | ``edgekit tune --to``: the changes there are, and the last rung's bundle with the ladder inside |
| ``document.py`` | ``plan.json``: written, read with suspicion, replayed on another machine |
| ``picture.py`` | speed and accuracy, with the Pareto front |
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.errors import UsageError

GOALS = ("latency", "throughput")


@dataclass(frozen=True)
class Objective:
    """What the plan is to be fast at.

    Attributes:
        goal: ``latency`` (one image, array to answers) or ``throughput`` (images a second, several at once).
        bound: most milliseconds of one image, or fewest images a second; None asks for the fastest only.
    """

    goal: str = "latency"
    bound: float | None = None

    @classmethod
    def parse(cls, text: str) -> Objective:
        """``latency``, ``throughput``, ``latency:20`` (milliseconds at most) or ``throughput:60`` (images/s at least).

        Raises:
            UsageError: anything else.
        """
        goal, colon, number = text.partition(":")
        try:
            bound = float(number) if colon else None
        except ValueError:
            bound = -1.0
        if goal not in GOALS or (bound is not None and not 0 < bound < 1e9):
            raise UsageError(
                f"`objective` {text}: give latency or throughput, or a bound: latency:20 (milliseconds at most), "
                "throughput:60 (images per second at least)"
            )
        return cls(goal, bound)

    def figure(self, ms: float) -> float:
        """Milliseconds an image as the wish counts: themselves, or images a second."""
        return ms if self.goal == "latency" else 1e3 / ms

    def text(self, ms: float) -> str:
        """``31.2 ms`` or ``52.1 images/s``."""
        unit = "ms" if self.goal == "latency" else "images/s"
        return f"{self.figure(ms):.3g} {unit}"

    def holds(self, ms: float) -> bool:
        """Whether ``ms`` an image is within the bound."""
        return self.bound is None or ms <= (self.bound if self.goal == "latency" else 1e3 / self.bound)


def parse_speedup(text: str) -> float:
    """``2x`` or ``1.5`` as a number: times as fast.

    Raises:
        ValueError: anything else.
    """
    try:
        times = float(text.removesuffix("x"))
    except ValueError:
        times = 0.0
    if not 1 < times <= 100:
        raise ValueError("give how many times as fast, above 1, such as 2x")
    return times


@dataclass(frozen=True)
class Candidate:
    """A target with its switches.

    Attributes:
        target: one of ``targets.names()``.
        batch: images a run, fixed when it is built.
        streams: runs at once; ``threads`` of the CPU for all of them, None: the runtime's choice.
        shapes: input sizes (height, width); none: the size that was asked for, or the model's own.
        variant: which checkpoint it is built from; "": the one that was given.
    """

    target: str
    batch: int = 1
    streams: int = 1
    threads: int | None = None
    shapes: tuple[tuple[int, int], ...] = ()
    variant: str = ""

    @property
    def bundle(self) -> str:
        """Candidates of one bundle share its accuracy."""
        sizes = " and ".join(f"{height}x{width}" for height, width in self.shapes)
        words = [self.target, sizes, self.variant]
        return " ".join(word for word in words if word) + (f", batch {self.batch}" if self.batch > 1 else "")

    @property
    def name(self) -> str:
        return self.bundle if self.streams == 1 else f"{self.bundle}, {self.streams} streams"
