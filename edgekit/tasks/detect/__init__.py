"""Detection: axis-aligned boxes of known classes."""

from edgekit.tasks import Task

TASK = Task(name="detect", suffix="", metric="map50_95", roles=("boxes", "scores"))
