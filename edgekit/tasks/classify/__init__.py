"""Classification: one distribution over classes per image."""

from edgekit.spec import Preprocess
from edgekit.tasks import Task

TASK = Task(
    name="classify",
    suffix="-cls",
    metric="top1",
    aliases=("cls",),
    imgsz=224,
    classes=1000,
    roles=("class_probabilities",),
    preprocess=Preprocess(mode="centre_crop"),
    norm_eps=1e-5,
    norm_momentum=0.1,
)
