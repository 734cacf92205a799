"""What a person sees of a running training: a live line or one a minute, a line per epoch, and what sinks are told.

with View(["tensorboard"]) as view:
    train(..., watch=view)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli._common import console, note
from edgekit.cli._progress import EVERY_S, clock
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.train.setup import Run


class View:
    """The watcher of `edgekit train`; see ``edgekit.train.setup.Callback``.

    Attributes:
        images_per_s: over everything between the first batch and the end, validation included.
        seconds: the same span.
    """

    def __init__(self, logs: Sequence[str] = ()) -> None:
        self._logs = logs
        self._sinks: Any = None
        self._bar: Any = None
        self._row: Any = None
        self._images = self._first = 0  # images seen, steps done before this process
        self._start = self._ended = time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> View:
        if console().is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console(),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        for warning in self._sinks.close() if self._sinks else ():
            self.note(warning)

    @property
    def seconds(self) -> float:
        return self._ended - self._start

    @property
    def images_per_s(self) -> float:
        return self._images / self.seconds if self.seconds else 0.0

    def note(self, sentence: str) -> None:
        note(sentence)

    def began(self, run: Run) -> None:
        options, numbers = run.options, run.numbers
        half = f", {str(run.half).removeprefix('torch.')}" if run.half else ""
        console().print(
            f"{run.started.spec.name}, {run.started.spec.classes} classes, start: {run.taken}", soft_wrap=True
        )
        console().print(
            f"{len(run.train)} images to train on, {len(run.val)} to validate on; {numbers.kind}, lr {numbers.lr:.4g}, "
            f"batch {options.batch} x {numbers.accumulate}, {options.epochs} epochs, "
            f"{run.started.imgsz[0]}x{run.started.imgsz[1]} px on {run.device}{half} -> {run.folder.path}",
            soft_wrap=True,
        )
        if self._logs:
            from edgekit.train.loggers import open_loggers

            self._sinks = open_loggers(self._logs, run.folder.path, options.to_dict())
        self._first = run.progress.epoch * run.batches + run.progress.step
        if self._bar:
            self._row = self._bar.add_task("", total=numbers.steps, completed=self._first, state="")
        self._start = self._ended = self._shown = time.monotonic()

    def stepped(self, run: Run, images: int) -> None:
        self._images += images
        now = self._ended = time.monotonic()
        if now - self._shown > (0.2 if self._bar else EVERY_S):
            self._shown = now
            progress, batches = run.progress, run.batches
            losses = " ".join(f"{name} {total / progress.step:.3f}" for name, total in progress.sums.items())
            state = f"{losses} | {self.images_per_s:.1f} images/s{_memory(run)}"
            title, done = f"epoch {progress.epoch + 1}/{run.options.epochs}", progress.epoch * batches + progress.step
            if self._bar:
                self._bar.update(self._row, completed=done, description=title, state=state)
            else:
                left = (run.numbers.steps - done) * self.seconds / max(done - self._first, 1)
                self._line(f"{title}, step {progress.step} of {batches}: {state}, {clock(left)} left")

    def validating(self, done: int, of: int) -> None:
        now = self._ended = time.monotonic()
        if self._bar and self._row is not None:
            self._bar.update(self._row, state=f"validating {done} of {of}")
        elif now - self._shown > EVERY_S:
            self._shown = now
            self._line(f"validating {done} of {of}")

    @staticmethod
    def _line(text: str) -> None:
        console().print(text, highlight=False, soft_wrap=True, markup=False)

    def ended_epoch(self, run: Run, row: Mapping[str, float]) -> None:
        self._ended = time.monotonic()
        losses = " ".join(f"{k.removeprefix('loss_')} {v:.3f}" for k, v in row.items() if k.startswith("loss_"))
        metric = f"  {run.metric} {row[run.metric]:.4f}" if run.metric in row else ""
        best = "  best" if run.progress.best_epoch == run.progress.epoch else ""
        console().print(
            f"epoch {run.progress.epoch:>3}/{run.options.epochs}  {losses}{metric}{best}  "
            f"{self.images_per_s:.1f} images/s",
            highlight=False,
        )
        for warning in self._sinks.log(run.progress.epoch, row) if self._sinks else ():
            self.note(warning)


def _memory(run: Run) -> str:
    if run.device.type == "cuda":
        import torch

        return f" | {torch.cuda.max_memory_reserved(run.device) / 2**30:.1f} GiB"
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return f" | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"


def check_new(folder: Path, resume: bool, force: bool) -> None:
    """Refuse to begin where another run is.

    Raises:
        UsageError: there is one, and neither ``resume`` nor ``force`` was given.
    """
    if not resume and not force and (folder / "resume.pt").exists():
        raise UsageError(f"`out` {folder}: holds a run; give `resume` to go on with it, `force` to start anew")
