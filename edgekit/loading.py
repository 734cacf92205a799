"""Opens whatever the user has: a bundle, a checkpoint, or an ONNX file edgekit exported.

predictor = load("yolo12n-ov-fp16/")          # a Predictor; nothing of torch or onnx is imported for a bundle
predictor("street.jpg")[0].boxes
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import bundle, targets
from edgekit.errors import InputError, MissingPackageError, UsageError
from edgekit.spec import ModelInfo, Session, parse_imgsz

if TYPE_CHECKING:
    from edgekit.runtime.predictor import Predictor


def load(
    path: str | Path,
    device: str | None = None,
    threads: int | None = None,
    imgsz: str | int | tuple[int, int] | None = None,
    **options: Any,
) -> Predictor:
    """Open a model for prediction.

    Args:
        path: a bundle folder, a checkpoint (edgekit's or published), or an ONNX file that edgekit exported.
        device: as the target knows it (``cpu``, ``cuda:0``, ``GPU``, ``NPU``); the target's default otherwise.
        threads: CPU threads.
        imgsz: input size; only a checkpoint can change it, an artifact's is fixed.
        options: detection options: ``conf``, ``iou``, ``max_det``, ``classes``, ``agnostic``.

    Raises:
        EdgekitError: one sentence on what is wrong with the file, an option, or what is not installed.
    """
    from edgekit.runtime.postprocess import Options
    from edgekit.runtime.predictor import Predictor

    return Predictor(open_session(path, device, threads, imgsz), Options(**options))


def open_session(
    path: str | Path,
    device: str | None = None,
    threads: int | None = None,
    imgsz: str | int | tuple[int, int] | None = None,
    head: str = "raw",
) -> Session:
    """The session behind ``load``, for those who bring their own tensors. ``head`` is for checkpoints; artifacts have
    the one they were built with."""
    path = Path(path)
    size = parse_imgsz(imgsz) if imgsz is not None else None
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a bundle, a checkpoint or an exported ONNX file")
    if path.is_dir():
        opened = bundle.read(path)
        _check_size(path, opened.info, size)
        session: Session = targets.backend(opened.target).open_session(
            path, opened.info, opened.target, device, threads
        )
    elif path.suffix == ".onnx":
        info = _onnx_info(path)
        _check_size(path, info, size)
        session = targets.backend("ort-fp32").open_session(path, info, "ort-fp32", device, threads)
    else:
        session = _torch_session(path, device, threads, size, head)
    return session


def _check_size(path: Path, info: ModelInfo, size: tuple[int, int] | None) -> None:
    if size not in (None, info.imgsz):
        height, width = info.imgsz
        raise UsageError(
            f"--imgsz {size[0]},{size[1]}: {path} was built for {height},{width}; build another for that size"
        )


def _onnx_info(path: Path) -> ModelInfo:
    try:
        from edgekit.graph.document import read_document
    except ImportError as error:
        raise MissingPackageError("onnx", f"reading {path}", "onnx") from error
    return ModelInfo.from_dict(read_document(path)["info"])


def _torch_session(
    path: Path, device: str | None, threads: int | None, size: tuple[int, int] | None, head: str
) -> Session:
    try:
        from edgekit import checkpoint
        from edgekit.nn.session import TorchSession
    except ModuleNotFoundError as error:
        raise MissingPackageError("torch", f"{path}: running a checkpoint", "train") from error
    loaded = checkpoint.load(path)
    return TorchSession(loaded.net, loaded.info(size, batch=None, head=head), path, device, threads)
