"""The tasks, one folder each. The folder name is the registry: adding a task adds a folder here.

``tasks/<task>/__init__.py`` holds a light ``TASK`` record (no torch); ``net.py`` beside it holds the head.

    tasks.get("segment").suffix      # '-seg'
    tasks.names()                    # ['classify', 'detect', 'obb', 'pose', 'segment']
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache

from edgekit.errors import UsageError
from edgekit.spec import Preprocess


@dataclass(frozen=True)
class Task:
    """What distinguishes a task outside its own folder.

    Attributes:
        name: the folder's name.
        suffix: what model names of the task end in (``yolo12n-seg``); empty for detect.
        metric: key of the main metric in ``val --json``.
        imgsz: the published input side in pixels.
        classes: the published number of classes.
        roles: roles of the raw head's outputs, in output order.
        preprocess: image to tensor.
        aliases: other spellings of the name accepted by ``--task`` and found in published checkpoints.
        keypoint_shape: published (points, values) for keypoint tasks.
        detects: False where a model gives one answer per image instead of objects.
        norm_eps, norm_momentum: of every BatchNorm, as published models of the task have it.
    """

    name: str
    suffix: str
    metric: str
    roles: tuple[str, ...]
    imgsz: int = 640
    classes: int = 80
    preprocess: Preprocess = Preprocess()
    aliases: tuple[str, ...] = ()
    keypoint_shape: tuple[int, int] | None = None
    detects: bool = True
    norm_eps: float = 1e-3
    norm_momentum: float = 0.03


@cache
def names() -> list[str]:
    """Every task's name, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg)


def get(name: str) -> Task:
    """The task called ``name`` or one of its aliases.

    Raises:
        UsageError: no such task.
    """
    for known in names():
        task: Task = importlib.import_module(f"{__name__}.{known}").TASK
        if name == task.name or name in task.aliases:
            return task
    raise UsageError(f"there is no task {name!r}; tasks are {', '.join(names())}")
