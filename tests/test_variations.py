"""Networks that differ without changing a tensor's shape: what the reader can honour gives the numbers of the program
that wrote the file, everything else is refused by the name of what differs.

Quick tests write files of their own (``published_files.py``). The property is proved against Ultralytics itself where
an environment with it exists: ``EDGEKIT_PEER=/path/to/python pytest -m slow tests/test_variations.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit import checkpoint
from edgekit.checkpoint import catalog
from edgekit.checkpoint.published import Module, Published, read_published, recognition
from edgekit.errors import InputError, UnsafeFileError, UsageError
from edgekit.nn import replay
from edgekit.nn.blocks import Conv, activation
from edgekit.nn.yolo12 import YOLO12
from edgekit.spec import ModelSpec
from edgekit.tasks import network
from edgekit.train.options import TrainOptions
from tests.conftest import Raw
from tests.published_files import fold, published_model, save, save_published

NAMES = ("yolo12n", "yolo12n-seg", "yolo12n-pose", "yolo12n-obb", "yolo12n-cls", "yolo12n-turbo")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_as_published_is_taken_and_replayed(name: str, tmp_path: Path) -> None:
    model = published_model(name)
    loaded = checkpoint.load(save_published(model, tmp_path / "m.pt"))
    assert loaded.spec == catalog.spec(name)
    mine, theirs = loaded.net.state_dict(), model.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("relu", nn.ReLU),
        ("hardswish", nn.Hardswish),
        ("leaky_relu", nn.LeakyReLU),
        ("leaky_relu:0.1", lambda: nn.LeakyReLU(0.1, inplace=True)),
        ("leaky_relu:-0.5", lambda: nn.LeakyReLU(-0.5)),
    ],
)
def test_the_activation_is_the_files(name: str, make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = published_model("yolo12n-cls", classes=3)
    for module in model.modules():
        if isinstance(getattr(module, "act", None), nn.SiLU):
            module.act = make()
    loaded = checkpoint.load(save_published(model, tmp_path / "m.pt"))
    assert loaded.spec.activation == name
    x = torch.linspace(-4, 4, 33)
    first = loaded.net.model[0]
    assert isinstance(first, Conv)
    torch.testing.assert_close(first.act(x), make()(x.clone()))
    again = checkpoint.load(checkpoint.save(loaded, tmp_path / "own.pt"))
    assert again.spec == loaded.spec and ModelSpec.from_dict(loaded.spec.to_dict()) == loaded.spec


@pytest.mark.parametrize("wrong", ["gelu", "relu:0.1", "leaky_relu:", "leaky_relu:x", "leaky_relu:nan", ""])
def test_activations_that_are_none(wrong: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"`activation` {wrong}")):
        activation(wrong)


def test_training_takes_a_slope() -> None:
    assert TrainOptions(activation="leaky_relu:0.2").activation == "leaky_relu:0.2"
    with pytest.raises(UsageError, match="`activation` leaky_relu:steep"):
        TrainOptions(activation="leaky_relu:steep")


# ---- refused by name ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detect(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A published yolo12n, read; tests change copies of its modules."""
    return read_published(save_published(published_model("yolo12n"), tmp_path_factory.mktemp("detect") / "m.pt"))


def changed(model: Published, path: str, **attributes: object) -> dict[str, Module]:
    old = model.modules[path]
    return {**model.modules, path: Module(old.kind, {**old.attributes, **attributes})}


def held(model: Published, modules: dict[str, Module]) -> str:
    """What the comparison says of the file with these modules."""
    altered = Published(model.path, model.which, model.state, modules, model.names)
    with pytest.raises(InputError) as error:
        spec = recognition.recognise(altered, Path("some.pt"))
        recognition.check(altered, network.build(spec), Path("some.pt"))
    assert "some.pt" in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


