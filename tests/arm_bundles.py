"""The bundles and pictures that the emulated ARM machine is held to: five tasks, of the repository's small model.

    made(folder, TARGETS)         # folder/TASK-TARGET, folder/TASK.pt, folder/pictures; minutes, needs PyTorch

``models/shapes.pt`` finds shapes. The other tasks get its backbone, neck and branches for boxes and classes, and
random weights where they have layers of their own (masks, keypoints, angles, classes of the whole picture): what is
found has clear scores, and every output depends on the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2

from benchmarks import shapeset
from edgekit.bundle.build import build
from edgekit.bundle.exports import Exports
from edgekit.bundle.options import BuildOptions
from edgekit.quantize.options import QuantizeOptions

MODELS = {
    "detect": "yolo12n", "segment": "yolo12n-seg", "pose": "yolo12n-pose", "obb": "yolo12n-obb",
    "classify": "yolo12n-cls",
}  # fmt: skip
SIZE = (160, 160)
PICTURES = 3
POINTS = 0.1  # what weighs the last layer of the keypoints


def made(folder: Path, targets: Sequence[str], tasks: Sequence[str] = tuple(MODELS)) -> None:
    """Checkpoints, pictures and a bundle for every task and target."""
    photos = shapeset.make_set(folder / "set", train=24, val=PICTURES, size=200).parent / "images"
    pictures(folder / "pictures", sorted((photos / "val").iterdir()))
    for task in tasks:
        source = checkpoint_of(task, folder / f"{task}.pt")
        exports = Exports(folder / f"{task}.exports")
        exports.folder.mkdir()
        for target in targets:
            eight = {"data": photos / "train", "count": 16, "max_drop": 100} if target.endswith("int8") else {}
            quantize = QuantizeOptions(**eight, timing_s=0)
            options = BuildOptions(imgsz=SIZE, images=[str(folder / "pictures")], quantize=quantize)
            build(source, target, folder / f"{task}-{target}", options, exports=exports)


def pictures(folder: Path, photos: Sequence[Path]) -> None:
    """The set's pictures as PNG, at sizes that are enlarged, shrunk by less than two and by more."""
    folder.mkdir()
    for photo, (width, height) in zip(photos, ((120, 90), (300, 220), (500, 400)), strict=True):
        picture = cv2.resize(cv2.imread(str(photo)), (width, height), interpolation=cv2.INTER_LANCZOS4)
        cv2.imwrite(str(folder / f"{width}x{height}.png"), picture)


def checkpoint_of(task: str, path: Path) -> Path:
    """A checkpoint of ``task`` with the small model's weights wherever names and shapes agree."""
    import torch

    from edgekit import checkpoint
    from edgekit.checkpoint import catalog

    trained = checkpoint.load(shapeset.CHECKPOINT)
    spec = catalog.spec(MODELS[task], classes=len(trained.names))
    found = checkpoint.new(spec, trained.names, seed=0)
    own = found.net.state_dict()
    same = {k: v for k, v in trained.net.state_dict().items() if k in own and own[k].shape == v.shape}
    found.net.load_state_dict(own | same)
    if task == "pose":  # random points lie hundreds of pixels away, where one step of eight bits is tens of pixels
        with torch.no_grad():
            for branch in found.net.head.cv4:
                branch[-1].weight *= POINTS
    found.imgsz = SIZE
    checkpoint.save(found, path)
    return path
