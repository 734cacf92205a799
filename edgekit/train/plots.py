"""Figures of a training run: how it went, how well the model does, and what it was shown.

    curves(history, folder / "curves.png")                           # a row (dict) per epoch
    evaluation_figures(dataset, evaluation.predictions, folder)      # PR, F1 … curves and the confusion matrix
    label_statistics(dataset, folder / "labels.png")

PNG files some 1,100 px wide, there whole or not at all. matplotlib is imported when a figure is drawn; it opens no
window. Pictures of images are in ``edgekit/train/previews.py``. C classes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.dataset import Dataset
from edgekit.errors import optional
from edgekit.metrics import Curves, Prediction, confusion_matrix, threshold_curves
from edgekit.runtime.atomic import replacing
from edgekit.runtime.drawing import color
from edgekit.train import scripts

# Okabe and Ito's palette, which color-blind readers can tell apart; classes keep those of edgekit/runtime/drawing.py.
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#B8B8B8", "#222222"
FEW, MANY = 10, 20  # classes: up to FEW drawn boldly, beyond MANY thin and grey with the mean alone in color
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "figure.dpi": 110,
    "text.parse_math": False,  # class names may hold dollar signs
}
FAMILIES = {"map50_95": "mAP", "map50": "mAP", "top1": "accuracy", "top5": "accuracy"}
QUANTITIES = {"f1": "F1", "precision": "precision", "recall": "recall"}


@contextmanager
def _figure(
    path: Path, width: float, height: float, rows: int = 1, columns: int = 1, names: Sequence[str] = ()
) -> Iterator[Any]:
    """Axes ``[rows, columns]`` of a figure of so many inches, which is written to ``path`` at the end. ``names`` are on
    it, in any script.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    with optional("drawing figures", "train"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    with rc_context({**STYLE, "font.family": scripts.families(names)}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(rows, columns, squeeze=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = scripts.png(figure)
        with replacing(path) as partial:
            partial.write_bytes(data)


# ---- how it went ------------------------------------------------------------------------------------------------


def results_csv(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows as ``results.csv``, a column per key in order of first appearance; what a row lacks is empty."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every number of the run over its epochs, a small panel each; metrics of one kind share theirs.

    Args:
        history: a row per epoch with ``epoch`` and any numbers; None, NaN and missing values are gaps that the line
            crosses.
        path: of the PNG.
    """
    panels = _panels(history)
    columns = min(max(len(panels), 1), 4)
    rows = max(-(-len(panels) // columns), 1)
    epochs = np.array([float(row.get("epoch", i)) for i, row in enumerate(history, 1)])
    with _figure(path, 10 if columns > 1 else 6, 0.3 + 2.4 * rows, rows, columns) as axes:
        flat = list(axes.flat)
        for axis, (title, keys) in zip(flat, panels.items(), strict=False):
            for key, shade in zip(keys, (BLUE, ORANGE, GREEN, INK), strict=False):
                values = np.array([_number(row.get(key)) for row in history])
                there = np.isfinite(values)
                marker = "o" if there.sum() < 3 else None
                axis.plot(epochs[there], values[there], color=shade, marker=marker, ms=3, label=_shown(key))
                if key.endswith(("map50_95", "top1")):
                    best = int(np.nanargmax(values))
                    axis.plot(epochs[best], values[best], "o", color=INK, ms=4)
                    title += f": best {values[best]:.3f} at {epochs[best]:g}"
            axis.set_title(title)
            if len(keys) > 1:
                axis.legend()
            if keys == ["lr"]:
                axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
            axis.xaxis.get_major_locator().set_params(integer=True)
        for axis in flat[max(len(panels), 1) :]:
            axis.set_visible(False)
        for axis in axes[-1]:
            axis.set_xlabel("epoch")


def _panels(history: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Title -> keys. Accuracy first, because it is what everyone looks for, then the order of the rows."""
    panels: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for row in history for key in row):
        values = [_number(row.get(key)) for row in history]
        if key in ("epoch", "step") or not any(math.isfinite(v) and v for v in values):
            continue  # also counts of mishaps that never happened
        family = next((end for end in FAMILIES if key == end or key.endswith((f"_{end}", f"/{end}"))), None)
        title = f"{key[: -len(family)].strip('_/')} {FAMILIES[family]}".strip() if family else key
        panels.setdefault("learning rate" if key == "lr" else title, []).append(key)
    first = [title for title in panels if title.endswith(tuple(FAMILIES.values()))]
    return {title: panels[title] for title in [*first, *(t for t in panels if t not in first)]}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


# ---- how well the model does ------------------------------------------------------------------------------------


def evaluation_figures(dataset: Dataset, predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """All figures there are of one evaluation, written to ``folder``; their paths.

    Raises:
        InputError: predictions that do not belong to the set.
        MissingPackageError: matplotlib is not installed.
    """
    written = [folder / "confusion.png"]
    confusion(dataset, predictions, written[0])
    if not dataset.classifies:
        found = threshold_curves(dataset, predictions)
        written.append(folder / "pr_curve.png")
        pr_curve(found, written[-1])
        for quantity in QUANTITIES:
            written.append(folder / f"{quantity}_curve.png")
            threshold_curve(found, quantity, written[-1])
    return written


def pr_curve(found: Curves, path: Path) -> None:
    """Precision over recall at IoU 0.5, per class (with its average precision) and for all."""
    average = found.precision_at_recall.mean(1)
    notes = [f"{ap:.3f}" for ap in (*average, average[~np.isnan(average)].mean() if len(found.best()) else math.nan)]
    with _figure(path, 10, 6, names=found.names) as axes:
        axis = axes[0, 0]
        _class_lines(axis, found.recalls, found.precision_at_recall, found.names, notes)
        axis.set(xlabel="recall", ylabel="precision", title="Precision and recall at IoU 0.5 (average precision)")


def threshold_curve(found: Curves, quantity: str, path: Path) -> None:
    """``f1``, ``precision`` or ``recall`` over the confidence threshold, per class and for all."""
    rows_CX = {"f1": found.f1, "precision": found.precision, "recall": found.recall}[quantity]
    best = {row["class"]: row for row in found.best()} if quantity == "f1" else {}
    said = {name: f"{row['f1']:.2f} at {row['threshold']:.2f}" for name, row in best.items()}
    with _figure(path, 10, 6, names=found.names) as axes:
        axis = axes[0, 0]
        if best:
            axis.axvline(best["all"]["threshold"], color=INK, lw=0.9, ls=":")
        notes = [said.get(name, "") for name in (*found.names, "all")]
        _class_lines(axis, found.thresholds, rows_CX, found.names, notes)
        axis.set(xlabel="confidence threshold", ylabel=QUANTITIES[quantity])
        axis.set_title(f"{QUANTITIES[quantity]} and confidence threshold at IoU 0.5")


def _class_lines(axis: Any, x: np.ndarray, rows_CX: np.ndarray, names: Sequence[str], notes: Sequence[str]) -> None:
    """One line per class with objects and a thick one for their mean, with a legend beside the axes; ``notes`` has an
    entry more than there are classes, for the mean."""
    present = np.flatnonzero(~np.isnan(rows_CX[:, 0]))
    many = len(present) > MANY
    handles, texts = [], []
    for c in present:
        width = 0.5 if many else 1.5 if len(present) <= FEW else 0.9
        (line,) = axis.plot(x, rows_CX[c], color=GREY if many else class_colour(int(c)), lw=width)
        if not many:
            handles.append(line)
            texts.append(f"{_shown(names[int(c)])} {notes[int(c)]}".strip())
    if len(present) > 1:
        (line,) = axis.plot(x, rows_CX[present].mean(0), color=BLUE if many else INK, lw=3)
        handles.append(line)
        texts.append(f"mean of {len(present)} classes {notes[-1]}".strip())
    if handles:
        axis.legend(handles, texts, loc="upper left", bbox_to_anchor=(1.01, 1))
    axis.set(xlim=(0, 1), ylim=(0, 1.02))


def class_colour(label: int) -> tuple[float, float, float]:
    """The color a class has in pictures, a little darker, because paper is white; red, green, blue in 0 to 1."""
    blue, green, red = color(label)
    return red / 255 * 0.85, green / 255 * 0.85, blue / 255 * 0.85


def confusion(
    dataset: Dataset, predictions: Sequence[Prediction], path: Path, confidence: float = 0.25, iou: float = 0.5
) -> np.ndarray:
    """The confusion matrix as counts and as shares of the true class; returns the counts, see
    ``metrics.confusion_matrix``."""
    matrix = confusion_matrix(dataset, predictions, confidence, iou)
    names = [_shown(name) for name in dataset.names] + ["background"] * (len(matrix) - len(dataset.names))
    count = len(matrix)
    both = count <= MANY
    width = 11.0 if both else 14.0
    with _figure(path, width, 5.2 if both else 12.0, 1, 2 if both else 1, dataset.names) as axes:
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        _matrix(axes[0, -1], share, names, "Share of the true class", "{:.2f}")
        if both:
            tint = np.sqrt(matrix / max(matrix.max(), 1))  # the square root, so that small counts show
            _matrix(axes[0, 0], tint, names, "Counts", "{:.0f}", matrix)
    return matrix


def _matrix(
    axis: Any, tint: np.ndarray, names: Sequence[str], title: str, form: str, values: np.ndarray | None = None
) -> None:
    count = len(tint)
    values = tint if values is None else values
    axis.imshow(tint, cmap="Blues", vmin=0, vmax=1)
    size = 10 if count <= 8 else 7 if count <= MANY else max(3, 520 / count / 1.6)
    for i, j in np.argwhere(values > 0) if count <= MANY else ():
        shade = "white" if tint[i, j] > 0.55 else INK
        axis.text(j, i, form.format(values[i, j]), ha="center", va="center", color=shade, fontsize=size)
    axis.set_xticks(range(count), names, rotation=90 if count > 5 else 0, fontsize=min(size + 1, 9))
    axis.set_yticks(range(count), names, fontsize=min(size + 1, 9))
    axis.set(title=title, xlabel="predicted", ylabel="true")
    axis.grid(False)


# ---- what it was shown ------------------------------------------------------------------------------------------


def label_statistics(dataset: Dataset, path: Path) -> None:
    """Objects per class, where they are, how big they are and how many are on an image; for classification the images
    per class."""
    _, counts_C = dataset.counts()
    if dataset.classifies:
        with _figure(path, 9, 1.2 + 0.3 * min(len(counts_C), 2 * MANY), names=dataset.names) as axes:
            _bars(axes[0, 0], counts_C, dataset.names, "Images per class", 2 * MANY)
        return
    labels = [sample.labels.select(~sample.labels.crowd) for sample in dataset.samples]
    boxes_N4 = np.concatenate([np.zeros((0, 4)), *(own.boxes / np.tile(own.size, 2) for own in labels)])
    with _figure(path, 10, 8, 2, 2, dataset.names) as axes:
        _bars(axes[0, 0], counts_C, dataset.names, "Objects per class", MANY)
        _density(axes[0, 1], (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2)
        axes[0, 1].set(title="Centres of the boxes", xlabel="x / image width", ylabel="y / image height")
        axes[0, 1].invert_yaxis()
        _density(axes[1, 0], boxes_N4[:, 2:] - boxes_N4[:, :2])
        axes[1, 0].set(title="Sizes of the boxes", xlabel="width / image width", ylabel="height / image height")
        per_image = np.array([len(own) for own in labels])
        bins = np.arange(per_image.max(initial=0) + 2) - 0.5 if per_image.max(initial=0) < 60 else 40
        axes[1, 1].hist(per_image, bins=bins, color=BLUE, rwidth=0.9)
        axes[1, 1].set(title="Objects per image", xlabel="objects", ylabel="images")


def _bars(axis: Any, counts_C: np.ndarray, names: Sequence[str], title: str, most: int) -> None:
    """Bars with their numbers, the most frequent class on top; of many classes the most and the least frequent."""
    order = np.argsort(-counts_C, kind="stable")
    if len(order) > most:
        order = np.concatenate([order[: most // 2], order[-(most // 2) :]])
        title += f" (the {most // 2} most and least frequent of {len(names)})"
    shades = [class_colour(int(c)) for c in order] if len(names) <= FEW else BLUE
    drawn = axis.barh(range(len(order)), counts_C[order], color=shades, height=0.7)
    axis.bar_label(drawn, [f"{n:,}" for n in counts_C[order]], padding=3, fontsize=8)
    axis.set_yticks(range(len(order)), [_shown(names[c]) for c in order], fontsize=9 if len(order) <= 14 else 7)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.grid(False, axis="y")
    axis.set_title(title, fontsize=11 if len(order) < most else 9)


def _density(axis: Any, points_N2: np.ndarray, bins: int = 40) -> None:
    """A heat map of points in 0 to 1; empty places stay white."""
    counts, _, _ = np.histogram2d(points_N2[:, 1], points_N2[:, 0], bins=bins, range=((0, 1), (0, 1)))
    shown = np.ma.masked_equal(np.sqrt(counts), 0)
    axis.imshow(shown, origin="lower", extent=(0, 1, 0, 1), cmap="viridis", aspect="auto", interpolation="nearest")
    axis.grid(False)


def _shown(name: str, most: int = 24) -> str:
    """A class name as figures can show it; matplotlib hides what begins with an underscore."""
    name = name.lstrip("_") or "class"
    return scripts.fitted(name if len(name) <= most else name[: most - 1] + "…")
