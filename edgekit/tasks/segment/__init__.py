"""Instance segmentation: detection, and per object a mask as a weighted sum of shared prototypes."""

from edgekit.tasks import Task

TASK = Task(
    name="segment",
    suffix="-seg",
    metric="mask_map50_95",
    aliases=("seg",),
    roles=("boxes", "scores", "mask_coefficients", "mask_prototypes"),
)
