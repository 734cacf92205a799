"""The small model that comes with the repository: small, ours, and right about what the demo shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import demo, shapeset
from edgekit.spec import sha256_file

torch = pytest.importorskip("torch")


def test_it_is_small_and_its_recipe_names_it() -> None:
    recipe = json.loads(shapeset.RECIPE.read_text(encoding="utf-8"))
    assert shapeset.CHECKPOINT.stat().st_size < 6_000_000
    assert sha256_file(shapeset.CHECKPOINT) == recipe["sha256"]
    assert recipe["license"] == "Apache-2.0"
    assert {"set", "train", "measured"} <= set(recipe)


def test_no_label_is_wrong_at_the_confidence_the_demo_shows() -> None:
    """Pictures of the demo's own seed: every box found lies on a shape of that class."""
    import edgekit

    found = missed = 0
    with edgekit.load(str(shapeset.CHECKPOINT), imgsz=demo.SIZE) as model:
        for index in range(16):
            scene = shapeset.draw_scene(np.random.default_rng((0, 1, index)), demo.SIZE)
            result = model(scene.image, conf=demo.CONFIDENCE)[0]
            assert result.boxes is not None and result.labels is not None
            overlaps = iou(result.boxes, scene.boxes)
            for row, label in zip(overlaps, result.labels.tolist(), strict=True):
                best = int(row.argmax())
                assert row[best] >= 0.5 and scene.labels[best] == label, (index, label, row.max())
            found += len(result)
            missed += len(scene.labels) - len(result)
    assert found > 40
    assert missed < found / 2


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, M] intersection over union of boxes in xyxy."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    area = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return both / (area[0][:, None] + area[1][None] - both)


def test_the_demo_takes_away_what_a_demo_left_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit) as left:
        demo.main([str(tmp_path)])
    assert left.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_what_is_left_of_an_interrupted_demo_is_taken_away_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing ends at any file (here: where something cannot be removed), and the next start goes on with it."""
    out = tmp_path / "out"
    (out / "set" / "images").mkdir(parents=True)
    (out / ".demo").touch()
    (out / "seen").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(demo.shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError(13, "refused", str(path))))
        with pytest.raises(SystemExit):
            demo.main([str(out)])
    monkeypatch.setattr(shapeset, "make_set", _enough)
    with pytest.raises(SystemExit, match="7"):
        demo.main([str(out)])
    assert [p.name for p in out.iterdir()] == [".demo"]
    assert (tmp_path / "elsewhere").is_dir()


def _enough(*_: object, **__: object) -> None:
    raise SystemExit(7)
