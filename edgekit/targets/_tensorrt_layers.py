"""What became of a graph's nodes in an engine: kernels, as the builder's log or the engine's inspector lists them.

    layers = from_inspector(inspector.get_engine_information(JSON))
    attention(["model.6.m.0.0.attn.core/Attention"], layers, "engine inspector")
    # {'source': 'engine inspector', 'of': 1, 'fused': 1, 'apart': []}

An attention is fused when one kernel does its products and its Softmax: TensorRT calls such kernels ``mha``. Both lists
appear only for engines built with ``layer-names=detailed``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.spec import Json

_FUSED = re.compile(r"mha|flash", re.I)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_LINE = re.compile(r"^Name: (?P<name>.+?), LayerType: (?P<kind>\w+)(?P<rest>.*)$", re.M)


@dataclass(frozen=True)
class Layer:
    """A kernel of an engine: its ``name``, ``kind``, ``tactic`` and the type it puts out (``precision``: ``Half``, say)
    as TensorRT calls them, and the graph's ``nodes`` in it."""

    name: str
    kind: str = ""
    tactic: str = ""
    precision: str = ""
    nodes: tuple[str, ...] = ()


def from_log(text: str) -> list[Layer]:
    """Layers from lines of a builder's log, which end in ``Metadata: [ONNX Layer: …]``."""
    found = []
    for line in _LINE.finditer(text):
        rest = line["rest"]
        tactic = re.search(r"TacticName: ([^,]+)", rest)
        kinds = re.findall(r"Datatype: (\w+)", rest.partition("Outputs:")[2])
        nodes = tuple(_NODE.findall(rest))
        found.append(Layer(line["name"], line["kind"], tactic[1] if tactic else "", "".join(kinds[:1]), nodes))
    return found


def from_inspector(text: str) -> list[Layer]:
    """Layers from an engine inspector's JSON; those of an engine built without details are bare names."""
    found = []
    for row in json.loads(text).get("Layers", []):
        if isinstance(row, str):
            found.append(Layer(row))
            continue
        outputs = row.get("Outputs") or [{}]
        # "Half", or in older versions "Half linear format" and the like
        words = str(outputs[0].get("Datatype") or outputs[0].get("Format/Datatype") or "").split()
        name, kind, tactic = (str(row.get(key, "")) for key in ("Name", "LayerType", "TacticName"))
        nodes = tuple(_NODE.findall(str(row.get("Metadata", ""))))
        found.append(Layer(name, kind, tactic, "".join(words[:1]), nodes))
    return found


def attention(expected: Sequence[str], layers: Sequence[Layer], source: str) -> Json:
    """Which attentions are one kernel, and which are not.

    Args:
        expected: names of the graph's attention nodes (or of their Softmax).
        layers: of the engine.
        source: where the layers were read, for the record.

    Returns:
        ``source``, ``of`` (how many there are), ``fused`` (how many are one kernel; None where the layers say nothing),
        ``apart``: for each other its ``node`` and the ``layers`` that compute it.
    """
    known = [layer for layer in layers if layer.nodes]
    if not known:
        return {"source": "not checked", "of": len(expected), "fused": None, "apart": []}
    fused = {node for layer in known if _FUSED.search(f"{layer.name} {layer.tactic}") for node in layer.nodes}
    apart = []
    for node in expected:
        if node not in fused:
            scope = node.rpartition("/")[0] + "/"
            around = [layer.name for layer in known if any(n.startswith(scope) for n in layer.nodes)]
            apart.append({"node": node, "layers": around})
    return {"source": source, "of": len(expected), "fused": len(expected) - len(apart), "apart": apart}
