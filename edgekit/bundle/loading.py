"""Opens whatever the user has: a bundle, a checkpoint, or an ONNX file edgekit exported.

predictor = load("yolo12n-ov-fp16/")          # a Predictor; nothing of torch or onnx is imported for a bundle
predictor("street.jpg")[0].boxes
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import targets
from edgekit.bundle import fleet
from edgekit.errors import EdgekitError, InputError, UsageError, command_line, optional
from edgekit.runtime import modelcache
from edgekit.runtime.manifest import Bundle, Shape, is_bundle, read_bundle
from edgekit.runtime.options import OpenOptions, Options, told
from edgekit.runtime.processor import remark
from edgekit.runtime.setting import planned
from edgekit.runtime.shaped import Shaped
from edgekit.spec import ModelInfo, Session, parse_imgsz
from edgekit.targets import Opening, Target

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from edgekit.runtime.options import LoadOptions
    from edgekit.runtime.predictor import Predictor


@dataclass(frozen=True)
class _Artifact:
    """Files a target opens: where, what they are, and what to make of the session."""

    target: Target
    place: Path
    info: ModelInfo
    finish: Callable[[Session], Session] = lambda session: session
    shapes: tuple[Shape, ...] = ()


def load(
    path: str | Path,
    *,
    foreign: bool = False,
    verify: bool | Literal["once"] = False,
    plan: bool = True,
    **options: Unpack[LoadOptions],
) -> Predictor:
    """Open a model for prediction.

    Args:
        path: a bundle folder, a checkpoint (edgekit's or published), an ONNX file that edgekit exported, or an index of
            bundles (``edgekit.bundle.fleet``), of which the first that runs here is opened; ``chosen`` of the answer
            says which and why.
        foreign: also take models of other tools (``external/models.py``), whose outputs are told by their layout.
        verify: True runs the bundle's self-test before the model answers, "once" only where this very bundle has not
            passed it on this machine, device, driver and runtime before, which is remembered beside the cache
            (``edgekit.runtime.proven``). With OpenVINO's AUTO also before the first answer from another device.
        plan: use the ``streams``, ``batch`` and ``threads`` that the bundle's plan found on this kind of machine
            (``edgekit.runtime.setting``), where none of these and no ``device`` is given.
        options: how it is opened and what is kept of what it finds: fields of ``OpenOptions`` and ``Options``
            (``edgekit.runtime.options``), as ``device="GPU", threads=2, conf=0.4``.

    Raises:
        EdgekitError: one sentence on what is wrong with the file, an option, or what is not installed.
        GateError: the self-test fails; the message names the role, the cause and what to do.
    """
    how, kept = told(options)

    def own(folder: Path) -> OpenOptions:
        return planned(folder, how) if plan else how

    if fleet.is_index(Path(path)):
        index = fleet.read_index(Path(path))
        chosen, predictor = fleet.first(
            index, how.device, lambda folder: _predictor(folder, own(folder), foreign, verify, kept)
        )
        predictor.chosen = chosen
        return predictor
    return _predictor(Path(path), own(Path(path)), foreign, verify, kept)


def _predictor(path: Path, how: OpenOptions, foreign: bool, verify: bool | Literal["once"], kept: Options) -> Predictor:
    """Of one model that is no index."""
    from edgekit.runtime.predictor import Predictor

    session = open_session(path, how, foreign=foreign)
    return Predictor(_verified(session, path, how, verify) if verify else session, kept, how.batch)


def _verified(session: Session, path: Path, how: OpenOptions, verify: bool | Literal["once"]) -> Session:
    """``session``, which has passed the self-test of its bundle.

    Raises:
        UsageError: no bundle, or ``verify`` is another word than "once".
    """
    if verify not in (True, "once"):
        raise UsageError(f"verify={verify!r}: must be True, False or 'once'")
    if not is_bundle(path):
        make = command_line("build", "MODEL", target="T", out="DIR")
        raise UsageError(f"{path}: verify needs a bundle; this is none; build one with: {make}")
    from edgekit.bundle.selftested import Watched, check

    bundle = read_bundle(path, verify=False)  # opening it has compared the hashes
    target = targets.get(bundle.target)

    def checked(opened: Session) -> None:
        check(opened, bundle, target, how.device, verify == "once", how.cache or False)

    try:
        checked(session)
    except EdgekitError:
        session.close()
        raise
    return Watched(session, checked) if session.moves else session


def open_session(
    path: str | Path,
    how: OpenOptions | None = None,
    head: str = "raw",
    candidates: int | None = None,
    foreign: bool = False,
    **changes: Any,
) -> Session:
    """The session behind ``load``, for those who bring their own tensors.

    Args:
        path, foreign: as for ``load``.
        how: how it is opened.
        head, candidates: for checkpoints; artifacts have those they were built with.
        **changes: fields of ``how`` by name.
    """
    path, how = Path(path), dataclasses.replace(how or OpenOptions(), **changes)
    if fleet.is_index(path):
        index, own = fleet.read_index(path), how
        return fleet.first(index, how.device, lambda folder: open_session(folder, own, head, candidates, foreign))[1]
    size = parse_imgsz(how.imgsz) if how.imgsz is not None else None
    found = _artifact(path, size, foreign, how)
    folder = _cache_folder(path, found, how.cache or False)
    if found is None:
        if how.streams is not None:
            raise UsageError(f"{path}: PyTorch runs one stream a process; build the model for a target")
        return _torch_session(path, how, size, head, candidates)
    _check_streams(how.streams)
    with modelcache.checked(folder):
        return _opened(found, 1, Opening(how.device, how.threads, how.streams, folder))[0]


def _opened(found: _Artifact, count: int, opening: Opening) -> list[Session]:
    """``count`` sessions that may run at the same time, each with all input sizes that there are."""
    first = found.target.open_several(found.place, found.info, count, opening)
    others = [found.target.open_several(found.place / each.file, each.info, count, opening) for each in found.shapes]
    if others:
        return [Shaped(each) for each in zip(first, *others, strict=True)]
    return [found.finish(session) for session in first]


def _cache_folder(path: Path, found: _Artifact | None, cache: str | Path | bool) -> Path | None:
    """Where the runtime keeps what it compiles; None for no cache."""
    if cache is False:
        return None
    if found is None or not found.target.caches:
        keeps = ", ".join(target.name for target in targets.every() if target.caches)
        runs_on = found.target.name if found else "pytorch"
        raise UsageError(f"`cache`: {path} runs on {runs_on}, which keeps none; {keeps} do")
    if not is_bundle(path):
        make = command_line("build", "MODEL", target="T", out="DIR")
        raise UsageError(f"`cache`: {path} is no bundle; build one with: {make}")
    return modelcache.folder_for(path, cache)


def _check_streams(streams: int | None) -> None:
    if streams is not None and (not isinstance(streams, int) or isinstance(streams, bool) or streams < 1):
        raise UsageError(f"streams {streams}: must be a whole number of at least 1")


def open_streams(
    path: str | Path,
    count: int,
    device: str | None = None,
    threads: int | None = None,
    imgsz: str | int | tuple[int, int] | None = None,
    foreign: bool = False,
    task: str | None = None,
    outputs: str | None = None,
) -> list[Session]:
    """``count`` sessions of one model that may run at the same time, of ``threads`` threads each.

    Raises:
        UsageError: several streams of a checkpoint; PyTorch has one set of threads a process.
    """
    path = Path(path)
    if fleet.is_index(path):
        return fleet.first(
            fleet.read_index(path),
            device,
            lambda folder: open_streams(folder, count, device, threads, imgsz, foreign, task, outputs),
        )[1]
    how = OpenOptions(task, outputs, imgsz, device, threads)
    found = _artifact(path, parse_imgsz(imgsz) if imgsz is not None else None, foreign, how)
    if found is None and count > 1:
        raise UsageError(f"{path}: PyTorch runs one stream a process; build the model for a target")
    if found is None:
        return [open_session(path, how, foreign=foreign)]
    return _opened(found, count, Opening(device, threads))


def _artifact(path: Path, size: tuple[int, int] | None, foreign: bool, how: OpenOptions) -> _Artifact | None:
    """What ``path`` is; None for what must be a checkpoint."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a bundle, a checkpoint or an exported ONNX file")
    if foreign:
        from edgekit.bundle.external.models import is_foreign, read

        if is_foreign(path):
            model = read(path, size, how.task, how.outputs)
            _check_size(path, model.info, size)
            return _Artifact(model.target, model.path, model.inner, model.wrap)
    if path.is_dir():
        opened = read_bundle(path)
        _check_size(path, opened.info, size)
        target = targets.get(opened.target)
        _warn_of_processor(opened, target, how.device)
        return _Artifact(target, path, opened.info, shapes=opened.shapes)
    if path.suffix == ".onnx":
        info = _onnx_info(path)
        _check_size(path, info, size)
        return _Artifact(targets.reference(), path, info)
    return None


