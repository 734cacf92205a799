"""The named parts of a network that are quantized, or left alone, together.

    groups.of("model.6.m.0.0.attn.pe.conv/Conv")     # 'stage 6 pe'
    groups.collect(names)                            # {'stem': [...], 'stage 2 C3k2': [...], ...}

| group | holds |
|---|---|
| ``stem`` | the convolutions before the first block |
| ``stage 3`` | a convolution that halves the map |
| ``stage 2 C3k2`` | a block without attention |
| ``stage 6 qkv``, ``pe``, ``proj``, ``mlp`` | the parts of a stage with attention |
| ``stage 6 outer`` | its first and last convolution |
| ``neck stage 11`` | a stage between backbone and head |
| ``head box stride 8`` | a branch of the head; ``class`` and ``task`` (coefficients, keypoints, angle) alike |
| ``head prototypes`` | those of masks |

Names are those the exporter gives: module path, slash, operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

STEM = (0, 1)
NECK = range(9, 21)
HEADS = (21, 9)  # of networks with a neck, and of classifiers
_BRANCHES = {"cv2": "box", "cv3": "class", "cv4": "task"}
_ATTENTION = {"qkv": "qkv", "qk": "qkv", "v": "qkv", "pe": "pe", "proj": "proj"}


def of(node: str, head: int = HEADS[0]) -> str | None:
    """The group a node belongs to; None for the decode tail, attention's own products and foreign names.

    Args:
        node: the node's name.
        head: layer of the head (``head_of``).
    """
    match = re.match(r"model\.(\d+)([./].*)?$", node)
    if match is None:
        return None
    layer, path = int(match[1]), (match[2] or "").partition("/")[0].strip(".").split(".")
    if layer == head:
        return _of_head(path)
    if layer in STEM:
        return "stem"
    if layer in NECK:
        return f"neck stage {layer}"
    if "attn" in path:
        rest = path[path.index("attn") + 1 :]
        if rest[:1] == ["core"]:
            return None
        return f"stage {layer} {_ATTENTION.get(rest[0], 'qkv') if rest else 'qkv'}"
    if "mlp" in path:
        return f"stage {layer} mlp"
    if path[0] in ("conv", "act"):
        return f"stage {layer}"
    return f"stage {layer}"


def _of_head(path: list[str]) -> str | None:
    if path[0] in _BRANCHES and len(path) > 1 and path[1].isdigit():
        return f"head {_BRANCHES[path[0]]} stride {8 << int(path[1])}"
    if path[0] == "proto":
        return "head prototypes"
    if path[0] in ("conv", "linear"):
        return "head"
    return None


def head_of(nodes: Iterable[str]) -> int:
    """The layer of the head: the last one there is."""
    layers = [int(m[1]) for m in (re.match(r"model\.(\d+)[./]", name) for name in nodes) if m]
    return max(layers, default=HEADS[0])


def collect(nodes: Iterable[str]) -> dict[str, list[str]]:
    """Group → its nodes, in the network's order."""
    nodes = list(nodes)
    head = head_of(nodes)
    kinds = {int(m[1]): "attention" for m in (re.match(r"model\.(\d+)\..*\.(?:attn|mlp)\b", n) for n in nodes) if m}
    found: dict[str, list[str]] = {}
    for node in nodes:
        group = of(node, head)
        if group is None:
            continue
        layer = re.fullmatch(r"stage (\d+)", group)
        if layer and int(layer[1]) in kinds:
            group += " outer"
        elif layer and re.match(r"model\.\d+\.(cv\d|m)\b", node):
            group += " C3k2"
        found.setdefault(group, []).append(node)
    return found
