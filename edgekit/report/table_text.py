"""A table of results for people: cells with numbered notes, and from them Markdown and CSV.

    headings, lines, notes = cells(document)
    markdown(document)

Measured figures and published ones have columns of their own; what is missing is a dash whose number leads to the
reason. The command line draws the same cells on the terminal.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from edgekit.runtime.predictor import STAGES

DASH = "–"
METRICS = {
    "map50_95": "mAP 50-95",
    "mask_map50_95": "mask mAP 50-95",
    "pose_map50_95": "pose mAP 50-95",
    "top1": "top-1",
}

Document = Mapping[str, Any]


class _Notes:
    """Sentences in order of appearance; equal ones share a number."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def mark(self, sentence: str) -> str:
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return f"[{self.sentences.index(sentence) + 1}]"


def cells(document: Document) -> tuple[list[str], list[list[str]], list[str]]:
    """(headings, lines, notes). A line per scale and target; a note per reason, numbered from 1."""
    metric = METRICS.get(_metric(document), "accuracy")
    headings = [
        "model", "target", "executes", "parameters M", "published", "FLOPs G", "published",
        metric, "published", "network ms", "published", "whole ms",
    ]  # fmt: skip
    notes, lines = _Notes(), []
    for row in document["rows"]:
        published, counted = row["published"] or {}, row["difference"]
        for target, figures in row["measured"].items():
            lines.append(
                [
                    row["name"],
                    target,
                    figures.get("precision_executed") or DASH,
                    f"{row['parameters'] / 1e6:.2f}",
                    _beside(published.get("parameters_m"), "{:.1f}", counted.get("parameters"), "{:+.1%}"),
                    f"{row['flops_g']:.2f}",
                    _beside(published.get("flops_g"), "{:.1f}", counted.get("flops"), "{:+.1%}"),
                    *_accuracy(figures, published, notes),
                    *_times(figures, published, notes),
                ]
            )
    return headings, lines, notes.sentences


def markdown(document: Document) -> str:
    """A heading, the table, its notes and what was measured on what; ends with a newline."""
    headings, lines, notes = cells(document)
    rule = ["---" if i < 3 else "---:" for i in range(len(headings))]
    text = [
        " | ".join(["", *line, ""]).strip()
        for line in (map(_escaped, headings), rule, *(map(_escaped, x) for x in lines))
    ]
    ends = [f"{i}. {_escaped(note)}" for i, note in enumerate(notes, 1)]
    parts = [_escaped(f"**{title(document)}**"), "", *text, "", *map(_escaped, caption(document))]
    return "\n".join([*parts, *([""] if ends else []), *ends]) + "\n"


def comma_separated(document: Document) -> str:
    """The raw figures, a line per scale and target; empty where there is none, with the reason in a column."""
    out = io.StringIO()
    columns = [
        "name", "scale", "family", "task", "imgsz", "target", "parameters", "flops_g", "published_parameters_m",
        "published_flops_g", "metric", "accuracy", "set", "images", "published_accuracy", "accuracy_unlike",
        "published_t4_fp16_ms", "latency_unlike", "precision_executed", "reliable",
        *(f"{stage}_{figure}" for stage in STAGES for figure in ("min", "p50", "p90", "p99", "n")),
        "cpu", "gpu", "accuracy_not_measured", "latency_not_measured",
    ]  # fmt: skip
    writer = csv.DictWriter(out, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for row in document["rows"]:
        for target, figures in row["measured"].items():
            writer.writerow(_record(row, target, figures))
    return out.getvalue()


def title(document: Document) -> str:
    """One line: which models at which size, measured on which machine."""
    height, width = document["imgsz"]
    machines = dict.fromkeys(machine_name(row["machine"]) for row in document["rows"])
    return f"YOLO12 {document['family']} {document['task']}, {height}x{width} px, on {'; '.join(machines)}"


def caption(document: Document) -> list[str]:
    """What the columns mean, as sentences."""
    source = document["source"]
    done = any(figures.get("accuracy") for row in document["rows"] for figures in row["measured"].values())
    data = document["set"] if done else None
    scored = f"Accuracy: {data['images']} images of {data['name']}. " if data else ""
    packages = document["rows"][-1]["machine"].get("packages") or {}
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("edgekit", "onnxruntime", "openvino") if name in packages
    )
    printed = "Nothing is published for these models. "
    if source:
        printed = f"*Published*: {source['source']} ({source['conditions']}); in brackets, ours minus it. "
    return [
        f"{printed}Times: medians of interleaved calls; *whole* adds pre- and post-processing (99th percentile "
        f"in brackets), which published ones leave out. {scored}Versions: {versions or 'not recorded'}."
    ]


