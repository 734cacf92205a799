"""Which lever is still open for this model on this machine, and what pulling it would save.

    for lever in levers(predictor, images, profile, post_ms=0.8):
        lever["sentence"]
    # 'SiLU is 31% of the network: `edgekit tune --activation hardswish` would save about 7.1 ms'

Nothing is guessed. Activation and precision are measured on twins of this very model, in turns with it: every SiLU a
Hardswish, every SiLU left out, every convolution in INT8 with ranges that fit nothing (``targets/*_variants.py``). What
a twin answers is meaningless, what it takes is not. The head's figure is read from the profile and is the most that can
be saved, since the other form decodes something, too. A lever whose saving the clock cannot tell from nothing is left
out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.bench.clock import WHOLE, ClockOptions, measure
from edgekit.bench.run import REST_S
from edgekit.runtime.predictor import Predictor

BUDGET_S = 4.0  # of the clock, for each twin
LEAST = 0.02  # of the network: less is not worth a sentence
TWINS = ("hardswish", "bare", "int8")
_TWIN_TIMES = "a twin of this model ({}), timed in turns with it"

Times = Mapping[str, Mapping[str, float]]  # twin -> ratio, low, high of its time to the model's own


def levers(
    predictor: Predictor, images: Sequence[Any], profile: Mapping[str, Any], post_ms: float, budget_s: float = BUDGET_S
) -> list[dict[str, Any]]:
    """Open levers, the largest saving first, JSON-ready.

    Args:
        predictor: of a target whose runtime can profile.
        images: uint8 BGR arrays ``[h, w, 3]``.
        profile: of the same model, by ``profile.profile``.
        post_ms: what post-processing takes.
        budget_s: seconds for each twin.

    Returns:
        ``lever`` (``activation``, ``precision`` or ``head``), ``share`` of the network, ``saves_ms`` and, where a twin
        was timed, ``low_ms high_ms``; ``do``, ``estimated`` (how) and ``sentence``.
    """
    batch, _ = predictor.preprocess([images[0]])
    network_ms, ratios = twins(predictor.session, batch, budget_s)
    found = [_activation(network_ms, ratios), _precision(network_ms, ratios), _head(predictor, profile, post_ms)]
    return sorted((lever for lever in found if lever), key=lambda lever: -float(lever["saves_ms"]))


def twins(session: Any, batch: Any, budget_s: float = BUDGET_S) -> tuple[float, Times]:
    """Milliseconds of the network, and of each twin it has the ratio to that."""
    made: dict[str, Any] = {}
    variant: Callable[[str], Any] = getattr(session, "variant", lambda kind: None)
    executed = session.precision_by_type()
    narrow = any(executed.get(kind) for kind in ("i8", "u8"))
    for kind in TWINS:
        twin = None if narrow and kind == "int8" else variant(kind)
        if twin is not None:
            made[kind] = twin
    calls = {"own": session.run, **{kind: twin.run for kind, twin in made.items()}}
    options = ClockOptions(budget_s=budget_s * len(calls), rest_s=REST_S if made else 0.0, lead_in=1)
    found = measure(calls, [batch], options)
    for twin in made.values():
        twin.close()
    return found.stages["own"][WHOLE]["p50"], {kind: found.ratios[kind][WHOLE] for kind in made}


def _activation(network_ms: float, ratios: Times) -> dict[str, Any] | None:
    saving = _saving(network_ms, ratios.get("hardswish"))
    if saving is None:
        return None
    share = 1 - ratios["bare"]["ratio"]
    do = "edgekit tune --activation hardswish"
    return {
        "lever": "activation",
        "share": share,
        **saving,
        "do": do,
        "estimated": _TWIN_TIMES.format("every SiLU a Hardswish, or left out"),
        "sentence": f"SiLU is {share:.0%} of the network: `{do}` would save about {saving['saves_ms']:.2g} ms",
    }


def _precision(network_ms: float, ratios: Times) -> dict[str, Any] | None:
    saving = _saving(network_ms, ratios.get("int8"))
    if saving is None:
        return None
    share, do = saving["saves_ms"] / network_ms, "edgekit build --target ov-int8 --data DATA"
    return {
        "lever": "precision",
        "share": share,
        **saving,
        "do": do,
        "estimated": _TWIN_TIMES.format("every convolution in INT8"),
        "sentence": f"convolutions are in floating point: `{do}` would save about {saving['saves_ms']:.2g} ms",
    }


def _saving(network_ms: float, ratio: Mapping[str, float] | None) -> dict[str, float] | None:
    """Milliseconds saved with their interval; None where that may be nothing, or is too little."""
    if ratio is None or ratio["high"] >= 1 or 1 - ratio["ratio"] < LEAST:
        return None
    saved = {"saves_ms": "ratio", "low_ms": "high", "high_ms": "low"}
    return {name: network_ms * (1 - ratio[key]) for name, key in saved.items()}


def _head(predictor: Predictor, profile: Mapping[str, Any], post_ms: float) -> dict[str, Any] | None:
    info = predictor.info
    if info.head != "raw" or not any(port.role == "scores" for port in info.outputs):
        return None
    stages = [row for row in profile["by_stage"] if "decoding" in row["parts"]]
    decoding = sum(float(row["parts"]["decoding"]) for row in stages)
    share, do = decoding / profile["total_ms"], "edgekit build --head topk"
    return {
        "lever": "head",
        "share": share,
        "saves_ms": decoding + post_ms,
        "do": do,
        "estimated": "the profile's decoding operators and post-processing: the most that can be saved",
        "sentence": f"every candidate is decoded ({decoding:.2g} ms) and looked at afterwards ({post_ms:.2g} ms): "
        f"`{do}` would save most of that",
    }
