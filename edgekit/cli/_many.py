"""`edgekit predict --format`: many images into parts, and parts into one output."""

from __future__ import annotations

import shutil
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli._common import console, note
from edgekit.cli._progress import Counted
from edgekit.errors import InputError, TruncatedWarning, UsageError, command_line

if TYPE_CHECKING:
    from edgekit.runtime.many.merge import Merged
    from edgekit.runtime.many.options import ManyOptions
    from edgekit.runtime.options import OpenOptions, Options


@dataclass(frozen=True)
class Request:
    """What was asked for: ``model``, ``sources``, ``out``, images a run, videos' ``stride``, how the model is opened
    and what is kept."""

    model: Path
    sources: list[str]
    out: Path
    batch: int | None
    stride: int
    how: OpenOptions
    kept: Options
    classes: str | None


def run(request: Request, asked: ManyOptions) -> None:
    """Work through a shard; of all images, join them afterwards, too."""
    from edgekit.runtime.many import formats, shards
    from edgekit.runtime.many.listing import check_sources

    shard = shards.parse(asked.shard)
    formats.get(str(asked.format)).check()
    check_sources(request.sources)
    folder = _folder(request.out, shard, asked)
    if asked.engine == "ray":
        _with_ray(request, asked, shard, folder)
    else:
        _here(request, asked, shard, folder)
    if shard.count == 1:
        joined(request.out)
    else:
        advice = command_line("predict", merge=request.out)
        console().print(f"shard {shard} is complete; when all are: {advice}", soft_wrap=True, markup=False)


def joined(out: Path) -> Merged:
    """Join what all shards wrote, and say what came of it."""
    from edgekit.runtime.many.merge import merge
    from edgekit.runtime.many.parts import ERRORS

    done = merge(out)
    console().print(f"wrote {done.output}: {done.images - done.errors} images", soft_wrap=True, markup=False)
    if done.errors:
        note(f"{done.errors} of {done.images} files could not be used (whole); they are named in {out / ERRORS}")
    if done.images == done.errors:
        raise InputError(f"none of the {done.images} files could be used; {out / ERRORS} says why")
    return done


def _folder(out: Path, shard: Any, asked: ManyOptions) -> Path:
    """The shard's folder, made.

    Raises:
        UsageError: ``out`` holds something else, or results without `resume`.
    """
    from edgekit.runtime.many.merge import LEFT, shards_in
    from edgekit.runtime.many.parts import parts_in

    folder: Path = out / shard.folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        if asked.force:
            shutil.rmtree(folder, ignore_errors=True)
        others = shards_in(out)
        known = LEFT if asked.force else set()
        if not others and any(path.name not in known for path in out.iterdir()):
            raise UsageError(f"`out` {out}: holds other things than results of `format`; choose an empty folder")
        if others and others[0].count != shard.count:
            raise UsageError(f"`out` {out}: is of a run in {others[0].count} shards, not {shard.count}; "
                             "choose another folder")  # fmt: skip
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"`out` {out}: cannot be made ({error.strerror or error})") from None
    if parts_in(folder) and not asked.resume:
        raise UsageError(f"`out` {out}: has results of {'a run' if shard.count == 1 else f'shard {shard}'} already; "
                         "`resume` to go on, `force` to begin anew")  # fmt: skip
    return folder


def opened(request: Request, asked: ManyOptions) -> Any:
    """The predictor that was asked for."""
    from dataclasses import replace

    from edgekit.bundle.loading import open_session
    from edgekit.bundle.planned import for_all
    from edgekit.cli._common import parse_classes
    from edgekit.runtime.many import tracks
    from edgekit.runtime.many.tiles import Tiled
    from edgekit.runtime.predictor import Predictor
    from edgekit.runtime.setting import planned

    how = request.how if asked.tile or request.batch else planned(request.model, request.how)
    if asked.tile or (asked.format and how == request.how):  # many tiles of a picture, or many pictures
        how = for_all(request.model, how)
    session = open_session(request.model, how, foreign=True)
    kept = replace(request.kept, classes=parse_classes(request.classes, session.info.names))
    if asked.scoring:
        from edgekit.runtime.options import SCORING

        kept = replace(SCORING, max_det=kept.max_det, classes=kept.classes)
    if asked.track:
        tracks.check(session.info)
    batch = session.info.batch or request.batch or how.batch
    if asked.tile:
        return Tiled(session, kept, batch, asked.tile, asked.overlap)
    return Predictor(session, kept, batch)


def _here(request: Request, asked: ManyOptions, shard: Any, folder: Path) -> None:
    """Work through a shard in this process."""
    from edgekit.runtime.many import formats
    from edgekit.runtime.many.parts import ERRORS, Parts
    from edgekit.runtime.many.shards import locked
    from edgekit.runtime.many.work import Task, work

    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        predictor = stack.enter_context(opened(request, asked))
        keep_record(request, asked, predictor, folder)
        if _complete(folder, shard):
            return
        crops = request.out if asked.save_crops else None
        task = Task(request.sources, shard, request.stride, crops, asked.track, asked.strict)
        parts = stack.enter_context(Parts(folder, formats.get(str(asked.format)), asked.part_size))
        counter = stack.enter_context(Counted("predicting"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", TruncatedWarning)  # rows say it
        done = work(predictor, task, parts, counter.reach)
    if done.errors and shard.count > 1:
        note(f"{done.errors} files could not be used (whole); they are named in {folder / ERRORS}")


def keep_record(request: Request, asked: ManyOptions, predictor: Any, folder: Path) -> None:
    """Note in the shard's folder what the results are of, or hold it against what is noted there and by others."""
    from edgekit.runtime.many.record import NAME, Record

    session = predictor.session
    mine = Record.of(request.model, session.target, session.info, predictor.options, asked, request.sources,
                     request.stride)  # fmt: skip
    for path in sorted(folder.parent.glob(f"shard-*/{NAME}")):
        mine.check(Record.read(path.parent), path.parent)
    mine.write(folder)


def _with_ray(request: Request, asked: ManyOptions, shard: Any, folder: Path) -> None:
    """Let a Ray cluster work through everything."""
    from edgekit.bundle import ray
    from edgekit.cli._progress import Phases
    from edgekit.runtime.many import formats
    from edgekit.runtime.many.parts import Parts
    from edgekit.runtime.many.shards import locked

    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        with opened(request, asked) as predictor:  # all that can be refused, before a cluster is asked
            keep_record(request, asked, predictor, folder)
            kept = predictor.options
        if _complete(folder, shard):
            return
        portable = ray.arguments(request.model, request.how, kept, request.batch, asked.tile, asked.overlap)
        cluster = ray.Cluster(asked.address, asked.actors)
        parts = stack.enter_context(Parts(folder, formats.get(str(asked.format)), asked.part_size))
        stack.enter_context(Phases("predicting with Ray"))
        ray.predict(portable, request.sources, parts, cluster, request.stride, asked.strict)


def _complete(folder: Path, shard: Any) -> bool:
    """Whether all of a shard is there; then that is said."""
    from edgekit.runtime.many.parts import done_in, parts_in

    done = done_in(folder)
    if done and sum(part.end - part.first for part in parts_in(folder)) == shard.size(done.total):
        note(f"{folder} is complete already")
        return True
    return False
