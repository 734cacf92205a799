"""Where two models part: the first stage whose output differs, in the model's own words.

    found = first_difference(torch_session, artifact, batch, Lineage.of(manifest))
    found["words"]        # 'stage 6, block 1, attention'

Stages are the modules of the network. An artifact's ``lineage`` (in its manifest and in the ONNX file) says which value
of its graph is each one's output, and how values are put together again that a rewrite has split, scaled or computed
at some cells only (``graph.rewrite.became``). A stage is compared where both sides hold the same numbers, and only
there: where one side has lost it, nothing is known of it, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.nn.layers import parse, words
from edgekit.spec import Session
from edgekit.verify.rounding import FACTORS

Stages = Sequence[Sequence[str]]

# Errors are root mean squares of the difference over those of the reference. Where the reference can be rounded as the
# artifact is, a fault is ``FAULT`` times what is allowed of outputs (``rounding.py``), and not below ``FLOOR``.
FAULT = 2.5
FLOOR = 1e-6
# Where it cannot, errors grow slowly from stage to stage and a fault makes them jump, from what the precision explains.
FLOORS = {"f32": 2e-6, "w16": 1e-3, "f16": 1e-3, "bf16": 4e-3}
JUMP = 8.0  # over the largest error so far
AGREES = 3.0  # times what is explained, and less: the same
NAMED = 8  # stages, at most, in an error message


@dataclass(frozen=True)
class Lineage:
    """Where the stages are in an artifact: ``stages`` are (module path, name of a value) in order of computation,
    ``became`` tells of values that are no longer made as they were."""

    stages: Stages
    became: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Lineage | None:
        """What a manifest or an ONNX file's document says; None for those of an older edgekit, whose
        ``stages`` name values that rewrites had changed."""
        found = document.get("lineage")
        return cls(found["stages"], found["became"]) if found else None


@dataclass(frozen=True)
class _Seen:
    """The value of a stage: all of it, or with ``cells [B, K]`` its columns there, ``[B, K, C]``."""

    value: np.ndarray
    cells: np.ndarray | None = None


def first_difference(
    reference: Session,
    artifact: Session,
    batch: np.ndarray,
    stages: Stages | Lineage,
    reference_stages: Stages | Lineage | None = None,
    rounded: Session | None = None,
) -> dict[str, Any] | None:
    """The first stage of ``artifact`` that is another than the reference's, in order of computation.

    A stage whose surroundings agree is passed over: what it changed reached nobody.

    Args:
        reference: a PyTorch session, or an artifact with its own ``reference_stages``.
        artifact: the model in doubt.
        batch: float32 ``[B, 3, H, W]``.
        stages: where they are in ``artifact``; pairs alone where all are there as they were.
        rounded: the reference as the artifact's precision rounds it (``quantize.rounded``), from which follows by how
            much a stage may differ.

    Returns:
        ``path``, ``words``, ``error`` and ``error_before`` (relative; what was to be expected), ``max_abs``,
        ``reference_max`` and ``unseen``: paths of stages that nothing is known of and that come before it, so that it
        may be them. ``path`` is None where only such stages are left. None where nothing is: all stages agree.
    """
    theirs = _lineage(stages)
    mine = _lineage(reference_stages) if reference_stages else Lineage([(path, path) for path, _ in theirs.stages])
    own = {path for path, _ in mine.stages}
    paths = [path for path, _ in theirs.stages if path in own]
    expected, found = _look(reference, batch, mine, paths), _look(artifact, batch, theirs, paths)
    errors = _errors(expected, found, paths)
    noise = None if rounded is None else _errors(expected, _look(rounded, batch, mine, paths), paths)
    fault = _first_fault(errors, noise, narrowest(artifact))
    lost = [path for path in paths if path in expected and path not in errors]
    path, before = fault or (None, 0.0)
    unseen = list(_suspects(paths, lost, errors, path))
    if path is None:
        said = ", ".join(words(each) for each in unseen)
        return {"path": None, "words": said, "unseen": unseen} if unseen else None
    step = {"path": path, "words": words(path), "error": errors[path], "error_before": before, "unseen": unseen}
    return step | _sizes(*_aligned(expected[path], found[path]))  # type: ignore[misc]


def values(session: Session, batch: np.ndarray, lineage: Lineage) -> dict[str, np.ndarray]:
    """By path the stages whose whole value the session shows, in order of computation."""
    seen = _look(session, batch, lineage, [path for path, _ in lineage.stages])
    return {path: each.value for path, each in seen.items() if each.cells is None}


def _lineage(stages: Stages | Lineage) -> Lineage:
    return stages if isinstance(stages, Lineage) else Lineage(stages)


def _look(session: Session, batch: np.ndarray, lineage: Lineage, paths: Sequence[str]) -> dict[str, _Seen]:
    """The stages at ``paths`` as far as the session shows them."""
    names = {path: name for path, name in lineage.stages if path in set(paths)}
    wanted = list(dict.fromkeys(leaf for name in names.values() for leaf in _leaves(name, lineage.became)))
    values = session.intermediates(batch, wanted)
    seen = {path: _assembled(name, lineage.became, values) for path, name in names.items()}
    return {path: each for path, each in seen.items() if each is not None}


def _leaves(name: str, became: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Values of which ``name`` can be put together, itself first."""
    yield name
    (form, parts), *_ = became.get(name, {"": []}).items()
    inner = [part for part, _ in parts] if form == "channels" else parts if form == "cells" else parts[:1]
    for part in [parts] if form == "same" else inner:
        yield from _leaves(part, became)


