"""Levers that a profile finds open: twins of a model are what they claim to be, and sentences say what was measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import targets
from edgekit.bench import levers
from edgekit.spec import ModelInfo, Port

SHAPE = (1, 3, 32, 32)
WEIGHTS = np.random.default_rng(0).normal(0, 0.5, (8, 3, 1, 1)).astype(np.float32)
BATCH = np.random.default_rng(1).normal(0, 3, SHAPE).astype(np.float32)
LINEAR = np.einsum("oc,bchw->bohw", WEIGHTS[:, :, 0, 0], BATCH)


def session(tmp_path: Path, target: str, gate_first: bool = False, silu: bool = True) -> Any:
    """A 1x1 convolution and its SiLU, written as x * sigmoid(x) or the other way round."""
    ends = ["gate", "linear"] if gate_first else ["linear", "gate"]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["linear"]),
        helper.make_node("Sigmoid", ["linear"], ["gate"]),
        helper.make_node("Mul" if silu else "Add", ends, ["boxes"]),
        helper.make_node("Sigmoid", ["boxes"], ["lonely"]),
        helper.make_node("Mul", ["lonely", "linear"], ["scores"]),  # no SiLU: of another value
    ]
    ins = [helper.make_tensor_value_info("images", TensorProto.FLOAT, SHAPE)]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8, 32, 32)) for name in ("boxes", "scores")]
    graph = helper.make_graph(nodes, "silu", ins, outs, [numpy_helper.from_array(WEIGHTS, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    ports = tuple(Port(name, name, (1, 8, 32, 32)) for name in ("boxes", "scores"))
    info = ModelInfo("detect", SHAPE[2:], "raw", ("a",), (Port("images", "images", SHAPE),), ports)
    if target.startswith("ov"):
        openvino = pytest.importorskip("openvino")
        openvino.save_model(openvino.Core().read_model(tmp_path / "model.onnx"), tmp_path / "model.xml", False)
    return targets.backend(target).open_session(tmp_path, info, target)


@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32"])
def test_twins_are_the_network_with_another_activation(target: str, gate_first: bool, tmp_path: Path) -> None:
    own = session(tmp_path, target, gate_first)
    expected = {"hardswish": LINEAR * np.clip(LINEAR + 3, 0, 6) / 6, "bare": LINEAR}
    for kind, boxes in expected.items():
        twin = own.variant(kind)
        found = twin.run(BATCH)
        np.testing.assert_allclose(found["boxes"], boxes, atol=1e-4)
        np.testing.assert_allclose(found["scores"], LINEAR / (1 + np.exp(-boxes)), atol=1e-4)
    np.testing.assert_allclose(own.run(BATCH)["boxes"], LINEAR / (1 + np.exp(-LINEAR)), atol=1e-4)


def test_the_int8_twin_computes_its_convolutions_in_eight_bits(tmp_path: Path) -> None:
    own = session(tmp_path, "ov-fp32")
    executed = own.variant("int8").precision_by_type()
    assert executed.get("i8", 0) + executed.get("u8", 0) >= 1
    assert not own.precision_by_type().get("i8")


def test_a_model_without_silu_has_no_such_twin(tmp_path: Path) -> None:
    for target in ("ort-fp32", "ov-fp32"):
        own = session(tmp_path, target, silu=False)
        assert own.variant("hardswish") is None and own.variant("bare") is None
    assert session(tmp_path, "ort-fp32").variant("int8") is None, "ONNX Runtime has no such twin"


def ratio(middle: float, slack: float = 0.01) -> dict[str, float]:
    return {"ratio": middle, "low": middle - slack, "high": middle + slack}


def predictor(head: str, roles: tuple[str, ...] = ("boxes", "scores")) -> Any:
    ports = tuple(SimpleNamespace(role=role) for role in roles)
    info = SimpleNamespace(head=head, outputs=ports)
    return SimpleNamespace(info=info, session=None, preprocess=lambda images: (images, None))


PROFILE = {
    "total_ms": 20.0,
    "by_stage": [
        {"stage": 21, "parts": {"box branch": 3.0, "decoding": 2.0}},
        {"stage": 6, "parts": {"attention": 4.0, "other": 1.0}},
    ],
}


def open_levers(monkeypatch: pytest.MonkeyPatch, ratios: dict[str, Any], head: str = "topk") -> dict[str, Any]:
    monkeypatch.setattr(levers, "twins", lambda *_: (20.0, ratios))
    found = levers.levers(predictor(head), [np.zeros(1)], PROFILE, 1.5)
    assert [row["saves_ms"] for row in found] == sorted((row["saves_ms"] for row in found), reverse=True)
    return {row["lever"]: row for row in found}


def test_savings_are_those_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_levers(monkeypatch, {"hardswish": ratio(0.75), "bare": ratio(0.69), "int8": ratio(0.6)}, "raw")
    assert list(found) == ["precision", "activation", "head"]
    activation = found["activation"]
    assert activation["share"] == pytest.approx(0.31)
    assert [activation[k] for k in ("saves_ms", "low_ms", "high_ms")] == pytest.approx([5.0, 4.8, 5.2])
    assert activation["sentence"] == (
        "SiLU is 31% of the network: `edgekit tune --activation hardswish` would save about 5 ms"
    )
    assert "would save about 8 ms" in found["precision"]["sentence"]
    assert found["head"]["saves_ms"] == pytest.approx(3.5) and found["head"]["share"] == pytest.approx(0.1)


def test_what_the_clock_cannot_tell_from_nothing_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    unsure = {"hardswish": ratio(0.95, 0.06), "bare": ratio(0.9), "int8": ratio(1.3)}
    assert open_levers(monkeypatch, unsure) == {}
    assert open_levers(monkeypatch, {"hardswish": ratio(0.99, 0.001), "bare": ratio(0.9)}) == {}, "too little"
    assert open_levers(monkeypatch, {}) == {}, "a runtime without twins"


def test_a_classifier_has_no_candidates_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levers, "twins", lambda *_: (20.0, {}))
    assert levers.levers(predictor("raw", ("class_probabilities",)), [np.zeros(1)], PROFILE, 1.5) == []
