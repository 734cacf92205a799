"""The tasks, one folder each. The folder name is the registry: adding a task adds a folder here.

In a task's folder ``__init__.py`` holds a light ``TASK`` record. ``labels.py`` beside it reads a row of a text label
(``parse_row``) and scores predictions (``score``), without torch; ``net.py`` makes the ``head`` and ``loss.py`` the
``loss``. Nothing outside the folder knows the task's name: what labels, networks and answers of it hold is said by its
roles.

    tasks.get("segment").suffix      # '-seg'
    tasks.names()                    # ['classify', 'detect', 'obb', 'pose', 'segment']
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from edgekit.errors import InputError, UsageError
from edgekit.spec import ROLES, Preprocess


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
    norm_eps: float = 1e-3
    norm_momentum: float = 0.03

    @property
    def detects(self) -> bool:
        """Whether a model finds objects; else it gives one answer an image."""
        return "class_probabilities" not in self.roles

    def part(self, name: str) -> ModuleType:
        """The module ``labels``, ``net`` or ``loss`` in the task's folder."""
        return importlib.import_module(f"{__name__}.{self.name}.{name}")

    def complaints(self) -> list[str]:
        """What of the record cannot be."""
        unknown = [role for role in self.roles if role not in ROLES]
        found = [f"its role {role!r} is none of {', '.join(ROLES)}" for role in unknown]
        if not self.roles:
            found.append("it has no roles")
        if self.suffix and not self.suffix.startswith("-"):
            found.append(f"its suffix {self.suffix!r} does not begin with -")
        return found


@cache
def _registry() -> dict[str, Task]:
    """Every spelling of a task's name to its record, in order of folders; a record's own name is its folder's."""
    found: dict[str, Task] = {}
    suffixes: dict[str, Task] = {}
    for name in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg):
        folder = f"edgekit/tasks/{name}"
        try:
            task = importlib.import_module(f"{__name__}.{name}").TASK
        except (AttributeError, TypeError) as error:
            raise InputError(f"{folder}: its TASK is no complete Task record ({error})") from error
        if not isinstance(task, Task):
            raise InputError(f"{folder}: its TASK, {task!r}, is no Task record")
        if complaints := task.complaints():
            raise InputError(f"{folder}: the record of {task.name}: {'; '.join(complaints)}")
        for spelling in (task.name, *task.aliases):
            if spelling in found:
                raise InputError(f"{folder} and edgekit/tasks/{found[spelling].name} both declare the task {spelling}")
            found[spelling] = task
        if task.name != name:
            raise InputError(f"{folder}: its record says that it is {task.name}; the folder's name is the task's")
        if task.suffix in suffixes:
            other = suffixes[task.suffix].name
            raise InputError(f"{folder} and edgekit/tasks/{other} both declare the suffix {task.suffix!r}")
        suffixes[task.suffix] = task
    return found


def names() -> list[str]:
    """Every task's name, sorted.

    Raises:
        InputError: a folder's record is incomplete, or two have one name or suffix.
    """
    return sorted({task.name for task in _registry().values()})


def get(name: str) -> Task:
    """The task called ``name`` or one of its aliases.

    Raises:
        UsageError: no such task.
    """
    task = _registry().get(name)
    if task is None:
        raise UsageError(f"there is no task {name!r}; tasks are {', '.join(names())}")
    return task
