"""Pictures in S3, of a server on this machine: `pip install s3fs 'moto[s3]' flask flask-cors` (large: in no extra)."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.image import write_image
from edgekit.runtime.many import listing
from tests.conftest import Run
from tests.test_many import bundle as bundle
from tests.test_many import photos as photos
from tests.test_many import rows

HOW = "pip install s3fs 'moto[s3]' flask flask-cors"
ARCHIVED, SIDE = 12, 300  # noise of that side is 270 kB as PNG


class Counted:
    """A web application whose answers' bytes are counted."""

    def __init__(self, application: Any) -> None:
        self.application, self.sent = application, 0

    def __call__(self, environment: Any, start: Any) -> Iterable[bytes]:
        chunks = [bytes(chunk) for chunk in self.application(environment, start)]
        self.sent += sum(map(len, chunks))
        return chunks


@pytest.fixture(scope="module")
def store(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Counted]]:
    """A bucket with the photos, archives of them and of large pictures, and a list; and what the server sent."""
    s3fs = pytest.importorskip("s3fs", reason=HOW)
    moto = pytest.importorskip("moto.server", reason=HOW)
    serving = pytest.importorskip("werkzeug.serving", reason=HOW)
    counted = Counted(moto.DomainDispatcherApplication(moto.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        system = s3fs.S3FileSystem()
        system.mkdir("bucket")
        system.put(str(photos), "bucket/photos", recursive=True)
        for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
            with tarfile.open(folder / name, mode) as tar:  # type: ignore[call-overload]
                tar.add(photos, "photos")
        (folder / "cut.tar").write_bytes((folder / "a.tar").read_bytes()[:30_000])
        rng = np.random.default_rng(0)
        with tarfile.open(folder / "large.tar", "w") as tar:
            for i in range(ARCHIVED):
                write_image(folder / "large.png", rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
                tar.add(folder / "large.png", f"{i:02}.png")
        for path in folder.glob("*.tar*"):
            system.put(str(path), f"bucket/{path.name}")
        yield system, counted
    server.shutdown()


def test_s3(run: Run, bundle: Path, photos: Path, tmp_path: Path, store: tuple[Any, Counted]) -> None:
    base = ("predict", bundle, "--format", "jsonl", "--conf", "0.1", "--out")
    assert run(*base, tmp_path / "local", photos)[0] == 0
    expected = {Path(row["image"]).name: row["boxes"] for row in rows(tmp_path / "local" / "predictions.jsonl")}
    for i, source in enumerate(("photos", "photos/", "photos/*/*.png", "a.tar", "a.tar.gz")):
        code, _, error = run(*base, tmp_path / str(i), f"s3://bucket/{source}")
        assert code == 0, error
        found = rows(tmp_path / str(i) / "predictions.jsonl")
        assert {row["image"].rpartition("/")[2]: row["boxes"] for row in found} == expected, source
        [wrong] = rows(tmp_path / str(i) / "errors.jsonl")
        assert wrong["image"].endswith("bad.png")


def test_shards_and_resume_over_s3(run: Run, bundle: Path, tmp_path: Path, store: tuple[Any, Counted]) -> None:
    base = ("predict", bundle, "s3://bucket/photos", "--format", "jsonl", "--conf", "0.1", "--out")
    assert run(*base, tmp_path / "one")[0] == 0
    for i in (0, 1):
        for _ in range(2):
            assert run(*base, tmp_path / "two", "--shard", f"{i}/2", "--resume")[0] == 0
    assert run("predict", "--merge", tmp_path / "two")[0] == 0
    one, two = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two


def test_of_an_archive_a_picture_s_bytes_are_fetched(store: tuple[Any, Counted]) -> None:
    _, counted = store
    items = list(listing.listed(["s3://bucket/large.tar"]))
    before = counted.sent
    assert [frame.error for item in items for frame in listing.frames(item)] == [None] * ARCHIVED
    assert sum(item.size for item in items) <= counted.sent - before < 1.1 * sum(item.size for item in items)


def test_what_is_not_in_the_bucket(run: Run, bundle: Path, tmp_path: Path, store: tuple[Any, Counted]) -> None:
    system, _ = store
    base = ("predict", bundle, "--format", "jsonl", "--conf", "0.1", "--out", tmp_path / "o")
    for source in ("s3://bucket/none", "s3://elsewhere/none"):
        code, _, error = run(*base, source)
        assert code == 2 and source in error and "Traceback" not in error
    there = sorted(system.find("bucket/photos/d0"))[0]
    system.pipe("bucket/list.txt", f"s3://{there}\ns3://bucket/photos/none.png\n".encode())
    assert run(*base, "@s3://bucket/list.txt")[0] == 0
    assert [row["image"] for row in rows(tmp_path / "o" / "predictions.jsonl")] == [f"s3://{there}"]
    [wrong] = rows(tmp_path / "o" / "errors.jsonl")
    assert wrong["image"] == "s3://bucket/photos/none.png"
    items = list(listing.listed(["s3://bucket/cut.tar"]))
    assert items[-1].problem and all(item.size for item in items[:-1])


def test_a_server_that_does_not_answer(
    run: Run, bundle: Path, tmp_path: Path, store: tuple[Any, Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store[0].clear_instance_cache()
    code, _, error = run("predict", bundle, "s3://bucket/photos", "--format", "jsonl", "--out", tmp_path / "o")
    assert code == 2 and "s3://bucket/photos" in error and "Traceback" not in error
    store[0].clear_instance_cache()
