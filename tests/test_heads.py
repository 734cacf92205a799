"""The three head forms: topk and nms against a plain reading of raw outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit import checkpoint, targets
from edgekit.checkpoint import catalog
from edgekit.errors import UsageError
from edgekit.graph.export import export
from edgekit.nn.boxhead import best_pairs
from edgekit.nn.session import TorchSession
from edgekit.runtime.options import Options
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.sources import open_sources
from tests.networks import noise, settled


@pytest.mark.parametrize(
    ("classes", "cells", "best"), [(80, 500, 300), (3, 500, 300), (1, 500, 300), (5, 40, 300), (2, 7, 300), (80, 21, 9)]
)
def test_best_pairs_are_those_of_a_full_sort(classes: int, cells: int, best: int) -> None:
    logits = torch.randn(2, classes, cells, generator=torch.Generator().manual_seed(0))
    values, labels, places = best_pairs(logits, best)
    for image in range(2):
        order = np.argsort(-logits[image].numpy().ravel(), kind="stable")[: min(best, classes * cells)]
        assert [(label, cell) for label, cell in zip(labels[image].tolist(), places[image].tolist(), strict=True)] == [
            divmod(int(i), cells) for i in order
        ]
        np.testing.assert_array_equal(values[image].numpy(), logits[image].numpy().ravel()[order])


@pytest.mark.parametrize(("classes", "cells"), [(80, 500), (1, 500), (4, 30)])
def test_one_class_keeps_a_cells_best_class(classes: int, cells: int) -> None:
    logits = torch.randn(1, classes, cells, generator=torch.Generator().manual_seed(1))
    values, labels, places = best_pairs(logits, 300, one_class=True)
    best = logits[0].numpy().max(0)
    order = np.argsort(-best, kind="stable")[:300]
    assert places[0].tolist() == order.tolist()
    assert labels[0].tolist() == logits[0].numpy().argmax(0)[order].tolist()
    np.testing.assert_array_equal(values[0].numpy(), best[order])


@pytest.mark.parametrize("name", ["yolo12n", "yolo12n-seg", "yolo12n-pose", "yolo12n-obb", "yolo12n-turbo"])
def test_topk_rows_are_the_raw_rows_of_the_best_pairs(name: str) -> None:
    x = noise(2, 3, 64, 96)
    near = {"rotated_boxes" if name.endswith("obb") else "boxes": 1e-3, "scores": 1e-5}
    loaded = settled(name, x, near)
    raw = TorchSession(loaded.net, loaded.info((64, 96))).run(x)
    info = loaded.info((64, 96), head="topk")
    found = TorchSession(loaded.net, info).run(x)
    assert {p.role: p.shape[1:] for p in info.outputs} == {role: v.shape[1:] for role, v in found.items()}
    for image in range(2):
        scores = raw["scores"][image]
        np.testing.assert_allclose(found["scores"][image], np.sort(scores.ravel())[::-1][:300], atol=1e-5)
        role = "rotated_boxes" if "rotated_boxes" in raw else "boxes"
        for row in range(0, len(found["labels"][image]), 17):
            label, score = found["labels"][image][row], found["scores"][image][row]
            cells = np.flatnonzero(np.isclose(scores[label], score, rtol=0, atol=1e-5))
            gaps = np.abs(raw[role][image][cells] - found[role][image][row]).max(1)
            cell = cells[gaps.argmin()]
            for extra in (role, "mask_coefficients", "keypoints"):
                if extra in raw:
                    np.testing.assert_allclose(found[extra][image][row], raw[extra][image][cell], atol=1e-3)


@pytest.mark.parametrize("head", ["topk", pytest.param("nms", marks=pytest.mark.slow)])
def test_heads_find_what_raw_and_host_suppression_find(head: str, shared: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(shared / "fixtures" / "yolo12n-bccd.pt")
    reference = Predictor(TorchSession(loaded.net, loaded.info()), Options(0.1))
    graph = export(loaded, tmp_path / "model.onnx", head=head)
    images = [f.image for f, _ in zip(open_sources([shared / "data/bccd/images/val"]), range(6), strict=False)]
    for target in ("ort-fp32", "ov-fp32"):
        folder = tmp_path / target
        folder.mkdir()
        backend = targets.get(target)
        backend.build(graph, folder)
        predictor = Predictor(backend.open(folder, graph.info), Options(0.1))
        for image in images:
            want, have = reference(image)[0], predictor(image)[0]
            assert len(want) > 10
            assert want.labels.tolist() == have.labels.tolist()
            np.testing.assert_allclose(have.boxes, want.boxes, atol=2e-2)
            np.testing.assert_allclose(have.scores, want.scores, atol=1e-4)


@pytest.mark.parametrize(("name", "batch"), [("yolo12n-obb", 1), ("yolo12n", 2), ("yolo12n", None)])
def test_nms_where_no_runtime_has_it(name: str, batch: int | None) -> None:
    with pytest.raises(UsageError, match="`head` nms: no runtime suppresses .* use `head` topk"):
        checkpoint.new(catalog.spec(name)).info((64, 64), batch, "nms")


def test_a_classifier_has_one_form_only() -> None:
    assert checkpoint.new(catalog.spec("yolo12n-cls", classes=2)).info((64, 64), head="topk").head == "raw"
