"""Branches that are left out: which ones, by simulated losses; what becomes of them, beside a network without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import checkpoint
from edgekit.bundle import pruned
from edgekit.bundle.build import build
from edgekit.bundle.loading import open_session
from edgekit.bundle.options import BuildOptions
from edgekit.errors import InputError
from edgekit.nn.pruning import left_out, parts_of, take_out, watching
from edgekit.nn.session import TorchSession
from edgekit.quantize import QuantizeOptions
from edgekit.quantize.sets import Sets, open_sets
from tests.networks import noise, settled


def test_branches_are_the_attentions_and_their_mlps() -> None:
    parts = parts_of(settled("yolo12n", noise(1, 3, 64, 64), 1e-3).net)
    assert len(parts) == 2 * 2 * 2 * 2  # layers, repeats, blocks, branches
    assert all(last == branch + (".proj" if branch.endswith("attn") else ".1") for branch, last in parts.items())


@pytest.mark.parametrize("family", ["yolo12n", "yolo12n-turbo"])
def test_what_is_taken_out_says_its_mean(family: str) -> None:
    batch = noise(2, 3, 64, 64)
    made = settled(family, batch, 1e-3)
    session = TorchSession(made.net, made.info((64, 64), 2))
    parts = parts_of(session.net)
    with watching(session.net, parts) as seen:
        session.run(batch)
    assert min(seen.seconds.values()) > 0
    some = {last: seen.means[last] for last in list(parts.values())[1::3]}
    for last, mean in some.items():
        said = session.intermediates(batch, [last])[last]
        np.testing.assert_allclose(mean, said.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    with left_out(session.net, some):
        expected = session.run(batch)
    take_out(made.net, some)
    found = TorchSession(made.net, made.info((64, 64), 2)).run(batch)
    for role, values in expected.items():
        np.testing.assert_allclose(found[role], values, rtol=1e-4, atol=1e-3)
    assert set(parts_of(made.net)) == {branch for branch, last in parts.items() if last not in some}


def test_a_bundle_has_nothing_left_of_what_was_taken_out(tmp_path: Path) -> None:
    batch = noise(1, 3, 64, 64)
    made = settled("yolo12n", batch, 1e-2)
    counts = {}
    for name in ("whole", "bare"):
        if name == "bare":
            parts = parts_of(made.net)
            with watching(made.net, parts) as seen:
                TorchSession(made.net, made.info((64, 64)), fold=False).run(batch)
            take_out(made.net, seen.means)
        path = checkpoint.save(made, tmp_path / f"{name}.pt")
        build(path, "ort-fp32", tmp_path / name, BuildOptions(imgsz=(64, 64)))
        nodes = onnx.load(tmp_path / name / "model.onnx").graph.node
        counts[name] = [sum(node.op_type == kind for node in nodes) for kind in ("MatMul", "Conv")]
        expected = TorchSession(made.net, made.info((64, 64), head="topk")).run(batch)
        session = open_session(tmp_path / name)
        np.testing.assert_allclose(np.sort(session.run(batch)["scores"]), np.sort(expected["scores"]), atol=1e-4)
        session.close()
    # of an attention two products and its qkv, pe and proj, of an MLP two convolutions
    assert counts["whole"][0] - counts["bare"][0] == 8 * 2
    assert counts["whole"][1] - counts["bare"][1] >= 8 * (3 + 2)


def test_who_loses_least_for_a_millisecond_goes_first_and_together_they_keep_the_limit() -> None:
    alone = {"slow": 0.3, "quick": 0.2, "free": 0.0, "better": -0.1, "dear": 0.6}
    seconds = {"slow": 4.0, "quick": 1.0, "free": 1.0, "better": 2.0, "dear": 9.0}
    lost = lambda branches: sum(alone[branch] for branch in branches)  # noqa: E731
    gone, together = pruned.choose(seconds, lost, 0.5)
    assert gone == ["better", "free", "slow", "quick"] and together == pytest.approx(0.4)
    assert pruned.choose(seconds, lost, 0.25)[0] == ["better", "free", "quick"]
    assert pruned.choose(seconds, lambda branches: 1.0, 0.5) == ([], 0.0)


@given(st.lists(st.tuples(st.floats(-1, 3), st.floats(0.01, 5)), max_size=8), st.floats(0, 2), st.floats(-0.5, 1))
def test_the_limit_holds_whatever_losses_do_together(
    branches: list[tuple[float, float]], limit: float, more: float
) -> None:
    def lost(gone: Sequence[str]) -> float:
        return sum(branches[int(name)][0] for name in gone) + more * (len(gone) - 1)

    seconds = {str(number): took for number, (_, took) in enumerate(branches)}
    gone, together = pruned.choose(seconds, lost, limit)
    assert len(set(gone)) == len(gone) and set(gone) <= set(seconds)
    assert together == (pytest.approx(lost(gone)) if gone else 0.0) and together <= limit
    assert all(branches[int(name)][0] <= limit for name in gone)


def test_without_images_to_rank_on_there_is_a_sentence(tmp_path: Path) -> None:
    made = settled("yolo12n", noise(1, 3, 64, 64), 1e-2)
    with pytest.raises(InputError, match="a COCO file is one split"):
        pruned.prune(made, tmp_path / "out.pt", (64, 64), Sets(lacking="a COCO file is one split"), 1.0)
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.slow
def test_a_trained_detector_does_without_some_and_builds(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is claimed is what the file scores, read and judged anew."""
    from edgekit.verify import accuracy

    monkeypatch.setattr(pruned, "IMAGES", 6)
    whole = checkpoint.load(shared / "fixtures" / "yolo12n-bccd.pt")
    sets = open_sets(QuantizeOptions(data=shared / "data" / "bccd" / "data.yaml"), "detect", whole.names)
    made = pruned.prune(whole, tmp_path / "pruned.pt", (192, 192), sets, 1.0)
    assert made.branches and made.lost <= 1.0
    found = checkpoint.load(made.path)
    assert found.provenance["pruned"] == list(made.branches) and found.license == whole.license
    assert len(parts_of(found.net)) == made.parts - len(made.branches)
    assert sets.pool is not None
    judge = accuracy.by_labels(dataclasses.replace(sets.pool, samples=sets.pool.spread(6)))
    scores = [judge.score(TorchSession(each.net, each.info((192, 192)))) for each in (whole, found)]
    assert 100 * (scores[0] - scores[1]) == pytest.approx(made.lost, abs=0.05)

    with pytest.raises(InputError, match="map50_95"):
        pruned.prune(whole, tmp_path / "none.pt", (192, 192), sets, -100.0)
