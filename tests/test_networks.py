"""A test of the tests: what compares numbers uses networks that are proved, and an ill-conditioned one is named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import graphs, networks, tiny
from tests.networks import ATTEMPTS, IllConditionedError, noise, pictures, settled

TESTS = Path(__file__).parent

NEVER_RUN = "what it answers is never looked at"
SHALLOW = "one layer or two, whose rounding nothing amplifies"
EXACT = "compared bit by bit with itself, or in double precision"
TRAINED = "trained, not compared between runtimes"
PROVED_HERE = "proved by a test of this file"

# Networks and layers that are made elsewhere, and why that may be.
ALLOWED = {
    "test_capture.py::Written": SHALLOW,
    "test_layers.py::build": NEVER_RUN,
    "test_ncnn.py::_convolution": SHALLOW,
    "arm_bundles.py::checkpoint_of": "its trained parts carry; make test-arm bounds the rest by what was measured",
    "test_rewrite.py::test_a_branch_of_no_weights_is_a_constant": SHALLOW,
    "test_rewrite.py::test_what_is_no_constant_branch_stays": NEVER_RUN,
    "test_tensors.py::made": EXACT,
    "artifacts.py::eight_bits": "its sums are integers",
    "graphs.py::_after": PROVED_HERE,
    "graphs.py::block": PROVED_HERE,
    "graphs.py::divided": PROVED_HERE,
    "graphs.py::keys_as_rows": PROVED_HERE,
    "graphs.py::scale_first": PROVED_HERE,
    "graphs.py::scale_shared": PROVED_HERE,
    "tiny.py::_model": PROVED_HERE,
    "test_recalibration.py::two_branches": SHALLOW,
    "published_files.py::_written": EXACT,
    "published_files.py::published_model": EXACT,
    "test_checkpoint.py::test_a_damaged_checkpoint_of_our_own": NEVER_RUN,
    "test_checkpoint.py::test_an_interrupted_save_keeps_the_older_file": NEVER_RUN,
    "test_checkpoint.py::test_settling_gives_the_statistics_of_the_images": SHALLOW,
    "test_distributed.py::test_one_process_alone_needs_nothing": NEVER_RUN,
    "test_distributed.py::test_parts_of_a_batch_add_up_to_the_whole": NEVER_RUN,
    "test_distributed.py::test_synchronous_norms_keep_their_tensors": NEVER_RUN,
    "test_export.py::test_a_rewrite_that_fires_too_seldom_fails_the_export": NEVER_RUN,
    "test_export.py::test_an_opset_out_of_range_is_refused": NEVER_RUN,
    "test_export.py::test_nodes_are_named_after_the_model": NEVER_RUN,
    "test_export.py::test_two_exports_are_the_same_file": NEVER_RUN,
    "test_heads.py::test_a_classifier_has_one_form_only": NEVER_RUN,
    "test_heads.py::test_nms_where_no_runtime_has_it": NEVER_RUN,
    "test_models.py::test_folding_batchnorm_changes_nothing_but_rounding": EXACT,
    "test_models.py::test_own_checkpoint_holds_only_what_weights_only_reads": NEVER_RUN,
    "test_models.py::test_parameters_keys_and_shapes_are_the_published_ones": NEVER_RUN,
    "test_parity_faults.py::model": "its tolerances follow from its own rounding",
    "test_pixels.py::network": SHALLOW,
    "test_preflight.py::places": NEVER_RUN,
    "test_preflight.py::test_what_a_checkpoint_is_for_is_told_without_reading_it_whole": NEVER_RUN,
    "test_published.py::test_bfloat16_becomes_float32": EXACT,
    "test_published.py::test_dtypes_views_and_buffers_of_torch": EXACT,
    "test_published.py::test_torchs_other_files_are_refused_by_name": NEVER_RUN,
    "test_networks.py::test_a_network_with_the_statistics_of_other_images_is_named": PROVED_HERE,
    "test_qat.py::test_a_run_gives_an_ordinary_checkpoint": TRAINED,
    "test_qat.py::test_all_convolutions_round_but_the_tail": NEVER_RUN,
    "test_qat.py::test_weights_that_rounding_would_drop_are_learnt_around": SHALLOW,
    "test_rewrite.py::attention_of_another_model": NEVER_RUN,
    "test_rewrite.py::test_a_convolution_used_as_a_whole_too_stays_whole": SHALLOW,
    "test_rewrite.py::test_products_that_are_no_attention_are_not_even_refused": NEVER_RUN,
    "test_rewrite.py::with_head_width": SHALLOW,
    "test_rewrite_copies.py::branches": SHALLOW,
    "test_rewrite_copies.py::cut_in_two": SHALLOW,
    "test_rewrite_copies.py::joined": SHALLOW,
    "test_rewrite_files.py::test_a_size_that_is_left_open_can_be_fixed": SHALLOW,
    "test_rewrite_files.py::test_unknown_sides_are_refused": NEVER_RUN,
    "test_rewrite_stages.py::conv": SHALLOW,
    "test_stages.py::test_compare_refuses_models_that_answer_other_questions": NEVER_RUN,
    "test_table.py::test_a_table_with_weights_for_one_scale_of_two": NEVER_RUN,
    "test_tensorrt_builder.py::graph": NEVER_RUN,
    "test_tensorrt_rtx.py::test_the_larger_scales": NEVER_RUN,
    "test_torch_archive.py::test_torchscript_and_legacy_files_of_torch": NEVER_RUN,
    "test_train.py::test_weights_move_and_the_average_follows": TRAINED,
    "test_train_parts.py::test_a_detector_lends_its_trunk_to_another_task": NEVER_RUN,
    "test_train_parts.py::test_class_rows_go_by_name": NEVER_RUN,
    "test_train_parts.py::test_memory_is_counted_as_autograd_keeps_it": NEVER_RUN,
    "test_train_parts.py::test_only_matrices_decay_and_every_parameter_is_in_one_group": NEVER_RUN,
    "test_train_parts.py::test_the_average_is_the_average": EXACT,
    "test_train_parts.py::test_warm_up_raises_weights_and_lowers_biases": NEVER_RUN,
    "test_variations.py::held": NEVER_RUN,
    "test_variations.py::test_keypoints_of_a_state_dict": NEVER_RUN,
    "test_variations.py::test_what_decides_nothing_is_no_matter": EXACT,
}

MAKERS = {("checkpoint", "new"), ("checkpoint", "recalibrate"), ("network", "build")}
LAYERS = {"Conv2d", "ConvTranspose2d", "Linear", "Sequential", "BatchNorm1d", "BatchNorm2d", "YOLO12"}
OPERATORS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


def made_in(source: str) -> Iterator[str]:
    """Names of the functions at the top of a file (or ``module``) that make a network, a layer or a weighted node."""
    for part in ast.parse(source).body:
        if any(isinstance(node, ast.Call) and _makes(node) for node in ast.walk(part)):
            yield getattr(part, "name", "module")


def _makes(call: ast.Call) -> bool:
    function, first = call.func, call.args[0] if call.args else None
    name = getattr(function, "attr", getattr(function, "id", ""))
    owner = getattr(getattr(function, "value", None), "id", "")
    if name in ("make_node", "op"):
        return isinstance(first, ast.Constant) and first.value in OPERATORS
    return name in LAYERS or (owner, name) in MAKERS


def test_networks_are_made_by_the_helper_or_need_not_be() -> None:
    files = [path for path in sorted(TESTS.rglob("*.py")) if path.name != "networks.py"]
    found = {f"{path.name}::{name}" for path in files for name in made_in(path.read_text(encoding="utf-8"))}
    assert sorted(found - set(ALLOWED)) == []  # take tests.networks.settled, or say in ALLOWED why not
    assert sorted(set(ALLOWED) - found) == []  # what is no longer there


def test_a_network_that_turned_out_badly_is_made_again_but_not_for_ever() -> None:
    made = []

    def deaf(net: Any) -> None:
        made.append(net)
        if len(made) != 2:
            net.model[0].conv.weight.zero_()

    settled("yolo12n", noise(1, 3, 64, 64), 1e-3, plant=deaf)
    assert len(made) == 2
    with pytest.raises(IllConditionedError):
        settled("yolo12n", noise(1, 3, 64, 64), 1e-3, plant=deaf)
    assert len(made) == 2 + ATTEMPTS


def test_the_search_sees_what_it_should() -> None:
    source = """
