"""An index of bundles of one model: which is chosen on which processor, what happens when one fails, what is refused.

`make test-processors` runs this file on emulated processors, too.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import edgekit
from edgekit import cli, targets
from edgekit.bundle import fleet, inspection, loading
from edgekit.errors import EdgekitError, GateError, InputError, UnsafeFileError, UsageError
from edgekit.runtime import processor
from tests.native import Probe, compile_tests
from tests.processors import int8_sums
from tests.tiny import SIZE, tiny_bundle

WEIGHTS = "5" * 64
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
# What processors say of themselves; the rows of tests/processors.py that set variables alone have this machine's.
CPUID = {
    "vnni": ("sse4_2", "avx2", "avx512f", "avx512_vnni"),
    "avx512": ("sse4_2", "avx2", "avx512f"),
    "haswell": ("sse4_2", "avx2"),
    "nehalem": ("sse4_2",),
}
BITS = {"sse4_2": 7, "avx2": 11, "avx512f": 13, "avx512_vnni": 23}  # OpenCV's numbers


def sealed(folder: Path, bits: int | None = None, weights: str = WEIGHTS, **parts: Any) -> Path:
    """A bundle that says what it was built from and how many bits its weights have."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"provenance": {"checkpoint_sha256": weights}, **parts}
    if bits:
        manifest["quantization"] = {"weight_bits": bits}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fleet/: eight-bit, seven-bit, float and TensorRT bundles (the last without engines that run here)."""
    pytest.importorskip("openvino")
    root = tmp_path_factory.mktemp("made") / "fleet"
    eight = sealed(tiny_bundle(root / "ov8", "detect", "ov-int8"), 8)
    sealed(shutil.copytree(eight, root / "ov7"), 7)
    sealed(tiny_bundle(root / "ort", "detect", "ort-fp32"))
    trt = shutil.copytree(root / "ort", root / "trt")
    engines = [{"sm": sm, "file": f"model.sm{sm}.engine"} for sm in (89, 75)]
    sealed(trt, None, WEIGHTS, target="trt-fp16", engines=engines)
    return root


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    """An index of copies of them."""
    root = shutil.copytree(made, tmp_path / "fleet")
    fleet.write_index(root / "index.json", [root / name for name in ("ort", "ov7", "trt", "ov8")])
    return root / "index.json"


def a_processor(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)  # of a row of the matrix of processors
    if name == "arm":
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
    else:
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        has = {BITS[feature] for feature in CPUID[name]}
        monkeypatch.setattr(cv2, "checkHardwareSupport", lambda number: number in has)


def chosen(index: Path, device: str | None = None) -> fleet.Choice:
    return fleet.first(fleet.read_index(index), device, lambda folder: folder)[0]


def test_an_index_says_what_each_bundle_needs(index: Path) -> None:
    entries = fleet.read_index(index).entries
    assert [entry.path for entry in entries] == ["trt", "ov8", "ov7", "ort"]  # the order in which they are tried
    assert entries[0].gpu and entries[0].sm == (75, 89)
    assert [entry.needs for entry in entries] == [(), ("vnni",), (), ()]
    assert [entry.weight_bits for entry in entries] == [None, 8, 7, None]
    assert fleet.read_index(index).weights == WEIGHTS


@pytest.mark.parametrize(
    ("name", "right"), [("vnni", "ov8"), ("avx512", "ov7"), ("haswell", "ov7"), ("nehalem", "ov7"), ("arm", "ort")]
)
def test_each_processor_gets_its_bundle(name: str, right: str, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_processor(monkeypatch, name)
    choice = chosen(index)
    assert choice.bundle == index.parent / right
    assert set(choice.refused) == {"vnni": {"trt"}, "arm": {"trt", "ov8", "ov7"}}.get(name, {"trt", "ov8"})
    assert all(path in choice.why for path in choice.refused)


def test_a_gpu_of_its_architecture_gets_the_engine(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"trt": "sm 75 is not here"}
    record = targets.get("trt-fp16")
    for name, told in (("missing", lambda: None), ("runs_here", lambda target, folder: here.get(folder.name))):
        monkeypatch.setitem(record.__dict__, name, told)
    assert "sm 75 is not here" in chosen(index).refused["trt"]
    here.clear()
    assert chosen(index).bundle.name == "trt" and chosen(index, "cuda:0").bundle.name == "trt"
    assert chosen(index, "cpu").bundle.name != "trt"
    assert chosen(index, "GPU").bundle.name == "trt"  # whose session says what devices it has


def test_the_right_one_is_opened_on_this_very_processor(
    index: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """On every row of `make test-processors`: eight bits where OpenVINO's sums of them are seen to be right."""
    right = "ort" if processor.is_arm() else "ov8" if int8_sums() == "exact" else "ov7"
    with caplog.at_level(logging.INFO, "edgekit.fleet"):
        model = edgekit.load(str(index), conf=0.0)
    assert Path(model.chosen.bundle).name == right and right in caplog.text and "trt" in caplog.text
    assert [w for w in recwarn if issubclass(w.category, RuntimeWarning)] == []
    expected = edgekit.load(str(index.parent / right), conf=0.0)(IMAGE)[0]
    np.testing.assert_array_equal(model(IMAGE)[0].boxes, expected.boxes)
    assert loading.open_session(index).target == model.session.target
    assert [s.target for s in loading.open_streams(index, 2)] == [model.session.target] * 2


