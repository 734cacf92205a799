"""Faults planted at every precision: the gate stops them and names the stage; a faithful artifact passes.

What a precision rounds hides small faults from whoever looks at the outputs alone. So the stored weights are held to
float32 first, whatever is executed in the end, and what is executed to what rounding explains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekit import checkpoint
from edgekit.bundle import build as building
from edgekit.checkpoint import catalog
from edgekit.errors import GateError
from edgekit.nn.session import TorchSession
from edgekit.verify import parity, stages
from edgekit.verify.rounding import PRECISIONS
from edgekit.verify.stages import Lineage

openvino = pytest.importorskip("openvino")

SIDE = 96


@pytest.fixture(scope="module")
def model() -> checkpoint.Checkpoint:
    """A small detector that carries signal and does not amplify rounding: BatchNorms settled on images and damped, the
    head's last convolutions scaled to logits of a trained one's size."""
    made = checkpoint.new(catalog.spec("yolo12n", classes=2), ("a", "b"), imgsz=SIDE)
    batch = np.concatenate([parity.batch_of(image, made.info()) for image in parity.generated_images(4)])
    checkpoint.recalibrate(made, [torch.from_numpy(batch)], damping=1.1)
    lasts = [f"model.21.cv{kind}.{level}.2" for kind in (2, 3) for level in range(3)]
    for path, logits in TorchSession(made.net, made.info(batch=None), fold=False).intermediates(batch, lasts).items():
        last = made.net.get_submodule(path)
        spread = logits.std((0, 2, 3)).mean() if ".cv2." in path else logits.std()
        last.weight.data *= 2.0 / float(spread)
        if ".cv3." in path:
            last.bias.data.fill_(-1.0)
    return made


@pytest.fixture(scope="module")
def path(model: checkpoint.Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(model, tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> building.Exports:
    return building.Exports(tmp_path_factory.mktemp("exports"))


# Faults of an artifact: the graph is right, and what a runtime made of it is not.


def _weights(graph: Any, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    node = next(op for op in graph.get_ops() if op.get_friendly_name() == name)
    held = next(i for i in node.inputs() if i.get_source_output().get_node().get_type_name() == "Constant")
    array = change(np.array(held.get_source_output().get_node().get_data()))
    held.replace_source_output(openvino.opset13.constant(np.ascontiguousarray(array)).output(0))


def _swapped(array: np.ndarray) -> np.ndarray:
    array[[0, 1]] = array[[1, 0]]
    return array


def _half_a_pixel(graph: Any) -> None:
    end = next(result for result in graph.get_results() if "boxes" in result.input_value(0).get_names())
    source = end.input_value(0)
    names = source.get_names()
    moved = openvino.opset13.add(source, np.float32(0.5))
    source.set_names(set())
    moved.output(0).set_names(names)
    end.input(0).replace_source_output(moved.output(0))


PLANTED: dict[str, tuple[Callable[[Any], None], str | None]] = {
    "weights of one layer off by three percent": (
        lambda graph: _weights(graph, "model.8.m.1.0.mlp.0.conv/Conv/WithoutBiases", lambda w: w * np.float32(1.03)),
        "model.8.m.1.0.mlp.0",
    ),
    "the scale of one attention": (
        lambda graph: _weights(graph, "model.6.m.0.0.attn.core/Mul", lambda scale: scale * np.float32(1.1)),
        "model.6.m.0.0.attn.core",
    ),
    "two channels swapped": (
        lambda graph: _weights(graph, "model.2.cv2.conv/Conv/WithoutBiases", _swapped),
        "model.2.cv2",
    ),
    "a branch of the head zeroed": (
        lambda graph: _weights(graph, "model.21.cv3.0.2/Conv/WithoutBiases", lambda w: w * 0),
        "model.21.cv3.0.2",
    ),
    "boxes half a pixel off": (_half_a_pixel, None),
}


def _executing(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """OpenVINO executes float32 where it would choose for itself, as on a processor that has nothing narrower."""
    honest = openvino.Core.compile_model

    def compile_model(self: Any, graph: Any, device: str, properties: dict[str, Any]) -> Any:
        return honest(self, graph, device, {**properties, "INFERENCE_PRECISION_HINT": precision})

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)


@pytest.mark.parametrize(
    ("fault", "target"),
    [
        *((fault, "ov-fp16") for fault in PLANTED),
        ("weights of one layer off by three percent", "ov-fp16 in f32"),
        ("boxes half a pixel off", "ov-fp16 in f32"),
        ("a branch of the head zeroed", "ov-fp32"),
    ],
)
def test_a_fault_planted_in_an_artifact_stops_the_build_and_is_named(
    fault: str, target: str, path: Path, exports: building.Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, expected = PLANTED[fault]
    honest = openvino.save_model

    def save_model(graph: Any, *arguments: Any, **options: Any) -> None:
        plant(graph)
        honest(graph, *arguments, **options)

    monkeypatch.setattr(openvino, "save_model", save_model)
    if target.endswith("f32"):
        _executing(monkeypatch, "f32")
    with pytest.raises(GateError) as caught:
        building.build(path, target.split()[0], tmp_path / "out", exports=exports)
    stage = caught.value.evidence["stage"]
    assert (stage and stage["path"]) == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", [None, "f32"])
def test_a_faithful_artifact_is_built_whatever_it_executes(
    precision: str | None, path: Path, exports: building.Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision:
        _executing(monkeypatch, precision)
    manifest = building.build(path, "ov-fp16", tmp_path / "out", exports=exports).manifest
    for name in ("parity", "weights_parity", "graph_parity"):
        assert manifest[name].keys() == {"boxes", "scores"}
        assert all(row["pass"] and row["max_abs"] <= row["tolerance"] for row in manifest[name].values())
    # Rounding the weights moves outputs by more than the artifact may be from the network with rounded weights.
    assert manifest["weights_parity"]["scores"]["max_abs"] < manifest["parity"]["scores"]["max_abs"]
    assert manifest["detections"]["pass"] and manifest["detections"]["images"] == 3


# Faults of what is executed alone: the stored weights are right, and a kernel is not.


def _projected(net: torch.nn.Module) -> None:
    net.get_submodule("model.6.m.0.0.attn.proj").bn.weight.data *= 4


def _zeroed(net: torch.nn.Module) -> None:
    net.get_submodule("model.21.cv2.1.2").weight.data.zero_()


def _scaled(net: torch.nn.Module) -> None:
    net.get_submodule("model.4.cv2").bn.weight.data *= 1.25


EXECUTED: dict[str, tuple[Callable[[torch.nn.Module], None], str]] = {
    "what an attention adds": (_projected, "model.6.m.0.0.attn.proj"),
    "a branch of the head": (_zeroed, "model.21.cv2.1.2"),
    "a layer a quarter too strong": (_scaled, "model.4.cv2"),
}


class _Executing(TorchSession):
    """Says what it executes."""

    kind = "f32"

    def precision_by_type(self) -> dict[str, int]:
        return {self.kind: 1}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fault", [None, *EXECUTED])
def test_what_rounding_does_not_explain_is_a_fault(
    fault: str | None, precision: str, model: checkpoint.Checkpoint
) -> None:
    info = model.info()
    reference = TorchSession(model.net, info, fold=False)
    rounded = reference.rounded(*PRECISIONS[precision])
    batches = [parity.batch_of(image, info) for image in parity.generated_images(2)]
    bad = copy.deepcopy(model.net)
    plant, expected = EXECUTED[fault] if fault else (lambda net: None, "")
    plant(bad)
    # Folding another order of operations and of BatchNorms: rounded elsewhere than the bounds were taken from.
    artifact: Any = _Executing(bad, info)
    artifact = artifact.rounded(*PRECISIONS[precision]) if precision != "f32" else artifact
    artifact.kind = precision
    report = parity.compare(reference, artifact, batches, precision, rounded)
    assert all(row["pass"] for row in report.values()) == (fault is None), report
    paths = Lineage([(name, name) for name, _ in _order(reference, batches[0])])
    found = stages.first_difference(reference, artifact, batches[0], paths, None, rounded)
    assert (found and found["path"]) == (expected or None)


def _order(reference: TorchSession, batch: np.ndarray) -> list[tuple[str, Any]]:
    """Modules that put out one tensor, in the order they are complete; what a convolution is made of is none."""
    names = [name for name, _ in reference.net.named_modules() if name.rpartition(".")[2] not in ("conv", "bn", "act")]
    return list(reference.intermediates(batch, names).items())
