"""Where a network's time goes: by operator type and by stage of the model, in the model's own words.

    found = profile(predictor, images)
    found["largest"][0]       # 'stage 6 (area attention, P4): 5.1 ms, 24% (attention 2.9, MLP 1.5, other 0.7)'
    found["by_type"][0]       # {'type': 'Convolution', 'ms': 13.2, 'share': 0.61, 'operators': 120}

The runtime itself times its operators (ONNX Runtime's profile, OpenVINO's performance counters), which costs a little;
so shares are worth more than milliseconds, and the sum is not the latency. Operators carry the names of the modules
they came from; those a runtime adds (changes of memory layout) count with the stage of the operator before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.errors import UsageError
from edgekit.runtime.predictor import Predictor

RUNS = 20
LARGEST = 3
ELSEWHERE = "outside the stages"

# The published layer table: what each stage is and the pyramid level of its output (P3 has stride 8).
_TRUNK = (
    "convolution, P1", "convolution, P2", "C3k2, P2", "convolution, P3", "C3k2, P3", "convolution, P4",
    "area attention, P4", "convolution, P5", "area attention, P5",
)  # fmt: skip
_NECK = (
    "upsampling, P4", "concatenation, P4", "C3k, P4", "upsampling, P3", "concatenation, P3", "C3k, P3",
    "convolution, P4", "concatenation, P4", "C3k, P4", "convolution, P5", "concatenation, P5", "C3k2, P5",
)  # fmt: skip
_ATTENTION_STAGES = {6, 8}

# Module paths as runtimes and exporters write them: model.6.m.0.0.attn/MatMul, /model.6/m.0/m.0.0/attn/MatMul_1,
# __module.model.6.m.0.0.attn/aten::matmul/MatMul.
_STAGE = re.compile(r"model[./](\d+)(?=[./])([^,]*)")
_PARTS = {"attention": re.compile(r"\battn\b"), "MLP": re.compile(r"\bmlp\b"), "other": re.compile("")}
_HEAD_PARTS = {
    "box branch": re.compile(r"\bcv2\b"),
    "class branch": re.compile(r"\bcv3\b"),
    "task branch": re.compile(r"\bcv4\b"),
    "mask prototypes": re.compile(r"\bproto\b"),
    "decoding": re.compile(""),
}

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
            f"--profile: {session.path} runs on {session.target}, which keeps no profile; "
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
    numbers = [number for number, _ in places if number is not None]
    attention = {n for n, path in places if n is not None and _PARTS["attention"].search(path)}
    last = max(numbers, default=-1)
    words = _words(last) if attention == _ATTENTION_STAGES else {}
    spent: dict[int | None, dict[str, float]] = {}
    for (number, path), (*_, ms) in zip(places, rows, strict=True):
        kinds = _HEAD_PARTS if words and number == len(_TRUNK + _NECK) else _PARTS
        part = next(part for part, pattern in kinds.items() if pattern.search(path))
        parts = spent.setdefault(number, {})
        parts[part] = parts.get(part, 0.0) + ms
    found = []
    for number, parts in spent.items():
        ms = sum(parts.values())
        name = ELSEWHERE if number is None else f"stage {number}" + (f" ({words[number]})" if words else "")
        ordered = dict(sorted(parts.items(), key=lambda item: -item[1]))
        found.append({"stage": number, "name": name, "ms": ms, "share": ms / total, "parts": ordered})
    return sorted(found, key=lambda row: -row["ms"])


def _places(rows: Rows) -> list[tuple[int | None, str]]:
    """(stage, path inside it) of every operator; one without a module's name is where the operator before it is."""
    places: list[tuple[int | None, str]] = []
    place: tuple[int | None, str] | None = None
    for name, *_ in rows:
        found = _STAGE.search(name)
        place = (int(found[1]), found[2]) if found else place
        places.append(place or (None, ""))
    first = next((p for p in places if p[0] is not None), (None, ""))
    return [p if p[0] is not None else first for p in places]


def _words(last: int) -> dict[int, str]:
    """Stage -> what it is, for a YOLO12 whose head is stage ``last``; empty where the table does not fit."""
    trunk = _TRUNK if last == len(_TRUNK) else _TRUNK + _NECK
    return dict(enumerate((*trunk, "head"))) if last == len(trunk) else {}


def _sentence(row: Mapping[str, Any]) -> str:
    text = f"{row['name']}: {row['ms']:.3g} ms, {row['share']:.0%}"
    if len(row["parts"]) > 1:
        text += f" ({', '.join(f'{part} {ms:.2g}' for part, ms in row['parts'].items())})"
    return text