def machine_name(machine: Mapping[str, Any]) -> str:
    """``AMD EPYC, 2 cores`` with GPUs where there are some."""
    cpu = machine.get("cpu") or {}
    gpus = [str(gpu.get("model")) for gpu in machine.get("gpus") or []]
    return ", ".join([*gpus, cpu.get("board") or cpu.get("model") or "unknown CPU", f"{cpu.get('usable', '?')} cores"])


def _accuracy(figures: Mapping[str, Any], published: Mapping[str, float], notes: _Notes) -> tuple[str, str]:
    measured = figures.get("accuracy")
    reference = published.get(measured["metric"]) if measured else _published_accuracy(published)
    if not measured:
        own = f"{DASH} {notes.mark('not measured: ' + figures['not_measured']['accuracy'])}"
        return own, _beside(reference and 100 * reference, "{:.1f}", None, "")
    difference = figures["difference"].get("accuracy")
    mark = _unlike(difference, notes)
    skipped = f" {notes.mark(str(measured['skipped']) + ' images could not be read')}" if measured["skipped"] else ""
    return (
        f"{100 * measured['value']:.1f}{skipped}",
        _beside(reference and 100 * reference, "{:.1f}", difference and 100 * difference["value"], "{:+.1f}") + mark,
    )


def _times(figures: Mapping[str, Any], published: Mapping[str, float], notes: _Notes) -> tuple[str, str, str]:
    reference = published.get("t4_fp16_ms")
    if "network_ms" not in figures:
        own = f"{DASH} {notes.mark('not measured: ' + figures['not_measured']['latency'])}"
        return own, _beside(reference, "{:.2f}", None, ""), DASH
    first, *more = figures["disturbances"] or [""]
    rest = f"; and {len(more)} more" if more else ""
    doubt = "" if figures["reliable"] else " " + notes.mark(f"unreliable: {first}{rest}")
    difference = figures["difference"].get("latency")
    whole = figures["whole_ms"]
    return (
        f"{figures['network_ms']['p50']:.2f}{doubt}",
        _beside(reference, "{:.2f}", difference and difference["ms"], "{:+.2f}") + _unlike(difference, notes),
        f"{whole['p50']:.2f} ({whole['p99']:.2f}){doubt}",
    )


def _beside(published: float | None, form: str, difference: float | None, difference_form: str) -> str:
    """``40.6 (−1.3)``; a dash where nothing is published."""
    if published is None:
        return DASH
    text = form.format(published)
    return text if difference is None else f"{text} ({difference_form.format(difference).replace('-', '−')})"


def _unlike(difference: Mapping[str, Any] | None, notes: _Notes) -> str:
    if not difference or not difference["unlike"]:
        return ""
    return " " + notes.mark(f"not like for like: measured with {', '.join(difference['unlike'])}")


def _metric(document: Document) -> str:
    from edgekit import tasks

    return tasks.get(document["task"]).metric


def _published_accuracy(published: Mapping[str, float]) -> float | None:
    return next((published[metric] for metric in METRICS if metric in published), None)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _record(row: Mapping[str, Any], target: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    published, accuracy = row["published"] or {}, figures.get("accuracy") or {}
    unlike = {key: "; ".join(value["unlike"]) for key, value in figures["difference"].items()}
    found = {
        **{key: row[key] for key in ("name", "scale", "family", "task", "parameters", "flops_g")},
        "imgsz": "x".join(map(str, row["imgsz"])),
        "target": target,
        "published_parameters_m": published.get("parameters_m", ""),
        "published_flops_g": published.get("flops_g", ""),
        "metric": accuracy.get("metric", ""),
        "accuracy": accuracy.get("value", ""),
        "set": accuracy.get("set", ""),
        "images": accuracy.get("images", ""),
        "published_accuracy": _published_accuracy(published) or "",
        "published_t4_fp16_ms": published.get("t4_fp16_ms", ""),
        "accuracy_unlike": unlike.get("accuracy", ""),
        "latency_unlike": unlike.get("latency", ""),
        "precision_executed": figures.get("precision_executed", ""),
        "reliable": figures.get("reliable", ""),
        "cpu": row["machine"]["cpu"].get("model"),
        "gpu": "; ".join(str(gpu.get("model")) for gpu in row["machine"].get("gpus") or []),
        **{f"{key}_not_measured": why for key, why in figures["not_measured"].items()},
    }
    for stage in STAGES:
        if stage in figures:
            found |= {f"{stage}_{key}": figures[stage][key] for key in ("min", "p50", "p90", "p99", "n")}
    return found
