"""One model for many machines: an *index* lists bundles of it, and each machine runs the first that it can.

    write_index(Path("fleet/index.json"), [Path("fleet/ov-int8"), Path("fleet/trt-fp16")])
    index = read_index(Path("fleet/index.json"))
    chosen, session = first(index, None, open_session)      # tried in order; chosen.why says what became of the others

``edgekit.load("fleet/index.json")`` is the same; so is ``edgekit::Model`` in C++ (``runtime/cpp/src/index.cpp``). The
file:

    {"kind": "edgekit-index", "schema": 1, "weights": SHA-256, "task": "detect", "bundles": [
       {"path": "ov-int8", "sha256": of its manifest, "target": "ov-int8", "precision": "int8", "gpu": false, "sm": [],
        "weight_bits": 8, "needs": ["vnni"], "ms": 12.3, "cpu": "AMD EPYC"}]}

Bundles lie beneath the index's folder and stand in the order in which they are tried: first those of GPUs, then the
faster. One that this processor computes otherwise than it was judged (eight bits without VNNI) is tried last.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from edgekit import targets
from edgekit.errors import EdgekitError, GateError, InputError, UnsafeFileError, UsageError
from edgekit.runtime.atomic import replacing
from edgekit.runtime.manifest import MANIFEST, Bundle, read_bundle
from edgekit.runtime.processor import is_cpu, remark
from edgekit.spec import Json, JsonView

LOGGER = logging.getLogger("edgekit.fleet")
KIND, SCHEMA = "edgekit-index", 1
MOST_BYTES, MOST_BUNDLES = 4 << 20, 1000
_WRITE = "write an index with: edgekit index OUT.json BUNDLE..."
_RUNTIMES = ("ov", "ort", "ncnn")  # of equal precision; a default where no times are known, not a measurement
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One bundle of an index.

    Attributes:
        path: of its folder, relative to the index's.
        sha256: of its manifest, which holds those of its files.
        target, precision: as the target declares them.
        gpu: whether it runs on an NVIDIA GPU.
        sm: the architectures it has engines for; none where that does not matter.
        weight_bits: of INT8 weights, where the manifest says it.
        needs: what a processor must have for the accuracy the manifest states: ``vnni``.
        ms: median of a whole call on ``cpu``, where the manifest has it.
        cpu: the processor's name.
    """

    path: str
    sha256: str
    target: str
    precision: str
    gpu: bool = False
    sm: tuple[int, ...] = ()
    weight_bits: int | None = None
    needs: tuple[str, ...] = ()
    ms: float | None = None
    cpu: str | None = None


@dataclass(frozen=True)
class Index:
    """An index that was read: its ``path``, the SHA-256 of the ``weights`` all come from, ``task`` and ``entries``."""

    path: Path
    weights: str
    task: str
    entries: tuple[Entry, ...]

    def folder(self, entry: Entry) -> Path:
        """Where a bundle is."""
        return self.path.parent / entry.path


@dataclass(frozen=True)
class Choice:
    """What runs: the ``bundle``'s folder, its ``entry``, and of those before it ``refused``: path -> why not."""

    bundle: Path
    entry: Entry
    refused: Mapping[str, str]

    @property
    def why(self) -> str:
        """A sentence."""
        others = "; ".join(f"not {path}: {reason}" for path, reason in self.refused.items())
        return f"{self.entry.path} ({self.entry.target}) is the first that runs here" + (others and f"; {others}")


def is_index(path: Path) -> bool:
    """Whether ``path`` may be an index: bundles are folders, checkpoints no JSON."""
    return path.suffix.lower() == ".json" and path.is_file()


# ---- writing ------------------------------------------------------------------------------------------------------


