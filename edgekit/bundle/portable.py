"""A predictor that travels: it is pickled as what to open and how, and opens its model where it is first used, once a
process. For multiprocessing, Dask, Spark, Ray and whatever else sends functions to other processes.

    predict = PortablePredictor("yolo12n-ov", conf=0.4)
    with multiprocessing.Pool(4) as pool:
        for [result] in pool.imap(predict, paths, chunksize=16): ...
    table.map_partitions(predict.table)                     # Dask; Spark: mapInPandas(predict.tables, schema)
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError
from edgekit.runtime.many.listing import Item
from edgekit.runtime.many.work import Job, Task, answer
from edgekit.runtime.options import OpenOptions, Options
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.results import Result

IMAGE, BYTES, PREDICTION = "image", "bytes", "prediction"

_opened: dict[object, Predictor] = {}
_process = os.getpid()
_lock = threading.Lock()


class PortablePredictor:
    """Any model as a function that other processes can be sent.

    Args:
        model: what ``edgekit.load`` opens; the path is the same on every machine.
        how: how it is opened.
        options: what is kept of what it finds.
        batch: images per run where the model takes any number.
        tile, overlap: look at large pictures in tiles (``edgekit.runtime.many.tiles``).
        **changes: fields of ``Options`` to change.
    """

    def __init__(
        self,
        model: str | Path,
        how: OpenOptions | None = None,
        options: Options | None = None,
        batch: int | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
        **changes: Any,
    ) -> None:
        self.model = str(model)
        self.how = how or OpenOptions()
        self.options = (options or Options()).changed(changes)
        self.batch, self.tile, self.overlap = batch, tile, overlap

    @property
    def predictor(self) -> Predictor:
        """The model, opened in this process."""
        global _opened, _process, _lock
        if os.getpid() != _process:  # forked: what was opened before stayed with its threads, the lock may be taken
            _opened, _process, _lock = {}, os.getpid(), threading.Lock()
        key = repr((self.model, self.how, self.options, self.batch, self.tile, self.overlap))
        with _lock:
            if key not in _opened:
                _opened[key] = self._open()
            return _opened[key]

    def __call__(self, images: object) -> list[Result]:
        """Results of one or many images, as ``Predictor`` gives them."""
        return self.predictor.predict(images)

    def table(self, table: Any) -> Any:
        """A batch of a table with a column more: ``prediction``, what ``predict --json`` says of an image as JSON text,
        or an ``error``.

        Args:
            table: a pandas DataFrame, or a mapping from names to columns: ``image`` (paths or addresses) and, where
                the images are not to be read from there, ``bytes`` (of their files). Other columns are kept.

        Raises:
            InputError: it has no column ``image``.
        """
        columns = table.columns if hasattr(table, "columns") else table.keys()
        if IMAGE not in columns:
            raise InputError(f"a table with the columns {', '.join(map(str, columns))}: none is called {IMAGE!r}")
        data: Sequence[Any] = list(table[BYTES]) if BYTES in columns else [None] * len(table[IMAGE])
        items = [
            Item(str(key), data=None if each is None else bytes(each))
            for key, each in zip(table[IMAGE], data, strict=True)
        ]
        texts = [json.dumps(row, allow_nan=False) for row in self._rows(items)]
        if hasattr(table, "assign"):
            return table.assign(**{PREDICTION: texts})
        return {**table, PREDICTION: np.array(texts, object)}

    def tables(self, tables: Iterable[Any]) -> Iterator[Any]:
        """``table`` of each; what Spark's ``mapInPandas`` wants."""
        return (self.table(table) for table in tables)

    def rows(self, jobs: Sequence[Job], stride: int = 1) -> list[list[dict[str, Any]]]:
        """The rows that ``predict --format`` writes of each job."""
        found, batch = [], self.predictor.batch
        for i in range(0, len(jobs), batch):
            found += [list(rows) for rows in answer(self.predictor, Task((), stride=stride), jobs[i : i + batch])]
        return found

    def _rows(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        for rows in self.rows([Job(0, item, "") for item in items]):
            first = rows[0] if rows else {}
            yield {key: value for key, value in first.items() if key != "index"}

    def _open(self) -> Predictor:
        from edgekit.bundle.loading import open_session
        from edgekit.runtime.many.tiles import Tiled

        session = open_session(self.model, self.how, foreign=True)
        batch = session.info.batch or self.batch
        if self.tile:
            return Tiled(session, self.options, batch, self.tile, self.overlap)
        return Predictor(session, self.options, batch)
