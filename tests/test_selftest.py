"""A bundle's self-test: it passes where nothing is wrong, fails on planted faults and calls each by its name."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")

from edgekit import checkpoint, targets
from edgekit.bundle import build as building
from edgekit.bundle import loading, selftested
from edgekit.bundle.exports import Exports
from edgekit.bundle.options import BuildOptions, VerifyOptions
from edgekit.bundle.verification import ABSENT, FAILED, PASSED, verify
from edgekit.errors import GateError, InputError, UsageError
from edgekit.runtime import proven
from edgekit.runtime.around import Around
from edgekit.runtime.image import read_image
from edgekit.runtime.manifest import manifest_of, read_bundle, write_manifest
from edgekit.spec import Session
from edgekit.targets import openvino as ov
from edgekit.verify import parity, selftest
from edgekit.verify.selftest import JUDGED, KEPT
from tests.hostile.manifests import spoil
from tests.networks import pictures, settled
from tests.tiny import tiny_bundle

NAMES = ("a", "b", "c")
Outputs = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = settled("yolo12n", pictures(), 4e-3, NAMES)
    return checkpoint.save(made, tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A bundle for a target, made once."""
    folder, made = tmp_path_factory.mktemp("built"), {}
    exports = Exports(tmp_path_factory.mktemp("exports"))

    def of(target: str, batch: int = 1) -> Path:
        if (target, batch) not in made:
            out = folder / f"{target}-{batch}"
            made[target, batch] = building.build(model, target, out, BuildOptions(batch=batch), exports=exports).path
        return made[target, batch]

    return of


