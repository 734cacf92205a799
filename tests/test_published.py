"""Published checkpoints: what is read equals what PyTorch itself reads, bit for bit, and everything else is a sentence.

The independent reader is ``torch.load`` in a process of its own, where every class of the missing packages is an empty
``torch.nn.Module``: it unpickles the real way, and ``state_dict()`` is PyTorch's.
"""

from __future__ import annotations

import collections
import gzip
import json
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.checkpoint.published import Published, is_edgekit_checkpoint, read_published
from edgekit.checkpoint.published.inert_pickle import read_inert
from edgekit.checkpoint.published.inert_values import json_dict, number
from edgekit.errors import InputError
from tests.hostile.checkpoints import Call, Name, New, Raw, assemble, module, network, ordered, tensor, write_archive
from tests.hostile.checkpoints import parameter as param

CONV = Name("ultralytics.nn.modules.conv", "Conv")
FIXTURES = {
    "yolo12n-bccd": ("detect", ("RBC", "WBC", "Platelets"), "yolo12n"),
    "yolo12n-seg-balloon": ("segment", ("balloon",), "yolo12n-seg"),
    "yolo12n-pose-person": ("pose", ("person",), "yolo12n-pose"),
    "yolo12n-obb-table-tennis": ("obb", ("net", "racket", "table"), "yolo12n-obb"),
    "yolo12n-cls-flowers5": ("classify", ("daisy", "dandelion", "roses", "sunflowers", "tulips"), "yolo12n-cls"),
    "yolo12n-turbo": ("detect", tuple(f"class{i}" for i in range(80)), "yolo12n-turbo"),
}

REAL_READER = """
import importlib.abc, importlib.machinery, json, sys, types
import numpy as np, torch

class Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ultralytics", "torchvision"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Stub(spec.name)
    def exec_module(self, module):
        pass

class Stub(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        init = lambda self, *args, **kwargs: torch.nn.Module.__init__(self)
        cls = type(name, (torch.nn.Module,), {"__init__": init, "__module__": self.__name__})
        setattr(self, name, cls)
        return cls

sys.meta_path.insert(0, Missing())
out, *paths = sys.argv[1:]
for number, path in enumerate(paths):
    model = torch.load(path, map_location="cpu", weights_only=False)["model"]
    state = model.state_dict()
    np.savez(f"{out}/{number}.npz", **{k: v.numpy() for k, v in state.items()})
    modules = list(model.named_modules(remove_duplicate=False))
    json.dump({
        "keys": list(state),
        "types": [[name, type(m).__name__] for name, m in modules],
        "area": {name: m.area for name, m in modules if type(m).__name__ == "AAttn"},
        "convolutions": {
            name: {"kernel_size": m.kernel_size, "stride": m.stride, "padding": m.padding, "dilation": m.dilation,
                   "groups": m.groups, "padding_mode": m.padding_mode}
            for name, m in modules if type(m).__name__ == "Conv2d"
        },
        "num_heads": {name: m.num_heads for name, m in modules if type(m).__name__ == "AAttn"},
        "names": list(model.names.values()),
        "strides": model.stride.tolist(),
    }, open(f"{out}/{number}.json", "w"))
"""


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Any]]:
    """What torch.load reads of every fixture: (facts, arrays)."""
    pytest.importorskip("torch")
    out = tmp_path_factory.mktemp("real")
    paths = [str(shared / "fixtures" / f"{name}.pt") for name in FIXTURES]
    subprocess.run([sys.executable, "-c", REAL_READER, str(out), *paths], check=True)
    facts = [json.loads((out / f"{i}.json").read_text()) for i in range(len(paths))]
    return {name: (facts[i], np.load(out / f"{i}.npz")) for i, name in enumerate(FIXTURES)}


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, Published]:
    return {name: read_published(shared / "fixtures" / f"{name}.pt") for name in FIXTURES}


@pytest.mark.parametrize("name", FIXTURES)
def test_tensors_equal_torchs_bit_for_bit(name: str, published: Any, real: Any) -> None:
    facts, arrays = real[name]
    state = published[name].state
    assert list(state) == facts["keys"]
    for key, array in state.items():
        assert array.dtype == arrays[key].dtype and array.shape == arrays[key].shape
        assert array.tobytes() == arrays[key].tobytes(), key
        assert array.flags.writeable and array.flags.c_contiguous


