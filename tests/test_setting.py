"""The fastest setting for some cameras: what is tried, what is stored, and where it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgekit.bench import cameras
from edgekit.bench.cameras import settings
from edgekit.bench.clock import ClockOptions
from edgekit.bundle.loading import load
from edgekit.bundle.planned import for_all, store
from edgekit.errors import GateError, InputError, UsageError
from edgekit.runtime import processor
from edgekit.runtime.image import write_image
from edgekit.runtime.manifest import MANIFEST, read_bundle
from edgekit.runtime.options import OpenOptions
from edgekit.runtime.setting import Setting, planned
from tests.conftest import Run
from tests.test_predictor import FakeSession
from tests.tiny import tiny_bundle

SCHEMA = Path(__file__).resolve().parents[1] / "docs" / "reference" / "manifest.schema.json"
FOUND = Setting(2, 1, 2)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    return tiny_bundle(tmp_path / "bundle", "detect", "ort-fp32")


@pytest.fixture
def stored(bundle: Path) -> Path:
    store(bundle, FOUND, {"cameras": 4})
    return bundle


def rewritten(folder: Path, **changes: Any) -> Path:
    """The bundle with another ``load`` in its plan."""
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    document["plan"]["load"] |= changes
    (folder / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
    return folder


# ---- what is tried ------------------------------------------------------------------------------------------------


def triples(found: list[Setting]) -> list[tuple[int, int, int | None]]:
    return [(each.streams, each.batch, each.threads) for each in found]


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_no_more_at_once_than_cameras(count: int, cores: int) -> None:
    found = settings(count, None, cores=cores)
    assert triples(found)[0] == (1, 1, None), "the plainest is what others are held against"
    assert all(each.streams * each.batch <= count and each.streams <= cores for each in found)
    assert len(set(found)) == len(found) and (1, count) in {(each.streams, each.batch) for each in found}


def test_a_fixed_batch_is_kept() -> None:
    assert triples(settings(4, 2, cores=4)) == [(1, 2, None), (2, 2, 4)]
    assert triples(settings(2, 8, cores=4)) == [(1, 8, None)]
    with pytest.raises(UsageError):
        settings(4, 2, batches=[4])


def test_what_is_asked_for_is_tried() -> None:
    found = settings(1, None, streams=[2, 1], batches=[4], threads=[3], cores=2)
    assert triples(found) == [(1, 4, 3), (2, 4, 3)]


class Timed:
    """A model whose ``stream`` takes as long as it is told to, by a clock that stands."""

    info, target = FakeSession().info, "fake"

    def __init__(self, clock: list[float], ms: float) -> None:
        self.session, self._clock, self._ms, self.taken = FakeSession(), clock, ms, 0

    def stream(self, sources: list[Iterator[Any]], **_: Any) -> Any:
        frames = [image for source in sources for image in source]
        self.taken = len(frames)
        self._clock[0] += 1e-3 * self._ms * len(frames)
        return nullcontext(iter(frames))

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(("ms", "best"), [((10.0, 8.0, 5.0), 2), ((10.0, 10.0, 12.0), 0), ((10.0, 5.05, 5.0), 1)])
def test_the_fastest_wins_where_it_is_surely_faster(ms: tuple[float, ...], best: int) -> None:
    now = [0.0]
    tried = [Setting(), Setting(1, 2), Setting(2, 2, 2)]
    models: dict[Setting, Any] = {each: Timed(now, took) for each, took in zip(tried, ms, strict=True)}
    how = ClockOptions(min_rounds=8, max_rounds=8)
    found = cameras.race("m", models.__getitem__, [np.zeros((4, 4, 3), np.uint8)], 3, tried, how, timer=lambda: now[0])
    assert found["best"] is found["settings"][best]
    assert [row["frames_per_s"]["p50"] for row in found["settings"]] == pytest.approx([1e3 / took for took in ms])
    assert [models[each].taken for each in tried] == [6, 6, 8], "whole runs of every setting"


# ---- what is stored, and where it is used -------------------------------------------------------------------------


def test_it_is_used_on_this_kind_of_machine_by_who_says_nothing_else(stored: Path) -> None:
    assert planned(stored, OpenOptions()) == OpenOptions(streams=2, batch=1, threads=2)
    for asked in ({"streams": 1}, {"batch": 1}, {"threads": 1}, {"device": "cpu"}):
        how = OpenOptions(**asked)  # type: ignore[arg-type]
        assert planned(stored, how) == how
    with load(stored) as model, load(stored, plan=False) as plain, load(stored, threads=1) as own:
        assert [each.session.streams for each in (model, plain, own)] == [2, 1, 1]


@pytest.mark.parametrize("name", ["model_name", "usable_cpus"])
def test_it_is_left_alone_on_another(stored: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = getattr(processor, name)()
    monkeypatch.setattr(processor, name, lambda: before * 2)
    assert planned(stored, OpenOptions()) == OpenOptions()


def test_the_rest_of_the_bundle_stays(bundle: Path) -> None:
    before = read_bundle(bundle).manifest
    store(bundle, Setting(), {"cameras": 1})
    store(bundle, FOUND, {"cameras": 4})
    after = dict(read_bundle(bundle).manifest)
    plan = after.pop("plan")
    assert after == before and plan["cameras"] == {"cameras": 4}
    assert planned(bundle, OpenOptions()).streams == 2


@pytest.mark.parametrize(
    "changes",
    [{"streams": 0}, {"streams": "two"}, {"streams": None}, {"batch": True}, {"threads": 1 << 20}, {"batch": 4}],
)
def test_a_plan_that_cannot_be(stored: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        load(rewritten(stored, **changes))


def test_no_setting_goes_into_what_is_signed_altered_or_no_bundle(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        store(tmp_path, FOUND, {})
    (bundle / "model.sig").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError):
        store(bundle, FOUND, {})
    (bundle / "model.sig").unlink()
    (bundle / "model.onnx").write_bytes(b"another")
    with pytest.raises(GateError):
        store(bundle, FOUND, {})


# ---- the command --------------------------------------------------------------------------------------------------


def test_the_command_races_and_stores(run: Run, bundle: Path) -> None:
    words = ("--cameras", 2, "--streams", "1,2", "--threads", 2, "--budget", 1, "--store", "--json")
    code, out, error = run("bench", bundle, *words)
    assert code == 0, error
    (record,) = json.loads(out)
    assert record["cameras"] == 2 and record["best"] in record["settings"]
    assert [(row["streams"], row["batch"], row["threads"]) for row in record["settings"]] == [(1, 1, 2), (2, 1, 2)]
    jsonschema.validate(read_bundle(bundle).manifest, json.loads(SCHEMA.read_text(encoding="utf-8")))
    plan = read_bundle(bundle).manifest["plan"]
    assert all(plan["load"][key] == record["best"][key] for key in ("streams", "batch", "threads"))
    assert plan["cameras"]["settings"] == record["settings"]
    write_image(bundle.parent / "a.png", np.full((64, 96, 3), 90, np.uint8))
    code, out, error = run("predict", bundle, bundle.parent / "a.png", "--json")
    assert code == 0 and len(json.loads(out)) == 1, error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cameras", 0), "cameras"),
        (("--store",), "cameras"),
        (("--cameras", 2, "--throughput"), "cameras"),
        (("--cameras", 2, "--batches", 4), "batches"),
        (("--cameras", 2, "--cold"), "cold"),
    ],
)
def test_what_the_command_refuses(run: Run, bundle: Path, words: tuple[Any, ...], says: str) -> None:
    code, out, error = run("bench", bundle, *words)
    assert code == 2 and out == "" and says in error


def test_a_signed_bundle_is_refused_before_it_is_timed(run: Run, bundle: Path) -> None:
    (bundle / "model.sig").write_text("{}", encoding="utf-8")
    code, _, error = run("bench", bundle, "--cameras", 2, "--store")
    assert code == 2 and "store" in error


# ---- many images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "streams", "threads"),
    [({"threads": 3}, 3, 3), ({"threads": 20}, 8, 20), ({"streams": 2}, 2, None), ({"device": "GPU"}, None, None)],
)
def test_of_many_images_each_has_a_thread(
    bundle: Path, asked: dict[str, Any], streams: int | None, threads: int | None
) -> None:
    found = for_all(bundle, OpenOptions(**asked))
    assert (found.streams, found.threads) == (streams, threads)


def test_as_many_as_there_are_processors_and_none_of_a_gpu_s(bundle: Path, tmp_path: Path) -> None:
    found = for_all(bundle, OpenOptions())
    assert found.threads == processor.usable_cpus() and found.streams == min(processor.usable_cpus(), 8)
    assert for_all(tmp_path / "yolo12n.pt", OpenOptions()) == OpenOptions()
    document = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    (bundle / MANIFEST).write_text(json.dumps(document | {"target": "trt-fp16"}), encoding="utf-8")
    assert for_all(bundle, OpenOptions()) == OpenOptions()


WHERE = """
import os, sys, threading
from contextlib import suppress
import numpy as np
import edgekit

model, image = edgekit.load(sys.argv[1], threads=1), np.zeros((480, 640, 3), np.uint8)
seen, over = set(), threading.Event()

def work():
    for _ in range(200):
        model(image)
    over.set()

threading.Thread(target=work).start()
while not over.wait(0.001):
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has just ended
            seen.add(len(os.sched_getaffinity(int(task))))
print(min(seen))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not say where threads may run")
@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32"])
def test_fewer_threads_than_processors_are_tied_to_none(target: str, tmp_path: Path) -> None:
    """Two processes of one thread each, as Ray's actors and shards are, were both tied to the first processor."""
    pytest.importorskip({"ort-fp32": "onnxruntime", "ov-fp32": "openvino"}[target])
    if processor.usable_cpus() < 2:
        pytest.skip("needs two processors")
    path = tiny_bundle(tmp_path / "bundle", "detect", target)
    done = subprocess.run([sys.executable, "-c", WHERE, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1
