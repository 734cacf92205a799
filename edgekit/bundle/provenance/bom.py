"""A CycloneDX ML-BOM of a bundle: what it is made of, by hash, and what was proved of it.

    json.dumps(document(read(folder)))            # CycloneDX 1.6, checked against its schema

Nothing is in it that the manifest has no hash or gate for. It says no time and its serial number follows from the
manifest, so the same bundle has the same bill.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from edgekit.bundle.provenance.facts import Facts
from edgekit.bundle.provenance.signing import EXTRA
from edgekit.errors import GateError, optional
from edgekit.spec import Json

_TASKS = {"detect": "object-detection", "obb": "object-detection", "segment": "image-segmentation"}
_TASKS |= {"pose": "keypoint-detection", "classify": "image-classification"}


def task_of(task: str) -> str:
    """A task as Hugging Face calls it."""
    return _TASKS.get(task, task)


def document(facts: Facts) -> Json:
    """The bill, checked by CycloneDX' own package.

    Raises:
        MissingPackageError: cyclonedx-python-lib is not installed.
        GateError: it does not fit the schema, a fault of edgekit's.
    """
    with optional("bills of materials", EXTRA):
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    text = make_outputter(_bom(facts), OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    bill: Json = json.loads(text)
    bill["metadata"].pop("timestamp", None)
    bill["metadata"]["component"]["modelCard"] = _card(facts)  # which the package cannot say yet
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    if wrong is not None:
        raise GateError(f"{facts.bundle.path}: its bill of materials does not fit CycloneDX 1.6 ({wrong})")
    return bill


def _bom(facts: Facts) -> Any:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from cyclonedx.model.tool import ToolRepository

    model = _component(facts.name, ComponentType.MACHINE_LEARNING_MODEL, facts.manifest_sha256)
    model.licenses = _licenses(facts.bundle.info.license)
    parents = []
    for what, digest in facts.parents.items():
        parent = _component(what, ComponentType.MACHINE_LEARNING_MODEL, digest)
        parent.licenses = _licenses(facts.bundle.info.license)
        parents.append(parent)
    model.pedigree = Pedigree(ancestors=parents) if parents else None
    model.properties = _properties(facts)
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{facts.manifest_sha256}"))
    bom.metadata.component = model
    bom.metadata.tools = ToolRepository(components=[_made_with(facts, Component, ComponentType)])
    for name, digest in sorted(facts.bundle.manifest["files"].items()):
        bom.components.add(_component(name, ComponentType.FILE, digest))
    for each in _data(facts, ComponentType.DATA):
        bom.components.add(each)
    bom.register_dependency(model, bom.components)
    return bom


def _data(facts: Facts, kind: Any) -> list[Any]:
    """Images that it was calibrated and judged on, with the license that their set states; of a set that is judged on
    by labels no hash is known."""
    manifest, found = facts.bundle.manifest, []
    calibration, accuracy = manifest.get("calibration") or {}, manifest.get("accuracy") or {}
    if calibration.get("sha256"):
        found.append(_component(f"calibrated on: {calibration['set']}", kind, calibration["sha256"]))
        found[-1].licenses = _licenses(calibration.get("license"))
    digests = accuracy.get("sha256") or []
    judged = [_component(f"judged on, image {place}", kind, digest) for place, digest in enumerate(digests)]
    if accuracy.get("license") and not judged:
        judged = [_component(f"judged on: {accuracy['on']}", kind)]
    for each in judged:
        each.licenses = _licenses(accuracy.get("license"))
    return [*found, *judged]


def _component(name: str, kind: Any, digest: str | None = None) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component

    if digest is None:
        return Component(name=name, type=kind, bom_ref=name)
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
    return Component(name=name, type=kind, bom_ref=f"{name}@sha256:{digest}", hashes=hashes)


def _made_with(facts: Facts, component: Any, kinds: Any) -> Any:
    version = facts.bundle.manifest.get("provenance", {}).get("versions", {}).get("edgekit")
    return component(name="edgekit", version=version, type=kinds.APPLICATION, bom_ref="edgekit")


def _licenses(text: str | None) -> Any:
    from cyclonedx.contrib.license.factories import LicenseFactory

    return [LicenseFactory().make_from_string(text)] if text else []


def _properties(facts: Facts) -> Any:
    from cyclonedx.model import Property

    told: Json = {"target": facts.bundle.target, "imgsz": list(facts.bundle.info.imgsz)}
    told |= {f"gate:{gate.name}": gate.found for gate in facts.gates}
    return [
        Property(name=f"edgekit:{name}", value=found if isinstance(found, str) else json.dumps(found, sort_keys=True))
        for name, found in told.items()
    ]


def _card(facts: Facts) -> Json:
    """``modelCard``: the task, what goes in and comes out, and accuracy where it was measured."""
    info = facts.bundle.info
    parameters: Json = {
        "task": task_of(info.task),
        "architectureFamily": "YOLO12",
        "modelArchitecture": facts.name,
        "inputs": [{"format": f"{p.dtype} {list(p.shape)}"} for p in info.inputs],
        "outputs": [{"format": f"{p.role} {p.dtype} {list(p.shape)}"} for p in info.outputs],
    }
    row = facts.accuracy
    if row is None:
        return {"modelParameters": parameters}
    metric = {"type": row["metric"], "value": str(row["after"]), "slice": str(row["on"])}
    return {"modelParameters": parameters, "quantitativeAnalysis": {"performanceMetrics": [metric]}}
