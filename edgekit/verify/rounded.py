"""A reference as a narrower precision computes it, for knowing what that precision does to this very network.

rounded(reference, "bf16", folder).run(batch)      # every weight and every operator's output rounded to bf16
"""

from __future__ import annotations

from pathlib import Path

from edgekit import targets
from edgekit.spec import PIXELS, Session
from edgekit.verify.rounding import PRECISIONS

_KINDS = {"f16": "float16", "bf16": "bfloat16"}


def rounded(reference: Session, precision: str, folder: Path, pixels: bool = False) -> Session | None:
    """``reference`` with weights and values rounded as ``precision`` does; for ``f32`` in float64 instead, so that the
    two differ by what float32 rounds.

    Args:
        reference: a PyTorch session, or one of an ONNX file that edgekit exported.
        precision: of ``edgekit.verify.rounding.PRECISIONS``.
        folder: where a graph may be written that the session needs.
        pixels: the artifact takes bytes, so that its first convolution is stored in other numbers.

    Returns:
        None where that cannot be had: an engine's or an IR's, and float64 of an ONNX file.
    """
    weights, values = PRECISIONS[precision]
    first = PIXELS if pixels else 1.0
    made = reference.rounded(weights, values, first)
    if made is not None:
        return made
    if weights is None or reference.target != "ort-fp32":
        return None
    from edgekit.graph import narrow

    path = folder / f"rounded-{precision}{'-pixels' * pixels}.onnx"
    narrow.rounded(reference.path, path, _KINDS[weights], values is not None, first)
    return targets.reference().open(path, reference.info)