def write_index(out: Path, bundles: Sequence[Path]) -> Index:
    """An index of ``bundles``, whose files are all compared with their manifests, in the order they are to be tried.

    Raises:
        UsageError: no bundle, one that is given twice or lies elsewhere than beneath the index's folder.
        InputError: a bundle that is not there or not valid, or of other weights, task or classes than the first.
        GateError: a bundle's file is missing or altered.
    """
    if not bundles:
        raise UsageError("an index needs at least one bundle")
    root = out.resolve().parent
    opened: list[tuple[str, Bundle]] = []
    for folder in bundles:
        bundle = read_bundle(folder)
        inside = folder.resolve()
        if inside == root or not inside.is_relative_to(root):
            raise UsageError(f"{folder}: is not beneath {root}, the folder of the index; copy it there, or index there")
        name = inside.relative_to(root).as_posix()
        if any(name == other for other, _ in opened):
            raise UsageError(f"{folder}: is given twice")
        _check_same_model(opened[0][1] if opened else bundle, bundle)
        opened.append((name, bundle))
    entries = sorted((_entry(name, bundle) for name, bundle in opened), key=_order([_entry(*each) for each in opened]))
    index = Index(out, weights_of(opened[0][1]), opened[0][1].info.task, tuple(entries))
    plain = [{k: v for k, v in asdict(entry).items() if v not in (None, ())} for entry in entries]
    document = {"kind": KIND, "schema": SCHEMA, "weights": index.weights, "task": index.task, "bundles": plain}
    with replacing(out) as partial:
        partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return index


def weights_of(bundle: Bundle) -> str:
    """SHA-256 of the checkpoint that a bundle was built from; of the graph where that came from elsewhere.

    Raises:
        InputError: its manifest does not say it.
    """
    provenance = bundle.manifest.get("provenance")
    found = provenance if isinstance(provenance, dict) else {}
    digest = found.get("checkpoint_sha256") or found.get("onnx_sha256")
    if not isinstance(digest, str):
        raise InputError(f"{bundle.path / MANIFEST}: does not say what weights it was built from; build it again")
    return digest


def _check_same_model(one: Bundle, other: Bundle) -> None:
    for what, a, b in (
        ("weights", weights_of(one), weights_of(other)),
        ("task", one.info.task, other.info.task),
        ("classes", ", ".join(one.info.names), ", ".join(other.info.names)),
    ):
        if a != b:
            raise InputError(f"{other.path}: is of other {what} ({b:.40}) than {one.path} ({a:.40}); index each model")


def _entry(name: str, bundle: Bundle) -> Entry:
    manifest, target = bundle.manifest, targets.get(bundle.target)
    bits = _part(manifest, "quantization").get("weight_bits")
    speed = _part(manifest, "speed")
    engines = manifest.get("engines")
    sms = {e.get("sm") for e in engines if isinstance(e, dict)} if isinstance(engines, list) else set()
    saturates = bits == 8 and not target.exact and not target.gpu
    measured = speed.get("int8_ms") if target.int8 else speed.get("ms")
    return Entry(
        path=name,
        sha256=hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest(),
        target=target.name,
        precision=target.precision,
        gpu=target.gpu,
        sm=tuple(sorted(sm for sm in sms if isinstance(sm, int))),
        weight_bits=bits if isinstance(bits, int) else None,
        needs=("vnni",) if saturates else (),
        ms=float(measured) if isinstance(measured, (int, float)) else None,
        cpu=str(_part(_part(speed, "machine"), "cpu").get("model", "")) or None,
    )


def _part(document: JsonView, key: str) -> Json:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _order(entries: Sequence[Entry]) -> Callable[[Entry], tuple[float, ...]]:
    """GPUs first; then by the time measured, where all of one processor have one; else by precision and runtime. Of
    equals, more bits in the weights first."""
    others = [entry for entry in entries if not entry.gpu]
    timed = len({entry.cpu for entry in others}) == 1 and all(entry.ms for entry in others)

    def key(entry: Entry) -> tuple[float, ...]:
        runtime = entry.target.partition("-")[0]
        rank = _RUNTIMES.index(runtime) if runtime in _RUNTIMES else len(_RUNTIMES)
        precision = -targets.get(entry.target).rank
        time = entry.ms or 0.0 if timed and not entry.gpu else 0.0
        return (not entry.gpu, time, precision, rank, -(entry.weight_bits or 0))

    return key


# ---- reading ------------------------------------------------------------------------------------------------------