@pytest.mark.parametrize("name", FIXTURES)
def test_attributes_equal_torchs(name: str, published: Any, real: Any) -> None:
    facts, model = real[name][0], published[name]
    assert [[path, module.name] for path, module in model.modules.items()] == facts["types"]
    for what in ("area", "num_heads"):
        stated = {path: m.attributes[what] for path, m in model.modules.items() if m.name == "AAttn"}
        assert stated == facts[what]
    for path, stated in facts["convolutions"].items():
        mine = {name: model.modules[path].attributes[name] for name in stated}
        assert mine == {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()}
    assert list(model.names) == facts["names"]
    assert list(model.strides) == facts["strides"]


@pytest.mark.parametrize("name", FIXTURES)
def test_what_the_file_states(name: str, published: Any) -> None:
    task, names, _ = FIXTURES[name]
    model = published[name]
    assert (model.task, model.names, model.classes) == (task, names, len(names))
    areas = {path: m.attributes["area"] for path, m in model.modules.items() if m.name == "AAttn"}
    assert set(areas.values()) == {1, 4}
    assert {path.split(".")[1]: area for path, area in areas.items()} == {"6": 4, "8": 1}
    assert model.keypoint_shape == ((17, 3) if task == "pose" else None)
    assert model.license == (None if "turbo" in name else "AGPL-3.0 (https://ultralytics.com/license)")
    assert model.which == "model" and model.epoch == -1
    assert model.version == ("8.3.63" if "turbo" in name else "8.4.190")
    assert model.date is not None and model.date.startswith("2026-")
    assert model.modules["model.6"].kind == "ultralytics.nn.modules.block.A2C2f"
    assert model.train_args["task"] == task
    assert json.loads(json.dumps(model.train_args, allow_nan=False)) == model.train_args


@pytest.mark.parametrize("name", FIXTURES)
def test_keys_and_shapes_equal_the_stored_list(name: str, published: Any, shared: Path) -> None:
    """Shapes that depend on the number of classes aside, which the list has for 80 (or 1000)."""
    with gzip.open(shared / "fixtures" / "state_dicts.json.gz", "rt") as handle:
        listed = json.load(handle)[FIXTURES[name][2]]["state_dict"]
    state = {key: list(array.shape) for key, array in published[name].state.items()}
    assert list(state) == list(listed)
    different = {key for key in state if state[key] != list(listed[key])}
    assert all(".cv3." in key or ".linear." in key for key in different)
    assert "turbo" not in name or not different


def test_no_torch_and_no_package_of_the_file_is_imported(shared: Path) -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from edgekit.checkpoint.published import read_published\n"
        f"read_published({str(shared / 'fixtures' / 'yolo12n-cls-flowers5.pt')!r})\n"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout.replace("'", '"'))
    assert "numpy" in loaded
    assert not {"torch", "torchvision", "ultralytics", "onnx", "cv2"} & set(loaded)


# What torch writes today: dtypes, views, protocols


def test_dtypes_views_and_buffers_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    base = torch.arange(60.0).reshape(3, 4, 5)
    buffers = {
        "transposed": base.transpose(0, 2),
        "slice": base[1:, ::2, 1:4],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(2.5),
        "first_of_shared": base,
        "none": None,
    }
    kinds = "float16 float32 float64 int64 int32 int16 int8 uint8 bool".split()
    buffers |= {kind: torch.tensor([0, 1, 5, 100]).to(getattr(torch, kind)) for kind in kinds}
    for name, value in buffers.items():
        model[1].register_buffer(name, value)
    model[0].register_buffer("brief", torch.zeros(2), persistent=False)
    model[0].register_parameter("absent", None)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        torch.save({"model": model}, tmp_path / "m.pt", pickle_protocol=protocol)
        state = read_published(tmp_path / "m.pt").state
        expected = {key: value.detach().numpy() for key, value in model.state_dict().items()}
        assert list(state) == list(expected)
        for key, array in state.items():
            assert array.dtype == expected[key].dtype and array.flags.writeable
            np.testing.assert_array_equal(array, expected[key])


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(16, 16).to(torch.bfloat16)
    torch.save({"ema": model, "model": None}, tmp_path / "m.pt")
    read = read_published(tmp_path / "m.pt")
    assert read.which == "ema"
    assert read.state["weight"].dtype == np.float32
    np.testing.assert_array_equal(read.state["weight"], model.weight.detach().float().numpy())


def test_torchs_other_files_are_refused_by_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(2, 2)
    files = {
        "edgekit import": linear.state_dict(),
        "holds only tensors": {"model": linear.state_dict(), "epoch": 3},
        "no model under 'ema' or 'model' (keys found: 'weights', 'epoch')": {"weights": 1, "epoch": 2},
        "no model under 'ema' or 'model' (keys found: none)": [1, 2],
        "edgekit wrote": {"edgekit": 1, "spec": {"name": "yolo12n"}, "state_dict": linear.state_dict()},
    }
    for number_, (says, value) in enumerate(files.items()):
        path = tmp_path / f"{number_}.pt"
        torch.save(value, path)
        with pytest.raises(InputError) as error:
            read_published(path)
        assert says in str(error.value)
        assert is_edgekit_checkpoint(path) == (says == "edgekit wrote")