def quick():
    return checkpoint.new(spec)
class Test:
    def test(self):
        net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
def graph():
    b.op("Conv", x, w)
def harmless():
    return checkpoint.load(path), b.op("Relu", x), settled("yolo12n", noise(1, 3, 64, 64), 1e-3)
"""
    assert list(made_in(source)) == ["quick", "Test", "graph"]


# What the helper proves


@pytest.mark.parametrize("name", ["yolo12n", "yolo12n-seg", "yolo12n-pose", "yolo12n-obb", "yolo12n-turbo"])
def test_networks_of_every_task_are_proved(name: str) -> None:
    pytest.importorskip("torch")
    before = len(networks.PROOFS)
    made = networks.settled(name, noise(1, 3, 64, 64), 1e-3)
    assert made.imgsz == (64, 64) and networks.PROOFS[before].share() <= 1


def _damped(factor: float) -> Any:
    def plant(net: Any) -> None:
        for module in net.modules():
            if hasattr(module, "running_var"):
                module.running_var *= factor

    return plant


@pytest.mark.parametrize(
    ("name", "tolerance", "factor", "says"),
    [
        ("yolo12n", {"boxes": 1e-3}, 1 / 1.25, "boxes in float32 are .* from double precision"),
        ("yolo12n-cls", {"class_probabilities": 1e-4}, 1 / 2, "class_probabilities are saturated"),
        ("yolo12n-cls", {"class_probabilities": 1e-4}, 100, "class_probabilities differ by .* ignores its input"),
    ],
    ids=["amplifies", "saturated", "without signal"],
)
def test_a_fixture_made_ill_conditioned_is_named(name: str, tolerance: dict, factor: float, says: str) -> None:
    pytest.importorskip("torch")

    def careless_fixture() -> None:
        networks.settled(name, pictures(), tolerance, ("a", "b", "c"), plant=_damped(factor))

    with pytest.raises(IllConditionedError, match=f"test_networks.py::careless_fixture: {says}"):
        careless_fixture()


def test_a_network_with_the_statistics_of_other_images_is_named() -> None:
    """As the fixture was that failed on some processors only: settled on noise, asked about pictures."""
    torch = pytest.importorskip("torch")
    from edgekit import checkpoint
    from edgekit.checkpoint import catalog

    made = checkpoint.new(catalog.spec("yolo12n", classes=3), seed=networks.seeded(0))
    checkpoint.recalibrate(made, [torch.from_numpy(noise(4, 3, 64, 64))])
    with pytest.raises(IllConditionedError, match="test_networks.py::.*other_images"):
        networks.prove(made.net, pictures(), {"boxes": 1e-3, "scores": 1e-4})


# Graphs made by hand


@pytest.mark.parametrize("blocks", [1, 3, 8])
@pytest.mark.parametrize("family", ["v1.0", "turbo"])
def test_blocks_of_attention_do_not_amplify(family: str, blocks: int) -> None:
    """test_rewrite.py and test_rewrite_files.py compare such blocks within 1e-4."""
    model = graphs.block(graphs.scale_after, family, blocks=blocks, seed=networks.seeded(0))
    images = np.random.default_rng(networks.seeded(0)).normal(0, 1, (3, 64, 6, 8)).astype(np.float32)
    networks.prove_graph(model, images, 1e-4)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_tiny_bundles_do_not_amplify(task: str, tmp_path: Path) -> None:
    import onnx

    tiny.tiny_bundle(tmp_path / "bundle", task, "ort-fp32", seed=networks.seeded(0))
    networks.prove_graph(onnx.load(tmp_path / "bundle.onnx"), noise(12, 3, *tiny.SIZE), 1e-3)
