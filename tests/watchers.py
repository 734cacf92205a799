"""Those who look on at training runs under test: one takes notes, and ends the run where a kill would."""

from __future__ import annotations

from edgekit.train.setup import NullCallback


class Interrupted(Exception):
    """Raised where a run is cut off."""


class Watching(NullCallback):
    """Keeps what is said in ``notes``; ends the run once ``count`` batches are through (0: never)."""

    def __init__(self, count: int = 0) -> None:
        self.left = count
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def stepped(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted
