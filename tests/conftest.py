"""Shared fixtures: where the real checkpoints and images are, and skipping where they are not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and images beside the repository; tests that need it skip without it."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip(f"needs {SHARED} (real checkpoints and images), which is not here")
    return SHARED


class Raw:
    """Stored raw outputs of the real checkpoints, by role, and how to compare with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes = json.loads((folder / "expected.json").read_text())["raw"]

    def __call__(self, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(input ``[1, 3, S, S]``, role -> array in edgekit's layout)."""
        side = self.sizes[f"{name}.pt"]["imgsz"]
        batch = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
        return batch, self.roles(name, np.load(self.folder / f"{name}.npz"))

    @staticmethod
    def roles(name: str, stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What Ultralytics gives for (a variation of) the checkpoint ``name``, in edgekit's layout."""
        output = stored["output"]
        if output.ndim == 2:
            return {"class_probabilities": output}
        extra = {"yolo12n-seg-balloon": 32, "yolo12n-pose-person": 51, "yolo12n-obb-table-tennis": 1}.get(name, 0)
        classes = output.shape[1] - 4 - extra
        centre, size = output[:, :2].transpose(0, 2, 1), output[:, 2:4].transpose(0, 2, 1)
        tail = output[:, 4 + classes :].transpose(0, 2, 1)
        roles = {"scores": output[:, 4 : 4 + classes]}
        if extra == 1:
            return roles | {"rotated_boxes": np.concatenate([centre, size, tail], 2)}
        roles["boxes"] = np.concatenate([centre - size / 2, centre + size / 2], 2)
        if extra == 51:
            roles["keypoints"] = tail.reshape(*tail.shape[:2], 17, 3)
        if extra == 32:
            roles |= {"mask_coefficients": tail, "mask_prototypes": stored["prototypes"]}
        return roles

    @staticmethod
    def assert_close(found: dict, expected: dict, pixels: float, scores: float, masks: float) -> None:
        assert set(found) == set(expected)
        allowed = {
            "boxes": pixels,
            "rotated_boxes": pixels,
            "keypoints": pixels,
            "scores": scores,
            "class_probabilities": scores,
            "mask_coefficients": masks,
            "mask_prototypes": masks,
        }
        for role, want in expected.items():
            assert found[role].shape == want.shape, role
            assert np.abs(found[role] - want).max() <= allowed[role], role


@pytest.fixture(scope="session")
def raw(shared: Path) -> Raw:
    return Raw(shared / "fixtures")


@pytest.fixture(scope="session")
def exported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``exported("yolo12n-bccd")``: the real checkpoint as ONNX at the size of its stored outputs, made once.

    Workers of a parallel run share the folder; should two make the same file, the later rename wins with equal bytes.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "exported"
    sizes = json.loads((shared / "fixtures" / "expected.json").read_text())["raw"]

    def make(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.is_file():
            from edgekit import checkpoint
            from edgekit.graph.export import export

            side = sizes[f"{name}.pt"]["imgsz"]
            private = folder / f"{os.getpid()}-{name}.onnx"
            export(checkpoint.load(shared / "fixtures" / f"{name}.pt"), private, (side, side))
            os.replace(private, path)
        return path

    return make