DECIDES = [
    ("model.0.conv", {"stride": (1, 1)}),
    ("model.15.conv", {"dilation": (2, 2)}),
    ("model.3.conv", {"padding_mode": "reflect"}),
    ("model.3.conv", {"padding": (0, 0)}),
    ("model.21.cv3.0.0.0.conv", {"groups": 1}),
    ("model.9", {"mode": "bilinear"}),
    ("model.9", {"size": (4, 8)}),
    ("model.12", {"align_corners": True}),
    ("model.12", {"scale_factor": 3.0}),
    ("model.10", {"f": (6, -1)}),
    ("model.10", {"d": 2}),
    ("model.19", {"f": (-1, 7)}),
    ("model.14", {"i": 13}),
    ("model.21", {"f": (14, 20, 17)}),
    ("model.21", {"stride": (4.0, 8.0, 16.0)}),
    ("model.21", {"_end2end": True}),
    ("model.21", {"reg_max": 8}),
    ("model.21.dfl", {"c1": 8}),
    ("model.8.cv1.bn", {"eps": 0.5}),
    ("model.8.cv1.bn", {"track_running_stats": False}),
    ("model.4.m.0", {"add": False}),
    ("model.6.m.0.0.attn", {"num_heads": 4, "head_dim": 16}),
    ("model.6.m.1.0.attn", {"area": 1}),
    ("model.3", {"forward": "forward_fuse"}),
    ("model.3", {"forward": "<another module's method>"}),
    ("model.6", {"_forward_pre_hooks": "<hooks>"}),
    ("model.21", {"temperature": 2.0}),
    ("model.0.act", {"limit": 6.0}),
]


@pytest.mark.parametrize(("path", "attributes"), DECIDES, ids=lambda v: v if isinstance(v, str) else next(iter(v)))
def test_whatever_decides_the_function_is_refused_by_name(
    path: str, attributes: dict[str, object], detect: Published
) -> None:
    text = held(detect, changed(detect, path, **attributes))
    assert path in text
    key, value = next(iter(attributes.items()))
    assert key in ("i", "f") or key in text or str(value) in text


# What may have any value: names, counts, caches, settings of training and of other programs.
IDLE = {"inplace", "momentum", "np", "type", "_is_full_backward_hook", "_reversed_padding_repeated_twice"}


