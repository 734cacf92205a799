"""What a profile says could still be changed in this model for this runtime, and by which command.

    for hint in hints(predictor, profile, post_ms=0.8):
        hint["text"]
    # 'convolutions compute in floating point, 71% of the network: `edgekit build --target ov-int8 --data DATA`'

Shares are read from the profile: they bound what can be saved and do not estimate it; ``edgekit bench A B`` measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit import targets
from edgekit.errors import command_line
from edgekit.runtime.predictor import Predictor

_INTEGERS = {"i8", "u8"}


def hints(predictor: Predictor, profile: Mapping[str, Any], post_ms: float) -> list[dict[str, Any]]:
    """Changes worth measuring, the largest share first, JSON-ready.

    Args:
        profile: of the same model, by ``profile.profile``.
        post_ms: what post-processing takes.

    Returns:
        ``hint`` (``activation``, ``precision`` or ``head``), ``share`` of the network that is spent there (None where
        the runtime fuses it away), ``do`` (the command) and ``text``.
    """
    found = [_activation(predictor, profile), _precision(predictor, profile), _head(predictor, profile, post_ms)]
    return sorted((hint for hint in found if hint), key=lambda hint: -(hint["share"] or 0.0))


def _activation(predictor: Predictor, profile: Mapping[str, Any]) -> dict[str, Any] | None:
    spec = predictor.info.spec
    if spec is None or spec.activation != "silu":
        return None
    share = _share(profile, "Sigmoid", "Swish", "QuickGelu", "Mish") or None
    spent = f", {share:.0%} of the network" if share else ""
    return _hint("activation", share, command_line("tune", activation="hardswish"), f"the activation is SiLU{spent}")


def _precision(predictor: Predictor, profile: Mapping[str, Any]) -> dict[str, Any] | None:
    session = predictor.session
    narrower = next((t.name for t in targets.every() if session.target in t.floats), None)
    if narrower is None or not _INTEGERS.isdisjoint(session.precision_by_type()):
        return None
    share = _share(profile, "Conv", "Convolution", "GroupConvolution", "FusedConv")
    text = f"convolutions compute in floating point, {share:.0%} of the network"
    return _hint("precision", share, command_line("build", target=narrower, data="DATA"), text)


def _head(predictor: Predictor, profile: Mapping[str, Any], post_ms: float) -> dict[str, Any] | None:
    info = predictor.info
    if info.head != "raw" or not any(port.role == "scores" for port in info.outputs):
        return None
    decoding = sum(float(row["parts"].get("decoding", 0.0)) for row in profile["by_stage"])
    text = f"every candidate is decoded ({decoding:.2g} ms) and looked at afterwards ({post_ms:.2g} ms)"
    return _hint("head", decoding / profile["total_ms"], command_line("build", head="topk"), text)


def _share(profile: Mapping[str, Any], *kinds: str) -> float:
    return sum(float(row["share"]) for row in profile["by_type"] if str(row["type"]).startswith(kinds))


def _hint(hint: str, share: float | None, do: str, text: str) -> dict[str, Any]:
    return {"hint": hint, "share": share, "do": do, "text": f"{text}: `{do}`"}
