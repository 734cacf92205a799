"""A captured graph beside what PyTorch's own exporter makes of the same network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnxscript import ir
from torch import nn

from edgekit.checkpoint import Checkpoint
from edgekit.graph import export as exporting
from edgekit.graph.capture import capture
from edgekit.graph.document import read_document
from edgekit.spec import Graph
from tests.networks import noise, settled

SIZE = (64, 128)


def outputs(graph: Graph, batch: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {graph.info.inputs[0].name: batch}), strict=True))


def fixed(model: Checkpoint, path: Path, head: str, recipe: str | None) -> Graph:
    return exporting.export(model, path, SIZE if model.spec.task != "classify" else (64, 64), 1, None, head, recipe)


@pytest.mark.parametrize(
    ("name", "head", "recipe"),
    [
        ("yolo12n", "topk", "openvino"),
        ("yolo12n-turbo", "raw", None),
        pytest.param("yolo12n", "nms", "operator", marks=pytest.mark.long),
        pytest.param("yolo12n-seg", "topk", "older", marks=pytest.mark.long),
        pytest.param("yolo12n-pose", "topk", "openvino", marks=pytest.mark.long),
        pytest.param("yolo12n-obb", "topk", None, marks=pytest.mark.long),
        ("yolo12n-cls", "raw", None),
    ],
)
def test_it_is_what_pytorchs_exporter_makes(
    name: str, head: str, recipe: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = noise(1, 3, *(SIZE if name != "yolo12n-cls" else (64, 64)))
    model = settled(name, batch, 3e-3, ("a", "b", "c"))
    theirs = torch.export.export

    def no_exporter(*_: object, **__: object) -> None:
        raise AssertionError("PyTorch's exporter was used")

    monkeypatch.setattr(torch.export, "export", no_exporter)
    own = fixed(model, tmp_path / "own.onnx", head, recipe)
    monkeypatch.setattr(torch.export, "export", theirs)
    monkeypatch.setattr(exporting, "capture", lambda *_: None)
    other = fixed(model, tmp_path / "other.onnx", head, recipe)

    documents = [read_document(graph.path) for graph in (own, other)]
    fired = [{row["rule"]: row["fired"] for row in document["rewrites"]} for document in documents]
    assert fired[0] == {rule: count for rule, count in fired[1].items() if rule != "integer_division"}
    paths = [{path for path, _ in document["lineage"]["stages"]} for document in documents]
    assert paths[0] >= paths[1] - {"model.9.drop"} and paths[1] >= paths[0]
    found, wanted = outputs(own, batch), outputs(other, batch)
    assert list(found) == list(wanted)
    for role, value in wanted.items():
        np.testing.assert_allclose(found[role], value, rtol=1e-4, atol=1e-4, err_msg=role)


def test_a_fixed_batch_is_each_image_by_itself(tmp_path: Path) -> None:
    batch = noise(2, 3, *SIZE)
    model = settled("yolo12n", batch, {"boxes": 1e-2, "scores": 1e-3}, ("a", "b"))
    graph = exporting.export(model, tmp_path / "two.onnx", SIZE, 2)
    with torch.no_grad():
        wanted = model.net(torch.from_numpy(batch))
    found = outputs(graph, batch)
    np.testing.assert_allclose(found["boxes"], wanted["boxes"].numpy(), atol=1e-2)
    np.testing.assert_allclose(found["scores"], wanted["scores"].numpy(), atol=1e-3)


class Written(nn.Module):
    """One operator more, on what a convolution makes."""

    def __init__(self, act: object) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), act

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.act(self.conv(x)),)  # type: ignore[operator]


@pytest.mark.parametrize(
    "act",
    [
        nn.Hardswish(),
        nn.ReLU(),
        nn.LeakyReLU(0.2),
        lambda x: 2 - x / 3,
        lambda x: torch.stack((x, x.exp()), 1),
        lambda x: x[:, 1:3, ::2].squeeze(0),
        lambda x: x.mean((2, 3)),
        lambda x: x[:, 1].unflatten(1, (2, 4)).transpose(0, 1),
        lambda x: x + torch.arange(8.0),
    ],
)
def test_operators_are_written_as_they_compute(act: object) -> None:
    net, batch = Written(act).eval(), torch.from_numpy(noise(1, 3, 8, 8))
    model = capture(net, batch, "x", ["y"])
    assert model is not None
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": batch.numpy()})[0], net(batch)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.cumsum(1),
        lambda x: x.add_(1),
        lambda x: torch.zeros_like(x).copy_(x),
        lambda x: x.to(torch.float64),
        lambda x: torch.add(x, x, alpha=2),
        lambda x: torch.div(x, 2, rounding_mode="floor"),
        lambda x: torch.ones(3),
    ],
)
def test_what_it_does_not_know_is_left_to_pytorchs_exporter(act: object) -> None:
    assert capture(Written(act).eval(), torch.zeros(1, 3, 8, 8), "x", ["y"]) is None
