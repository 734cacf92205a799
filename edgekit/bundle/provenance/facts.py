"""What a bundle's manifest knows for certain, in the order that descriptions tell it: files and their hashes, parents
and theirs, and the gates it went through to be a bundle at all.

    facts = read(Path("yolo12n-ov-fp16"))
    [gate.name for gate in facts.gates]           # ['rewrites', 'graph parity', 'parity', 'detections']
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.runtime.manifest import MANIFEST, Bundle, read_bundle
from edgekit.spec import Json, sha256_file

# The manifest's key of each gate. What was only measured (speed, the machine) is none.
GATES = {
    "rewrites": "rewrites",
    "graph_parity": "graph parity",
    "weights_parity": "weights parity",
    "parity": "parity",
    "engine_parity": "engine parity",
    "detections": "detections",
    "accuracy": "accuracy",
}


@dataclass(frozen=True)
class Gate:
    """One that the bundle passed: its ``name`` and what was found, as the manifest has it."""

    name: str
    found: object


@dataclass(frozen=True)
class Facts:
    """Of one bundle.

    Attributes:
        bundle: as read, every file's hash compared.
        name: of the model; of models from elsewhere its task.
        manifest_sha256: of the manifest's bytes, which pin every other file.
        parents: what it was made of -> its SHA-256.
        gates: those it passed.
    """

    bundle: Bundle
    name: str
    manifest_sha256: str
    parents: dict[str, str]
    gates: tuple[Gate, ...]

    @property
    def files(self) -> dict[str, str]:
        """Path in the bundle -> SHA-256, the manifest's own included."""
        return {**self.bundle.manifest["files"], MANIFEST: self.manifest_sha256}

    @property
    def accuracy(self) -> Json | None:
        """What was measured on labelled images; None where nothing was, or only agreement between two models."""
        row: Json | None = self.bundle.manifest.get("accuracy")
        return row if row and row.get("kind") != "agreement" else None


def read(folder: Path) -> Facts:
    """The facts of a bundle.

    Raises:
        InputError: no bundle.
        GateError: a file is not the one its manifest has the hash of.
    """
    bundle = read_bundle(folder)
    manifest, info = bundle.manifest, bundle.info
    told = manifest.get("provenance", {})
    known = {"checkpoint": told.get("checkpoint_sha256"), "graph": told.get("onnx_sha256")}
    return Facts(
        bundle,
        info.spec.name if info.spec else info.task,
        sha256_file(folder / MANIFEST),
        {what: digest for what, digest in known.items() if digest},
        tuple(Gate(name, manifest[key]) for key, name in GATES.items() if manifest.get(key)),
    )
