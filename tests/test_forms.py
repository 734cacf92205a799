"""Which spelling of attention a graph holds, on small graphs written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.forms import attention_forms

N = helper.make_node
AFTER = [N("Reshape", ["w", "shape"], ["w2"]), N("MatMul", ["w2", "v"], ["y"])]
SUM = [
    N("Exp", ["e"], ["x"]),
    N("ReduceSum", ["x", "axes"], ["t"]),
    N("Div", ["x", "t"], ["w"]),
]
GRAPHS = {
    "scale first, one Softmax": [
        N("Mul", ["q", "s"], ["qs"]),
        N("MatMul", ["qs", "k"], ["a"]),
        N("Softmax", ["a"], ["w"]),
        *AFTER,
    ],
    "scale after, one Softmax": [
        N("MatMul", ["q", "k"], ["a"]),
        N("Div", ["a", "s"], ["d"]),
        N("Softmax", ["d"], ["w"]),
        *AFTER,
    ],
    "no scale, one Softmax": [
        N("Transpose", ["k"], ["kt"]),
        N("MatMul", ["q", "kt"], ["a"]),
        N("Softmax", ["a"], ["w"]),
        *AFTER,
    ],
    "Softmax spelled out": [N("MatMul", ["q", "k"], ["a"]), N("Mul", ["a", "s"], ["e"]), *SUM, *AFTER],
    "operator": [N("Attention", ["q", "k", "v"], ["y"])],
    "area operator": [N("AreaAttention", ["q", "k", "v"], ["y"], domain="edgekit")],
}


def _save(nodes: list, path: Path) -> Path:
    value = helper.make_tensor_value_info
    inputs = [value(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in "qkv"]
    constants = {"s": np.float32(0.5), "shape": np.array([1, 2, 4, 4]), "axes": np.array([-1])}
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize("form", GRAPHS)
def test_each_form_is_told_from_the_others(form: str, tmp_path: Path) -> None:
    assert attention_forms(_save(GRAPHS[form], tmp_path / "g.onnx")) == {form: 1}


def test_a_softmax_that_is_no_attention_is_not_counted(tmp_path: Path) -> None:
    box = [N("Softmax", ["q"], ["w"]), N("MatMul", ["w", "v"], ["y"])]  # the expectation over bins
    assert attention_forms(_save(box, tmp_path / "g.onnx")) == {}
    loose = [N("MatMul", ["q", "k"], ["a"]), N("Softmax", ["a"], ["w"]), N("Relu", ["w"], ["y"])]
    assert attention_forms(_save(loose, tmp_path / "g.onnx")) == {}


def test_the_real_export_holds_eight(exported) -> None:
    forms = attention_forms(exported("yolo12n-bccd"))
    assert sum(forms.values()) == 8 and len(forms) == 1