@pytest.fixture
def bundle(built: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(built("ort-fp32"), tmp_path / "bundle")


def sealed(folder: Path) -> Path:
    """The manifest's hashes as the files now are, as a fault of the machine leaves them."""
    spoil(folder, lambda m: m.update(files=manifest_of(read_info(folder), m["target"], folder)["files"]))
    return folder


def read_info(folder: Path) -> Any:
    return read_bundle(folder, verify=False).info


def last(folder: Path, **options: Any) -> Any:
    return verify(folder, VerifyOptions(**options))[-1]


# ---- what is written --------------------------------------------------------------------------------------------


def test_a_build_writes_pictures_and_answers_that_are_hashed(bundle: Path) -> None:
    found = read_bundle(bundle)
    about = found.manifest["selftest"]
    assert about["images"] == 3 and about["source"] == "generated" and about["misses"] == []
    document = json.loads((bundle / selftest.DOCUMENT).read_text())
    assert {selftest.DOCUMENT, *document["images"]} <= found.manifest["files"].keys()
    size = sum(p.stat().st_size for p in (bundle / "selftest").iterdir())
    assert size == about["bytes"] <= 200_000
    assert all(len(answer["scores"]) == KEPT for answer in document["answers"])


def test_pictures_come_from_those_that_are_given_and_lose_nothing(built: Callable[..., Path], tmp_path: Path) -> None:
    given = [image[:90, :140] for image in parity.generated_images(2, 200, seed=5)]
    for number, image in enumerate(given):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    options = BuildOptions(images=str(tmp_path / "*.png"))
    out = building.build(built("ort-fp32") / "model.onnx", "ort-fp32", tmp_path / "out", options).path
    assert json.loads((out / "manifest.json").read_text())["selftest"]["source"] == "given"
    for number, image in enumerate(given):
        np.testing.assert_array_equal(read_image(out / "selftest" / f"{number}.ppm"), image)


def test_a_build_can_be_asked_for_none(built: Callable[..., Path], tmp_path: Path) -> None:
    out = building.build(
        built("ort-fp32") / "model.onnx", "ort-fp32", tmp_path / "out", BuildOptions(self_test="none")
    ).path
    assert not (out / "selftest").exists() and last(out).state == ABSENT


# ---- no false alarm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "batch"), [("ort-fp32", 1), ("ort-fp32", 2), ("ov-fp32", 1), ("ov-fp16", 1)])
def test_it_passes_where_nothing_is_wrong(target: str, batch: int, built: Callable[..., Path]) -> None:
    pytest.importorskip("openvino")
    assert [check.state for check in verify(built(target, batch)) if check.name != "signature"] == [PASSED, PASSED]


@pytest.mark.parametrize("hint", ["f32", "bf16"])
def test_half_precision_weights_pass_in_whatever_executes_them(
    hint: str, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    honest = openvino.Core.compile_model

    def compiled(self: Any, model: Any, device: str, properties: dict[str, Any]) -> Any:
        return honest(self, model, device, properties | {"INFERENCE_PRECISION_HINT": hint})

    folder = built("ov-fp16")
    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    assert last(folder).state == PASSED


class HalfSums(Around):
    """A network as a processor computes it that has registers of half precision for sums, too."""

    def __init__(self, session: Any) -> None:
        import torch

        super().__init__(session)
        self.sums = "f16"
        for module in session.net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.forward = functools.partial(self.convolved, module)

    @staticmethod
    def convolved(layer: Any, x: Any) -> Any:
        """Channel by channel, every sum rounded; grouped layers have few products and keep theirs."""
        import torch

        half, weight = x.half().float(), layer.weight.half().float()
        if layer.groups != 1:
            return torch.conv2d(half, weight, layer.bias, layer.stride, layer.padding, 1, layer.groups).half().float()
        total = 0.0 if layer.bias is None else layer.bias[:, None, None]
        for k in range(weight.shape[1]):
            part = torch.conv2d(half[:, k : k + 1], weight[:, k : k + 1], None, layer.stride, layer.padding)
            total = (total + part).half().float()
        return total

    def precision_by_type(self) -> dict[str, int]:
        return {"f16": 1}


def test_sums_in_half_precision_are_told_from_rounded_outputs(built: Callable[..., Path], model: Path) -> None:
    """As of ncnn on ARM: they pass, judged by wider bounds than those of a device that only puts out halves."""
    pytest.importorskip("openvino")
    test = selftest.read(read_bundle(built("ov-fp16")))
    assert test is not None
    session = HalfSums(loading.open_session(model, head="raw", imgsz=(64, 64)))
    outcome = selftest.run(session, test)
    assert outcome.passed and outcome.precision == "bf16"
    session.sums = "f32"
    assert selftest.run(session, test).precision == "f16"


# ---- six faults -------------------------------------------------------------------------------------------------


def faulty(monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[Outputs], Outputs], blind: bool = False) -> None:
    """A device whose answers are spoilt; ``blind``: that shows no stages."""
    from edgekit.targets.onnxruntime import OrtSession

    honest = OrtSession.run
    monkeypatch.setattr(OrtSession, "run", lambda self, batch: spoilt(dict(honest(self, batch))))
    if blind:
        monkeypatch.setattr(OrtSession, "intermediates", Session.intermediates)


def failure(folder: Path) -> Any:
    found = last(folder)
    assert found.state == FAILED and found.name == "selftest"
    return found


def test_bgr_for_rgb_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.targets.onnxruntime import OrtSession

    honest = OrtSession.run
    monkeypatch.setattr(OrtSession, "run", lambda self, batch: honest(self, np.ascontiguousarray(batch[:, ::-1])))
    assert failure(bundle).figures["cause"] == "channels"


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_output_of_zeros_is_named_with_its_role(value: float, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, lambda outputs: outputs | {"boxes": np.full_like(outputs["boxes"], value)})
    found = failure(bundle)
    assert found.figures["cause"] == "zeros" and "boxes" in found.message
    assert not found.figures["roles"]["boxes"]["pass"]


def test_a_layer_that_collapses_in_half_precision_is_named_with_its_stage(bundle: Path) -> None:
    """What it puts out is smaller than FP16 can tell from zero."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = bundle / "model.onnx"
    made = onnx.load(path)
    stage, value = next((s, v) for s, v in read_bundle(bundle).manifest["lineage"]["stages"] if s == "model.5")
    node = next(n for n in made.graph.node if value in n.output)
    node.output[:] = [f"{value}.wide" if name == value else name for name in node.output]
    for name, number in (("tiny", 1e-9), ("huge", 1e9)):
        made.graph.initializer.append(numpy_helper.from_array(np.float32(number), name))
    steps = [
        helper.make_node("Mul", [f"{value}.wide", "tiny"], [f"{value}.small"]),
        helper.make_node("Cast", [f"{value}.small"], [f"{value}.half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{value}.half"], [f"{value}.back"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{value}.back", "huge"], [value]),
    ]
    at = list(made.graph.node).index(node) + 1
    for number, step in enumerate(steps):
        made.graph.node.insert(at + number, step)
    onnx.save(made, path)
    found = failure(sealed(bundle))
    assert (found.figures["cause"], found.figures["stage"]) == ("layer", stage)
    assert "stage 5" in found.message


@pytest.fixture
def other(built: Callable[..., Path], tmp_path: Path) -> Path:
    """A bundle of the same architecture with other weights: those of every convolution in another order."""
    import onnx
    from onnx import numpy_helper

    folder = shutil.copytree(built("ort-fp32"), tmp_path / "other")
    made, rng = onnx.load(folder / "model.onnx"), np.random.default_rng(0)
    for tensor in made.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 4:
            mixed = rng.permutation(value.ravel()).reshape(value.shape)
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
    onnx.save(made, folder / "model.onnx")
    return sealed(folder)


@pytest.mark.parametrize("blind", [False, True])
def test_an_engine_of_other_weights_is_named(
    blind: bool, bundle: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``blind``: engines show no stages, which is said."""
    shutil.copyfile(other / "model.onnx", bundle / "model.onnx")
    faulty(monkeypatch, lambda outputs: outputs, blind)
    found = failure(sealed(bundle))
    assert found.figures["cause"] == "weights"
    assert (found.figures["unseen"] is not None) == blind
    assert (found.figures["stage"] is None) == blind


def test_an_engine_kept_from_another_build_is_told_from_the_files(
    bundle: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are right, and what is looked at stage by stage; what answers was compiled of other weights."""
    stale = loading.open_session(other)
    from edgekit.targets.onnxruntime import OrtSession

    honest = OrtSession.run
    monkeypatch.setattr(OrtSession, "run", lambda self, batch: honest(stale, batch))
    assert failure(bundle).figures["cause"] == "stale"


def test_swapped_rows_are_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, lambda outputs: outputs | {"boxes": np.roll(outputs["boxes"], 1, axis=1)})
    found = failure(bundle)
    assert found.figures["cause"] == "rows" and "boxes" in found.message


def test_swapped_places_of_a_batch_are_named(
    built: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(built("ort-fp32", 2), tmp_path / "two")
    faulty(monkeypatch, lambda outputs: {role: value[::-1] for role, value in outputs.items()})
    found = failure(folder)
    assert found.figures["cause"] == "rows" and "place" in found.message


SATURATED = {
    "less sure": lambda outputs: outputs | {"scores": 0.6 * outputs["scores"]},
    "past each other": lambda outputs: outputs | {"boxes": np.roll(outputs["boxes"], 1, axis=1)},
}


@pytest.mark.parametrize("answers", list(SATURATED))
def test_sums_that_saturate_are_named(answers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an emulated processor shows by itself (``test_processors.py``), here by its answers alone."""
    folder = with_answers(tiny_bundle(tmp_path / "tiny", "detect", "ort-fp32"), weight_bits=8)
    monkeypatch.setattr("edgekit.runtime.processor.adds_exactly", lambda *_: False)
    faulty(monkeypatch, SATURATED[answers])
    with pytest.warns(RuntimeWarning, match="saturate"):
        assert failure(folder).figures["cause"] == "saturation"


def with_answers(folder: Path, weight_bits: int | None = None) -> Path:
    """A hand-made bundle with the answers that it gives as its self-test."""
    images = [image[:100] for image in parity.generated_images(2, 140)]
    session = loading.open_session(folder)
    answers = [runs[0] for runs in selftest.answered(session, images)]
    session.close()
    roles = answers[0].keys() - {"labels"}
    bounds = {role: {"rms": 1e-3, "p99": 1e-2, "max": 1e-2} for role in roles}
    plain = [{role: value.tolist() for role, value in each.items()} for each in answers]
    selftest.write(folder, images, {"answers": plain, "allowed": {"f32": bounds}, "stages": {}})
    more = {"selftest": {"images": 2}, "quantization": {"weight_bits": weight_bits}}
    info = read_info(folder)
    target = read_bundle(folder, verify=False).target
    write_manifest(folder, manifest_of(info, target, folder, **more))
    return folder


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32"])
def test_every_task_is_answered_and_every_role_can_fail(
    task: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target.startswith("ov"):
        pytest.importorskip("openvino")
    folder = with_answers(tiny_bundle(tmp_path / "tiny", task, target))
    assert last(folder).state == PASSED
    session = loading.open_session(folder)
    test = selftest.read(read_bundle(folder))
    assert test is not None
    for role in [port.role for port in session.info.outputs]:
        broken = Spoilt(session, role)
        outcome = selftest.run(broken, test)
        wrong = {name for name, row in outcome.roles.items() if not row["pass"]}
        assert not outcome.passed and wrong & {role, "angles", "visibility", "scores"}, role


class Spoilt(Session):
    """A session one of whose roles is off by a twentieth of its range."""

    def __init__(self, session: Session, role: str) -> None:
        self.info, self.target, self.path, self.session, self.role = (
            session.info, session.target, session.path, session, role,
        )  # fmt: skip

    def run(self, batch: np.ndarray) -> Outputs:
        outputs: Outputs = dict(self.session.run(batch))
        value = outputs[self.role]
        return outputs | {self.role: value + np.float32(0.05) * np.ptp(value)}


# ---- bounds -----------------------------------------------------------------------------------------------------


def answer(scores: list[float], boxes: list[list[float]]) -> selftest.Answers:
    return {"scores": np.array(scores), "labels": np.zeros(len(scores), np.int64), "boxes": np.array(boxes)}


def test_candidates_in_another_order_are_no_difference() -> None:
    want = answer([0.9, 0.8, 0.7], [[0, 0, 9, 9], [50, 50, 60, 60], [90, 90, 99, 99]])
    have = {role: value[[2, 0, 1]] for role, value in want.items()}
    assert all(not gap.any() for gap in selftest.gaps([(want, have)], "topk", "f32", 100).values())


@pytest.mark.parametrize("missing", [True, False])
def test_an_object_that_one_side_lacks_counts_with_its_score(missing: bool) -> None:
    both = answer([0.9, 0.8], [[0, 0, 9, 9], [50, 50, 60, 60]])
    one = {role: value[:1] for role, value in both.items()}
    pair = (both, one) if missing else (one, both)
    assert selftest.gaps([pair], "topk", "f32", 100)["scores"].max() == pytest.approx(0.8)


def test_the_tail_of_a_full_list_may_lack_partners() -> None:
    """Beyond the best, rounding decides which of nearly equal candidates are kept."""
    places = [[9.0 * k, 0, 9.0 * k + 8, 8] for k in range(KEPT)]
    want = answer([0.9] * JUDGED + [0.1] * (KEPT - JUDGED), places)
    have = {role: value.copy() for role, value in want.items()}
    have["boxes"][JUDGED:] += 500
    assert selftest.gaps([(want, have)], "topk", "f32", 100)["scores"].max() == 0


@pytest.mark.parametrize(("precision", "most"), [("f32", 3.0), ("f16", 0.0)])
def test_an_objects_other_cell_is_no_difference_in_low_precision(precision: str, most: float) -> None:
    """Two cells a tenth of a pixel apart that say other things of their mask, found by rounding the other way round."""
    own = np.array([[1.0, 2], [4, 5], [7, 7]])
    boxes = [[10.0, 10, 20, 20], [10.1, 10, 20, 20], [50, 50, 70, 70]]
    want = {**answer([0.8, 0.8, 0.5], boxes), "mask_coefficients": own}
    have = {**answer([0.8, 0.8, 0.5], boxes), "mask_coefficients": own[[1, 0, 2]]}
    assert selftest.gaps([(want, have)], "topk", precision, 100)["mask_coefficients"].max() == most
    have["mask_coefficients"] = own[[2, 2, 0]]  # what no cell near it says
    assert selftest.gaps([(want, have)], "topk", precision, 100)["mask_coefficients"].max() >= 3


def test_angles_are_compared_modulo_half_a_turn() -> None:
    want = answer([0.9], [[0, 0, 9, 9]])
    want["rotated_boxes"], want["angles"] = want.pop("boxes"), np.array([np.pi / 2 - 1e-4])
    have = want | {"angles": np.array([-np.pi / 2 + 1e-4])}
    assert selftest.gaps([(want, have)], "topk", "f32", 100)["angles"].max() == pytest.approx(2e-4)


# ---- bad input --------------------------------------------------------------------------------------------------


def test_a_bundle_of_an_older_edgekit_is_said_and_not_failed(bundle: Path) -> None:
    spoil(bundle, lambda m: m.pop("selftest"))
    assert [check.state for check in verify(bundle) if check.name != "signature"] == [PASSED, ABSENT]
    with pytest.warns(RuntimeWarning, match="no self-test"):
        loading.load(bundle, verify=True).close()


@pytest.mark.parametrize("name", ["selftest/selftest.json", "selftest/1.ppm"])
def test_one_that_was_tampered_with_is_refused_by_its_hash(name: str, bundle: Path) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    found = last(bundle)
    assert (found.name, found.state) == ("files", FAILED) and name in found.message
    with pytest.raises(GateError, match=name):
        loading.load(bundle, verify=True)


@pytest.mark.parametrize("name", ["selftest/selftest.json", "selftest/0.ppm"])
def test_a_file_without_a_hash_is_refused(name: str, bundle: Path) -> None:
    spoil(bundle, lambda m: m["files"].pop(name))
    with pytest.raises(GateError, match=name):
        verify(bundle)


BROKEN: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "newer": lambda d: d.update(schema=99),
    "no schema": lambda d: d.pop("schema"),
    "no images": lambda d: d.update(images=[], answers=[]),
    "images no list": lambda d: d.update(images=3),
    "an answer less": lambda d: d["answers"].pop(),
    "a role less": lambda d: d["answers"][0].pop("boxes"),
    "a row less": lambda d: d["answers"][0]["scores"].pop(),
    "text": lambda d: d["answers"][0].update(scores=["high"] * KEPT),
    "no bounds": lambda d: d.update(allowed={}),
    "a bound less": lambda d: d["allowed"]["f32"].pop("scores"),
    "bounds of zero": lambda d: d["allowed"]["f32"]["scores"].update(rms=0.0),
    "stages no object": lambda d: d.update(stages=[1]),
}


@pytest.mark.parametrize("change", BROKEN)
def test_one_that_is_not_valid_is_refused(change: str, bundle: Path) -> None:
    where = bundle / selftest.DOCUMENT
    document = json.loads(where.read_text())
    BROKEN[change](document)
    where.write_text(json.dumps(document))
    with pytest.raises(InputError, match="selftest.json"):
        verify(sealed(bundle))


def test_what_is_no_bundle(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputError, match="not a bundle"):
        verify(tmp_path)
    with pytest.raises(UsageError, match="needs a bundle"):
        loading.load(model, verify=True)
    with pytest.raises(UsageError, match="verify"):
        loading.load(model, verify="twice")


# ---- loading ----------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Sessions that the self-test was run on."""
    honest, runs = selftest.run, []

    def run(session: Session, *rest: Any, **more: Any) -> Any:
        runs.append(session)
        return honest(session, *rest, **more)

    monkeypatch.setattr(selftest, "run", run)
    return runs


def test_once_is_once_for_a_machine_and_a_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    for _ in range(2):
        loading.load(bundle, verify="once").close()
    assert len(runs) == 1
    monkeypatch.setattr("edgekit.runtime.processor.model_name", lambda: "another processor")
    loading.load(bundle, verify="once").close()
    assert len(runs) == 2
    spoil(bundle, lambda m: m.update(note="built again"))
    loading.load(bundle, verify="once").close()
    assert len(runs) == 3
    loading.load(bundle, verify=True).close()
    assert len(runs) == 4


def test_a_failure_is_raised_closes_the_session_and_is_not_remembered(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        faulty(patch, lambda outputs: outputs | {"scores": 0 * outputs["scores"]})
        for _ in range(2):
            with pytest.raises(GateError, match="scores"):
                loading.load(bundle, verify="once")
    loading.load(bundle, verify="once").close()


def test_a_memory_that_cannot_be_read_is_made_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    loading.load(bundle, verify="once").close()
    (note,) = bundle.with_name("bundle.cache").glob("*.selftest.json")
    note.write_text("[")
    loading.load(bundle, verify="once").close()
    loading.load(bundle, verify="once").close()
    assert len(runs) == 2


def test_a_device_that_is_gone_is_said_whatever_was_remembered(bundle: Path, built: Callable[..., Path]) -> None:
    pytest.importorskip("openvino")
    folder = built("ov-fp32")
    loading.load(folder, device="CPU", verify="once").close()
    with pytest.raises(UsageError, match="NPU"):
        loading.load(folder, device="NPU", verify="once")
    with pytest.raises(UsageError, match="NPU"):
        verify(folder, VerifyOptions("NPU"))


def test_the_key_says_what_answers_depend_on(built: Callable[..., Path]) -> None:
    pytest.importorskip("openvino")
    session = loading.open_session(built("ov-fp32"))
    key = proven.key_of(session, targets.get("ov-fp32").packages)
    assert key["devices"] == ["CPU"] and "openvino" in key["versions"] and key["processor"]
    assert any("FULL_DEVICE_NAME" in name for name in key["drivers"])


def test_auto_is_checked_again_where_it_moves(built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Here AUTO has the processor alone; that it goes elsewhere is pretended."""
    pytest.importorskip("openvino")
    runs, folder = counted(monkeypatch), built("ov-fp32")
    image = parity.generated_images(1)[0]
    with loading.load(folder, device="AUTO", verify=True) as predictor:
        assert isinstance(predictor.session, selftested.Watched)
        before = predictor(image)[0]
        assert len(runs) == 1
        monkeypatch.setattr(ov.OpenVinoSession, "devices", lambda self: ("GPU.0",))
        after = predictor(image)[0]
        predictor(image)
        assert len(runs) == 2
        assert before.scores is not None and after.scores is not None
        np.testing.assert_array_equal(before.scores, after.scores)
        monkeypatch.setattr(ov.OpenVinoSession, "devices", lambda self: ("GPU.1",))
        honest = ov.OpenVinoSession.run
        monkeypatch.setattr(
            ov.OpenVinoSession, "run", lambda self, batch: {r: 0 * v for r, v in honest(self, batch).items()}
        )
        with pytest.raises(GateError, match=r"GPU\.1"):
            predictor(image)


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_command_prints_a_document_and_exits_with_one_on_a_failure(
    bundle: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = run("verify", bundle, "--json")
    document = json.loads(out)
    assert (
        code == 0
        and document["passed"]
        and [c["check"] for c in document["checks"]] == ["signature", "files", "selftest"]
    )
    (bundle / "selftest" / "0.ppm").write_bytes(b"P6")
    code, out, error = run("verify", bundle, "--json")
    assert code == 1 and json.loads(out)["passed"] is False and "0.ppm" in error


def test_sessions_that_do_not_move_are_left_alone(bundle: Path) -> None:
    with loading.load(bundle, verify=True) as predictor:
        assert not isinstance(predictor.session, selftested.Watched)
        assert dataclasses.is_dataclass(predictor.options)