# The model tree


def save(path: Path, model: Any, **top: Any) -> Path:
    return write_archive(path, assemble({"model": model, **top}))


def test_a_model_made_by_hand(tmp_path: Path) -> None:
    top = {"license": "MIT", "epoch": 7, "version": "1", "date": "today", "train_args": {"lr": 0.5}}
    model = read_published(save(tmp_path / "m.pt", network(), ema=None, **top))
    np.testing.assert_array_equal(model.state["model.0.weight"], np.arange(24.0).reshape(2, 3, 4))
    assert list(model.state) == ["model.0.weight", "model.0.steps"]
    assert model.state["model.0.steps"].shape == () and model.state["model.0.steps"] == 7
    assert (model.task, model.classes, model.names, model.strides) == ("detect", 2, ("cell", "plate"), (8, 16, 32))
    assert (model.license, model.epoch, model.version, model.date) == ("MIT", 7, "1", "today")
    assert model.train_args == {"lr": 0.5}
    assert {path: module.name for path, module in model.modules.items()} == {
        "": "DetectionModel",
        "model": "Sequential",
        "model.0": "AAttn",
        "model.1": "Detect",
    }
    assert model.modules["model.0"].attributes == {"area": 4, "num_heads": 2}
    assert model.modules["model.1"].attributes == {"nc": 2, "stride": (8, 16, 32)}


def test_attributes_become_plain_values(tmp_path: Path) -> None:
    stated = {
        "size": Call(Name("torch", "Size"), ((8, 16),)),
        "scale": [2.0, (3, None)],
        "flag": True,
        "text": "a" * 500,
        "made": Call(CONV),
        "kind": CONV,
        "values": tensor("0", (24,)),
        "deep": [[[[1]]]],
        "_forward_hooks": ordered(),
        "_forward_pre_hooks": ordered(**{"0": Call(CONV)}),
    }
    layer = module(CONV, **stated)
    found = read_published(save(tmp_path / "m.pt", network(layer))).modules["model.0"].attributes
    assert found == {
        "size": (8, 16),
        "scale": (2.0, (3, None)),
        "flag": True,
        "text": "a" * 200,
        "made": f"<{CONV.module}.{CONV.name}>",
        "kind": f"<{CONV.module}.{CONV.name}>",
        "values": "<tensor>",
        "deep": (("<list>",),),
        "_forward_pre_hooks": "<hooks>",
    }


def test_a_model_alone_and_in_wrappers(tmp_path: Path) -> None:
    parallel = module(Name("torch.nn.parallel.data_parallel", "DataParallel"), children={"module": network()})
    averaged = module(Name("torch.optim.swa_utils", "AveragedModel"), children={"module": parallel})
    bare = read_published(write_archive(tmp_path / "bare.pt", assemble(network())))
    assert (bare.which, bare.task) == ("file", "detect")
    for inner in (parallel, averaged):
        read = read_published(save(tmp_path / "m.pt", inner))
        assert (read.which, read.task, list(read.state)) == ("model", "detect", list(bare.state))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_published(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"offset": 1}, "reaches beyond its storage"),
        ({"offset": -1}, "no proper shape"),
        ({"offset": 2**70}, "no proper shape"),
        ({"strides": (12, 4, -1)}, "no proper shape"),
        ({"strides": (12, 4)}, "no proper shape"),
        ({"strides": (2**40, 4, 1)}, "reaches beyond its storage"),
        ({"shape": (2, 3, -4)}, "no proper shape"),
        ({"shape": (0, 3, 4)}, "no proper shape"),
        ({"shape": ("2", 3, 4)}, "no proper shape"),
        ({"shape": None}, "no proper shape"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "no proper shape"),
        ({"shape": (2**40,), "strides": (0,)}, "larger than those of any YOLO12"),
        ({"elements": 25}, "the file's own description says 50"),
        ({"elements": 2**45}, "the file's own description says"),
        ({"key": "../0"}, "is missing"),
        ({"key": "\ud800"}, "is missing"),
        ({"kind": "Float"}, "the file's own description says 96"),
    ],
)
def test_tensors_out_of_bounds(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"key": "0", "kind": "Half", "elements": 24} | changes
    bad = tensor(values.pop("key"), (2, 3, 4), **values)
    layer = module(Name("torch.nn.modules.linear", "Linear"), parameters={"weight": param(bad)})
    text = refusal(save(tmp_path / "m.pt", network(layer)))
    assert says in text
    text.encode()


