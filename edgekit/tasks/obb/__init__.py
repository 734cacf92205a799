"""Oriented boxes: detection with one angle per box."""

from edgekit.tasks import Task

TASK = Task(name="obb", suffix="-obb", metric="map50_95", roles=("rotated_boxes", "scores"))
