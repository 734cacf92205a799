"""Predictors in other processes: pools, tables, Ray."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.loading import load
from edgekit.bundle.portable import PortablePredictor
from edgekit.errors import InputError, UsageError
from tests.conftest import Run
from tests.test_many import bundle as bundle
from tests.test_many import photos as photos
from tests.tiny import tiny_bundle


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_multiprocessing(target: str, start: str, photos: Path, tmp_path: Path) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    model = tiny_bundle(tmp_path / "model", "detect", target)
    paths = [str(path) for path in sorted((photos / "d0").glob("*.png"))]
    predict = PortablePredictor(model, conf=0.1)
    expected = [result.to_dict() for result in predict(paths)]  # opened before the fork, too
    with multiprocessing.get_context(start).Pool(2) as pool:
        found = [result.to_dict() for [result] in pool.imap(predict, paths, chunksize=3)]
    assert found == expected and any(row["labels"] for row in found)
    with load(model, conf=0.1) as alone:
        assert [result.to_dict() for result in alone(paths)] == expected


def test_a_pickle_holds_no_model(bundle: Path, photos: Path) -> None:
    predict = PortablePredictor(bundle, conf=0.1)
    before = pickle.dumps(predict)
    predict(photos / "d0" / "00.png")
    assert pickle.dumps(predict) == before and len(before) < 2000
    assert pickle.loads(before).predictor is predict.predictor  # one a process
    assert PortablePredictor(bundle, conf=0.2).predictor is not predict.predictor
    with pytest.raises(UsageError):
        PortablePredictor(bundle, conf=2)


def test_tables(bundle: Path, photos: Path) -> None:
    pandas = pytest.importorskip("pandas")
    paths = [str(photos / "d0" / "00.png"), str(photos / "d1" / "bad.png"), str(photos / "d2" / "02.png")]
    predict = PortablePredictor(bundle, conf=0.1, batch=2)
    frame = pandas.DataFrame({"image": paths, "camera": [1, 2, 3]})
    [table] = predict.tables([frame])
    assert list(table.columns) == ["image", "camera", "prediction"]
    found = [json.loads(text) for text in table["prediction"]]
    assert "error" in found[1] and [row["image"] for row in found] == paths
    with load(bundle, conf=0.1) as alone:
        for i in (0, 2):
            row = {key: value for key, value in found[i].items() if key not in ("height", "width")}
            assert row == alone(paths[i])[0].to_dict()
    columns = {"image": np.array(paths), "bytes": np.array([Path(path).read_bytes() for path in paths], object)}
    assert list(predict.table(columns)["prediction"]) == list(table["prediction"])
    with pytest.raises(InputError):
        predict.table({"picture": paths})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray with two workers on this machine."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("pyarrow")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_ray_gives_what_the_plain_command_gives(
    run: Run, bundle: Path, photos: Path, tmp_path: Path, cluster: Any
) -> None:
    base = ("predict", bundle, photos, "--conf", "0.1", "--format", "jsonl", "--out")
    assert run(*base, tmp_path / "one")[0] == 0
    code, _, error = run(*base, tmp_path / "two", "--engine", "ray", "--actors", 2)
    assert code == 0, error
    for name in ("predictions.jsonl", "errors.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    code, _, error = run(*base, tmp_path / "two", "--engine", "ray", "--resume")
    assert code == 0 and "complete" in error


@pytest.mark.slow
def test_a_worker_of_ray_killed_in_mid_run(run: Run, bundle: Path, photos: Path, tmp_path: Path, cluster: Any) -> None:
    psutil = pytest.importorskip("psutil")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted(photos.rglob("*.png")) * 60))
    base = ("predict", bundle, f"@{listed}", "--conf", "0.1", "--format", "jsonl", "--out")
    assert run(*base, tmp_path / "one")[0] == 0
    killed: list[int] = []

    def kill() -> None:
        written = tmp_path / "two" / "shard-00000-of-00001" / "ray-written"
        while not (written.is_dir() and any(written.iterdir())):
            time.sleep(0.005)
        processes = [(p, " ".join(p.info["cmdline"] or ())) for p in psutil.process_iter(["cmdline"])]
        workers = [p for p, command in processes if "MapWorker(MapBatches(_Worker" in command]
        os.kill(workers[0].pid, signal.SIGKILL)
        killed.append(workers[0].pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    code, _, error = run(*base, tmp_path / "two", "--engine", "ray", "--actors", 2)
    assert code == 0 and killed, error
    for name in ("predictions.jsonl", "errors.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_ray_s_command_killed_and_resumed(run: Run, bundle: Path, photos: Path, tmp_path: Path, cluster: Any) -> None:
    """What actors had written is kept, but for a file that its machine did not finish."""
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted(photos.rglob("*.png")) * 60))
    base = ("predict", bundle, f"@{listed}", "--conf", "0.1", "--format", "jsonl", "--out")
    assert run(*base, tmp_path / "one")[0] == 0
    written = tmp_path / "two" / "shard-00000-of-00001" / "ray-written"
    command = [sys.executable, "-m", "edgekit", *map(str, base), str(tmp_path / "two"), "--engine", "ray"]
    with subprocess.Popen([*command, "--actors", "1"], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(written.glob("*.parquet"))) < 3:
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    kept = sorted(written.glob("*.parquet"))
    kept[1].write_bytes(kept[1].read_bytes()[:200])
    before = kept[0].stat().st_mtime_ns
    seen: list[int] = []

    def look() -> None:
        while written.is_dir():
            if kept[0].exists():
                seen.append(kept[0].stat().st_mtime_ns)
            time.sleep(0.002)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    code, _, error = run(*base, tmp_path / "two", "--engine", "ray", "--actors", 2, "--resume")
    assert code == 0 and set(seen) == {before}, error
    for name in ("predictions.jsonl", "errors.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_the_actor_class_in_a_pipeline_of_ray_data(bundle: Path, photos: Path, cluster: Any) -> None:
    import ray.data

    from edgekit.bundle.ray import RayPredictor

    paths = [str(path) for path in sorted((photos / "d0").glob("*.png"))]
    table = ray.data.from_items([{"image": path} for path in paths]).map_batches(
        RayPredictor,
        fn_constructor_kwargs={"model": str(bundle), "conf": 0.1},
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=4,
    )
    found = {row["image"]: json.loads(row["prediction"]) for row in table.take_all()}
    with load(bundle, conf=0.1) as alone:
        assert [found[path]["boxes"] for path in paths] == [r.to_dict()["boxes"] for r in alone(paths)]


def test_a_cluster_that_does_not_answer(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("a cluster is connected")
    base = ("predict", bundle, photos, "--format", "jsonl", "--engine", "ray", "--out", tmp_path / "o", "--address")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "somewhere"):
        code, _, error = run(*base, address)
        assert code == 2 and address in error and "Traceback" not in error