def _assembled(name: str, became: Mapping[str, Mapping[str, Any]], values: Mapping[str, np.ndarray]) -> _Seen | None:
    if name in values:
        return _Seen(np.asarray(values[name]))
    (form, parts), *_ = became.get(name, {"": []}).items()
    if not form:
        return None
    if form == "channels":
        return _joined([(_assembled(part, became, values), runs) for part, runs in parts])
    seen = _assembled(parts if form == "same" else parts[0], became, values)
    if seen is None or form == "same":
        return seen
    if form == "times":
        return _Seen(seen.value * parts[1], seen.cells)
    cells = _assembled(parts[1], became, values)
    return cells and _Seen(seen.value.reshape(*cells.value.shape, -1), cells.value)


def _joined(parts: Sequence[tuple[_Seen | None, Sequence[Sequence[int]]]]) -> _Seen | None:
    """A map put together from its channels."""
    every = [np.concatenate([np.arange(*run) for run in runs]) for _, runs in parts]
    if any(part is None or part.cells is not None for part, _ in parts):
        return None
    value = np.concatenate([part.value for part, _ in parts if part is not None], 1)
    return _Seen(value[:, np.argsort(np.concatenate(every))])


def _errors(expected: Mapping[str, _Seen], found: Mapping[str, _Seen], paths: Sequence[str]) -> dict[str, float]:
    """Relative root mean square error of every stage that both sides show."""
    errors = {}
    for path in paths:
        pair = _aligned(expected[path], found[path]) if path in expected and path in found else None
        if pair is not None:
            want, have = (side.astype(np.float64) for side in pair)
            error = float(np.sqrt(np.mean((want - have) ** 2)) / (np.sqrt(np.mean(want**2)) or 1.0))
            errors[path] = error if np.isfinite(error) else 1e30
    return errors


def _aligned(want: _Seen, have: _Seen) -> tuple[np.ndarray, np.ndarray] | None:
    """The numbers that both hold, in one order; None where there are none, or they cannot be told."""
    if want.cells is not None and have.cells is not None:
        same = want.cells == have.cells if want.cells.shape == have.cells.shape else np.zeros(0, bool)
        return (want.value[same], have.value[same]) if same.any() else None
    cells = want.cells if want.cells is not None else have.cells
    whole = have.value if want.cells is not None else want.value
    if cells is not None and (cells.min(initial=0) < 0 or cells.max(initial=0) >= np.prod(whole.shape[2:])):
        return None
    left, right = (s.value if s.cells is not None or cells is None else _at(s.value, cells) for s in (want, have))
    return (left, right) if left.shape == right.shape and left.size else None


def _at(value: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The columns of a map ``[B, C, H, W]`` at ``cells [B, K]``: ``[B, K, C]``."""
    flat = value.reshape(*value.shape[:2], -1).swapaxes(1, 2)
    return np.take_along_axis(flat, cells[..., None].astype(np.int64), 1)


def _first_fault(
    errors: Mapping[str, float], noise: Mapping[str, float] | None, precision: str
) -> tuple[str, float] | None:
    """The first stage whose error nothing explains, and the error that would be explained."""
    level, jump = (1.0, FAULT * FACTORS[precision]) if noise is not None else (FLOORS[precision], JUMP)
    scale = {path: 1.0 if noise is None else max(noise.get(path, 0.0), FLOOR) for path in errors}
    for path, error in errors.items():
        around = [errors[outer] / scale[outer] for outer in errors if path.startswith(outer + ".")]
        excess = error / scale[path]
        if excess >= jump * level and min(around, default=excess) >= AGREES * level:
            return path, level * scale[path]
        if noise is None:
            level = max(level, min([excess, *around]))
    return None


def _suspects(paths: Sequence[str], lost: Sequence[str], errors: Mapping[str, float], end: str | None) -> Iterator[str]:
    """Stages that nothing is known of, before ``end``: unless what they are a part of, or a later layer, agrees."""
    agreeing = set(paths[: paths.index(end)] if end else paths) & errors.keys()
    layers = [_layer(path) for path in agreeing]  # every stage of a layer is computed from what comes before the layer
    for path in lost:
        before = end is None or paths.index(path) < paths.index(end)
        inside = any(path.startswith(outer + ".") for outer in agreeing)
        if before and not inside and not any(layer > _layer(path) for layer in layers):
            yield path


def _layer(path: str) -> int:
    layer = parse(path)
    return layer.stage if layer else -1


def narrowest(session: Session) -> str:
    """What ``rounding.py`` calls a session's precision, by what it executes, adds up in and keeps its weights in."""
    executed = session.precision_by_type()
    if "bf16" in executed or ("f16" in executed and session.sums == "f16"):
        return "bf16"
    if "f16" in executed:
        return "f16"
    return "w16" if session.weights == "f16" else "f32"


def sentence(found: dict[str, Any] | None) -> str:
    """What ``first_difference`` found as the end of an error message."""
    if found is None:
        return "; no single stage stands out, so the outputs' decoding differs"
    unseen = ", ".join(words(path) for path in found["unseen"])
    if len(found["unseen"]) > NAMED:  # an engine shows none of its values
        unseen = f"one of {len(found['unseen'])} stages"
    if found["path"] is None:
        return f"; which stage cannot be told: those that can be compared agree, so {unseen} or the decoding differs"
    where = (
        f"; first at {found['words']} ({found['path']}), by {found['max_abs']:.3g} "
        f"where values reach {found['reference_max']:.3g}"
    )
    return where + (f", or before it in {unseen}, which cannot be compared" if unseen else "")


def _sizes(want: np.ndarray, have: np.ndarray) -> dict[str, float]:
    gap = np.abs(want.ravel().astype(np.float64) - have.ravel())
    return {
        "max_abs": float(np.where(np.isfinite(gap), gap, 1e30).max(initial=0.0)),
        "reference_max": float(np.abs(want).max(initial=0.0)),
    }
