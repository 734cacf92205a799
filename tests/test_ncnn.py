"""ncnn: held against ONNX Runtime on the same graph; what it cannot take is named before anything is written."""

from __future__ import annotations

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit import targets
from edgekit.autotune import Candidate, Objective, auto
from edgekit.autotune.candidates import candidates
from edgekit.bundle import build as building
from edgekit.bundle import loading
from edgekit.bundle.options import BuildOptions
from edgekit.bundle.preflight import of_build
from edgekit.errors import InputError, UsageError
from edgekit.quantize import QuantizeOptions
from edgekit.spec import Graph, ModelInfo, Port
from edgekit.targets._target import Opening
from edgekit.targets.ncnn import missing, missing_to_build
from tests.conftest import Run
from tests.networks import noise, settled
from tests.tiny import tiny_bundle

SIDE = 32
TOLERANCES = {"scores": 1e-5, "class_probabilities": 1e-5, "mask_coefficients": 1e-4, "mask_prototypes": 1e-4}


def _graph(folder: Path, nodes: list[onnx.NodeProto], batch: int | str = 1, output: str = "scores") -> Graph:
    """A graph of ``images`` whose last node gives ``output``, ``[1, 4, 1024]``; opset 18."""
    rng = np.random.default_rng(0)
    weights = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 3, 3), rng.normal(0, 0.2, 108).astype(np.float32))
    shape = helper.make_tensor("shape", TensorProto.INT64, (3,), [1, 4, SIDE * SIDE])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (batch, 3, SIDE, SIDE))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, (1, 4, SIDE * SIDE))],
        [weights, shape],
    )
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    first = batch if isinstance(batch, int) else None
    inputs = (Port("images", "images", (first, 3, SIDE, SIDE)),)
    info = ModelInfo("detect", (SIDE, SIDE), "raw", tuple("abcd"), inputs, (Port(output, "scores", (1, 4, 1024)),))
    return Graph(path, info, "0" * 64)


def _convolution() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", ["images", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Sigmoid", ["c"], ["s"], name="sigmoid"),
        helper.make_node("Reshape", ["s", "shape"], ["scores"], name="reshape"),
    ]


needs_ncnn = pytest.mark.skipif(
    bool(missing() or missing_to_build()), reason="needs ncnn and pnnx: pip install ncnn; pip install --no-deps pnnx"
)


@needs_ncnn
@pytest.mark.parametrize(("name", "tolerance"), [("ncnn-fp32", 1e-6), ("ncnn-fp16", 2e-3)])
def test_a_graph_gives_what_onnx_runtime_gives(name: str, tolerance: float, tmp_path: Path) -> None:
    graph = _graph(tmp_path, _convolution())
    (tmp_path / "bundle").mkdir()
    target = targets.get(name)
    target.build(graph, tmp_path / "bundle")
    session = target.open(tmp_path / "bundle", graph.info, Opening(threads=1))
    batch = np.random.default_rng(1).random((1, 3, SIDE, SIDE), np.float32)
    found = session.run(batch)["scores"]
    reference = targets.get("ort-fp32").open(graph.path, graph.info).run(batch)["scores"]
    assert found.shape == reference.shape == (1, 4, SIDE * SIDE)
    np.testing.assert_allclose(found, reference, atol=tolerance)
    assert session.precision_by_type()
    two = session.run(np.concatenate([batch, batch[..., ::-1]]))["scores"]  # any number of images, one after the other
    np.testing.assert_array_equal(two[0], found[0])
    assert np.abs(two[1] - two[0]).max() > 0.01


@needs_ncnn
@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("yolo12n", "boxes scores"),
        ("yolo12n-seg", "boxes scores mask_coefficients mask_prototypes"),
        ("yolo12n-pose", "boxes scores keypoints"),
        ("yolo12n-obb", "rotated_boxes scores"),
        ("yolo12n-cls", "class_probabilities"),
    ],
)
def test_a_network_of_every_task_gives_what_pytorch_gives(name: str, roles: str, tmp_path: Path) -> None:
    """Within 1e-3 pixels and 1e-5."""
    pytest.importorskip("torch")
    from edgekit.graph.export import export
    from edgekit.nn.session import TorchSession

    batch = noise(1, 3, 64, 96)
    tolerances = {role: TOLERANCES.get(role, 1e-3) for role in roles.split()}
    made = settled(name, batch, tolerances, ("a", "b", "c"))
    target = targets.get("ncnn-fp32")
    graph = export(made, tmp_path / "model.onnx", (64, 96), head="raw", recipe=target.recipe)
    (tmp_path / "bundle").mkdir()
    target.build(graph, tmp_path / "bundle")
    found = target.open(tmp_path / "bundle", graph.info, Opening(threads=1)).run(batch)
    right = TorchSession(made.net, made.info((64, 96))).run(batch)
    assert set(found) == set(right) == set(tolerances)
    for role, value in right.items():
        np.testing.assert_allclose(found[role], value, rtol=0, atol=tolerances[role], err_msg=role)


@needs_ncnn
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux tells them")
def test_it_computes_with_as_many_threads_as_asked_for_and_no_more_than_there_are_cpus(tmp_path: Path) -> None:
    """Whatever OpenMP is told by the environment. Each thread that calls gets others of its own, which are counted."""
    graph = _graph(tmp_path, _convolution())
    (tmp_path / "bundle").mkdir()
    target = targets.get("ncnn-fp32")
    target.build(graph, tmp_path / "bundle")
    batch = np.zeros((1, 3, SIDE, SIDE), np.float32)
    cpu = min(os.sched_getaffinity(0))

    def started(threads: int | None) -> int:
        if threads is None:
            os.sched_setaffinity(0, {cpu})  # of this thread alone
        session = target.open(tmp_path / "bundle", graph.info, Opening(threads=threads))
        before = set(os.listdir("/proc/self/task"))
        session.run(batch)
        return len(set(os.listdir("/proc/self/task")) - before)  # others' may end meanwhile

    for threads, others in ((1, 0), (3, 2), (None, 0)):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(started, threads).result() == others