@pytest.mark.parametrize(
    "value",
    [
        3,
        "text",
        Call(Name("torch._utils", "_rebuild_tensor_v2"), (1, 2, 3, 4, 5, 6)),
        Call(Name("torch._utils", "_rebuild_tensor_v2"), ()),
        Call(Name("torch._utils", "_rebuild_parameter"), ()),
        Call(Name("torch._utils", "_rebuild_tensor_v2"), (*tensor("0", (24,)).args, {"conj": True})),
    ],
)
def test_parameters_that_are_no_plain_tensor(value: Any, tmp_path: Path) -> None:
    layer = module(Name("torch.nn.modules.linear", "Linear"), parameters={"weight": value})
    assert "model.0.weight is no plain tensor" in refusal(save(tmp_path / "m.pt", network(layer)))


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (module(CONV, children={"a.b": module(CONV)}), "improper names"),
        (module(CONV, children={7: module(CONV)}), "improper names"),
        (module(CONV, children={"\x1b[2J": module(CONV)}), "improper names"),
        (module(CONV, parameters={"": tensor("0", (24,))}), "improper names"),
        (module(CONV, parameters={"p\n": tensor("0", (24,))}), "improper names"),
        (module(CONV, children={str(i): None for i in range(1001)}), "too many entries"),
        (module(CONV, children={"a": 5}), "model.0.a in the model is no module"),
        (module(CONV, children={"a": New(CONV, {"x": 1})}), "model.0.a in the model is no module"),
        (module(CONV, _non_persistent_buffers_set=[""] * 1001), "lists too many buffers"),
    ],
)
def test_trees_that_are_no_model(layer: Any, says: str, tmp_path: Path) -> None:
    assert says in refusal(save(tmp_path / "m.pt", network(layer)))


def test_endless_and_exploding_trees(tmp_path: Path) -> None:
    conv, modules = b"cultralytics.nn.modules.conv\nConv\n", b"X\x08\x00\x00\x00_modules"
    first, second = b"X\x01\x00\x00\x00a", b"X\x01\x00\x00\x00b"
    itself = Raw(conv + b")\x81q\x09}(" + modules + b"}(" + first + b"h\x09uub")
    assert "nested too deep" in refusal(save(tmp_path / "loop.pt", network(itself)))

    leaf = conv + b")\x81}(" + modules + b"}ub"
    level = b"q\x090" + conv + b")\x81}(" + modules + b"}(" + first + b"h\x09" + second + b"h\x09uub"
    twice = Raw(leaf + level * 25)  # 2**25 modules in two kilobytes
    assert "over 5000 modules" in refusal(save(tmp_path / "twice.pt", network(twice)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ("a", "b")),
        (("a", "b"), ("a", "b")),
        ({1: "b", 0: "a"}, ("a", "b")),
        ({0: 7, 1: 0.5, 2: False}, ("7", "0.5", "False")),
        ({0: "bell\x07 \ud800 日本 👩‍🔬"}, ("bell\ufffd \ufffd 日本 👩‍🔬",)),
        ({0: ""}, ("",)),
        ({}, ()),
        (None, ()),
        (5, ()),
    ],
)
def test_class_names(names: Any, expected: tuple[str, ...], tmp_path: Path) -> None:
    read = read_published(save(tmp_path / "m.pt", network(names=names)))
    assert read.names == expected
    "".join(read.names).encode("utf-8")


@pytest.mark.parametrize("names", [{1: "a", 2: "b"}, {0: "a", "1": "b"}, {0: "a", True: "b"}, {-1: "a"}, {2**63: "a"}])
def test_class_names_with_gaps(names: Any, tmp_path: Path) -> None:
    assert "class names are not numbered" in refusal(save(tmp_path / "m.pt", network(names=names)))


@pytest.mark.parametrize("name", [None, ["a"], b"a", 10**20, Call(CONV)])
def test_class_names_that_are_no_text(name: Any, tmp_path: Path) -> None:
    assert "the name of class 1 is no text" in refusal(save(tmp_path / "m.pt", network(names={0: "a", 1: name})))