def read_index(path: Path) -> Index:
    """The index at ``path``; bundles are looked at when they are tried.

    Raises:
        InputError: no index, one that is not valid, or of a newer schema.
        UnsafeFileError: a bundle outside the index's folder.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: {path.stat().st_size} bytes is more than an index can be; {_WRITE}")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not valid JSON; {_WRITE}") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{path}: is no index of bundles; {_WRITE}")
    schema = document.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise InputError(f"{path}: is an index of schema {schema}, this edgekit reads {SCHEMA}; upgrade edgekit")
    rows = document.get("bundles")
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_BUNDLES:
        raise InputError(f"{path}: lists no bundles, or more than {MOST_BUNDLES}; write the index again")
    entries = tuple(_read_entry(path, i, row) for i, row in enumerate(rows))
    return Index(path, str(document.get("weights", "")), str(document.get("task", "")), entries)


def _read_entry(path: Path, number: int, row: object) -> Entry:
    texts = [row.get(key) for key in ("path", "sha256", "target")] if isinstance(row, dict) else [None]
    if not isinstance(row, dict) or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"{path}: bundles[{number}] must have path, sha256 and target; write the index again")
    name = row["path"]
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or any(letter in name for letter in "\\:\0"):
        raise UnsafeFileError(f"{path}: it lists {name!r}, which is outside its folder; write the index again")
    sm, needs = row.get("sm", []), row.get("needs", [])
    ms, bits, cpu = row.get("ms"), row.get("weight_bits"), row.get("cpu")
    return Entry(
        path=name,
        sha256=row["sha256"],
        target=row["target"],
        precision=str(row.get("precision", "")),
        gpu=row.get("gpu") is True,
        sm=tuple(s for s in sm if isinstance(s, int)) if isinstance(sm, list) else (),
        weight_bits=bits if isinstance(bits, int) else None,
        needs=tuple(map(str, needs)) if isinstance(needs, list) else (),
        ms=float(ms) if isinstance(ms, (int, float)) else None,
        cpu=cpu if isinstance(cpu, str) else None,
    )


# ---- choosing -----------------------------------------------------------------------------------------------------


def first(index: Index, device: str | None, open_bundle: Callable[[Path], T]) -> tuple[Choice, T]:
    """The first bundle that runs here, opened; ``LOGGER`` is told which and why.

    Args:
        index: what there is.
        device: as for ``load``; bundles that do not run on it are not tried.
        open_bundle: opens one, or raises an ``EdgekitError``, after which the next is tried.

    Raises:
        InputError: none runs here; the message has each one's reason.
    """
    refused: dict[str, str] = {}
    for entry in (*index.entries, *_as_last_resort(index.entries, device)):
        again = entry.path in refused
        reason = _preflight(index, entry, device, otherwise=again)
        if reason is None:
            folder = index.folder(entry)
            try:
                opened = open_bundle(folder)
            except EdgekitError as error:
                reason = str(error).removeprefix(f"{folder}: ")
            else:
                refused.pop(entry.path, None)
                choice = Choice(folder, entry, refused)
                LOGGER.info("%s: %s", index.path, choice.why)
                return choice, opened
        refused[entry.path] = reason
    said = "; ".join(f"{path}: {reason}" for path, reason in refused.items())
    raise InputError(f"{index.path}: none of its {len(index.entries)} bundles runs here; {said}")


def _as_last_resort(entries: Sequence[Entry], device: str | None) -> Iterator[Entry]:
    """Those that run here otherwise than they were judged: wrong by a little is better than nothing."""
    return (entry for entry in entries if _otherwise(entry, device))


def _otherwise(entry: Entry, device: str | None) -> str | None:
    if entry.target not in targets.names() or targets.get(entry.target).exact:
        return None
    return remark(entry.target, entry.weight_bits, device)


def _preflight(index: Index, entry: Entry, device: str | None, otherwise: bool) -> str | None:
    """Why a bundle does not run here, as far as can be told without opening it, or None.

    ``otherwise``: one that this processor computes otherwise than it was judged is not refused for that.
    """
    folder = index.folder(entry)
    if entry.target not in targets.names():
        return f"this edgekit knows no target {entry.target}"
    target = targets.get(entry.target)
    if not (folder / MANIFEST).is_file():
        return "it is not there"
    if device and (is_cpu(device) if target.gpu else device.lower().startswith("cuda")):
        return f"it does not run on {device}"
    if hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() != entry.sha256:
        return "its manifest is not the one that was indexed (its hash differs)"
    if reason := target.missing():
        return reason
    try:
        if read_bundle(folder, verify=False).target != entry.target:
            return "it is built for another target than the index says"
    except (GateError, InputError) as error:
        return str(error).removeprefix(f"{folder}: ")
    return target.runs_here(target, folder) or (None if otherwise else _otherwise(entry, device))
