"""Where two models part: the first stage whose output differs, in the model's own words.

    found = first_difference(torch_session, artifact, batch, manifest["stages"])
    found["words"]        # 'stage 6, block 1, attention'

Stages are the modules of the network; an artifact's ``stages`` (in its manifest and in the ONNX file) say which value
of its graph is each one's output. Two stages are the same if their values are, whatever their order in memory: graphs
may keep channels or tokens in another order inside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.spec import Session

Stages = Sequence[Sequence[str]]

# Errors grow slowly from stage to stage; a fault makes them jump. Errors are root mean squares of the difference over
# those of the reference; below the floor of what the executed precision can do there is only noise.
FLOORS = {"f32": 2e-6, "f16": 1e-3, "bf16": 4e-3}
JUMP = 8.0  # over the largest error so far: a fault
HINT = 3.0  # the largest such step, where nothing jumps

_PARTS = {
    "attn": "attention",
    "mlp": "MLP",
    "qkv": "query-key-value convolution",
    "qk": "query-key convolution",
    "v": "value convolution",
    "core": "",
    "pe": "positional convolution",
    "proj": "projection",
    "proto": "mask prototypes",
    "dfl": "box distribution",
}
_BRANCHES = {"cv2": "box branch", "cv3": "class branch", "cv4": "task branch"}


def words(path: str) -> str:
    """``model.6.m.0.1.attn.proj`` -> ``stage 6, block 2, attention, projection``; ``model.21.cv3.0.2`` -> ``stage 21
    (head), class branch at stride 8, convolution 3``."""
    layer, *rest = path.removeprefix("model.").split(".")
    said = [f"stage {layer}"]
    if rest and rest[0] in _BRANCHES and len(rest) > 1 and rest[1].isdigit():
        said[0] += " (head)"
        said.append(f"{_BRANCHES[rest[0]]} at stride {8 << int(rest[1])}")
        rest = rest[2:]
    elif rest[:1] == ["m"]:
        numbers = [int(part) for part in _leading_digits(rest[1:])]
        # An attention repeat holds two blocks; elsewhere a repeat is one.
        pair = len(numbers) > 1 and len(rest) > 3 and rest[3] in ("attn", "mlp")
        pair = pair or (len(numbers) > 1 and len(rest) == 3)
        said.append(
            f"block {2 * numbers[0] + numbers[1] + 1}" if pair else f"block {numbers[0] + 1}" if numbers else ""
        )
        rest = rest[1 + (2 if pair else 1) :]
    for before, part in zip(["", *rest], rest, strict=False):
        if part.isdigit():
            said.append(f"{'inner block' if before == 'm' else 'convolution'} {int(part) + 1}")
        elif match := re.fullmatch(r"cv(\d)", part):
            said.append(f"convolution {match[1]}")
        elif part != "m":
            said.append(_PARTS.get(part, part))
    return ", ".join(s for s in said if s)


def _leading_digits(parts: Sequence[str]) -> list[str]:
    digits = []
    for part in parts[:2]:
        if not part.isdigit():
            break
        digits.append(part)
    return digits


def first_difference(
    reference: Session, artifact: Session, batch: np.ndarray, stages: Stages, reference_stages: Stages | None = None
) -> dict[str, Any] | None:
    """The first stage where the error of ``artifact`` against ``reference`` jumps, and that of everything around it.

    A stage whose surroundings agree is passed over: there a rewrite changed what the value means (a scale folded into
    weights, say), not the function.

    Args:
        reference: a PyTorch session, or an artifact with its own ``reference_stages``.
        artifact: the model in doubt.
        batch: float32 ``[B, 3, H, W]``.
        stages: (module path, value name) of ``artifact``, in order of computation.

    Returns:
        ``path``, ``words``, ``error`` and ``error_before`` (relative), ``max_abs`` and ``reference_max``, or None where
        no stage that both sides show stands out.
    """
    theirs = {path: name for path, name in stages}
    mine = {path: name for path, name in reference_stages} if reference_stages else {path: path for path in theirs}
    paths = [path for path in theirs if path in mine]
    expected = reference.taps(batch, [mine[path] for path in paths])
    found = artifact.taps(batch, [theirs[path] for path in paths])
    shown = [p for p in paths if mine[p] in expected and theirs[p] in found]
    pairs = {p: (expected[mine[p]], found[theirs[p]]) for p in shown}
    errors = {p: _error(*pair) for p, pair in pairs.items() if pair[0].size == pair[1].size}
    before = FLOORS[narrowest(artifact)]
    hint = None
    for path, error in errors.items():
        around = [errors[outer] for outer in errors if path.startswith(outer + ".")]
        if min([error, *around]) < HINT * before:
            before = max(before, min([error, *around]))
            continue
        step: dict[str, Any] = {"path": path, "words": words(path), "error": error, "error_before": before}
        step |= _sizes(*pairs[path])
        if error >= JUMP * before:
            return step
        hint = max(hint or step, step, key=lambda s: s["error"] / s["error_before"])
        before = max(before, error)
    return hint


def narrowest(session: Session) -> str:
    """The narrowest floating-point precision a session works in: ``f32``, ``f16`` or ``bf16``."""
    executed = session.precision_by_type()
    if "bf16" in executed:
        return "bf16"
    return "f16" if "f16" in executed or session.target.endswith("fp16") else "f32"


def sentence(found: dict[str, Any] | None) -> str:
    """What ``first_difference`` found as the end of an error message."""
    if found is None:
        return "; no single stage stands out, so the outputs' decoding differs"
    return (
        f"; first at {found['words']} ({found['path']}), by {found['max_abs']:.3g} "
        f"where values reach {found['reference_max']:.3g}"
    )


def _error(want: np.ndarray, have: np.ndarray) -> float:
    """Relative root mean square error; of the sorted values where the plain ones differ much, as order is no error."""
    want, have = want.astype(np.float64).ravel(), have.astype(np.float64).ravel()
    scale = float(np.sqrt(np.mean(want**2))) or 1.0
    error = float(np.sqrt(np.mean((want - have) ** 2))) / scale
    if error > 0.01:
        error = min(error, float(np.sqrt(np.mean((np.sort(want) - np.sort(have)) ** 2))) / scale)
    return error if np.isfinite(error) else 1e30


def _sizes(want: np.ndarray, have: np.ndarray) -> dict[str, float]:
    gap = np.abs(want.ravel().astype(np.float64) - have.ravel())
    return {
        "max_abs": float(np.where(np.isfinite(gap), gap, 1e30).max(initial=0.0)),
        "reference_max": float(np.abs(want).max(initial=0.0)),
    }
