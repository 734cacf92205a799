"""Profiles: operators sorted into stages and types, and what real runtimes report adding up."""

from __future__ import annotations

import json

import pytest

from edgekit.bench.profile import summary

# A YOLO12 in the names that edgekit, the peer's ONNX and the peer's OpenVINO export give their nodes.
SPELLINGS = (
    "model.{stage}.{path}/MatMul",
    "/model.{stage}/{path}/MatMul_1",
    "__module.model.{stage}.{path}/aten::matmul/MatMul,other",
)


def yolo12(spelling: str) -> list[tuple[str, str, float]]:
    rows = [(spelling.format(stage=stage, path="cv1"), "Conv", 1.0) for stage in range(21)]
    for stage in (6, 8):
        rows.append((spelling.format(stage=stage, path="m.0.0.attn"), "MatMul", 2.0))
        rows.append((spelling.format(stage=stage, path="m.0.0.mlp.0"), "Conv", 0.5))
    rows += [(spelling.format(stage=21, path=f"cv{i}.0.1.conv"), "Conv", 1.0 * i) for i in (2, 3)]
    return [*rows, (spelling.format(stage=21, path="dfl.conv"), "Softmax", 0.25)]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_stages_in_the_model_s_own_words(spelling: str) -> None:
    found = summary(yolo12(spelling))
    stages = {row["stage"]: row for row in found["by_stage"]}
    assert len(stages) == 22
    assert stages[6]["name"] == "stage 6 (area attention, P4)"
    assert stages[6]["parts"] == {"attention": 2.0, "other": 1.0, "MLP": 0.5}
    assert stages[14]["name"] == "stage 14 (C3k, P3)"
    assert stages[21]["parts"] == {"class branch": 3.0, "box branch": 2.0, "decoding": 0.25}
    assert found["largest"] == [
        "stage 21 (head): 5.25 ms, 17% (class branch 3, box branch 2, decoding 0.25)",
        "stage 6 (area attention, P4): 3.5 ms, 11% (attention 2, other 1, MLP 0.5)",
        "stage 8 (area attention, P5): 3.5 ms, 11% (attention 2, other 1, MLP 0.5)",
    ]


def test_types_and_shares() -> None:
    found = summary(
        [("model.0.conv/Conv", "Conv", 3.0), ("model.1/Add", "Add", 1.0), ("model.1.conv/Conv", "Conv", 4.0)]
    )
    assert found["total_ms"] == 8.0
    assert found["by_type"] == [
        {"type": "Conv", "ms": 7.0, "share": 0.875, "operators": 2},
        {"type": "Add", "ms": 1.0, "share": 0.125, "operators": 1},
    ]


def test_operators_of_no_stage_count_with_their_neighbour() -> None:
    rows = [
        ("images_abcd_acdb", "Reorder", 0.5),
        ("model.0.conv/Conv", "Conv", 1.0),
        ("ReorderOutput_7", "ReorderOutput", 2.0),
    ]
    (only,) = summary([*rows])["by_stage"]
    assert (only["stage"], only["ms"]) == (0, 3.5)


def test_other_networks_keep_their_numbers_without_words() -> None:
    """A network with attention elsewhere is no YOLO12, so its stages are not called what YOLO12's are."""
    found = summary(
        [(f"/model.{i}/attn/MatMul", "MatMul", 1.0) for i in (9, 10)] + [("model.22/cv2/Conv", "Conv", 3.0)]
    )
    assert [row["name"] for row in found["by_stage"]] == ["stage 22", "stage 9", "stage 10"]
    (nameless,) = summary([("onnx::Conv_12", "Conv", 1.0)])["by_stage"]
    assert nameless["name"] == "outside the stages"
    assert summary([])["largest"] == []


def test_a_classifier_s_head_is_stage_nine() -> None:
    rows = [(f"model.{i}.{'m.0.0.attn' if i in (6, 8) else 'conv'}/Op", "Op", 1.0) for i in range(10)]
    names = {row["stage"]: row["name"] for row in summary(rows)["by_stage"]}
    assert names[9] == "stage 9 (head)"
    assert names[5] == "stage 5 (convolution, P4)"
    json.dumps(summary(rows))
