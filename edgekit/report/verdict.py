"""The verdict of a report: which model to ship, in words anybody understands, and what speaks against believing it.

    found = verdict(entries, max_drop=1.0)
    found.headline            # 'Ship ov-int8: 1.6× faster than ov-fp16, −0.2 points'

Of the models that are faster than the baseline beyond warning (the whole interval of the ratio), the fastest that loses
no more than ``max_drop`` points is shipped; if there is none, the baseline stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FEW_IMAGES = 500  # accuracy on fewer is a matter of which images they are, to about a point
ROUNDING = 1e-6  # points: 0.49 − 0.50 is a little more than a point in binary

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Recommendation:
    """``kind`` is ``ship``, ``keep`` or ``open``; ``sentences`` explain the ``headline``, ``warnings`` weaken it."""

    kind: str
    headline: str
    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def verdict(entries: Sequence[Entry], max_drop: float) -> Recommendation:
    """Judge models; the first is the baseline.

    Args:
        entries: each with ``name``; ``ms`` of a whole call and its ``ratio`` to the baseline's (``ratio low high``);
            ``accuracy`` (``metric_name value set images``) and ``points``, 100 times that minus the baseline's, with
            ``where`` they come from; None where unknown; ``disturbances``, sentences.
        max_drop: points that may be lost.
    """
    base, others = entries[0], entries[1:]
    warnings = _doubts(entries)
    if not others:
        return Recommendation("open", _alone(base), [], warnings)
    timed = [e for e in others if e["ratio"]]
    faster = sorted((e for e in timed if e["ratio"]["high"] < 1), key=lambda e: float(e["ratio"]["ratio"]))
    sentences = [_sentence(e, base) for e in others]
    fit = [e for e in faster if e["points"] is not None and e["points"] >= -max_drop - ROUNDING]
    if fit:
        best = fit[0]
        text = f"Ship {best['name']}: {times(best)}× faster than {base['name']}, {points(best['points'])}"
        return Recommendation("ship", text, sentences, warnings)
    unknown = [e for e in faster if e["points"] is None]
    if unknown:
        text = f"{unknown[0]['name']} is {times(unknown[0])}× faster than {base['name']}; what it costs is not known"
        return Recommendation("open", text, sentences, ["accuracy was not measured: give `data` to decide", *warnings])
    if faster:
        first = faster[0]
        text = f"Keep {base['name']}: {first['name']} is {times(first)}× faster, but {points(first['points'])}"
        sentences.append(f"{max_drop:g} points may be lost (`max_drop`).")
        return Recommendation("keep", text, sentences, warnings)
    if timed:
        return Recommendation(
            "keep", f"Keep {base['name']}: nothing here is faster beyond warning", sentences, warnings
        )
    return Recommendation("open", "No times were measured, so there is no verdict on speed", sentences, warnings)


def times(entry: Entry) -> str:
    """How many times faster, ``1.6``."""
    speedup = 1 / entry["ratio"]["ratio"]
    return f"{speedup:.2f}" if speedup < 1.1 else f"{speedup:.1f}"


def points(value: float) -> str:
    """``−0.2 points``; a typographic minus, and no sign of zero."""
    text = f"{value:+.1f}".replace("-", "−")
    return "no change in accuracy" if text in ("+0.0", "−0.0") else f"{text} points"


def _sentence(entry: Entry, base: Entry) -> str:
    parts = []
    if entry["ratio"]:
        ratio = entry["ratio"]
        low, high = 1 / ratio["high"], 1 / ratio["low"]
        if ratio["high"] < 1:
            parts.append(f"answers {times(entry)}× faster than {base['name']} (between {low:.2f} and {high:.2f})")
        elif ratio["low"] > 1:
            parts.append(f"takes {ratio['ratio']:.2f} times as long as {base['name']}")
        else:
            parts.append(f"is as fast as {base['name']}, as far as can be told")
    if entry["points"] is not None:
        parts.append(f"{points(entry['points'])} ({entry['where']})")
    else:
        parts.append("its accuracy was not measured")
    return f"{entry['name']}: {'; '.join(parts)}."


def _alone(entry: Entry) -> str:
    parts = [f"{entry['ms']:.1f} ms an image"] if entry["ms"] else []
    if entry["accuracy"]:
        parts.append(f"{entry['accuracy']['metric_name']} {100 * entry['accuracy']['value']:.1f}")
    return f"{entry['name']}: {', '.join(parts) or 'nothing was measured'}"


def _doubts(entries: Sequence[Entry]) -> list[str]:
    reasons = list(dict.fromkeys(sentence for e in entries for sentence in e["disturbances"]))
    more = f" (and {len(reasons) - 1} more, see Latency)" if len(reasons) > 1 else ""
    found = [f"the times are not reliable: {reasons[0]}{more}"] if reasons else []
    scored = [e["accuracy"] for e in entries if e["accuracy"]]
    if scored and scored[0]["images"] < FEW_IMAGES:
        found.append(
            f"accuracy comes from {scored[0]['images']} images: differences of a point may be chance; "
            f"{FEW_IMAGES} or more would tell"
        )
    return found
