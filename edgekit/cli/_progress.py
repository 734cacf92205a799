"""How long work is shown: a bar or a spinner on a terminal, a line a minute where there is none (nohup, a container).

with Counted("checking", len(images), "images") as counter:
    for image in images:
        ...
        counter.advance()

with Phases("building") as phases:           # what is not counted: the present phase and the time since the start
    phases.update("calibrating")

for path in track(paths, "predicting"):
    ...
"""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from edgekit.cli._common import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.status import Status

T = TypeVar("T")
EVERY_S = 60.0


class _Shown(abc.ABC):
    """Speaks every minute, from a thread of its own, while the work is in the ``with`` block."""

    def __init__(self, every_s: float | None) -> None:
        self._every_s, self._ended, self._start = every_s or EVERY_S, threading.Event(), time.monotonic()
        self._speaker: threading.Thread | None = None

    @abc.abstractmethod
    def line(self) -> str:
        """What is to be said now."""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def _begin(self) -> None:
        self._start = time.monotonic()
        self._speaker = threading.Thread(target=self._speak, daemon=True, name="progress")
        self._speaker.start()

    def _speak(self) -> None:
        while not self._ended.wait(self._every_s):
            console().print(self.line(), soft_wrap=True, markup=False)

    def _end(self) -> None:
        self._ended.set()
        if self._speaker:
            self._speaker.join()


class Counted(_Shown):
    """Counted work.

    Args:
        title: what is being done, in a word or two.
        total: how many things; None where nobody knows.
        things: what they are called, in the plural.
        every_s: seconds between lines where there is no terminal.
    """

    def __init__(
        self, title: str, total: int | None = None, things: str = "images", every_s: float | None = None
    ) -> None:
        super().__init__(every_s)
        self.title, self.total, self.things = title, total, things
        self.done, self.state = 0, ""
        self._bar: Progress | None = None
        self._row: TaskID | None = None

    def __enter__(self) -> Counted:
        if not console().is_terminal:
            self._begin()
            return self
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=console(), transient=True)
        self._row = self._bar.add_task(self.title, total=self.total)
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._end()
        if self._bar:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.reach(self.done + count)

    def reach(self, done: int, state: str = "") -> None:
        """``done`` are done in all; ``state`` is said beside it."""
        self.done, self.state = done, state
        if self._bar and self._row is not None:
            self._bar.update(self._row, completed=done, description=f"{self.title} {state}".strip())

    def line(self) -> str:
        """``evaluating: 512 of 5000 images, 23.4 a second, 3:12 left``."""
        rate = self.done / max(self.seconds, 1e-9)
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.title}: {self.done}{of} {self.things}", f"{rate:.1f} a second"]
        if self.total is not None and self.done:
            parts.append(f"{clock((self.total - self.done) / rate)} left")
        return ", ".join([*parts, *([self.state] if self.state else [])])


class Phases(_Shown):
    """Work in phases that nobody can count: ``update`` names the present one."""

    def __init__(self, phase: str = "", every_s: float | None = None) -> None:
        super().__init__(every_s)
        self.phase = phase
        self._status: Status | None = None

    def __enter__(self) -> Phases:
        if console().is_terminal:
            self._status = console().status(self.phase)
            self._status.start()
        else:
            self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._end()
        if self._status:
            self._status.stop()

    def update(self, phase: str) -> None:
        """Name what is being done now."""
        from rich.markup import escape

        self.phase = phase
        if self._status:
            self._status.update(escape(phase))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While it lasts the terminal's lower lines are somebody else's."""
        if self._status:
            self._status.stop()
        try:
            yield
        finally:
            if self._status:
                self._status.start()

    def line(self) -> str:
        """``calibrating (2:05)``."""
        return f"{self.phase or 'working'} ({clock(self.seconds)})"


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """``items``, counted while they are taken. ``total`` is needed only where ``items`` has no length."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with Counted(title, total) as counter:
        for item in items:
            yield item
            counter.advance()


def clock(seconds: float) -> str:
    """``3:12``, or ``1:03:12``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