def other(value: object) -> object:
    """A value of the same kind that is not ``value``."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, tuple):
        return (*value[:-1], other(value[-1]))
    return f"{value}_"


def test_every_attribute_of_every_class_decides_or_is_known_not_to(detect: Published) -> None:
    """Of the first and last module of each class: whatever it states is changed, once each."""
    places: dict[str, list[str]] = {}
    for path, module in detect.modules.items():
        if path:
            places.setdefault(module.kind, []).append(path)
    looked_at = 0
    for path in sorted({p for found in places.values() for p in (found[0], found[-1])}):
        for attribute, value in detect.modules[path].attributes.items():
            altered = changed(detect, path, **{attribute: other(value)})
            if attribute in IDLE:
                published = Published(detect.path, detect.which, detect.state, altered, detect.names)
                assert recognition.recognise(published, Path("some.pt")).family == "v1.0"
            else:
                looked_at += 1
                assert path in held(detect, altered) or path.startswith("model.0.") or attribute == "area"
    assert looked_at > 80


def test_members_run_in_the_order_they_are_stored(detect: Published) -> None:
    paths = list(detect.modules)
    first, second = (paths.index(f"model.21.cv2.0.{i}") for i in (0, 1))
    swapped = [*paths[:first], *paths[second : second + second - first], *paths[first:second]]
    swapped += [path for path in paths if path not in swapped]
    assert "model.21.cv2.0" in held(detect, {path: detect.modules[path] for path in swapped})


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("model.7.act", "torch.nn.modules.activation.ReLU"),
        ("model.5.act", "torch.nn.modules.linear.Identity"),
        ("model.6.m.0.0.attn.proj.act", "torch.nn.modules.activation.SiLU"),
        ("model.2.cv1.bn", "torch.nn.modules.normalization.GroupNorm"),
        ("model.2", "ultralytics.nn.modules.block.C2f"),
        ("model.8", "ultralytics.nn.modules.block.A2C2fPlus"),
        ("model.4.cv1.act", "ultralytics.nn.modules.activation.SiLU"),
        ("", "ultralytics.nn.tasks.WorldModel"),
    ],
)
def test_a_module_of_another_class_is_refused_by_name(path: str, kind: str, detect: Published) -> None:
    modules = {**detect.modules, path: Module(kind, detect.modules[path].attributes)}
    text = held(detect, modules)
    assert (path or "the model") in text and kind.rpartition(".")[2] in text


def test_modules_too_many_and_too_few(detect: Published) -> None:
    more = {**detect.modules, "model.1.after": Module("torch.nn.modules.activation.Tanh")}
    assert "model.1.after (Tanh)" in held(detect, more)
    fewer = {name: m for name, m in detect.modules.items() if name != "model.21.dfl.conv"}
    assert "model.21.dfl.conv" in held(detect, fewer)
    mute = Module(detect.modules["model.9"].kind, {"mode": "nearest", "size": None})
    assert "model.9" in held(detect, {**detect.modules, "model.9": mute})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nn.GELU, "GELU(approximate='none')"),
        (nn.Mish, "Mish"),
        (lambda: nn.ELU(0.5), "ELU(alpha=0.5"),
        (nn.PReLU, "PReLU"),
    ],
)
def test_activations_it_has_not_are_named(make: Callable[[], nn.Module], says: str, tmp_path: Path) -> None:
    model = published_model("yolo12n-cls", classes=3)
    for module in model.modules():
        if isinstance(getattr(module, "act", None), nn.SiLU):
            module.act = make()
    with pytest.raises(InputError, match=re.escape(says)) as error:
        checkpoint.load(save_published(model, tmp_path / "m.pt"))
    assert "leaky_relu" in str(error.value)


def test_what_decides_nothing_is_no_matter(detect: Published) -> None:
    modules = changed(detect, "model.21", max_det=100, shape=(1, 2, 3, 4), anchors="<tensor>", export=True, np=7)
    modules["model.0.act"].attributes["inplace"] = True
    modules["model.4"].attributes["forward"] = "forward_split"
    modules[""].attributes["pt_path"] = "elsewhere.pt"
    altered = Published(detect.path, detect.which, detect.state, modules, detect.names)
    spec = recognition.recognise(altered, Path("some.pt"))
    recognition.check(altered, network.build(spec), Path("some.pt"))


# ---- the check that does not depend on the reading ----------------------------------------------------------------


@pytest.fixture(scope="module")
def net(detect: Published) -> YOLO12:
    return checkpoint.from_published(detect, Path(__file__)).net


@pytest.mark.parametrize(
    ("path", "attributes", "place"),
    [
        ("model.0.conv", {"stride": (1, 1)}, "model.0"),
        ("model.3.conv", {"padding_mode": "reflect", "_reversed_padding_repeated_twice": (1, 1, 1, 1)}, "model.3"),
        ("model.15.conv", {"dilation": (2, 2), "padding": (2, 2)}, "model.15"),
        ("model.9", {"mode": "bilinear"}, "model.9"),
        ("model.10", {"f": (6, -1)}, "model.10"),
        ("model.4.m.0", {"add": False}, "model.4"),
        ("model.6.m.0.0.attn", {"area": 1}, "model.6"),
        ("model.8.m.0.0.attn", {"num_heads": 2, "head_dim": 64}, "model.8"),
        ("model.7.bn", {"eps": 1e-2}, "model.7"),
        ("model.21", {"stride": (4.0, 8.0, 16.0)}, "model.21"),
    ],
)
def test_the_replay_finds_what_a_comparison_would_have_missed(
    path: str, attributes: dict[str, object], place: str, detect: Published, net: YOLO12
) -> None:
    """The network as published beside a file that says otherwise: as if the attribute had not been compared."""
    found = replay.parting(changed(detect, path, **attributes), detect.state, net)
    assert found is not None and found.split(" ")[0] == place


def test_the_replay_leaves_the_network_as_it_was(detect: Published, net: YOLO12) -> None:
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    assert replay.parting(detect.modules, detect.state, net) is None
    assert all(
        torch.equal(value, weights[key]) and value.dtype == weights[key].dtype
        for key, value in net.state_dict().items()
    )


def test_a_reading_that_the_replay_contradicts_is_an_error(detect: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = changed(detect, "model.12", mode="bilinear")
    altered = Published(detect.path, detect.which, detect.state, modules, detect.names)
    monkeypatch.setattr(recognition, "check", lambda *given: None)
    with pytest.raises(InputError, match="model.12"):
        checkpoint.from_published(altered, Path(__file__))


# ---- fused, wrapped, bare, tensors alone --------------------------------------------------------------------------


def answers(net: nn.Module) -> dict[str, torch.Tensor]:
    image = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return dict(net.eval()(image))


def test_a_file_saved_after_fusing_gives_the_same(tmp_path: Path) -> None:
    whole = checkpoint.load(save_published(published_model("yolo12n", classes=2), tmp_path / "whole.pt"))
    fused = checkpoint.load(save_published(fold(published_model("yolo12n", classes=2)), tmp_path / "fused.pt"))
    assert fused.provenance["fused"] is True and "fused" not in whole.provenance
    for role, value in answers(whole.net).items():
        torch.testing.assert_close(answers(fused.net)[role], value, rtol=1e-4, atol=1e-3)


def test_the_averaged_weights_come_first_and_wrappers_are_opened(tmp_path: Path) -> None:
    model, other = published_model("yolo12n-cls", classes=3, seed=1), published_model("yolo12n-cls", classes=3)
    weight = model.model[0].conv.weight
    files = {
        "ema": save_published(other, tmp_path / "ema.pt", ema=model),
        "model": save_published(nn.DataParallel(model), tmp_path / "parallel.pt"),
        "file": save(model, tmp_path / "bare.pt"),
    }
    for which, path in files.items():
        loaded = checkpoint.load(path)
        assert loaded.provenance["weights"] == which
        assert torch.equal(loaded.net.model[0].conv.weight, weight)


@pytest.mark.parametrize("around", ["", "module.", "_orig_mod.", "model.", "module.model."])
def test_a_state_dict_and_the_models_name(around: str, tmp_path: Path) -> None:
    state = published_model("yolo12n", classes=2, activation="relu").state_dict()
    state = {around + key: value for key, value in reversed(state.items())}
    path = save({"state_dict": state, "epoch": 3} if around else state, tmp_path / "sd.pt")
    loaded = checkpoint.load_state_dict(path, "yolo12n", ("a", "b"), "relu")
    assert loaded.names == ("a", "b") and loaded.spec == catalog.spec("yolo12n", classes=2).replace(activation="relu")
    assert loaded.provenance["assumed"]["activation"] == "relu"
    assert torch.equal(loaded.net.state_dict()["model.14.cv1.conv.weight"], state[f"{around}model.14.cv1.conv.weight"])
    with pytest.raises(UsageError, match="`model` yolo12n-seg"):
        checkpoint.load_state_dict(path, "yolo12n-seg")
    with pytest.raises(InputError, match="edgekit import .*sd.pt --model"):
        checkpoint.load(path)


@pytest.mark.parametrize("shape", [(17, 3), (7, 2), (4, 3)])
def test_keypoints_of_a_state_dict(shape: tuple[int, int], tmp_path: Path) -> None:
    net = network.build(catalog.spec("yolo12n-pose", classes=1, keypoint_shape=shape))
    path = save(net.state_dict(), tmp_path / "sd.pt")
    if shape[0] * shape[1] % 6:
        assert checkpoint.load_state_dict(path, "yolo12n-pose").spec.keypoint_shape == shape
    else:
        with pytest.raises(InputError, match="12 keypoint values"):
            checkpoint.load_state_dict(path, "yolo12n-pose")


def test_state_dicts_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no state dict"):
        checkpoint.load_state_dict(save({"weight": torch.zeros(2)}, tmp_path / "other.pt"), "yolo12n")
    state = published_model("yolo12n-cls", classes=2).state_dict()
    extra = save({**state, "teacher.weight": torch.zeros(2)}, tmp_path / "extra.pt")
    with pytest.raises(InputError, match="teacher.weight"):
        checkpoint.load_state_dict(extra, "yolo12n-cls")
    with pytest.raises(InputError, match="names 1 classes"):
        checkpoint.load_state_dict(save(state, tmp_path / "named.pt"), "yolo12n-cls", ("a",))


def test_hooks_and_foreign_methods_are_not_taken(tmp_path: Path) -> None:
    model = published_model("yolo12n-cls", classes=2)
    model.model[2].register_forward_hook(nn.Identity())
    with pytest.raises(InputError, match=r"model\.2 .*hooks"):
        checkpoint.load(save_published(model, tmp_path / "hook.pt"))
    model = published_model("yolo12n-cls", classes=2)
    model.model[3].forward = model.model[5].forward_fuse
    with pytest.raises(InputError, match=r"model\.3"):
        checkpoint.load(save_published(model, tmp_path / "foreign.pt"))
    model = published_model("yolo12n-cls", classes=2)
    model.model[3].forward = model.model[3].share_memory  # a method, but none that takes the place of a forward pass
    with pytest.raises(UnsafeFileError, match="getattr"):
        checkpoint.load(save_published(model, tmp_path / "method.pt"))


# ---- what is stored beside the repository, and Ultralytics itself -------------------------------------------------


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("mods/stem_stride1.pt", ("stride", "model.0.conv")),
        ("mods/upsample_bilinear.pt", ("mode", "model.9", "bilinear")),
    ],
)
def test_modified_files_are_refused_by_what_differs(file: str, words: tuple[str, ...], shared: Path) -> None:
    with pytest.raises(InputError) as error:
        checkpoint.load(shared / "field" / file)
    assert all(word in str(error.value) for word in words)


def test_a_file_with_another_activation_and_a_fused_one_are_taken(shared: Path) -> None:
    assert checkpoint.load(shared / "field/relu/best.pt").spec.activation == "relu"
    whole = answers(checkpoint.load(shared / "fixtures/yolo12n-bccd.pt").net)
    fused = checkpoint.load(shared / "field/ckpt/saved_after_fuse.pt")
    assert fused.provenance["fused"] is True
    assert {r: v.shape for r, v in answers(fused.net).items()} == {r: v.shape for r, v in whole.items()}


@pytest.fixture(scope="module")
def variations(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints Ultralytics wrote, with what it computes of them."""
    python = os.environ.get("EDGEKIT_PEER")
    if not python:
        pytest.skip("needs Ultralytics: set EDGEKIT_PEER to the Python of an environment that has it")
    out = tmp_path_factory.mktemp("variations")
    script = Path(__file__).parent / "ultralytics_variations.py"
    environment = {**os.environ, "PYTHONPATH": str(shared / "peer"), "YOLO_CONFIG_DIR": str(out), "YOLO_OFFLINE": "1"}
    command = [python, str(script), str(shared / "fixtures"), str(out)]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return out


