"""Where the stages of a network are in a rewritten graph: its ``lineage``, in the file's and the bundle's metadata.

    {"stages": [["model.2.cv1", "mul_7"], …],                              # module path, the value it puts out
     "became": {"mul_7": {"channels": [["a", [[0, 2]]], ["b", [[2, 4]]]]}}}      # a value made in parts now

``edgekit.graph.rewrite.became`` has the forms. A stage whose value is neither in the graph nor in ``became`` is no
longer made at all.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxscript import ir

from edgekit.spec import Json

Lineage = Json


def renamed(lineage: Lineage, names: Mapping[str, str]) -> Lineage:
    """The lineage after values got other names, and only what leads to its stages."""
    everything = {key: _translated(entry, names) for key, entry in lineage["became"].items() if key not in names}
    stages = [[path, names.get(value, value)] for path, value in lineage["stages"]]
    pending, needed = [value for _, value in stages], {}
    while pending:
        name = pending.pop()
        if name in everything and name not in needed:
            needed[name] = everything[name]
            pending += parts_of(everything[name])
    return {"stages": stages, "became": needed}


def parts_of(entry: Json) -> list[str]:
    """The values an entry of ``became`` is made of."""
    (form, parts), *_ = entry.items()
    if form == "channels":
        return [name for name, _ in parts]
    if form == "cells":
        return list(parts)
    return [parts if form == "same" else parts[0]]


def whole(lineage: Lineage, model: ir.Model) -> list[list[str]]:
    """The stages whose values the graph makes as they are: ``[module path, name]``."""
    made = {value.name for node in model.graph for value in node.outputs}
    return [stage for stage in lineage["stages"] if stage[1] in made]


def _translated(entry: Json, names: Mapping[str, str]) -> Json:
    (form, parts), *_ = entry.items()
    if form == "same":
        return {form: names.get(parts, parts)}
    if form == "channels":
        return {form: [[names.get(name, name), channels] for name, channels in parts]}
    value, detail = parts
    return {form: [names.get(value, value), names.get(detail, detail) if form == "cells" else detail]}
