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
| ``head`` | a classifier's layers |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from edgekit.errors import UsageError
from edgekit.nn import layers


def of(node: str, head: int = layers.HEADS[0]) -> str | None:
    """The group a node belongs to; None for the decode tail, attention's own products and foreign names.

    Args:
        node: the node's name.
        head: stage of the head (``layers.head_of``).
    """
    layer = layers.parse(node, head)
    if layer is None or layer.tail or layer.part == layers.CORE:
        return None
    if layer.branch:
        return f"head {layer.branch} stride {layer.stride}"
    if layer.head:
        return "head prototypes" if layer.part == layers.PROTOTYPES else "head"
    if layer.stage in layers.STEM:
        return "stem"
    if layer.neck:
        return f"neck stage {layer.stage}"
    suffix = {layers.ATTENTION: f" {layer.part or 'outer'}", layers.C3K2: " C3k2"}.get(layer.kind or "", "")
    return f"stage {layer.stage}{suffix}"


def collect(nodes: Iterable[str]) -> dict[str, list[str]]:
    """Group → its nodes, in the network's order."""
    nodes = list(nodes)
    head = layers.head_of(nodes)
    found: dict[str, list[str]] = {}
    for node in nodes:
        group = of(node, head)
        if group is not None:
            found.setdefault(group, []).append(node)
    return found


def chosen(names: Collection[str], nodes: Collection[str]) -> set[str]:
    """The nodes that ``names``, groups and nodes, stand for.

    Raises:
        UsageError: a name is neither a group nor a node.
    """
    known = collect(nodes)
    unknown = next((name for name in names if name not in known and name not in nodes), None)
    if unknown is not None:
        raise UsageError(f"there is no group or node {unknown!r}; groups are {', '.join(known)}")
    return {node for name in names for node in known.get(name, [name])}
