"""What an artifact is, whichever kind it is: the facts behind ``edgekit inspect``.

inspect(Path("yolo12n-ov-fp16"))["target"]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from edgekit import targets
from edgekit.bundle import fleet
from edgekit.errors import InputError, optional
from edgekit.runtime.manifest import read_bundle
from edgekit.spec import Json, Port, sha256_file


def inspect(path: Path) -> Json:
    """JSON-ready facts about a bundle, an index of bundles, an ONNX file or a checkpoint.

    Raises:
        EdgekitError: it is none of them, or damaged; the sentence says which.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a bundle, a checkpoint or an ONNX file")
    if path.is_dir():
        facts = _bundle(path)
    elif fleet.is_index(path):
        facts = _index(path)
    elif path.suffix == ".onnx":
        facts = _onnx(path)
    else:
        facts = _checkpoint(path)
    return {"path": str(path), **facts}


def _bundle(path: Path) -> Json:
    opened = read_bundle(path)
    manifest = opened.manifest
    sizes = {name: (path / name).stat().st_size for name in manifest["files"]}
    onnx_files = [path / name for name in sizes if name.endswith(".onnx")]
    facts = {"kind": "bundle", **manifest, "bytes": sizes}
    if onnx_files:
        facts |= _graph_facts(onnx_files[0])
    if manifest.get("engines"):
        reproduce = targets.get(opened.target).reproduce
        if reproduce is not None:
            facts["reproduce"] = [reproduce(engine, opened.info) for engine in manifest["engines"]]
    facts["license"] = manifest.get("license")
    for name in ("stages", "lineage"):  # for programs; a page long
        facts.pop(name, None)
    return facts


def _index(path: Path) -> Json:
    """What is in an index, and which bundle would be opened here, as far as can be told without opening any."""
    index = fleet.read_index(path)
    rows = [{k: v for k, v in asdict(entry).items() if v not in (None, ())} for entry in index.entries]
    facts: Json = {"kind": "index", "weights": index.weights, "task": index.task, "bundles": rows}
    try:
        facts["here"] = fleet.first(index, None, lambda folder: folder)[0].why
    except InputError as error:
        facts["here"] = str(error)
    return facts


def _onnx(path: Path) -> Json:
    module = _onnx_module()
    inputs, outputs, metadata = module.describe(path)
    facts = {"kind": "ONNX file", "bytes": path.stat().st_size, "sha256": sha256_file(path)}
    if module.METADATA_KEY in metadata:
        document = module.read_document(path)
        known = {**document["info"], "rewrites": document["rewrites"], "provenance": document["provenance"]}
    else:
        facts["kind"] = "ONNX file from elsewhere"
        ports = {"inputs": inputs, "outputs": outputs}
        known = {key: [_plain(port) for port in found] for key, found in ports.items()} | {"metadata": metadata}
    return {**facts, **known, **_graph_facts(path)}


def _plain(port: Port) -> Json:
    """A port that has no role."""
    return {"name": port.name, "shape": list(port.shape), "dtype": port.dtype}


def _checkpoint(path: Path) -> Json:
    with optional(f"{path}: reading a checkpoint", "train"):
        from edgekit import checkpoint
    loaded = checkpoint.load(path)
    return {
        "kind": "checkpoint",
        "bytes": path.stat().st_size,
        "sha256": loaded.sha256,
        "model": loaded.spec.name,
        "task": loaded.spec.task,
        "imgsz": list(loaded.imgsz),
        "names": list(loaded.names),
        "license": loaded.license,
        "spec": loaded.spec.to_dict(),
        "provenance": loaded.provenance,
    }


def _onnx_module() -> ModuleType:
    with optional("reading an ONNX file", "onnx"):
        from edgekit.graph import document
    return document


def _graph_facts(path: Path) -> Json:
    """Attention forms found and the operator histogram, most frequent first."""
    _onnx_module()
    import onnx

    from edgekit.graph.forms import attention_forms

    model = onnx.load(path, load_external_data=False)
    operators = dict(Counter(node.op_type for node in model.graph.node).most_common())
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    return {"attention_forms": attention_forms(path), "opset": opset, "operators": operators}
