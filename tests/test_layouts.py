"""What inference servers read: files in their places, and a configuration that says what the model is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgekit import checkpoint, targets
from edgekit.bundle import build as building
from edgekit.bundle import layouts
from edgekit.bundle.options import BuildOptions
from edgekit.checkpoint import catalog
from edgekit.errors import UsageError
from edgekit.runtime.manifest import read_bundle
from edgekit.spec import ModelInfo
from edgekit.tasks import ports
from tests.networks import pictures, settled

TENSORRT = targets.get("trt-fp16").servers["triton"]


def _info(batch: int | None = 1) -> ModelInfo:
    return ports.info(catalog.spec("yolo12n", classes=2), ("cat", "dog"), (64, 96), batch=batch, head="topk")


def _engines(*sms: int) -> list[dict[str, Any]]:
    return [{"file": f"model.sm{sm}.engine", "sm": sm, "options": {"batches": [1, 4, 8]}} for sm in sms]


def parsed(text: str) -> dict[str, Any]:
    """A text protobuf message by a reader of its own: fields, lists in brackets, messages in braces."""
    tokens = re.findall(r'"[^"]*"|[\w.\-]+|[\[\]{},:]', text)

    def message(at: int, end: str | None) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        while at < len(tokens) and tokens[at] != end:
            if tokens[at] == ",":
                at += 1
                continue
            name, at = tokens[at], at + 1
            if tokens[at] == ":":
                at += 1
            found[name], at = value(at)
        return found, at + 1

    def value(at: int) -> tuple[Any, int]:
        if tokens[at] == "{":
            return message(at + 1, "}")
        if tokens[at] == "[":
            items, at = [], at + 1
            while tokens[at] != "]":
                if tokens[at] == ",":
                    at += 1
                    continue
                item, at = value(at)
                items.append(item)
            return items, at + 1
        token = tokens[at]
        return (token[1:-1] if token[0] == '"' else int(token) if token.lstrip("-").isdigit() else token), at + 1

    return message(0, None)[0]


def test_triton_learns_ports_and_engines() -> None:
    found = parsed(layouts.triton_config("yolo12n", TENSORRT, _info(), _engines(75, 120)))
    assert (found["name"], found["backend"], found["max_batch_size"]) == ("yolo12n", "tensorrt", 0)
    assert found["input"] == [{"name": "images", "data_type": "TYPE_FP32", "dims": [1, 3, 64, 96]}]
    ports_out = {port["name"]: (port["data_type"], port["dims"]) for port in found["output"]}
    assert ports_out["labels"][0] == "TYPE_INT64" and ports_out["boxes"][1][0] == 1 and ports_out["boxes"][1][2] == 4
    assert found["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]
    assert found["default_model_filename"] == "model.sm75.engine"
    assert found["cc_model_filenames"] == [
        {"key": "7.5", "value": "model.sm75.engine"},
        {"key": "12.0", "value": "model.sm120.engine"},
    ]


def test_triton_batches_what_takes_any_batch() -> None:
    found = parsed(layouts.triton_config("yolo12n", TENSORRT, _info(None), _engines(86)))
    assert found["max_batch_size"] == 8 and found["input"][0]["dims"] == [3, 64, 96]
    assert found["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    plain = parsed(layouts.triton_config("yolo12n", targets.get("ort-fp32").servers["triton"], _info(None)))
    assert plain["max_batch_size"] == 16 and plain["instance_group"][0]["kind"] == "KIND_CPU"


def test_engines_of_8_6_put_out_int32(tmp_path: Path) -> None:
    engines = [row | {"sdk_version": "8.6.0"} for row in _engines(75)]
    found = parsed(layouts.triton_config("yolo12n", TENSORRT, _info(), engines))
    assert {port["name"]: port["data_type"] for port in found["output"]}["labels"] == "TYPE_INT32"


def test_engines_lie_where_triton_looks(tmp_path: Path) -> None:
    for row in _engines(75, 86):
        (tmp_path / row["file"]).write_bytes(str(row["sm"]).encode())
    layouts.write("triton", tmp_path, _info(), targets.get("trt-fp16"), _engines(75, 86))
    place = tmp_path / "triton" / "yolo12n"
    assert (place / "1" / "model.sm86.engine").read_bytes() == b"86" and (place / "config.pbtxt").is_file()
    assert sorted(p.name for p in (place / "1").iterdir()) == ["model.sm75.engine", "model.sm86.engine"]


@pytest.mark.parametrize(
    ("layout", "target", "sentence"),
    [
        ("kserve", "ort-fp32", "`layout` kserve: layouts are triton, ovms"),
        ("ovms", "trt-fp16", "OpenVINO Model Server does not load what trt-fp16 builds; build ort-fp32, .*ov-int8$"),
        ("triton", "trt-rtx-int8", "NVIDIA Triton does not load what trt-rtx-int8 builds; build ort-fp32, .*trt-int8$"),
    ],
)
def test_a_server_that_cannot_load_it(layout: str, target: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        layouts.check(layout, targets.get(target))


def test_nothing_to_serve_without_engines(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`no_engine` leaves nothing to serve"):
        layouts.write("triton", tmp_path, _info(), targets.get("trt-fp16"))


@pytest.mark.parametrize(
    ("target", "layout", "served"),
    [
        ("ort-fp32", "triton", ["1/model.onnx", "config.pbtxt"]),
        ("ov-fp32", "ovms", ["1/model.bin", "1/model.xml"]),
    ],
)
def test_a_bundle_with_a_servers_layout(target: str, layout: str, served: list[str], tmp_path: Path) -> None:
    made = settled("yolo12n-cls", pictures(), 1e-3, ("a", "b", "c"))
    model = checkpoint.save(made, tmp_path / "model.pt")
    out = building.build(model, target, tmp_path / "out", BuildOptions(layout=layout)).path
    files = read_bundle(out).manifest["files"]
    prefix = f"{layout}/yolo12n-cls/"
    assert sorted(name.removeprefix(prefix) for name in files if name.startswith(prefix)) == served
    assert files[prefix + served[0]] == files[served[0].removeprefix("1/")]  # the bundle's own file, not another
    if layout == "ovms":
        config = json.loads((out / "ovms" / "config.json").read_text())
        assert config["model_config_list"][0]["config"] == {"name": "yolo12n-cls", "base_path": "/models/yolo12n-cls"}