@needs_ncnn
def test_an_operator_ncnn_has_no_layer_for_is_named(tmp_path: Path) -> None:
    nodes = _convolution()
    nodes[1] = helper.make_node("Hardmax", ["c"], ["s"], axis=1, name="odd")
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="Hardmax"):
        targets.get("ncnn-fp32").build(_graph(tmp_path, nodes), tmp_path / "bundle")
    assert not list((tmp_path / "bundle").iterdir())


@pytest.mark.parametrize("batch", [2, "N"])
def test_one_image_a_run(batch: int | str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ncnn-fp32"):
        targets.get("ncnn-fp32").build(_graph(tmp_path, _convolution(), batch), tmp_path)


@pytest.mark.parametrize("batch", [2, None])
def test_a_batch_is_refused_before_the_model_is_looked_at(batch: int | None, tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    with pytest.raises(UsageError, match="ncnn-fp32"):
        of_build(tmp_path / "absent.pt", targets.get("ncnn-fp32"), tmp_path / "out", BuildOptions(batch=batch))


def test_auto_leaves_it_out_of_larger_batches() -> None:
    objective = Objective("latency")
    assert all("ncnn" not in candidate.target for candidate in candidates(objective, data=False, batch=2)[0])
    assert "ncnn-fp32" in candidates(objective, data=False, batch=2)[1]
    one = [candidate.target for candidate in candidates(objective, data=False)[0]]
    assert ("ncnn-fp32" in one) == (not missing() and not missing_to_build())


@needs_ncnn
def test_damaged_files_and_other_devices_are_refused(tmp_path: Path) -> None:
    graph = _graph(tmp_path, _convolution())
    (tmp_path / "bundle").mkdir()
    target = targets.get("ncnn-fp32")
    target.build(graph, tmp_path / "bundle")
    with pytest.raises(UsageError, match="GPU"):
        target.open(tmp_path / "bundle", graph.info, Opening(device="GPU"))
    (tmp_path / "bundle" / "model.param").write_text("nonsense")
    with pytest.raises(InputError, match="model.param"):
        target.open(tmp_path / "bundle", graph.info)


def test_what_is_missing_is_said() -> None:
    """With and without the packages: None, or what to install."""
    for said in (missing(), missing_to_build()):
        assert said is None or "pip install" in said


def test_without_the_converter_nothing_is_exported_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused before the export says how pnnx is installed, which no extra of edgekit does."""

    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    target = targets.get("ncnn-fp16")
    with pytest.raises(InputError, match="pip install --no-deps pnnx"):
        target.prepare(target, target.options())


def test_the_heads_are_those_of_the_host() -> None:
    for name in ("ncnn-fp32", "ncnn-fp16"):
        target = targets.get(name)
        assert target.heads == ("raw",)
        assert not target.complaints()
        assert BuildOptions().with_head(target.heads).head == "raw"  # unless another is asked for, which is refused
        assert dataclasses.is_dataclass(target)


# ---- what is there for every target -----------------------------------------------------------------------------


@pytest.mark.long
@needs_ncnn
def test_bench_and_report_hold_it_against_another(tmp_path: Path, run: Run) -> None:
    models = [tiny_bundle(tmp_path / target, "segment", target) for target in ("ort-fp32", "ncnn-fp16")]
    code, out, err = run("bench", *models, "--budget", 1, "--json")
    assert code == 0, err
    here = json.loads(out)[1]
    assert here["target"] == "ncnn-fp16" and here["whole_ms"]["p50"] > 0 and here["baseline"] == str(models[0])
    assert here["precision_executed"] in ("f32", "f16")
    assert here["machine"]["packages"]["ncnn"] == metadata.version("ncnn")
    code, out, err = run("bench", models[1], "--throughput", "--streams", "1,2", "--budget", 1, "--json")
    assert code == 0 and len(json.loads(out)) >= 1, err
    assert run("bench", models[1], "--profile", "--budget", 1)[0] == 2
    pytest.importorskip("jinja2")
    page = tmp_path / "page.html"
    code, out, err = run("report", *models, "--budget", 1, "--out", page)
    assert code == 0 and "ncnn-fp16" in page.read_text(encoding="utf-8"), err
    code, out, err = run("inspect", models[1], "--json")
    assert code == 0 and json.loads(out)["target"] == "ncnn-fp16", err


@needs_ncnn
def test_auto_chooses_it_where_nothing_else_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raced, judged against the float model and kept, in its own streams where throughput is asked for."""

    def build(source: Path, target: str, out: Path, *_: object, **__: object) -> None:
        tiny_bundle(out, "detect", target)

    monkeypatch.setattr(building, "build", build)
    offered = [Candidate("ncnn-fp32", 1, 2, 2), Candidate("ncnn-fp16", 1, 2, 2)]
    monkeypatch.setattr(auto, "candidates", lambda *_: (offered, {}))
    source = tiny_bundle(tmp_path / "source", "detect", "ort-fp32")
    options = BuildOptions(quantize=QuantizeOptions(max_drop=0.5))
    made = auto.auto(source, tmp_path / "out", Objective("throughput"), options, seconds=0.02)
    assert made.target.startswith("ncnn") and made.manifest["plan"]["choice"]["streams"] == 2
    with loading.load(tmp_path / "out") as model:
        assert model(np.zeros((64, 96, 3), np.uint8))
