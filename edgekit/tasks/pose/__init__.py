"""Pose: detection, and per object a fixed list of keypoints."""

from edgekit.tasks import Task

TASK = Task(
    name="pose", suffix="-pose", metric="pose_map50_95", keypoint_shape=(17, 3), roles=("boxes", "scores", "keypoints")
)
