"""Where a network's time goes: by operator type and by stage of the model, in the model's own words.

    found = profile(predictor, images)
    found["largest"][0]       # 'stage 6 (area attention, P4): 5.1 ms, 24% (attention 2.9, MLP 1.5, other 0.7)'
    found["by_type"][0]       # {'type': 'Convolution', 'ms': 13.2, 'share': 0.61, 'operators': 120}

The runtime itself times its operators (ONNX Runtime's profile, OpenVINO's performance counters), which costs a little;
so shares are worth more than milliseconds, and the sum is not the latency. Operators carry the names of the modules
they came from; those a runtime adds (changes of memory layout) count with the stage of the operator before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.errors import UsageError
from edgekit.nn import layers
from edgekit.runtime.predictor import Predictor

RUNS = 20
LARGEST = 3
ELSEWHERE = "outside the stages"

_PARTS: dict[str | None, str] = {layers.MLP: "MLP", layers.PROTOTYPES: "mask prototypes"}

Rows = Sequence[tuple[str, str, float]]


def profile(predictor: Predictor, images: Sequence[Any], runs: int = RUNS) -> dict[str, Any]:
    """Time of a model's operators on the first image, JSON-ready.

    Args:
        predictor: of a target whose runtime can profile (ONNX Runtime and OpenVINO).
        images: uint8 BGR arrays ``[h, w, 3]``.
        runs: of which the medians are taken, after some that do not count.

    Returns:
        ``total_ms``, ``runs``; ``by_type`` (``type ms share operators``) and ``by_stage`` (``stage name ms share
        parts``), largest first; and ``largest``: three sentences.

    Raises:
        UsageError: the model's runtime keeps no profile.
    """
    session = predictor.session
    batch, _ = predictor.preprocess([images[0]])
    rows = session.profile(batch, runs)
    if rows is None:
        raise UsageError(
            f"`profile`: {session.path} runs on {session.target}, which keeps no profile; "
            "build it for an ort-* or ov-* target"
        )
    return summary(rows) | {"runs": runs}


def summary(rows: Rows) -> dict[str, Any]:
    """What ``profile`` returns (but for ``runs``), from (name, operator type, milliseconds) in order of execution."""
    total = sum(ms for *_, ms in rows) or 1.0
    stages = _stage_rows(rows, total)
    return {
        "total_ms": total,
        "by_type": _type_rows(rows, total),
        "by_stage": stages,
        "largest": [_sentence(row) for row in stages[:LARGEST]],
    }


def _type_rows(rows: Rows, total: float) -> list[dict[str, Any]]:
    spent: dict[str, list[float]] = {}
    for _, kind, ms in rows:
        spent.setdefault(kind, []).append(ms)
    found = [{"type": t, "ms": sum(v), "share": sum(v) / total, "operators": len(v)} for t, v in spent.items()]
    return sorted(found, key=lambda row: -row["ms"])


def _stage_rows(rows: Rows, total: float) -> list[dict[str, Any]]:
    places = _places(rows)
    head = max((place.stage for place in places if place), default=-1)
    known = layers.is_yolo12({place.stage for place in places if place and place.attention}, head)
    spent: dict[int | None, dict[str, float]] = {}
    for place, (*_, ms) in zip(places, rows, strict=True):
        parts = spent.setdefault(place.stage if place else None, {})
        part = _part(place, known)
        parts[part] = parts.get(part, 0.0) + ms
    found = []
    for stage, parts in spent.items():
        ms = sum(parts.values())
        name = ELSEWHERE if stage is None else f"stage {stage}"
        if stage is not None and known:
            name += f" ({layers.stage_words(stage, head)})"
        ordered = dict(sorted(parts.items(), key=lambda item: -item[1]))
        found.append({"stage": stage, "name": name, "ms": ms, "share": ms / total, "parts": ordered})
    return sorted(found, key=lambda row: -row["ms"])


def _part(place: layers.Layer | None, known: bool) -> str:
    """What of its stage an operator is; of a YOLO12's head (``known``), a branch or what is beside them."""
    if place and known and place.head:
        return f"{place.branch} branch" if place.branch else _PARTS.get(place.part, "decoding")
    return "attention" if place and place.attention else _PARTS.get(place.part if place else None, "other")


def _places(rows: Rows) -> list[layers.Layer | None]:
    """Where each operator is; one without a module's name is where the operator before it is."""
    places = [layers.parse(name) for name, *_ in rows]
    place = next(filter(None, places), None)
    return [place := found or place for found in places]


def _sentence(row: Mapping[str, Any]) -> str:
    text = f"{row['name']}: {row['ms']:.3g} ms, {row['share']:.0%}"
    if len(row["parts"]) > 1:
        text += f" ({', '.join(f'{part} {ms:.2g}' for part, ms in row['parts'].items())})"
    return text
