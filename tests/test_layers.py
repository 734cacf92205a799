"""The parser of layer names against networks themselves: what PyTorch's module tree, shapes and classes say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgekit.checkpoint import catalog  # noqa: E402
from edgekit.nn import blocks, layers  # noqa: E402
from edgekit.nn.attention import Attend  # noqa: E402
from edgekit.nn.boxhead import BoxBranches  # noqa: E402
from edgekit.nn.yolo12 import YOLO12  # noqa: E402
from edgekit.tasks import network  # noqa: E402

SIDE = 64
NAMES = [f"yolo12{s}{t}" for s in "ns" for t in ("", "-seg", "-pose", "-obb", "-cls")] + ["yolo12n-turbo", "yolo12x"]
KINDS = {
    blocks.Conv: "convolution",
    blocks.C3k2: "C3k2",
    blocks.A2C2f: "C3k",
    nn.Upsample: "upsampling",
    blocks.Concat: "concatenation",
}
each_network = pytest.mark.parametrize("name", NAMES)


@cache
def build(name: str, classes: int = 3) -> YOLO12:
    """On the meta device, which has shapes and no numbers."""
    return network.build(catalog.spec(name, None, classes), "meta").eval()


def paths(net: YOLO12) -> dict[str, nn.Module]:
    """Of every module in a layer, and of the layers."""
    return {path: module for path, module in net.named_modules() if path.startswith("model.")}


def above(path: str, net: YOLO12) -> Iterator[nn.Module]:
    """The module at a path and all it is in, innermost first."""
    while path:
        yield net.get_submodule(path)
        path = path.rpartition(".")[0]


def heights(net: YOLO12) -> dict[nn.Module, tuple[int, int]]:
    """Module -> height of the map it was given, and of the one it gave."""
    seen: dict[nn.Module, tuple[int, int]] = {}

    def look(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(args[0], torch.Tensor) and args[0].ndim == 4 and isinstance(output, torch.Tensor):
            seen[module] = args[0].shape[2], output.shape[2] if output.ndim == 4 else 0

    hooks = [module.register_forward_hook(look) for module in net.modules()]
    net(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    for hook in hooks:
        hook.remove()
    return seen


def last_stage(net: YOLO12) -> int:
    return len(net.model) - 1


@each_network
def test_every_module_and_tensor_has_its_place(name: str) -> None:
    net = build(name)
    for path in [*paths(net), *net.state_dict()]:
        layer = layers.parse(path, last_stage(net))
        assert layer is not None
        assert ".".join(["model", str(layer.stage), *layer.modules]) == path
        assert layer.head is (net.model[layer.stage] is net.head)


@each_network
def test_stages_are_what_their_modules_are(name: str) -> None:
    net = build(name)
    given = heights(net)
    attention = {n for n, stage in enumerate(net.model) if any(isinstance(m, Attend) for m in stage.modules())}
    for number, stage in enumerate(net.model[:-1]):
        layer = layers.parse(f"model.{number}", last_stage(net))
        assert layer is not None
        kind = "area attention" if number in attention else KINDS[type(stage)]
        level = (SIDE // given[stage][1]).bit_length() - 1
        assert layer.kind == kind
        assert layers.stage_words(number, last_stage(net)) == f"{kind}, P{level}"
        assert layer.neck is (number > max(attention))
        assert (number in layers.STEM) is (
            number < next(i for i, s in enumerate(net.model) if type(s) is not type(net.model[0]))
        )
    assert layers.stage_words(last_stage(net), last_stage(net)) == "head"
    assert layers.is_yolo12(attention, last_stage(net))
    assert not layers.is_yolo12(attention - {6}, last_stage(net)) and not layers.is_yolo12(attention, 20)


@each_network
def test_attention_and_its_parts_are_those_of_their_modules(name: str) -> None:
    net = build(name)
    found = set()
    for path in paths(net):
        layer = layers.parse(path, last_stage(net))
        assert layer is not None
        around = list(above(path, net))
        inner = next((m for m in around if isinstance(m, blocks.AAttn)), None)
        block = next((m for m in around if isinstance(m, blocks.ABlock)), None)
        assert layer.attention is (inner is not None)
        assert (layer.part == layers.CORE) is any(isinstance(m, Attend) for m in around)
        assert (layer.part == layers.MLP) is (block is not None and any(m is block.mlp for m in around))
        for part in ("pe", "proj"):
            assert (layer.part == part) is (inner is not None and any(m is getattr(inner, part) for m in around))
        found.add(layer.part)
    assert {"qkv", "pe", "proj", "core", "mlp", None} <= found


@each_network
def test_branches_strides_and_the_decode_tail_are_the_head_s(name: str) -> None:
    net = build(name)
    head, given = net.head, heights(net)
    branches = {layers.BOX: "cv2", layers.CLASS: "cv3", layers.TASK: "cv4"}
    levels = {
        m: (branch, level) for branch, child in branches.items() for level, m in enumerate(getattr(head, child, []))
    }
    others = [getattr(head, child, None) for child in ("proto", "conv", "linear")]
    for path in paths(net):
        layer = layers.parse(path, last_stage(net))
        assert layer is not None
        around = list(above(path, net))
        level = next((m for m in around if m in levels), None)
        if level is not None:
            assert layer.branch == levels[level][0]
            assert layer.stride == SIDE // given[level][0]
            ends = list(level.children())[-1]
            assert layer.last is any(m is ends for m in around)
            assert not layer.tail
            continue
        assert layer.stride is None and not layer.last
        inside = head in around and not any(m is other for m in around for other in others)
        containers = isinstance(net.get_submodule(path), nn.ModuleList)
        assert layer.tail is (inside and not containers)
    decoded = layers.parse(f"model.{last_stage(net)}/TopK", last_stage(net))
    assert decoded is not None and decoded.tail
    assert isinstance(head, BoxBranches) is bool(levels)


@each_network
def test_tensors_with_a_row_per_class_are_those_that_more_classes_enlarge(name: str) -> None:
    few, more = build(name).state_dict(), build(name, 7).state_dict()
    found = {key for key in few if layers.parse(key).row_per_class}  # type: ignore[union-attr]
    assert found == {key for key in few if few[key].shape != more[key].shape} != set()


@each_network
def test_words_are_said_of_every_convolution_and_tell_them_apart(name: str) -> None:
    net = build(name)
    said = [layers.words(path) for path, m in paths(net).items() if isinstance(m, (blocks.Conv, nn.Linear))]
    assert len(set(said)) == len(said)
    assert not any(word in text for text in said for word in ("cv", "attn", "mlp", "qk", ".", "_"))


@pytest.mark.parametrize(
    ("spelling", "modules"),
    [
        ("model.6.m.0.1.attn.qkv.conv/Conv_2", "m.0.1.attn.qkv.conv"),
        ("model.6.m.0.1.attn.qkv.conv/Conv/WithoutBiases", "m.0.1.attn.qkv.conv"),
        ("/model.6/m.0/m.0.1/attn/qkv/conv/Conv", "m.0.1.attn.qkv.conv"),
        ("/model.6/m.0/m.0.1/mlp/mlp.0/conv/Conv_1", "m.0.1.mlp.0.conv"),
        ("__module.model.6.m.0.1.attn.qkv.conv/aten::_convolution/Convolution", "m.0.1.attn.qkv.conv"),
        ("Convert_12,model.6.cv1.conv/Conv,model.7.conv/Conv", "cv1.conv"),
        ("/model.6/Concat", ""),
        ("model.6/Concat", ""),
        ("model.6", ""),
    ],
)
def test_spellings_of_several_exporters(spelling: str, modules: str) -> None:
    assert layers.parse(spelling) == layers.Layer(6, tuple(modules.split(".")) if modules else (), False)


@pytest.mark.parametrize(
    "name", ["", "model", "model.onnx", "theirs/Conv", "submodel.3.conv", "model.3x/Conv", "Conv_6"]
)
def test_names_of_no_network_have_no_place(name: str) -> None:
    assert layers.parse(name) is None
    assert layers.words(name) == name


def test_the_head_is_the_last_stage_and_has_the_tail() -> None:
    names = ["images", "model.8/Concat", "model.9.conv.conv/Conv", "model.9/ReduceMean", "model.9.linear/Gemm"]
    assert layers.head_of(names) == 9
    assert layers.tail(names) == {"model.9/ReduceMean"}
    assert layers.tail([*names, "model.21.dfl/Softmax", "model.21.cv2.0.2/Conv"]) == {"model.21.dfl/Softmax"}
    assert layers.head_of(["images"]) == 21
