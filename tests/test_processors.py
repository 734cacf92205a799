"""What depends on the processor stays within its bound, and the matrix of processors says what it did.

`make test-processors` runs this file on every row of tests/processors.py, on emulated processors with the models that
another one made.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import loading
from edgekit.bundle.verification import PASSED, verify
from edgekit.runtime import processor
from tests import artifacts, processors
from tests.native import EMULATOR, Probe, compile_tests
from tests.processors import ENVIRONMENTS, REPO, Environment

ROWS = {row.name: row for row in ENVIRONMENTS}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts: those given, or made here."""
    given = os.environ.get("EDGEKIT_TEST_ARTIFACTS")
    if given:
        return Path(given)
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("artifacts")
    artifacts.make(folder)
    return folder


@pytest.mark.parametrize("target", artifacts.TARGETS)
@pytest.mark.parametrize("model", artifacts.MODELS)
def test_float32_is_within_its_bound_of_double_precision(model: str, target: str, made: Path) -> None:
    session = loading.open_session(made / f"{model}-{target}", threads=1)
    found = session.run(np.load(made / "inputs.npz")["batch"])
    for role, right in np.load(made / f"{model}.npz").items():
        assert np.abs(found[role] - right).max() < processor.ROUNDING[role], role


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_sums_of_eight_bits_saturate_where_the_warning_says_so(runtime: str, tmp_path: Path) -> None:
    """Seven bits in the weights are right everywhere; eight where ``adds_exactly``."""
    ratios = {}
    for bits in (7, 8):
        path = tmp_path / f"{bits}.onnx"
        right = artifacts.eight_bits(path, bits)
        ratios[bits] = float(_run(runtime, path)[0, 0, 4, 4]) / right
    assert ratios[7] == pytest.approx(1, abs=0.01)
    exact = bool(processor.adds_exactly()) and not (runtime == "openvino" and "ONEDNN_MAX_CPU_ISA" in os.environ)
    if runtime == "onnxruntime" and not processor.asked().get("avx2", True):
        exact = True  # its SSE4.1 kernels add in 32 bits
    assert (ratios[8] > 0.99) == exact
    assert bool(processor.saturation(8)) != bool(processor.adds_exactly())


def _run(runtime: str, path: Path) -> np.ndarray:
    batch = np.ones((1, artifacts.CHANNELS, artifacts.SIDE, artifacts.SIDE), np.float32)
    if runtime == "onnxruntime":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": batch})[0])
    openvino = pytest.importorskip("openvino")
    return np.asarray(openvino.Core().compile_model(path, "CPU")([batch])[0])


@pytest.mark.skipif(not EMULATOR, reason="runs on the emulated rows of `make test-processors`")
@pytest.mark.parametrize("target", ["ov-fp32", "ov-fp16"])  # the latter leaves the precision to OpenVINO
def test_the_cpp_library_answers_and_warns_on_an_emulated_processor(target: str, made: Path, tmp_path: Path) -> None:
    probe = Probe(compile_tests("cpp-plain", targets=("probe",)) / "probe", tmp_path)
    place = shutil.copytree(made / "detector-ov-fp32", tmp_path / "bundle")
    manifest = (place / "manifest.json").read_text()
    manifest = manifest.replace('"ov-fp32"', f'"{target}"').replace("{", '{"quantization": {"weight_bits": 8},', 1)
    (place / "manifest.json").write_text(manifest)
    assert "`weight_bits` 7" in probe("warnings", place, "CPU")
    with pytest.warns(RuntimeWarning, match="`weight_bits` 7"):
        predictor = loading.load(place, threads=1, conf=0.0, max_det=50)
    image = np.random.default_rng(0).integers(0, 256, (*artifacts.SIZE, 3), dtype=np.uint8)
    ours, theirs = predictor(image)[0], probe.predict(place, image, conf=0.0, max_det=50)
    assert ours.labels.tolist() == theirs["labels"]
    np.testing.assert_allclose(theirs["boxes"], ours.boxes, atol=processor.ROUNDING["boxes"])


@pytest.mark.parametrize("model", artifacts.MODELS)
@pytest.mark.parametrize("target", artifacts.TARGETS)
def test_self_tests_made_on_one_processor_pass_on_others(model: str, target: str, made: Path) -> None:
    assert verify(made / f"{model}-{target}")[-1].state == PASSED


# The matrix itself


def test_every_row_names_its_switch_and_the_kernels_that_prove_it() -> None:
    assert len(ROWS) == len(ENVIRONMENTS)
    for row in ENVIRONMENTS[1:]:
        assert row.kernels and bool(row.variables) != bool(row.model), row.name
        assert [path for path in processors.files(row) if not Path(path).is_file()] == [], row.name


def test_the_documentation_shows_every_row() -> None:
    page = (REPO / "docs" / "project" / "checked.md").read_text(encoding="utf-8")
    assert [name for name in ROWS if f"| {name} |" not in page] == []


def test_an_emulator_that_is_not_installed_is_skipped_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(processor, "is_x86", lambda: True)
    outcome = processors.run(ROWS["haswell"], tmp_path, tmp_path / "log")
    assert processors.INSTALL in str(outcome.skipped) and outcome.wrong is None
    assert processors.INSTALL in processors.table([outcome])


def test_a_row_that_asks_for_what_the_processor_lacks_is_skipped_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "is_x86", lambda: True)
    monkeypatch.setattr(processor, "asked", lambda: dict.fromkeys(("sse4_2", "avx2", "avx512f", "avx512_vnni"), False))
    for name in ("torch-default", "avx2", "avx512"):
        assert ROWS[name].needs in str(processors.run(ROWS[name], tmp_path, tmp_path / "log").skipped)


def test_a_switch_without_effect_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    if not processor.is_x86() or EMULATOR:
        pytest.skip("runs a row on an x86-64 processor")
    row = Environment("odd", "nothing", "", {"EDGEKIT_NO_SUCH_SWITCH": "1"}, None, {"openvino": "made_of_cheese"})
    outcome = processors.run(row, tmp_path, tmp_path / "log")
    assert "openvino: " in str(outcome.wrong) and not outcome.counts


def test_a_row_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert processors.main(["pentium"]) == 2
    assert "pentium" in capsys.readouterr().err


def test_counts_are_those_of_pytests_last_line() -> None:
    said = "..F.s\nFAILED tests/test_x.py::test_y - 3 passed in a row\n1 failed, 12 passed, 3 skipped in 4.56s\n"
    assert processors.counted(said) == {"failed": 1, "passed": 12, "skipped": 3}
    assert re.fullmatch(r"\{\}", str(processors.counted("")))
