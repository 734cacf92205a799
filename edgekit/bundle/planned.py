"""How a bundle is opened for more than one image: what a race found, stored in it, and what is best where nobody raced.

    store(Path("yolo12n-ov"), Setting(2, 1, 2), evidence)      # after a race: edgekit bench --cameras 4 --store
    for_all(Path("yolo12n-ov"), OpenOptions())                 # OpenOptions(streams=2, threads=2), on two CPUs

``edgekit.runtime.setting`` reads what is stored when the bundle is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit import targets
from edgekit.bundle.provenance.signing import SIGNATURE
from edgekit.errors import UsageError, command_line
from edgekit.runtime.manifest import SCHEMA, is_bundle, read_bundle, write_manifest
from edgekit.runtime.options import OpenOptions
from edgekit.runtime.processor import is_cpu, usable_cpus
from edgekit.runtime.setting import Setting
from edgekit.spec import JsonView

PLAN_SCHEMA = 1
MOST_STREAMS = 8  # each has memory of its own


def for_all(path: Path, how: OpenOptions) -> OpenOptions:
    """``how`` for those who wait for many images, not for one: a thread each, which waits for no other. As it was where
    it says streams, on GPUs, and of what is no bundle."""
    if how.streams is not None or not is_cpu(how.device) or not is_bundle(path):
        return how
    if targets.get(read_bundle(path, verify=False).target).gpu:
        return how
    threads = how.threads or usable_cpus()
    return replace(how, streams=min(threads, MOST_STREAMS), threads=threads)


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