def test_the_task_comes_from_the_class_then_from_what_is_stated(tmp_path: Path) -> None:
    def task(cls: str, top: dict[str, Any], **attributes: Any) -> str | None:
        state = network(**attributes).state
        path = save(tmp_path / "m.pt", New(Name("ultralytics.nn.tasks", cls), state), **top)
        return read_published(path).task

    assert task("OBBModel", {"train_args": {"task": "detect"}}) == "obb"
    assert task("OtherModel", {"train_args": {"task": "detect"}}, task="pose") == "pose"
    assert task("OtherModel", {"train_args": {"task": "segment"}}) == "segment"
    assert (
        task("OtherModel", {}, args=Call(Name("ultralytics.utils", "IterableSimpleNamespace"), (), {"task": "obb"}))
        == "obb"
    )
    assert task("OtherModel", {}, args=None) is None


def test_strange_metadata_is_left_out(tmp_path: Path) -> None:
    top = {"license": 5, "epoch": "3", "version": ["1"], "date": Call(CONV), "train_args": [1]}
    head = {"nc": "2", "stride": 8, "kpt_shape": (17,)}
    model = network(yaml=None, args=None)
    model.state["_modules"]["model"].state["_modules"].pairs["1"].state.update(head)
    read = read_published(save(tmp_path / "m.pt", model, **top))
    assert (read.license, read.epoch, read.version, read.date, read.train_args) == (None, None, None, None, {})
    assert (read.classes, read.strides, read.keypoint_shape) == (None, (), None)


# Plain values


@pytest.mark.parametrize("protocol", range(2, 6))
def test_numpy_scalars(protocol: int) -> None:
    for kind in "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split():
        value = np.dtype(kind).type(1)
        assert number(read_inert(pickle.dumps(value, protocol), "x")) == value.item()


def test_numpy_scalars_of_other_kinds() -> None:
    def scalar(code: Any, data: Any, state: Any = None) -> Any:
        call = Call(Name("numpy.core.multiarray", "scalar"), (Call(Name("numpy", "dtype"), (code,), state), data))
        return number(read_inert(assemble(call, 3), "x"))

    assert scalar("f8", np.array(2.5, ">f8").tobytes(), (3, ">")) == 2.5
    assert scalar("f8", np.array(2.5, "<f8").tobytes(), (3, "<")) == 2.5
    assert scalar("f16", bytes(16)) is None
    assert scalar("O", b"cposix\nsystem\n") is None
    assert scalar("f8", bytes(7)) is None
    assert scalar("f8", "text") is None
    assert scalar(8, bytes(8)) is None


def test_json_of_what_training_arguments_hold() -> None:
    value = {
        "lr": 0.01, "nan": float("nan"), "big": 2**64, "none": None, "flag": True, "tuple": (1, (2,)), "set": {3},
        "path": Path("/data/a b/x.yaml"), "ordered": collections.OrderedDict(a=1),
        "space": types.SimpleNamespace(x=[1]), "scalar": np.float32(0.5), "bytes": b"x", 3: "three",
        "text": "a\x1b[2J\ud800",
    }  # fmt: skip
    data = json_dict(read_inert(pickle.dumps(value), "x"))
    assert data == {
        "lr": 0.01, "nan": None, "big": None, "none": None, "flag": True, "tuple": [1, [2]], "set": [3],
        "path": "/data/a b/x.yaml", "ordered": {"a": 1}, "space": {"x": [1]}, "scalar": 0.5, "bytes": None,
        "text": "a\ufffd[2J\ufffd", "3": "three",
    }  # fmt: skip
    json.dumps(data, allow_nan=False).encode()
    device = Call(Name("torch", "device"), ("cuda", 0))
    windows = Call(Name("pathlib", "WindowsPath"), ("C:\\", "runs"))
    inert = read_inert(assemble({"d": device, "w": windows, "t": Name("torch", "float16"), "o": ordered()}), "x")
    assert json_dict(inert) == {"d": "cuda:0", "w": "C:\\runs", "t": "torch.float16", "o": "collections.OrderedDict"}


def test_json_of_bombs_is_small() -> None:
    doubled = Raw(b"](NNe" + b"q\x010](h\x01h\x01e" * 60)  # 2**60 values
    wide = Raw(b"](" + b"N" * 50_000 + b"eq\x010](" + b"h\x01" * 50_000 + b"e")  # 50 000 times 50 000
    text = Raw(b"X\x00\x00\x10\x00" + b"a" * (1 << 20) + b"q\x010](" + b"h\x01" * 50_000 + b"e")  # 50 GB of text
    for bomb in (doubled, wide):
        assert len(json.dumps(json_dict(read_inert(assemble({"a": bomb}), "x")))) < 200_000
    assert len(json.dumps(json_dict(read_inert(assemble({"a": text}), "x")))) < 20_000_000
