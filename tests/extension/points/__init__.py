"""A task in one folder: points, found as the centres of boxes of one size. Made of detection's roles."""

from edgekit.tasks import Task

TASK = Task(name="points", suffix="-pts", metric="point_map50_95", roles=("boxes", "scores"), aliases=("dots",))
