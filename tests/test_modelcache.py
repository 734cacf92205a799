"""What a runtime compiled, kept for the next start: beside a bundle, never in it, not believed once it changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import loading
from edgekit.errors import InputError, UsageError
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.modelcache import NOTE, checked, folder_for
from tests.tiny import SIZE, tiny_bundle

IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    pytest.importorskip("openvino")
    return tiny_bundle(tmp_path / "bundle", "detect", "ov-fp32")


def scores(path: Path, cache: str | Path | bool) -> np.ndarray:
    with loading.load(path, cache=cache, conf=0.01) as model:
        return np.array(model(IMAGE)[0].scores)


def listed(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_cache_lies_beside_the_bundle_which_stays_as_it_was(made: Path) -> None:
    before, expected = listed(made), scores(made, False)
    for folder in made.iterdir():
        folder.chmod(0o444)
    made.chmod(0o555)
    try:
        first, second = scores(made, True), scores(made, True)
    finally:
        made.chmod(0o755)
    assert listed(made) == before and read_bundle(made).path == made
    assert np.array_equal(first, expected) and np.array_equal(second, expected)
    kept = listed(made.with_name("bundle.cache"))
    assert len(kept) == 2 and [name for name in kept if name.endswith(NOTE)]


def test_another_file_under_the_same_name_is_not_believed(made: Path, tmp_path: Path) -> None:
    expected = scores(made, tmp_path / "caches")
    (blob,) = [p for p in (tmp_path / "caches").rglob("*") if p.is_file() and NOTE not in p.name]
    sealed = blob.read_bytes()
    middle = len(sealed) // 2
    blob.chmod(0o644)
    blob.write_bytes(sealed[:middle] + bytes(255 - b for b in sealed[middle:]))
    assert np.array_equal(scores(made, tmp_path / "caches"), expected)
    blob.with_name(blob.name + NOTE).unlink()
    assert np.array_equal(scores(made, tmp_path / "caches"), expected)
    assert blob.with_name(blob.name + NOTE).is_file()


def test_a_damaged_file_goes_before_the_runtime_sees_it(tmp_path: Path) -> None:
    with checked(tmp_path):
        (tmp_path / "a.blob").write_bytes(b"compiled")
    with checked(tmp_path):
        assert (tmp_path / "a.blob").read_bytes() == b"compiled"
    (tmp_path / "a.blob").write_bytes(b"compilEd")
    (tmp_path / "b.blob").write_bytes(b"nobody noted this")
    with checked(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == ["a.blob" + NOTE]


def test_a_rebuilt_bundle_has_a_cache_of_its_own(tmp_path: Path) -> None:
    for text in ("{}", '{"a": 1}'):
        (tmp_path / "bundle").mkdir(exist_ok=True)
        (tmp_path / "bundle" / "manifest.json").write_text(text)
        folder_for(tmp_path / "bundle", tmp_path / "caches")
    assert len(list((tmp_path / "caches").iterdir())) == 2


def test_folders_that_will_not_do(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="inside the bundle"):
        loading.load(made, cache=made / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        loading.load(made, cache=tmp_path / "file")
    other = tiny_bundle(tmp_path / "onnx", "detect", "ort-fp32")
    with pytest.raises(UsageError, match="ort-fp32, which keeps none"):
        loading.load(other, cache=True)
    (tmp_path / "loose").mkdir()
    for file in tiny_bundle(tmp_path / "cls", "classify", "ov-fp32").glob("model.*"):
        shutil.copy(file, tmp_path / "loose")
    with pytest.raises(UsageError, match="is no bundle"):
        loading.load(tmp_path / "loose", foreign=True, task="classify", cache=tmp_path / "caches")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_where_nothing_can_be_written_there_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "shelf" / "bundle").mkdir(parents=True)
    (tmp_path / "shelf" / "bundle" / "manifest.json").write_text("{}")
    (tmp_path / "shelf").chmod(0o555)
    assert folder_for(tmp_path / "shelf" / "bundle", True) is None
    (tmp_path / "shelf").chmod(0o755)
