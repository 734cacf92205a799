"""The drawings of the concept pages, as inline SVG: boxes on a grid and arrows between them, in the page's own colors.

    svg("flow")     # '<svg …>'

Each is data: boxes as (column, row, title, words) and arrows as (from, to, label). A page takes one by a line
``<!-- drawing: flow -->`` (``_hooks.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, GAP_X, GAP_Y = 150, 58, 46, 34


@dataclass(frozen=True)
class Drawing:
    """What a drawing shows; ``says`` is read out by a screen reader."""

    says: str
    boxes: tuple[tuple[float, float, str, str], ...]
    arrows: tuple[tuple[int, int, str], ...] = ()
    wide: float = 1.0  # of a box, in columns' widths


DRAWINGS = {
    "flow": Drawing(
        "A checkpoint is exported to a graph, rewritten, quantized into candidates, built into a bundle and measured.",
        (
            (0, 0, "Checkpoint", "weights and their story"),
            (1, 0, "Graph", "ONNX, one file"),
            (2, 0, "Graph, rewritten", "attention, for a target"),
            (3, 0, "Candidates", "explicit precision"),
            (3, 1, "Bundle", "a folder; judged"),
            (2, 1, "Report", "speed and accuracy"),
        ),
        ((0, 1, "export"), (1, 2, "rewrite"), (2, 3, "quantize"), (3, 4, "build"), (4, 5, "bench")),
    ),
    "attention": Drawing(
        "Area Attention as PyTorch writes it, and the two forms that rewrites make of it.",
        (
            (0, 1, "x [B, C, H, W]", "one map"),
            (1, 1, "areas", "[B·A, N/A, C]"),
            (2, 1, "q, k, v", "one 1×1 conv, cut"),
            (3, 0, "ONNX Runtime", "MatMul Softmax MatMul"),
            (3, 1, "OpenVINO", "one SDPA operator"),
            (3, 2, "TensorRT", "fused kernel, FP16"),
            (4, 1, "+ 7×7 of v", "positions"),
        ),
        ((0, 1, "cut"), (1, 2, ""), (2, 3, ""), (2, 4, ""), (2, 5, ""), (3, 6, ""), (4, 6, ""), (5, 6, "")),
    ),
    "proof": Drawing(
        "Four comparisons of a build: file against network, graph against PyTorch, artifact against PyTorch, gates.",
        (
            (0, 0, "The file", "its own attributes"),
            (1, 0, "PyTorch", "float64, float32"),
            (2, 0, "Graph", "ONNX Runtime"),
            (3, 0, "Artifact", "the target's runtime"),
            (3, 1, "Accuracy gate", "labels or agreement"),
            (3, 2, "Speed gate", "in turns with float"),
        ),
        ((0, 1, "layers"), (1, 2, "roles"), (2, 3, "roles"), (3, 4, ""), (4, 5, "")),
    ),
    "timing": Drawing(
        "Artifacts take turns on the same images; ratios are made inside each round.",
        (
            (0, 0, "round 1", "A B C"),
            (1, 0, "round 2", "C A B"),
            (2, 0, "round 3", "B C A"),
            (3, 0, "…", "until certain"),
            (1, 1, "ratios A/B", "one a round"),
            (2, 1, "median, 95 %", "by bootstrap"),
        ),
        ((0, 1, ""), (1, 2, ""), (2, 3, ""), (1, 4, ""), (4, 5, "")),
    ),
    "roles": Drawing(
        "Outputs carry roles; one post-processing acts on roles whatever the task or the runtime.",
        (
            (0, 0, "any task", "five here"),
            (0, 1, "any runtime", "ORT, OV, TRT"),
            (1, 0.5, "outputs", "each with a role"),
            (2, 0.5, "postprocess", "acts on roles"),
            (3, 0.5, "Result", "pixels of the image"),
        ),
        ((0, 2, ""), (1, 2, ""), (2, 3, ""), (3, 4, "")),
    ),
    "bundle": Drawing(
        "A bundle: the model's files and a manifest that holds their hashes, the proofs and the origin.",
        (
            (0, 0, "manifest.json", "what it is, proofs"),
            (1, 0, "model.xml / .onnx", "or *.engine"),
            (2, 0, "model.bin", "weights"),
            (0, 1, "edgekit.load()", "checks every hash"),
            (1, 1, "C++: Model(path)", "the same checks"),
        ),
        ((0, 3, ""), (0, 4, "")),
    ),
}


def svg(name: str) -> str:
    """The drawing as one line of SVG.

    Raises:
        KeyError: there is none of that name.
    """
    drawing = DRAWINGS[name]
    wide = max(c for c, *_ in drawing.boxes) + 1
    high = max(r for _, r, *_ in drawing.boxes) + 1
    x, y = (lambda c: 4 + c * (WIDTH + GAP_X)), (lambda r: 4 + r * (HEIGHT + GAP_Y))
    parts = [
        f'<svg role="img" aria-label="{escape(drawing.says)}" width="{x(wide) - GAP_X + 4:.0f}" '
        f'viewBox="0 0 {x(wide) - GAP_X + 4:.0f} {y(high) - GAP_Y + 4:.0f}" xmlns="http://www.w3.org/2000/svg">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>',
    ]
    for start, end, label in drawing.arrows:
        (x1, y1), (x2, y2) = _ends(drawing.boxes[start], drawing.boxes[end], x, y)
        parts.append(
            f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="currentColor" '
            'stroke-width="1.3" marker-end="url(#tip)"/>'
        )
        if label:
            right, down, anchor = (7, 3, "start") if x1 == x2 else (0, -5, "middle")
            parts.append(
                f'<text x="{(x1 + x2) / 2 + right:.0f}" y="{(y1 + y2) / 2 + down:.0f}" font-size="11" '
                f'text-anchor="{anchor}" fill="currentColor">{escape(label)}</text>'
            )
    for column, row, title, words in drawing.boxes:
        left, top = x(column), y(row)
        parts.append(
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="none" '
            'stroke="currentColor" stroke-width="1.3"/>'
            f'<text x="{left + WIDTH / 2:.0f}" y="{top + 25:.0f}" font-size="14" font-weight="600" '
            f'text-anchor="middle" fill="currentColor">{escape(title)}</text>'
            f'<text x="{left + WIDTH / 2:.0f}" y="{top + 44:.0f}" font-size="12" text-anchor="middle" '
            f'fill="currentColor">{escape(words)}</text>'
        )
    return "".join(parts) + "</svg>"


def _ends(a, b, x, y):  # type: ignore[no-untyped-def]
    """Where an arrow leaves one box and meets the other: on facing sides."""
    if abs(a[0] - b[0]) < 0.5:  # one above the other
        down = b[1] > a[1]
        column = x(a[0]) + WIDTH / 2
        return (column, y(a[1]) + (HEIGHT if down else 0)), (column, y(b[1]) + (0 if down else HEIGHT))
    right = b[0] > a[0]
    return (
        (x(a[0]) + (WIDTH if right else 0), y(a[1]) + HEIGHT / 2),
        (x(b[0]) + (0 if right else WIDTH), y(b[1]) + HEIGHT / 2),
    )