@pytest.mark.slow
def test_what_is_accepted_gives_ultralytics_numbers_and_the_rest_is_refused_by_name(variations: Path) -> None:
    image = torch.from_numpy(np.load(variations / "input.npy"))
    outcome = {}
    for path in sorted(variations.glob("*.pt")):
        stored = variations / f"{'wrapped' if path.stem.startswith(('wrapped', 'state')) else path.stem}.npz"
        try:
            if path.stem.startswith("state"):
                loaded = checkpoint.load_state_dict(path, "yolo12n", ("RBC", "WBC", "Platelets"))
            else:
                loaded = checkpoint.load(path)
        except InputError as error:
            outcome[path.stem] = str(error)
            continue
        with torch.no_grad():
            found = {role: value.numpy() for role, value in loaded.net(image).items()}
        theirs = Raw.roles(path.stem.partition("@")[2], np.load(stored))
        Raw.assert_close(found, theirs, pixels=2e-2, scores=1e-4, masks=1e-2)
        outcome[path.stem] = None
    expected = (variations / "expected.txt").read_text().split("\n")
    for line in filter(None, expected):
        name, _, words = line.partition(" ")
        if words:
            assert outcome[name] is not None and words in outcome[name], (name, outcome[name])
        else:
            assert outcome[name] is None, (name, outcome[name])
    assert len(outcome) == len(list(filter(None, expected)))
