"""Stores in a bundle how it serves its cameras fastest; ``edgekit.runtime.setting`` reads it when the bundle is loaded.

store(Path("yolo12n-ov"), Setting(2, 1, 2), evidence)      # after a race: edgekit bench --cameras 4 --store
"""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.provenance.signing import SIGNATURE
from edgekit.errors import UsageError, command_line
from edgekit.runtime.manifest import SCHEMA, is_bundle, read_bundle, write_manifest
from edgekit.runtime.setting import Setting
from edgekit.spec import JsonView

PLAN_SCHEMA = 1


def check_storable(path: Path) -> None:
    """Whether a setting can be stored there.

    Raises:
        UsageError: it is no bundle, or is signed as it is.
    """
    if not is_bundle(path):
        make = command_line("build", "MODEL", target="T", out="DIR")
        raise UsageError(f"`store`: {path} is no bundle; build one with: {make}")
    if (path / SIGNATURE).exists():
        raise UsageError(f"`store`: {path} is signed, and would be another bundle; store first, then sign")


def store(path: Path, setting: Setting, evidence: JsonView) -> None:
    """Put the setting and ``evidence``, the race that it won, into the plan of the bundle's manifest.

    Raises:
        UsageError, GateError: see ``check_storable``; the bundle is not what its manifest says.
        OSError: it cannot be written.
    """
    check_storable(path)
    manifest = read_bundle(path).manifest
    plan = manifest.get("plan") or {"schema": PLAN_SCHEMA, "kind": "plan"}
    plan = {**plan, "load": setting.entry(), "cameras": dict(evidence)}
    write_manifest(path, {**manifest, "schema": SCHEMA, "plan": plan})
