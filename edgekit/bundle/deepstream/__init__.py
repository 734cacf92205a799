"""What DeepStream's nvinfer needs to run a bundle: its configuration, the labels, and the source of a parser.

    write(folder / "deepstream" / "yolo12n", info, "fp16", engines)

| file | |
|---|---|
| ``config_infer.txt`` | keys of "Gst-nvinfer File Configuration Specifications" |
| ``labels.txt`` | a class a line |
| ``nvdsinfer_edgekit.cpp`` | turns the outputs into objects; its first lines say how it is compiled |

Written from NVIDIA's public documentation and **not checked on hardware**. nvinfer finds objects and instance masks; it
has no place for keypoints, does not document what its rotated boxes (from DeepStream 9) mean, and cannot cut images as
classifiers were trained on, so those tasks are refused. It pads with black where edgekit pads with grey.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.spec import Json, ModelInfo

SOURCE = Path(__file__).with_name("nvdsinfer_edgekit.cpp")
CONFIG = "config_infer.txt"
_CONF, _IOU, _MOST = 0.25, 0.7, 300  # as edgekit's own options begin
_MODES = {"fp32": 0, "int8": 1, "fp16": 2}  # nvinfer's network-mode
_BOXES = {"network-type": 0, "cluster-mode": 2, "parse-bbox-func-name": "EdgekitParseBoxes"}
_MASKS = {
    "network-type": 3,
    "cluster-mode": 4,
    "parse-bbox-instance-mask-func-name": "EdgekitParseMasks",
    "output-instance-mask": 1,
    "segmentation-threshold": 0.5,
}
_WHY_NOT = {
    "pose": "nvinfer's parsers have no place for keypoints",
    "obb": "what nvinfer's rotated boxes mean is not documented",
    "classify": "nvinfer stretches or pads images, and classifiers are trained on a centre crop",
}


def check(task: str) -> None:
    """Refuse a task that nvinfer has no parser form for.

    Raises:
        UsageError: says why.
    """
    if task not in ("detect", "segment"):
        why = _WHY_NOT.get(task, "nvinfer has no parser for its outputs")
        raise UsageError(f"`layout` deepstream: is for detect and segment; {why}")


def write(place: Path, info: ModelInfo, precision: str, engines: Sequence[Json] = ()) -> None:
    """Write the three files into the folder ``place``, beside the engine or the graph.

    Raises:
        UsageError: as ``check``.
    """
    check(info.task)
    shutil.copyfile(SOURCE, place / SOURCE.name)
    (place / "labels.txt").write_text("".join(f"{name}\n" for name in info.names), encoding="utf-8")
    (place / CONFIG).write_text(config(info, precision, engines), encoding="utf-8")


def config(info: ModelInfo, precision: str, engines: Sequence[Json] = ()) -> str:
    """The configuration's text. Of several engines it names the first; without one nvinfer builds one of ``model.onnx``
    and keeps it by the name here.

    Args:
        precision: ``fp32``, ``fp16`` or ``int8``: what nvinfer builds in, if it does.
    """
    batch, (height, width) = info.batch or 1, info.imgsz
    engine = engines[0]["file"] if engines else f"model.onnx_b{batch}_gpu0_{precision}.engine"
    scale = repr(float(info.preprocess.scale))
    keys = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        **({} if precision == "int8" else {"onnx-file": "model.onnx"}),
        "model-engine-file": engine,
        "network-mode": _MODES[precision],
        "batch-size": batch,
        "infer-dims": f"3;{height};{width}",
        "net-scale-factor": scale,
        "offsets": "0;0;0",
        "model-color-format": 0,
        "maintain-aspect-ratio": 1,
        "symmetric-padding": 1,
        "scaling-filter": 1,
        "labelfile-path": "labels.txt",
        "num-detected-classes": len(info.names),
        "custom-lib-name": "libnvdsinfer_edgekit.so",
        **(_MASKS if info.task == "segment" else _BOXES),
    }
    least = {"pre-cluster-threshold": _CONF}
    if info.task == "detect":  # masks are suppressed by the parser
        least |= {"nms-iou-threshold": _IOU, "topk": _MOST}
    lines = ["# For DeepStream's nvinfer; not checked on hardware. nvdsinfer_edgekit.cpp is to be compiled first."]
    lines += ["[property]", *(f"{key}={value}" for key, value in keys.items())]
    lines += ["", "[class-attrs-all]", *(f"{key}={value}" for key, value in least.items())]
    return "\n".join(lines) + "\n"
