"""The backends, one file each; the file name is the registry. A leading underscore marks what backends share.

A backend is a module with

    TARGETS: dict[str, str]                 # target name -> what it is, in a few words
    EXTRA: str                              # the pip extra that brings its SDK
    def missing() -> str | None             # why it cannot be used here, one sentence, or None
    def build(graph, target, folder) -> None                        # writes the runtime's own files
    def open_session(folder, info, target, device, threads) -> Session

and, where it makes sense,

    def open_streams(folder, info, target, count, device, threads) -> list[Session]     # to run at the same time
    OPTIONS                                 # a record of the target's own options: OPTIONS.parse({"sm": "86"})
    def build(graph, target, folder, options) -> dict                # with options: further keys of the manifest
    def takes(info, options) -> ModelInfo                            # of what is built of a graph with this info
    HEADS, MOST_CANDIDATES                                           # head forms, and candidates sorted at most
    def prepare(target, options)                                     # refuses before the export what cannot be built
    def runs_here(folder, target) -> str | None                      # why what was built cannot run on this machine
    def graph_target(target) -> str                                  # the target whose form of graph is built from
    def reproduce(engine, info) -> str                               # the vendor's command line for the same engine

    backend("ov-fp16").missing()
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from edgekit.errors import UsageError

PLANNED = (
    "ort-fp32",
    "ort-int8",
    "ov-fp32",
    "ov-fp16",
    "ov-int8",
    "trt-fp16",
    "trt-int8",
    "trt-rtx-fp16",
    "trt-rtx-int8",
)


@cache
def _backends() -> dict[str, ModuleType]:
    modules = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    loaded = [importlib.import_module(f"{__name__}.{name}") for name in modules]
    return {target: module for module in loaded for target in module.TARGETS}


def names() -> list[str]:
    """Every target this version can build, in the order of the command reference."""
    return sorted(_backends(), key=lambda t: PLANNED.index(t) if t in PLANNED else len(PLANNED))


def backend(target: str) -> ModuleType:
    """The module that builds and runs ``target``.

    Raises:
        UsageError: no such target, or one this version does not have yet.
    """
    found = _backends().get(target)
    if found is None:
        known = ", ".join(names())
        if target in PLANNED:
            raise UsageError(f"--target {target}: not in this version of edgekit; it has {known}")
        raise UsageError(f"--target {target}: there is no such target; targets are {known}")
    return found
