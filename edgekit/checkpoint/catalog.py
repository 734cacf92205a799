"""The models edgekit knows: names and architecture numbers (``models/*.toml``), published figures
(``benchmarks/published.toml``).

spec("yolo12n-seg").classes          # 80
spec("yolo12n", task="segment").name # 'yolo12n-seg'
names()                              # 30 names: five scales x (five tasks + turbo detect)
published(spec("yolo12n"))["map50_95"]
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache
from pathlib import Path

from edgekit import tasks
from edgekit.errors import UsageError
from edgekit.spec import FAMILIES, SCALES, Json, ModelSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TURBO_SUFFIX = "-turbo"


@cache
def _scales() -> dict[str, Json]:
    here = Path(__file__).parents[1]
    folder = here / "_models" if (here / "_models").is_dir() else here.parent / "models"
    return {s: tomllib.loads((folder / f"yolo12{s}.toml").read_text(encoding="utf-8")) for s in SCALES}


@cache
def _published() -> Json:
    here = Path(__file__).parents[1]
    inside = here / "_models" / "published.toml"
    path = inside if inside.is_file() else here.parent / "benchmarks" / "published.toml"
    document: Json = tomllib.loads(path.read_text(encoding="utf-8"))
    return document


def names() -> list[str]:
    """Every model name: the v1.0 family task by task, then the turbo detectors."""
    order = ("detect", "segment", "pose", "obb", "classify")
    known = sorted(tasks.names(), key=lambda t: order.index(t) if t in order else len(order))
    return [f"yolo12{s}{tasks.get(t).suffix}" for t in known for s in SCALES] + [
        f"yolo12{s}{TURBO_SUFFIX}" for s in SCALES
    ]


def spec(
    name: str,
    task: str | None = None,
    classes: int | None = None,
    keypoint_shape: tuple[int, int] | None = None,
) -> ModelSpec:
    """The architecture called ``name``, e.g. ``yolo12n``, ``yolo12s-pose``, ``yolo12m-turbo``.

    Args:
        name: a published name; the task may be in it or be given as ``task``.
        task: a task's name; must agree with the name's own suffix.
        classes: number of classes; the published number by default.
        keypoint_shape: (points, 2 or 3) for pose; the published one by default.

    Raises:
        UsageError: unknown name or task, or the two contradict each other.
    """
    stem, _, suffix = name.removesuffix(".pt").removesuffix(".yaml").partition("-")
    scale = stem.removeprefix("yolo12") if stem.startswith("yolo12") else stem.removeprefix("yolov12")
    family = "turbo" if suffix == "turbo" else "v1.0"
    by_suffix = {tasks.get(t).suffix.removeprefix("-"): t for t in tasks.names()}
    known = family == "turbo" or suffix in by_suffix
    if not known or scale not in SCALES or stem not in (f"yolo12{scale}", f"yolov12{scale}"):
        endings = ", ".join(f"-{s}" for s in by_suffix if s)
        raise UsageError(f"there is no model {name!r}; models are yolo12{{n,s,m,l,x}} with {endings} or -turbo")
    named = by_suffix[suffix] if family == "v1.0" else "detect"
    wanted = tasks.get(task) if task else tasks.get(named)
    if task and wanted.name != named and (suffix or family == "turbo"):
        raise UsageError(f"`model` {name} is a {named} model but `task` says {wanted.name}; drop one of the two")
    return build_spec(scale, wanted.name, family, classes, keypoint_shape)


def build_spec(
    scale: str,
    task: str,
    family: str = "v1.0",
    classes: int | None = None,
    keypoint_shape: tuple[int, int] | None = None,
) -> ModelSpec:
    """The spec of one scale, task and family. ``classes`` and ``keypoint_shape`` default to the published ones."""
    record, kind = _scales()[scale], tasks.get(task)
    numbers = record[family]
    return ModelSpec(
        name=f"yolo12{scale}{TURBO_SUFFIX if family == 'turbo' else kind.suffix}",
        task=kind.name,
        scale=scale,
        family=family,
        depth=record["depth"],
        width=record["width"],
        max_channels=record["max_channels"],
        mlp_ratio=numbers["mlp_ratio"],
        residual=numbers["residual"],
        areas=tuple(numbers["areas"]),
        stem_groups=tuple(numbers["stem_groups"]),
        classes=kind.classes if classes is None else classes,
        keypoint_shape=(keypoint_shape or kind.keypoint_shape) if kind.keypoint_shape else None,
        norm_eps=kind.norm_eps,
        norm_momentum=kind.norm_momentum,
    )


def published(model: ModelSpec) -> dict[str, float] | None:
    """The figures published for this model (fractions, ms, millions, G), or None where none are known."""
    figures: dict[str, float] | None = published_source(model).get(model.scale)
    return dict(figures) if figures else None


def published_source(model: ModelSpec) -> Json:
    """The published table this model is in: ``source`` and ``conditions`` (sentences), ``set`` and ``images`` accuracy
    was measured on, ``hardware`` and ``target`` times are of, and the figures of each scale. Empty if there is none."""
    table: Json = _published().get(model.family, {}).get(model.task, {})
    return table


def expected_rewrites(model: ModelSpec) -> dict[str, int]:
    """How often each graph rewrite must fire on this model: ``{"attention": 8, …}``."""
    record = _scales()[model.scale][model.family]
    counts = Counter(record["rewrites"])
    if tasks.get(model.task).detects:  # others have no neck
        counts.update(record["neck_rewrites"])
    return dict(counts)


def attention_counts() -> set[int]:
    """How many attentions models have, over all scales and families: ``{8, 16}``."""
    return {scale[family]["rewrites"]["attention"] for scale in _scales().values() for family in FAMILIES}


def counted(model: ModelSpec) -> dict[str, int]:
    """``parameters``, ``convolution_flops``, ``attention_flops`` and the ``imgsz`` they were counted at; empty where
    nobody counted (``tasks/network.py`` does)."""
    return dict(_scales()[model.scale][model.family]["counted"].get(model.task, {}))