def _warn_of_processor(opened: Bundle, target: Target, device: str | None) -> None:
    quantization = opened.manifest.get("quantization")
    bits = quantization.get("weight_bits") if isinstance(quantization, dict) else None
    sentence = None if target.exact else remark(opened.target, bits, device)
    if sentence:
        warnings.warn(f"{opened.path}: {sentence}", RuntimeWarning, stacklevel=2)


def _check_size(path: Path, info: ModelInfo, size: tuple[int, int] | None) -> None:
    if size not in (None, info.imgsz):
        height, width = info.imgsz
        raise UsageError(
            f"`imgsz` {size[0]},{size[1]}: {path} was built for {height},{width}; build another for that size"
        )


def _onnx_info(path: Path) -> ModelInfo:
    with optional(f"reading {path}", "onnx"):
        from edgekit.graph.document import read_document
    return ModelInfo.from_dict(read_document(path)["info"])


def _torch_session(
    path: Path, how: OpenOptions, size: tuple[int, int] | None, head: str, candidates: int | None
) -> Session:
    with optional(f"{path}: running a checkpoint", "train"):
        from edgekit import checkpoint
        from edgekit.nn.session import TorchSession
    loaded = checkpoint.load(path, replayed=False)  # every attribute was held against ours; a start is to be quick
    info = loaded.info(size, None, head, candidates)
    return TorchSession(loaded.net, info, path, how.device, how.threads)
