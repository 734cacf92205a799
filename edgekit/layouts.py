"""A bundle's files arranged the way an inference server reads them, beside the bundle's own.

| layout | folder in the bundle | targets |
|---|---|---|
| ``triton`` | ``triton/MODEL/config.pbtxt``, ``triton/MODEL/1/…``: NVIDIA Triton's repository | trt-*, ort-*, ov-* |
| ``ovms`` | ``ovms/config.json``, ``ovms/MODEL/1/…``: OpenVINO Model Server's | ov-*, ort-* |

    write("triton", folder, info, "trt-fp16", engines)
    # tritonserver --model-repository BUNDLE/triton

The files are the bundle's own under other names (hard links where the file system has them). Triton picks an engine by
the GPU's compute capability. Checked against the servers' own schemas (Triton's ``model_config.proto``, OpenVINO Model
Server's of ``config.json``), not by running them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError
from edgekit.spec import ModelInfo, Port

LAYOUTS = ("triton", "ovms")
_TRITON_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
}
_QUEUE_US = 500  # how long Triton may wait for further images to fill a batch


def check(layout: str | None, target: str) -> None:
    """Refuse a layout that is none, or that the target's files cannot be served in.

    Raises:
        UsageError: the sentence says which server takes what.
    """
    if layout is None:
        return
    if layout not in LAYOUTS:
        raise UsageError(f"--layout {layout}: layouts are {', '.join(LAYOUTS)}")
    if target.startswith("trt-rtx"):
        raise UsageError(f"--layout {layout}: no server loads engines of TensorRT-RTX; build trt-*, ort-* or ov-*")
    if layout == "ovms" and target.startswith("trt"):
        raise UsageError("--layout ovms: OpenVINO Model Server loads no engines of TensorRT; build ov-* or ort-*")


def write(
    layout: str | None, folder: Path, info: ModelInfo, target: str, engines: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write ``layout`` into the bundle ``folder``; nothing where it is None.

    Args:
        engines: the records of a TensorRT bundle's engines.

    Raises:
        UsageError: a TensorRT bundle without engines.
    """
    if layout is None:
        return
    name = info.spec.name if info.spec else info.task
    if target.startswith("trt"):
        if not engines:
            raise UsageError(f"--layout {layout}: --no-engine leaves nothing to serve; drop one of them")
        kind, files = "tensorrt", {row["file"]: row["file"] for row in engines}
    elif target.startswith("ov"):
        kind, files = "openvino", {file: file for file in ("model.xml", "model.bin")}
    else:
        kind, files = "onnxruntime", {"model.onnx": "model.onnx"}
    place = folder / layout / name
    (place / "1").mkdir(parents=True)
    for source, served in files.items():
        _link(folder / source, place / "1" / served)
    if layout == "triton":
        (place / "config.pbtxt").write_text(triton_config(name, kind, info, engines), encoding="utf-8")
    else:
        served_models = {"model_config_list": [{"config": {"name": name, "base_path": f"/models/{name}"}}]}
        (folder / layout / "config.json").write_text(json.dumps(served_models, indent=1) + "\n", encoding="utf-8")


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def triton_config(name: str, kind: str, info: ModelInfo, engines: Sequence[Mapping[str, Any]] = ()) -> str:
    """``config.pbtxt`` by Triton's "Model Configuration": ports, batching and instances.

    A fixed batch is part of the shapes (``max_batch_size: 0``); of a dynamic one Triton fills batches itself.
    """
    dynamic = info.batch is None
    batches = next((row.get("options", {}).get("batches") for row in engines), None) or (1, 4, 16)
    old = any(str(row.get("sdk_version", "")).startswith("8.") for row in engines)  # whose integers are all int32
    types = _TRITON_TYPES | ({"int64": "TYPE_INT32"} if old else {})
    lines = [f'name: "{name}"', f'backend: "{kind}"', f"max_batch_size: {batches[2] if dynamic else 0}"]
    for what, ports in (("input", info.inputs), ("output", info.outputs)):
        lines += [f"{what} [", ",\n".join(_port(port, types, dynamic) for port in ports), "]"]
    if dynamic:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_US} }}")
    lines.append(f"instance_group [ {{ count: 1, kind: {'KIND_GPU' if kind == 'tensorrt' else 'KIND_CPU'} }} ]")
    if engines:
        lines.append(f'default_model_filename: "{engines[0]["file"]}"')
        lines.append("cc_model_filenames [")
        lines.append(
            ",\n".join(f'  {{ key: "{r["sm"] // 10}.{r["sm"] % 10}", value: "{r["file"]}" }}' for r in engines)
        )
        lines.append("]")
    return "\n".join(lines) + "\n"


def _port(port: Port, types: Mapping[str, str], dynamic: bool) -> str:
    dims = ", ".join(str(side or -1) for side in (port.shape[1:] if dynamic else port.shape))
    return f'  {{ name: "{port.name}", data_type: {types[port.dtype]}, dims: [ {dims} ] }}'
