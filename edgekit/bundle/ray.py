"""Ray Data: an actor class for ``map_batches``, and the engine behind ``edgekit predict --engine ray``.

    table = ray.data.read_images("s3://bucket/pictures", ...)        # or any table with a column ``image``
    table.map_batches(RayPredictor, fn_constructor_kwargs={"model": "yolo12n-ov"}, concurrency=4, batch_size=16)

Sharing out and retries are Ray Data's; an actor holds one opened model, reads its pictures and writes what it finds
where every machine sees it. What was written, in any order and perhaps twice, is put in order at the end, so that the
output is the plain command's, byte for byte.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from edgekit.bundle.portable import PortablePredictor
from edgekit.errors import EdgekitError, InputError, UsageError, optional
from edgekit.runtime.atomic import replacing
from edgekit.runtime.many.formats import line
from edgekit.runtime.many.listing import Item, data_of
from edgekit.runtime.many.parts import Done, Parts
from edgekit.runtime.many.shards import Shard
from edgekit.runtime.many.work import Job, Listing
from edgekit.runtime.options import OpenOptions, Options
from edgekit.runtime.silence import quiet_loggers
from edgekit.runtime.sources import is_address

LEAST, MOST = 16, 128  # images of a list, which is what one file is written of
LIST_BYTES = 32 << 20  # of pictures that travel with a list, at most
BLOCKS = 2000  # at most, that Ray keeps account of
PATIENCE_S = 10.0  # for an address to answer
ITEM = ("key", "archive", "offset", "size", "data", "problem")
LISTING, WRITTEN, NOTE = "ray-listing", "ray-written", "ray.json"
AHEAD = 2  # blocks that wait for an actor
READERS = 8  # threads of an actor that wait for a store

Columns = dict[str, Any]


class RayPredictor:
    """An actor of ``ray.data.Dataset.map_batches``; its arguments are ``PortablePredictor``'s. It adds a column to
    every batch: see ``PortablePredictor.table``."""

    def __init__(self, **how: Any) -> None:
        self.portable = PortablePredictor(**how)
        self.portable.predictor  # noqa: B018 - opened before the first batch

    def __call__(self, batch: Columns) -> Columns:
        found: Columns = self.portable.table(batch)
        return found


@dataclass(frozen=True)
class Cluster:
    """What of a cluster is used.

    Attributes:
        address: of its head, ``auto`` for the one of this machine; None starts one.
        actors: models at once; None for one a CPU (or a GPU).
    """

    address: str | None = None
    actors: int | None = None


def predict(
    portable: Mapping[str, Any],
    sources: Sequence[str],
    parts: Parts,
    cluster: Cluster,
    stride: int = 1,
    strict: bool = False,
) -> Done:
    """Work through everything that is listed on a Ray cluster, and write it to ``parts``, whose folder every machine of
    the cluster sees by the same name.

    Args:
        portable: arguments of ``PortablePredictor``.

    Raises:
        InputError: nobody answers at the address, or there is nothing to do.
        UsageError: the folder has results of other sources.
        EdgekitError: Ray gave up.
    """
    ray = _connected(cluster.address)
    folder = parts.folder.resolve()
    listing = _listed(sources, folder, parts)
    if not listing.total:
        raise InputError(f"{', '.join(sources)}: there are no images or videos")
    if any((folder / LISTING).iterdir()):
        _run(ray, portable, folder, cluster, stride)
    with closing(_collected(folder)) as database:
        for index, mark in _marks(sources):
            if index < parts.done:
                continue
            found = database.execute("SELECT rows FROM found WHERE place = ?", (index,)).fetchone()
            if found is None:
                raise EdgekitError(f"{folder}: Ray left out image {index}; `resume` to have it done")
            parts.add(_rows(found[0], strict), mark)
    done = parts.finish(listing.total, listing.mark)
    for name in (LISTING, WRITTEN):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / NOTE).unlink(missing_ok=True)
    return done


def _marks(sources: Sequence[str]) -> Iterator[tuple[int, str]]:
    return ((job.index, job.mark) for job in Listing(sources).jobs(Shard()))


def _rows(text: bytes, strict: bool) -> Iterator[Columns]:
    for each in text.splitlines():
        row: Columns = json.loads(each)
        if strict and "error" in row:
            raise InputError(str(row["error"]))
        yield row


# ---- the cluster ------------------------------------------------------------------------------------------------


def _connected(address: str | None) -> Any:
    """Ray's module, connected.

    Raises:
        InputError: nobody answers at the address.
    """
    with optional("`engine` ray", "ray", "ray[data]"):
        import pyarrow.parquet  # noqa: F401
        import ray
        import ray.data
    if ray.is_initialized():
        return ray
    if address not in (None, "auto", "local"):
        _check_answer(str(address))
    try:
        alone: Any = {"include_dashboard": False} if address in (None, "local") else {}
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **alone)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"`address` {address}: no Ray cluster can be used there ({reason})") from None
    return ray


def _check_answer(address: str) -> None:
    """Whether anybody listens there: Ray itself tries for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        raise UsageError(f"`address` {address}: write HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"`address` {address}: nobody answers there ({error}); is the cluster up?") from None


def _run(ray: Any, portable: Mapping[str, Any], folder: Path, cluster: Cluster, stride: int) -> None:
    """Have Ray write the rows of everything in the listing."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    how: OpenOptions = portable.get("how") or OpenOptions()
    on_gpu = bool(how.device) and not str(how.device).lower().startswith("cpu")
    threads = how.threads or 1
    have = ray.cluster_resources()
    actors = cluster.actors or max(int(have.get("GPU" if on_gpu else "CPU", 1) // (1 if on_gpu else threads)), 1)
    lists = [str(path) for path in sorted((folder / LISTING).iterdir())]
    # Actors read what they predict and write what they find: tasks beside them would wait for the CPUs that actors hold
    # or, asking for none, start process after process, each of which imports Ray for seconds of CPU time.
    table = ray.data.from_items(lists, override_num_blocks=min(len(lists), BLOCKS)).map_batches(
        _Worker,
        fn_constructor_args=[dict(portable, how=replace(how, threads=threads)), stride, str(folder / WRITTEN)],
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=AHEAD),
        num_cpus=threads,
        num_gpus=1 if on_gpu else 0,
    )
    try:
        with quiet_loggers("ray.data"):  # which tells of every stage
            table.materialize()  # numbers of images alone
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EdgekitError(f"{folder}: Ray gave up ({reason}); what is complete is kept for `resume`") from error


class _Worker:
    """The engine's actor: from parts of the listing to files of rows in ``written``, each whole or not there."""

    def __init__(self, portable: Mapping[str, Any], stride: int, written: str) -> None:
        self.portable, self.stride, self.written = PortablePredictor(**portable), stride, Path(written)
        self.portable.predictor  # noqa: B018

    def __call__(self, lists: Columns) -> Iterator[Columns]:
        import pyarrow.parquet as pq

        for path in map(Path, lists["item"]):
            batch = pq.read_table(path).to_pydict()
            if not any(self.written.glob(f"{path.stem}-*.parquet")):  # else by an actor that was lost later
                self._write(path.stem, batch)
            yield {"images": np.array([len(batch["place"])])}

    def _write(self, name: str, batch: Columns) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        jobs = [Job(int(index), item, "") for index, item in zip(batch["place"], _fetched(batch), strict=True)]
        texts = [b"".join(line(row) for row in rows) for rows in self.portable.rows(jobs, self.stride)]
        # A name of its own: one that was given up for lost may be writing the same.
        with replacing(self.written / f"{name}-{uuid4().hex}.parquet") as partial:
            pq.write_table(pa.table({"place": batch["place"], "rows": texts}), partial)


def _fetched(batch: Columns) -> list[Item]:
    """The items of a part of the listing, with their bytes where a store has them."""
    items = list(_items(batch))
    if not any(is_address(item.archive or item.key) for item in items):
        return items
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_with_data, items))


