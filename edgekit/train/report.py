"""What a run draws into its folder: the labels and the first batch at its start, everything else at its end.

begun(run, batch)            # labels.png, batch.png
ended(result, note)          # curves.png, confusion.png, PR and F1 curves, predictions.png, worst.png
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.train import plots, previews

if TYPE_CHECKING:
    from edgekit.train.loader import Batch
    from edgekit.train.loop import Result
    from edgekit.train.setup import Run

Note = Callable[[str], None]


def begun(run: Run, batch: Batch, note: Note) -> None:
    """What the network is about to learn: statistics of the labels, and a batch as it gets it."""
    folder = run.folder.path
    _draw(note, lambda: plots.label_statistics(run.train, folder / "labels.png"))
    _draw(note, lambda: previews.batch_sheet(batch.images, batch.targets, run.train.names, folder / "batch.png"))


def ended(result: Result, note: Note) -> None:
    """How the run went and what the best checkpoint does."""
    if result.evaluation is None:
        return  # another process has it
    folder, dataset, predictions = result.folder, result.dataset, result.evaluation.predictions
    _draw(note, lambda: plots.curves(result.history, folder / "curves.png"))
    _draw(note, lambda: plots.evaluation_figures(dataset, predictions, folder))
    _draw(note, lambda: previews.predictions_sheet(dataset, predictions, folder / "predictions.png"))
    _draw(note, lambda: previews.predictions_sheet(dataset, predictions, folder / "worst.png", worst=True))


def _draw(note: Note, draw: Callable[[], object]) -> None:
    """A picture that cannot be drawn is said so; it never costs the run."""
    try:
        draw()
    except (EdgekitError, OSError) as error:
        note(f"a figure is missing: {error}")
