"""A bundle's files arranged the way an inference server reads them, beside the bundle's own.

| layout | folder in the bundle |
|---|---|
| ``triton`` | ``triton/MODEL/config.pbtxt``, ``triton/MODEL/1/…``: NVIDIA Triton's repository |
| ``ovms`` | ``ovms/config.json``, ``ovms/MODEL/1/…``: OpenVINO Model Server's |
| ``deepstream`` | ``deepstream/MODEL/…``: a configuration of nvinfer and the source of its parser (``deepstream/``) |

Which server reads a target's bundles, and how, the target's record says (``Target.servers``).

    write("triton", folder, info, targets.get("trt-fp16"), engines)
    # tritonserver --model-repository BUNDLE/triton

The files are the bundle's own under other names (hard links where the file system has them). Triton picks an engine by
the GPU's compute capability. Checked against the servers' own schemas (Triton's ``model_config.proto``, OpenVINO Model
Server's of ``config.json``), not by running them; DeepStream's by compiling and calling the parser without DeepStream.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle import deepstream
from edgekit.errors import UsageError
from edgekit.spec import Json, ModelInfo, Port
from edgekit.targets import Served, Target, every

_TRITON_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
}
_QUEUE_US = 500  # how long Triton may wait for further images to fill a batch


def check(layout: str | None, target: Target, task: str | None = None) -> None:
    """Refuse a layout that is none, or that the target's files, or models for ``task``, cannot be served in.

    Raises:
        UsageError: the message says which targets the server takes, or why none of this task.
    """
    if layout is None:
        return
    if layout not in LAYOUTS:
        raise UsageError(f"`layout` {layout}: layouts are {', '.join(LAYOUTS)}")
    known = LAYOUTS[layout]
    if layout not in target.servers:
        readable = ", ".join(other.name for other in every() if layout in other.servers)
        raise UsageError(f"`layout` {layout}: {known.server} does not load what {target.name} builds; build {readable}")
    if task is not None:
        known.check(task)


def write(layout: str | None, folder: Path, info: ModelInfo, target: Target, engines: Sequence[Json] = ()) -> None:
    """Write ``layout``, one of ``target.servers``, into the bundle ``folder``; nothing where it is None.

    Args:
        engines: the records of the bundle's engines, where it has some.

    Raises:
        UsageError: the server loads engines and there are none.
    """
    if layout is None:
        return
    known, name = LAYOUTS[layout], info.spec.name if info.spec else info.task
    files = (*target.servers[layout].files, *(row["file"] for row in engines))
    if not files:
        raise UsageError(f"`layout` {layout}: `no_engine` leaves nothing to serve; drop one of them")
    place = folder / layout / name
    lies = place / known.files
    lies.mkdir(parents=True)
    for file in files:
        _link(folder / file, lies / file)
    known.configure(place, info, target, engines)


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def _triton(place: Path, info: ModelInfo, target: Target, engines: Sequence[Json]) -> None:
    config = triton_config(place.name, target.servers["triton"], info, engines)
    (place / "config.pbtxt").write_text(config, encoding="utf-8")


def _ovms(place: Path, info: ModelInfo, target: Target, engines: Sequence[Json]) -> None:
    models = {"model_config_list": [{"config": {"name": place.name, "base_path": f"/models/{place.name}"}}]}
    (place.parent / "config.json").write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")


def _deepstream(place: Path, info: ModelInfo, target: Target, engines: Sequence[Json]) -> None:
    deepstream.write(place, info, target.precision, engines)


@dataclass(frozen=True)
class Layout:
    """How a server wants a bundle's files.

    Attributes:
        server: its name.
        configure: writes what it reads beside the files: (folder of the model, what it is, target, engines).
        files: where the files lie in the folder of the model.
        check: refuses a task that it has no place for.
    """

    server: str
    configure: Callable[[Path, ModelInfo, Target, Sequence[Json]], None]
    files: str = "1"
    check: Callable[[str], None] = lambda task: None


LAYOUTS = {
    "triton": Layout("NVIDIA Triton", _triton),
    "ovms": Layout("OpenVINO Model Server", _ovms),
    "deepstream": Layout("NVIDIA DeepStream", _deepstream, files="", check=deepstream.check),
}


def triton_config(name: str, served: Served, info: ModelInfo, engines: Sequence[Json] = ()) -> str:
    """``config.pbtxt`` by Triton's "Model Configuration": ports, batching and instances.

    A fixed batch is part of the shapes (``max_batch_size: 0``); of a dynamic one Triton fills batches itself.
    """
    dynamic = info.batch is None
    batches = next((row.get("options", {}).get("batches") for row in engines), None) or (1, 4, 16)
    old = any(str(row.get("sdk_version", "")).startswith("8.") for row in engines)  # whose integers are all int32
    types = _TRITON_TYPES | ({"int64": "TYPE_INT32"} if old else {})
    lines = [f'name: "{name}"', f'backend: "{served.runtime}"', f"max_batch_size: {batches[2] if dynamic else 0}"]
    for what, ports in (("input", info.inputs), ("output", info.outputs)):
        lines += [f"{what} [", ",\n".join(_port(port, types, dynamic) for port in ports), "]"]
    if dynamic:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_US} }}")
    lines.append(f"instance_group [ {{ count: 1, kind: {'KIND_GPU' if served.gpu else 'KIND_CPU'} }} ]")
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
