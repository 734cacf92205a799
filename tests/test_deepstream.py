"""The DeepStream layout: its files, and its parser, compiled against structures of the documented fields and called as
nvinfer would, beside edgekit's own post-processing of the same outputs."""

from __future__ import annotations

import configparser
import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from edgekit import targets
from edgekit.bundle import layouts, loading
from edgekit.bundle.deepstream import CONFIG, SOURCE
from edgekit.checkpoint import catalog
from edgekit.errors import UsageError
from edgekit.runtime.image import Geometry
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.results import Result
from edgekit.spec import ModelInfo, Session
from edgekit.tasks import ports
from tests import tiny

HERE = Path(__file__).parent / "cpp/deepstream"
TYPES = {"float32": 0, "float16": 1, "int32": 3, "int64": 4}
MOST = 500

Roles = Mapping[str, np.ndarray]


class Given(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("dims", ctypes.c_uint),
        ("side", ctypes.c_uint * 8),
        ("values", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    made = tmp_path_factory.mktemp("deepstream") / "parser.so"
    command = ["g++", "-O1", "-std=c++14", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", "-shared", "-fPIC"]
    command += [f"-I{HERE}", str(SOURCE), str(HERE / "caller.cpp"), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(made))


def called(
    parser: ctypes.CDLL, roles: Roles, info: ModelInfo, conf: float, masks: bool = False
) -> tuple[int, np.ndarray, np.ndarray]:
    """The number returned, ``[N, 6]`` corners, score and class, and ``[N, 64, 64]`` of masks."""
    arrays = {name: np.ascontiguousarray(values[0]) for name, values in roles.items()}
    given = (Given * len(arrays))(
        *(
            Given(n.encode(), TYPES[a.dtype.name], a.ndim, (ctypes.c_uint * 8)(*a.shape), a.ctypes.data)
            for n, a in arrays.items()
        )
    )
    rows, shapes = np.zeros((MOST, 6), np.float32), np.zeros((MOST, 64, 64), np.float32)
    pointer = shapes.ctypes.data if masks else None
    (height, width), conf32 = info.imgsz, ctypes.c_float(conf)
    count = parser.call(given, len(arrays), width, height, len(info.names), conf32, ctypes.c_void_p(rows.ctypes.data),
                        ctypes.c_void_p(pointer), MOST)  # fmt: skip
    return count, rows[: max(count, 0)], shapes[: max(count, 0)]


def answers(session: Session) -> Roles:
    return session.run(np.random.default_rng(1).random((1, 3, *tiny.SIZE), np.float32))


def ours(roles: Roles, info: ModelInfo, **options: float) -> Result:
    height, width = info.imgsz
    [result] = postprocess(roles, info, [Geometry(height, width, 1, 1, 0, 0)], Options(**options))
    return result


@pytest.mark.parametrize("head", ["raw", "topk"])
def test_boxes_are_edgekits_own(head: str, parser: ctypes.CDLL, tmp_path: Path) -> None:
    made = tiny.crowded_bundle if head == "topk" else lambda folder, target: tiny.tiny_bundle(folder, "detect", target)
    session = loading.open_session(made(tmp_path / "bundle", "ort-fp32"))
    roles = dict(answers(session))
    if head == "topk":  # a pair of the same anchor and another class, which is less sure
        roles["boxes"][0, -1] = roles["boxes"][0, 0]
    count, rows, _ = called(parser, roles, session.info, 0.25)
    expected = ours(roles, session.info, conf=0.25, iou=1.0)  # suppression is nvinfer's
    assert expected.boxes is not None and expected.scores is not None and expected.labels is not None
    assert count == len(expected) > 5
    assert head == "raw" or count == tiny.CANDIDATES - 1
    order = np.lexsort([rows[:, 0], -rows[:, 4]])
    theirs = np.concatenate([expected.boxes, expected.scores[:, None], expected.labels[:, None]], 1)
    np.testing.assert_allclose(rows[order], theirs[np.lexsort([theirs[:, 0], -theirs[:, 4]])], atol=1e-4)


def test_integers_of_older_engines(parser: ctypes.CDLL, tmp_path: Path) -> None:
    session = loading.open_session(tiny.crowded_bundle(tmp_path / "bundle", "ort-fp32"))
    roles = dict(answers(session))
    older = roles | {"labels": roles["labels"].astype(np.int32)}
    np.testing.assert_array_equal(called(parser, older, session.info, 0.25)[1],
                                  called(parser, roles, session.info, 0.25)[1])  # fmt: skip


def test_masks_are_edgekits_own(parser: ctypes.CDLL, tmp_path: Path) -> None:
    session = loading.open_session(tiny.tiny_bundle(tmp_path / "bundle", "segment", "ort-fp32", seed=2))
    roles = answers(session)
    count, rows, shapes = called(parser, roles, session.info, 0.2, masks=True)
    expected = ours(roles, session.info, conf=0.2, iou=0.7)
    assert expected.boxes is not None and expected.masks is not None and count == len(expected) > 5
    np.testing.assert_allclose(rows[:, :4], expected.boxes, atol=1e-4)
    shares = []
    for row, shape, mask in zip(rows, shapes, expected.masks, strict=True):
        x1, y1, x2, y2 = row[:4]
        height, width = mask.shape
        columns = ((np.arange(width) + 0.5 - x1) / (x2 - x1) * 64).astype(int)
        lines = ((np.arange(height) + 0.5 - y1) / (y2 - y1) * 64).astype(int)
        seen = shape[np.clip(lines, 0, 63)[:, None], np.clip(columns, 0, 63)] > 0.5
        seen &= ((np.arange(height) + 0.5 >= y1) & (np.arange(height) + 0.5 < y2))[:, None]
        seen &= (np.arange(width) + 0.5 >= x1) & (np.arange(width) + 0.5 < x2)
        if mask.sum() > 50:
            shares.append((seen & mask).sum() / (seen | mask).sum())
    assert len(shares) > 3 and min(shares) > 0.9  # outlines in steps of a pixel


@pytest.mark.parametrize("role", ["boxes", "scores"])
def test_outputs_of_another_engine_are_refused(role: str, parser: ctypes.CDLL, tmp_path: Path) -> None:
    session = loading.open_session(tiny.crowded_bundle(tmp_path / "bundle", "ort-fp32"))
    roles = dict(answers(session))
    assert called(parser, {r: v for r, v in roles.items() if r != role}, session.info, 0.25)[0] == -1
    assert called(parser, roles | {role: roles[role].astype(np.float16)}, session.info, 0.25)[0] == -1
    assert called(parser, roles | {"labels": roles["labels"][:, 1:]}, session.info, 0.25)[0] == -1


def test_values_that_are_no_numbers_are_dropped(parser: ctypes.CDLL, tmp_path: Path) -> None:
    session = loading.open_session(tiny.crowded_bundle(tmp_path / "bundle", "ort-fp32"))
    roles = dict(answers(session))
    roles["boxes"][0, :2] = [[np.nan, 0, 5, 5], [0, 0, np.inf, 5]]
    roles["labels"][0, 2], roles["scores"][0, 3] = 99, np.nan
    assert called(parser, roles, session.info, 0.25)[0] == tiny.CANDIDATES - 4


# ---- the files -------------------------------------------------------------------------------------------------------


def _info(name: str) -> ModelInfo:
    return ports.info(catalog.spec(name, classes=2), ("cat", "dog"), (64, 96), batch=1, head="topk")


def _keys(folder: Path, name: str) -> tuple[Path, configparser.ConfigParser]:
    place, found = folder / "deepstream" / name, configparser.ConfigParser()
    found.read(place / CONFIG)
    return place, found


def test_a_graph_for_nvinfer_to_build(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    layouts.write("deepstream", tmp_path, _info("yolo12n"), targets.get("trt-fp16"))
    place, found = _keys(tmp_path, "yolo12n")
    asked = found["property"]
    assert (place / asked["onnx-file"]).read_bytes() == b"graph"
    assert (place / asked["labelfile-path"]).read_text() == "cat\ndog\n"
    assert (asked["infer-dims"], asked["network-mode"], asked["network-type"]) == ("3;64;96", "2", "0")
    assert float(asked["net-scale-factor"]) == pytest.approx(1 / 255) and asked["num-detected-classes"] == "2"
    assert asked["parse-bbox-func-name"] in (place / SOURCE.name).read_text()
    assert found["class-attrs-all"]["pre-cluster-threshold"] == "0.25"


def test_an_engine_for_nvinfer_to_load(tmp_path: Path) -> None:
    engine = {"file": "model.sm87.engine", "sm": 87}
    (tmp_path / engine["file"]).write_bytes(b"engine")
    layouts.write("deepstream", tmp_path, _info("yolo12n-seg"), targets.get("trt-int8"), [engine])
    place, found = _keys(tmp_path, "yolo12n-seg")
    asked = found["property"]
    assert (place / asked["model-engine-file"]).read_bytes() == b"engine" and "onnx-file" not in asked
    assert (asked["network-type"], asked["cluster-mode"], asked["network-mode"]) == ("3", "4", "1")
    assert asked["parse-bbox-instance-mask-func-name"] in (place / SOURCE.name).read_text()


@pytest.mark.parametrize("task", ["pose", "obb", "classify"])
def test_tasks_that_nvinfer_has_no_parser_for(task: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"detect and segment"):
        layouts.check("deepstream", targets.get("trt-fp16"), task)


def test_targets_that_nvinfer_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trt-fp16"):
        layouts.check("deepstream", targets.get("ov-fp16"))
    with pytest.raises(UsageError, match="no_engine"):
        layouts.write("deepstream", tmp_path, _info("yolo12n"), targets.get("trt-int8"))
