"""What a network is said to compute: operations by precision and bytes, against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

openvino = pytest.importorskip("openvino")
import openvino.opset13 as ops  # noqa: E402

from benchmarks import roofline  # noqa: E402


def saved(folder: Path, outputs: list[object], inputs: list[object]) -> Path:
    folder.mkdir()
    openvino.save_model(openvino.Model(outputs, inputs), folder / "model.xml", compress_to_fp16=False)
    return folder


def test_operations_and_bytes_of_layers_with_closed_forms(tmp_path: Path) -> None:
    image = ops.parameter([1, 4, 10, 12], np.float32)
    rng = np.random.default_rng(0)
    dense, grouped, matrix = (rng.normal(size=s).astype(np.float32) for s in ((6, 4, 3, 3), (6, 1, 1, 5, 5), (12, 7)))
    plain = ops.convolution(image, ops.constant(dense), [1, 1], [1, 1], [1, 1], [1, 1])
    depthwise = ops.group_convolution(plain, ops.constant(grouped), [2, 2], [2, 2], [2, 2], [1, 1])
    product = ops.matmul(plain, ops.constant(matrix), False, False)
    heads = ops.constant(rng.normal(size=(1, 2, 9, 8)).astype(np.float32))
    query = ops.parameter([1, 2, 9, 8], np.float32)
    attention = ops.scaled_dot_product_attention(query, heads, heads)
    path = saved(tmp_path / "plain", [depthwise, product, attention], [image, query])
    found = roofline.count(path, {"bf16": 9, "f32": 2, "i64": 30})
    macs = 6 * 4 * 9 * 120 + 6 * 25 * 30 + 6 * 10 * 7 * 12 + 2 * (2 * 9 * 9 * 8)
    assert found["flops"] == {"bf16": 2.0 * macs} and found["float_executed"] == "bf16"
    ports = 4 * (4 * 120 + 2 * 9 * 8 + 6 * 30 + 6 * 10 * 7 + 2 * 9 * 8)
    assert found["bytes_once"] == ports + (path / "model.bin").stat().st_size
    assert found["bytes_by_layer"] == 2 * (
        (4 * 120 + 6 * 4 * 9 + 6 * 120)
        + (6 * 120 + 6 * 25 + 6 * 30)
        + (6 * 120 + 12 * 7 + 6 * 10 * 7)
        + 4 * 2 * 9 * 8
    )  # fmt: skip


def test_a_layer_that_reads_eight_bits_counts_as_int8(tmp_path: Path) -> None:
    image = ops.parameter([1, 4, 8, 8], np.float32)
    weights = ops.constant(np.ones((5, 4, 1, 1), np.float32))
    low, high = (ops.constant(np.float32(v)) for v in (-1, 1))
    grid = ops.fake_quantize(image, low, high, low, high, 256)
    quantized = ops.convolution(grid, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    plain = ops.convolution(image, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    found = roofline.count(saved(tmp_path / "int8", [quantized, plain], [image]), {"i8": 5, "f32": 3})
    assert found["flops"] == {"int8": 2.0 * 20 * 64, "f32": 2.0 * 20 * 64}
