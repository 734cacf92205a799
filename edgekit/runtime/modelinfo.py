"""What a model says of itself to programs that know nothing of edgekit: OpenVINO Model API, DL Streamer, OVMS.

    entries(info)["resize_type"]                  # 'fit_to_window_letterbox'

They are ``rt_info/model_info`` of an IR and ``metadata_props`` (``model_info KEY``) of an ONNX file. ``model_type``,
the wrapper that Model API runs a model with, is there only where one reads these outputs: ``Classification`` does.
Those of detectors take a single tensor, boxes as shares of the image, or other masks; ``--option wrapper=ssd`` builds
what one of them reads.
"""

from __future__ import annotations

from edgekit.runtime.options import Options
from edgekit.spec import ModelInfo

KEY = "model_info"
_RESIZE = {"letterbox": "fit_to_window_letterbox", "centre_crop": "crop"}
_TASKS = {"detect": "detection", "segment": "instance_segmentation", "classify": "classification"}
_TASKS |= {"obb": "rotated_detection", "pose": "keypoint_detection"}


def entries(info: ModelInfo, wrapper: str | None = None) -> dict[str, str]:
    """Key -> text, as Model API spells values: lists by spaces, truth as YES and NO.

    Args:
        wrapper: of Model API, that reads the outputs; by default the one of the task, if there is one.
    """
    usual, prep = Options(), info.preprocess
    told = {
        "task_type": _TASKS.get(info.task, info.task),
        "labels": " ".join(name.replace(" ", "_") for name in info.names),
        "resize_type": _RESIZE[prep.mode],
        "pad_value": str(prep.fill),
        "reverse_input_channels": "YES" if prep.color == "RGB" else "NO",  # of images as OpenCV has them
    }
    if not info.takes_uint8:
        told["scale_values"] = f"{1 / prep.scale:g}"
    if info.task != "classify":
        told |= {"confidence_threshold": f"{usual.conf:g}", "iou_threshold": f"{usual.iou:g}", "agnostic_nms": "NO"}
        told |= {"nms_execute": "YES", "nms_max_predictions": str(usual.max_det)}
    wrapper = wrapper or ("Classification" if info.task == "classify" else None)
    return told | ({"model_type": wrapper} if wrapper else {})
