"""What a profile is said to leave open: read from the profile and the model alone, with the command that changes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.bench.hints import hints

PROFILE = {
    "total_ms": 20.0,
    "by_type": [
        {"type": "Convolution", "ms": 12.0, "share": 0.6, "operators": 90},
        {"type": "Sigmoid", "ms": 4.0, "share": 0.2, "operators": 80},
    ],
    "by_stage": [
        {"stage": 21, "parts": {"box branch": 3.0, "decoding": 2.0}},
        {"stage": 6, "parts": {"attention": 4.0, "other": 1.0}},
    ],
}


def found(
    target: str = "ov-fp16",
    head: str = "topk",
    activation: str = "silu",
    executed: str = "f32",
    roles: tuple[str, ...] = ("boxes", "scores"),
) -> dict[str, Any]:
    ports = tuple(SimpleNamespace(role=role) for role in roles)
    info = SimpleNamespace(head=head, outputs=ports, spec=SimpleNamespace(activation=activation))
    session = SimpleNamespace(target=target, precision_by_type=lambda: {executed: 100})
    rows = hints(SimpleNamespace(info=info, session=session), PROFILE, 1.5)  # type: ignore[arg-type]
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    return {row["hint"]: row for row in rows}


def test_every_hint_says_where_time_goes_and_what_to_do() -> None:
    rows = found(head="raw")
    assert {name: row["share"] for name, row in rows.items()} == pytest.approx(
        {"precision": 0.6, "activation": 0.2, "head": 0.1}
    )
    assert rows["precision"]["do"] == "edgekit build --target ov-int8 --data DATA"
    assert rows["activation"]["do"] == "edgekit tune --activation hardswish"
    assert rows["head"]["do"] == "edgekit build --head topk"
    assert all(row["do"] in row["text"] for row in rows.values())


def test_the_int8_target_is_the_runtimes_own() -> None:
    assert "ort-int8" in found(target="ort-fp32")["precision"]["do"]
    assert "precision" not in found(target="pytorch"), "which has none"


def test_what_is_done_already_is_not_said() -> None:
    assert found(target="ov-int8", activation="hardswish", executed="i8") == {}


def test_a_classifier_has_no_candidates_to_decode() -> None:
    assert "head" not in found(head="raw", roles=("class_probabilities",))