def _with_data(item: Item) -> Item:
    """Of what cannot be read it is said later, where it is missed."""
    if item.problem or not is_address(item.archive or item.key):
        return item
    try:
        data = data_of(item)
    except InputError:
        return item
    return item if data is None else replace(item, archive="", data=data)


def _items(batch: Columns) -> Iterator[Item]:
    for key, archive, offset, size, data, problem in zip(*(batch[name] for name in ITEM), strict=True):
        yield Item(str(key), str(archive), int(offset), int(size), None if data is None else bytes(data), str(problem))


# ---- before and after -------------------------------------------------------------------------------------------


def _listed(sources: Sequence[str], folder: Path, parts: Parts) -> Listing:
    """Write the listing, without what is done, for Ray to read.

    Raises:
        UsageError: what is done is of another listing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder / LISTING
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (folder / WRITTEN).mkdir(exist_ok=True)
    listing = Listing(sources)
    for job in listing.jobs(Shard()):  # once to know what it is, before anything is left out of it
        if job.index == parts.done - 1 and job.mark != parts.mark:
            raise _changed(folder)
    _check_note(folder, listing)
    with closing(_collected(folder)) as database:
        wanted = (job for job in Listing(sources).jobs(Shard()) if job.index >= parts.done and not _has(database, job))
        for jobs in _lists(wanted, min(max(listing.total // BLOCKS, LEAST), MOST)):
            rows = [{"place": job.index, **{name: getattr(job.item, name) for name in ITEM}} for job in jobs]
            pq.write_table(pa.Table.from_pylist(rows, _schema(pa)), place / f"{jobs[0].index:012d}.parquet")
    return listing


def _has(database: sqlite3.Connection, job: Job) -> bool:
    return bool(database.execute("SELECT 1 FROM found WHERE place = ?", (job.index,)).fetchone())


def _lists(jobs: Iterable[Job], most: int) -> Iterator[list[Job]]:
    """Lists of ``most`` jobs, shorter where their pictures travel with them."""
    waiting: list[Job] = []
    size = 0
    for job in jobs:
        waiting.append(job)
        size += len(job.item.data or b"")
        if len(waiting) == most or size > LIST_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


def _schema(pa: Any) -> Any:
    kinds = {"place": pa.int64(), "key": pa.string(), "archive": pa.string(), "offset": pa.int64(), "size": pa.int64()}
    return pa.schema(list({**kinds, "data": pa.binary(), "problem": pa.string()}.items()))


def _changed(folder: Path) -> UsageError:
    return UsageError(f"{folder}: the sources have changed since it was begun; go on with the same ones, or begin anew "
                      "with `force`")  # fmt: skip


def _check_note(folder: Path, listing: Listing) -> None:
    """Whether what Ray wrote earlier is of this listing."""
    note = {"total": listing.total, "listing": listing.mark}
    path = folder / NOTE
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != note and (folder / WRITTEN).is_dir():
        raise _changed(folder)
    with replacing(path) as partial:
        partial.write_text(json.dumps(note) + "\n", encoding="utf-8")


def _collected(folder: Path) -> sqlite3.Connection:
    """What actors have written, by place, in a temporary file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    database = sqlite3.connect("")
    database.execute("CREATE TABLE found (place INTEGER PRIMARY KEY, rows BLOB)")
    for path in sorted((folder / WRITTEN).glob("*.parquet")) if (folder / WRITTEN).is_dir() else ():
        try:
            table = pq.read_table(path, columns=["place", "rows"]).to_pydict()
        except (pa.ArrowException, OSError):  # was being written when its machine died
            with suppress(OSError):
                path.unlink()
            continue
        pairs = zip(table["place"], table["rows"], strict=True)
        database.executemany("INSERT OR IGNORE INTO found VALUES (?, ?)", pairs)
    return database


def arguments(
    model: Path, how: OpenOptions, options: Options, batch: int | None, tile: int | None, overlap: float
) -> Columns:
    """``PortablePredictor``'s arguments, as the other machines need them."""
    path = str(model.resolve())
    return {"model": path, "how": how, "options": options, "batch": batch, "tile": tile, "overlap": overlap}