def test_one_that_fails_gives_way_to_the_next(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_processor(monkeypatch, "vnni")
    shutil.rmtree(index.parent / "ov8")
    (index.parent / "ov7" / "model.bin").write_bytes(b"altered")
    model = edgekit.load(str(index))
    assert Path(model.chosen.bundle).name == "ort"
    assert "model.bin" in model.chosen.refused["ov7"] and "ov8" in model.chosen.refused


def test_an_intel_gpu_is_left_to_openvino(index: Path) -> None:
    assert chosen(index, "GPU").entry.target == "ov-int8"


def test_what_is_computed_otherwise_is_the_last_resort(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_processor(monkeypatch, "haswell")
    shutil.rmtree(index.parent / "ov7")
    assert chosen(index).bundle.name == "ort"
    shutil.rmtree(index.parent / "ort")
    with pytest.warns(RuntimeWarning, match="`weight_bits` 7"):
        assert Path(edgekit.load(str(index)).chosen.bundle).name == "ov8"


def test_where_none_runs_each_has_its_reason(index: Path) -> None:
    for name in ("ov8", "ort"):
        shutil.rmtree(index.parent / name)
    manifest = index.parent / "ov7" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(InputError) as error:
        edgekit.load(str(index))
    assert all(word in str(error.value) for word in ("trt", "ov8", "ov7", "ort", "hash", str(index)))
    with pytest.raises(InputError, match="cuda:0"):
        loading.open_session(index, device="cuda:0")


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    return Probe(compile_tests("cpp-plain", targets=("probe",)) / "probe", tmp_path_factory.mktemp("probe"))


@pytest.mark.long
def test_cpp_chooses_as_python_does(index: Path, probe: Probe) -> None:
    """On this very processor, and on the emulated ones of `make test-processors`; of what both have a backend for."""
    expected = chosen(index)
    said = probe("why", index)
    assert said.startswith(f"{expected.entry.path} ({expected.entry.target}) ")
    assert all(f"not {path}: " in said for path in expected.refused)
    assert probe("open", index)["target"] == expected.entry.target
    shutil.rmtree(index.parent / expected.bundle.name)
    ours = chosen(index)
    if ours.entry.target.startswith("ov-"):
        assert probe("why", index).startswith(f"{ours.entry.path} ")
    for name in ("ov7", "ov8", "ort", "trt"):
        shutil.rmtree(index.parent / name, ignore_errors=True)
    with pytest.raises(InputError, match=r"ov7.*ort"):
        probe("why", index)


def test_cpp_names_what_was_altered(index: Path, probe: Probe) -> None:
    (index.parent / "ov8" / "manifest.json").write_text("{}")
    (index.parent / "ov7" / "model.bin").write_bytes(b"altered")
    (index.parent / "ort" / "manifest.json").unlink()
    with pytest.raises(InputError) as error:
        probe("why", index)
    assert all(word in str(error.value) for word in ("ov8: its manifest", "model.bin", "ort: it is not there"))
    with pytest.raises(InputError, match="cuda:0"):
        probe("why", index, "cuda:0")


def test_an_index_is_inspected(index: Path) -> None:
    facts = inspection.inspect(index)
    assert facts["kind"] == "index" and facts["weights"] == WEIGHTS and len(facts["bundles"]) == 4
    assert chosen(index).entry.path in facts["here"]


def other_weights(root: Path) -> None:
    sealed(root / "ov7", 7, "6" * 64)


def other_classes(root: Path) -> None:
    manifest = json.loads((root / "ov7" / "manifest.json").read_text())
    (root / "ov7" / "manifest.json").write_text(json.dumps(manifest | {"names": ["x", "y", "z"]}))


def no_weights(root: Path) -> None:
    manifest = json.loads((root / "ov7" / "manifest.json").read_text())
    del manifest["provenance"]
    (root / "ov7" / "manifest.json").write_text(json.dumps(manifest))


def missing(root: Path) -> None:
    shutil.rmtree(root / "ov7")


def altered(root: Path) -> None:
    (root / "ov7" / "model.bin").write_bytes(b"altered")


@pytest.mark.parametrize(
    ("harm", "kind"),
    [(other_weights, InputError), (other_classes, InputError), (no_weights, InputError), (missing, InputError),
     (altered, GateError)],
)  # fmt: skip
def test_bundles_that_make_no_index(
    harm: Callable[[Path], None], kind: type[EdgekitError], made: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(made, tmp_path / "fleet")
    harm(root)
    with pytest.raises(kind, match="ov7"):
        fleet.write_index(root / "index.json", [root / "ort", root / "ov7"])
    assert not (root / "index.json").exists()


def test_bundles_lie_beneath_their_index_once(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ort"):
        fleet.write_index(tmp_path / "index.json", [made / "ort"])
    with pytest.raises(UsageError, match="twice"):
        fleet.write_index(made / "twice.json", [made / "ort", made / "ort"])
    with pytest.raises(UsageError):
        fleet.write_index(made / "none.json", [])


ROW = {"path": "ort", "sha256": "0" * 64, "target": "ort-fp32"}
GOOD = {"kind": fleet.KIND, "schema": fleet.SCHEMA, "weights": WEIGHTS, "task": "detect", "bundles": [ROW]}


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ("no JSON", InputError),
        ([], InputError),
        ({"images": []}, InputError),
        (GOOD | {"schema": 2}, InputError),
        (GOOD | {"schema": True}, InputError),
        (GOOD | {"bundles": []}, InputError),
        (GOOD | {"bundles": [7]}, InputError),
        (GOOD | {"bundles": [{"path": "ort"}]}, InputError),
        (GOOD | {"bundles": [ROW | {"path": "../ort"}]}, UnsafeFileError),
        (GOOD | {"bundles": [ROW | {"path": "/ort"}]}, UnsafeFileError),
        (GOOD | {"bundles": [ROW | {"path": "C:\\ort"}]}, UnsafeFileError),
        (GOOD | {"bundles": [ROW | {"path": "a\0b"}]}, UnsafeFileError),
        (GOOD | {"bundles": [ROW | {"target": "abacus-fp32"}]}, InputError),
    ],
)
def test_files_that_are_no_index(document: object, kind: type[EdgekitError], tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(kind, match=r"index\.json"):
        edgekit.load(str(path))


@pytest.mark.parametrize(
    "harm", [{"schema": 2}, {"bundles": []}, {"bundles": [ROW | {"path": "../ort"}]}, {"kind": "x"}]
)
def test_cpp_refuses_them_too(harm: dict[str, object], probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps(GOOD | harm))
    with pytest.raises(InputError, match=r"index\.json"):
        probe("why", path)


def test_the_command(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(made, tmp_path / "fleet")
    words = ["index", str(root / "index.json"), str(root / "ort"), str(root / "ov7"), "--json"]
    codes = []
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            cli.main(words)
        codes.append(done.value.code)
    assert codes[0] in (0, None) and codes[1] == 2
    assert [row["path"] for row in json.loads(capfd.readouterr().out)["bundles"]] == ["ov7", "ort"]
    cv2.imwrite(str(tmp_path / "image.png"), IMAGE)
    with pytest.raises(SystemExit):
        cli.main(["predict", str(root / "index.json"), str(tmp_path / "image.png"), "--json"])
    output = capfd.readouterr()
    assert json.loads(output.out) and "is the first that runs here" in output.err
