"""The bundles and pictures that the emulated ARM machine is held to: five tasks, of the repository's small model.

    made(folder, [("obb", "ov-fp16"), …])     # folder/obb-ov-fp16, folder/obb.pt, folder/pictures; needs PyTorch

``models/shapes.pt`` finds shapes. The other tasks get its backbone, neck and branches for boxes and classes, and
random weights where they have layers of their own (masks, classes of the whole picture); keypoints are fitted to the
boxes, which stand nearly level. What is found has clear scores, and every output depends on the picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2

from benchmarks import shapeset
from edgekit.bundle.build import build
from edgekit.bundle.exports import Exports
from edgekit.bundle.options import BuildOptions
from edgekit.quantize.options import QuantizeOptions
from edgekit.runtime.image import prepare
from edgekit.spec import Preprocess

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekit.tasks.obb.net import Oriented
    from edgekit.tasks.pose.net import Pose

MODELS = {
    "detect": "yolo12n", "segment": "yolo12n-seg", "pose": "yolo12n-pose", "obb": "yolo12n-obb",
    "classify": "yolo12n-cls",
}  # fmt: skip
SIZE = (160, 160)
PICTURES = 3
DAMPED = 0.1  # what weighs random layers of keypoints and angles
TILT = 0.05  # radians, of every box
KEYPOINTS = 22, 3  # whose branch is no narrower than that for boxes


def made(folder: Path, wanted: Sequence[tuple[str, str]]) -> None:
    """Pictures, checkpoints and a bundle for each task and target that is ``wanted``."""
    photos = shapeset.make_set(folder / "set", train=24, val=PICTURES, size=200).parent / "images"
    pictures(folder / "pictures", sorted((photos / "val").iterdir()))
    for task in dict.fromkeys(task for task, _ in wanted):
        source = checkpoint_of(task, folder / f"{task}.pt")
        exports = Exports(folder / f"{task}.exports")
        exports.folder.mkdir()
        for target in (target for other, target in wanted if other == task):
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
    from edgekit import checkpoint
    from edgekit.checkpoint import catalog

    trained = checkpoint.load(shapeset.CHECKPOINT)
    spec = catalog.spec(MODELS[task], classes=len(trained.names), keypoint_shape=KEYPOINTS if task == "pose" else None)
    found = checkpoint.new(spec, trained.names, seed=0)
    own = found.net.state_dict()
    same = {k: v for k, v in trained.net.state_dict().items() if k in own and own[k].shape == v.shape}
    found.net.load_state_dict(own | same)
    if task == "pose":
        points_on_boxes(found.net, sorted((path.parent / "set" / "images" / "train").iterdir()))
    if task == "obb":
        level(found.net)
    found.imgsz = SIZE
    checkpoint.save(found, path)
    return path


def level(net: nn.Module) -> None:
    """Boxes that stand about as the objects do.

    Turned, what the cells of an object say of its sides would put as many boxes side by side, which overlap by just
    what suppression allows: rounding would decide which of them stay.
    """
    share = 0.25 + TILT / math.pi
    for branch in cast("nn.ModuleList", cast("Oriented", net.head).cv4):
        branch[-1].weight.data *= DAMPED
        branch[-1].bias.data.fill_(math.log(share / (1 - share)))


def points_on_boxes(net: nn.Module, photos: Sequence[Path]) -> None:
    """Keypoints at fixed places of the object's box, as far as the last layer can tell from what tells the box.

    Random ones would lie at fixed places beside a *cell*: where rounding makes NMS keep another cell of an object,
    they move as far as the cells are apart, which no trained network's do.
    """
    import torch

    from edgekit.nn.boxhead import cell_centres

    head = cast("Pose", net.eval().head)
    for theirs, mine in zip(head.cv2, head.cv4, strict=True):
        for layer in (0, 1):
            own = mine[layer].state_dict()
            for name, values in theirs[layer].state_dict().items():
                if name == "conv.weight":
                    own[name].zero_()
                own[name][tuple(slice(n) for n in values.shape)] = values
    batch = prepare([cv2.imread(str(photo)) for photo in photos], SIZE, Preprocess())[0]
    maps: list[torch.Tensor] = []
    hooks = [branch[-1].register_forward_pre_hook(lambda _, given: maps.append(given[0])) for branch in head.cv4]
    with torch.no_grad():
        found = net(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    centres, strides = cell_centres(maps)
    places = torch.tensor([[i % 5 / 4, i // 5 / 4] for i in range(head.points)])  # of the box, 0..1
    near, far = found["boxes"][:, :, None].chunk(2, 3)
    wanted = ((near + (far - near) * places) / strides[0, 0, :, None, None] - centres[0].T[:, None] + 0.5) / 2
    ends = [0, *itertools.accumulate(each.shape[2] * each.shape[3] for each in maps)]
    clear = found["scores"].amax(1) > 0.2
    for branch, inputs, cells in zip(head.cv4, maps, map(slice, ends, ends[1:]), strict=True):
        at = clear[:, cells]
        fit(branch[-1], inputs.flatten(2).transpose(1, 2)[at], wanted[:, cells][at].flatten(1), head.values)


def fit(layer: nn.Conv2d, x_NC: torch.Tensor, xy_NK: torch.Tensor, values: int) -> None:
    """The layer's rows for x and y by ridge regression, those for visibility damped; all damped without examples."""
    import torch

    layer.weight.data *= DAMPED
    if len(x_NC) <= x_NC.shape[1]:
        return
    a = torch.nn.functional.pad(x_NC, (0, 1), value=1.0).double()
    ridge = 1e-3 * len(a) * torch.eye(a.shape[1], dtype=torch.float64)
    fitted = torch.linalg.solve(a.T @ a + ridge, a.T @ xy_NK.double()).T.float()
    rows = torch.arange(len(layer.weight)) % values < 2
    layer.weight.data[rows, :, 0, 0], layer.bias.data[rows] = fitted[:, :-1], fitted[:, -1]
