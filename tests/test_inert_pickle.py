"""Pickles read without running them: what Python's own loader would do to a machine must not happen here."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.checkpoint.published.inert_pickle import MAX_STEPS, Reference, StandIn, Storage, read_inert
from edgekit.errors import EdgekitError, InputError, UnsafeFileError
from tests.hostile.checkpoints import FORBIDDEN_NAMES, Call, Name, New, Persistent, Raw, assemble, attacks

ATTACKS = sorted(attacks(Path("/nowhere")))
PLAIN = {
    "text": "äöü \N{SNOWMAN}",
    "numbers": [0, 1, -1, 255, 65536, -(2**31), 2**62, 10**30, 0.1, float("inf")],
    "nested": {"tuple": (1, (2,), ()), "list": [[], [None, True, False]], 3: "int key"},
    "bytes": b"\x00\xff",
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_every_protocol(protocol: int) -> None:
    value = PLAIN if protocol >= 3 else {k: v for k, v in PLAIN.items() if k != "bytes"}  # 2 writes bytes as a call
    assert read_inert(pickle.dumps(value, protocol), "x.pt") == value


def test_a_shared_value_stays_shared_and_a_cycle_stays_a_cycle() -> None:
    inner: list[object] = []
    inner.append(inner)
    first, second = read_inert(pickle.dumps([inner, inner]), "x.pt")
    assert first is second
    assert first[0] is first


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_objects_become_stand_ins(protocol: int) -> None:
    value = collections.OrderedDict(a=1, b=[2])
    read = read_inert(pickle.dumps(value, protocol), "x.pt")
    assert isinstance(read, StandIn)
    assert read.name == "collections.OrderedDict"
    assert dict(read.pairs) == value

    members = read_inert(pickle.dumps({1, 2}, protocol), "x.pt")
    assert members.name == "builtins.set"
    assert sorted([*members.values, *(members.args[0] if members.args else [])]) == [1, 2]


def test_a_storage_and_an_object_are_recorded() -> None:
    storage = Persistent(("storage", Name("torch", "HalfStorage"), "3", "cuda:0", 12))
    conv = New(Name("torch.nn.modules.conv", "Conv2d"), {"weight": storage, "kind": Name("torch", "float16")})
    read = read_inert(assemble(conv), "x.pt")
    assert (read.name, read.args) == ("torch.nn.modules.conv.Conv2d", ())
    stored, kind = read.state["weight"], read.state["kind"]
    assert isinstance(stored, Storage) and (stored.kind, stored.key, stored.elements) == ("torch.HalfStorage", "3", 12)
    assert isinstance(kind, Reference) and kind.name == "torch.float16"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ATTACKS)
def test_the_attacks_are_live(name: str, tmp_path: Path) -> None:
    """The tests below prove something only if Python's own loader runs these."""
    if name == "nt.system":
        pytest.skip("Windows only")
    sentinel = tmp_path / "ran"
    pickle.loads(attacks(sentinel)[name][1])
    for _ in range(500):  # Popen does not wait
        if sentinel.exists():
            break
        time.sleep(0.01)
    assert sentinel.exists()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_name_and_does_not_run(name: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    with pytest.raises(UnsafeFileError) as error:
        read_inert(attacks(sentinel)[name][1], "bad.pt")
    assert str(error.value).startswith(f"bad.pt: refused, because its pickle wants to call '{name}', which is no part")
    assert "nothing was run" in str(error.value)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", FORBIDDEN_NAMES, ids=lambda n: f"{n.module}.{n.name}")
def test_a_name_off_the_list_is_refused(name: Name) -> None:
    protocol_4 = (
        b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (name.module, name.name)) + b"\x93."
    )
    for data in (assemble(name), assemble({"a": [Call(name, ("x",))]}), assemble(New(name)), protocol_4):
        with pytest.raises(UnsafeFileError, match="wants to call"):
            read_inert(data, "bad.pt")


def test_another_family_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"YOLOv5 or YOLOv7 checkpoint \(it holds 'models.yolo.Model'\)"):
        read_inert(assemble({"model": New(Name("models.yolo", "Model"))}), "v5.pt")


CONV = Name("ultralytics.nn.modules.conv", "Conv")


@pytest.mark.parametrize(
    "value",
    [
        Call(Call(CONV), ()),  # calling the result of a call
        Call("posix.system", ("ls",)),  # calling a string
        Call({"__call__": 1}, ()),
        Raw(b"cultralytics.nn.modules.conv\nConv\n}(X\x05\x00\x00\x00a_boxNub"),  # BUILD on the class itself
        Raw(b"cultralytics.nn.modules.conv\nConv\nN}(X\x05\x00\x00\x00a_boxNu\x86b"),  # the same through slots
        Raw(b"\x82\x01"),
        Raw(b"\x83\x01\x00"),
        Raw(b"\x84\x01\x00\x00\x00"),
        Call(Name("copyreg", "_reconstructor"), ("posix.system", None, None)),
    ],
    ids=["call-of-call", "string", "dict", "build-class", "build-class-slots", "ext1", "ext2", "ext4", "reconstructor"],
)
def test_calls_and_changes_of_what_is_no_name_are_refused(value: object) -> None:
    with pytest.raises(UnsafeFileError):
        read_inert(assemble(value), "bad.pt")


GETATTR = Name("builtins", "getattr")


def test_a_fused_modules_own_method_is_kept_by_name() -> None:
    for name in ("forward_fuse", "forward_split", "forward"):
        read = read_inert(assemble({"forward": Call(GETATTR, (New(CONV, {"x": 1}), name))}), "x.pt")["forward"]
        assert (read.name, read.args[0].name, read.args[1]) == ("builtins.getattr", f"{CONV.module}.{CONV.name}", name)


@pytest.mark.parametrize(
    "args",
    [
        (New(CONV), "__class__"),
        (New(CONV), "load_state_dict"),
        (New(CONV), "forward_fuse", None),
        (New(CONV),),
        (CONV, "forward_fuse"),  # of the class
        ({}, "forward"),
        ("text", "forward"),
        (Call(Name("pathlib", "Path"), ("x",)), "forward"),
        (Call(GETATTR, (New(CONV), "forward")), "forward"),
    ],
)
def test_other_attributes_are_refused(args: tuple[object, ...]) -> None:
    with pytest.raises(UnsafeFileError, match=r"builtins\.getattr"):
        read_inert(assemble(Call(GETATTR, args)), "bad.pt")
    with pytest.raises(UnsafeFileError):  # and what is got is not called
        read_inert(assemble(Call(Call(GETATTR, (New(CONV), "forward")), ())), "bad.pt")


def test_what_torch_compile_makes_says_what_to_save() -> None:
    with pytest.raises(InputError, match="_orig_mod"):
        read_inert(assemble(New(Name("torch._dynamo.eval_frame", "OptimizedModule"))), "c.pt")


def test_poisoned_state_is_only_stored() -> None:
    """``__setstate__``, ``__class__`` and ``__reduce__`` in a state change neither our classes nor Python's."""
    poison = {"__setstate__": Name("builtins", "list"), "__class__": CONV, "__reduce__": 1, "__dict__": {"x": 1}}
    before = {cls: dict(vars(cls)) for cls in (StandIn, Reference, collections.OrderedDict, set)}
    for target in (Call(CONV, (), poison), Call(Name("collections", "OrderedDict"), (), (None, poison))):
        read = read_inert(assemble([target, Call(CONV, (), {"x": 2})]), "x.pt")
        assert type(read[0]) is StandIn
        assert read[1].state == {"x": 2}
    assert {cls: dict(vars(cls)) for cls in before} == before


def nested(depth: int, wrap: bytes) -> bytes:
    """``wrap`` applied ``depth`` times to an empty tuple."""
    return b"\x80\x02)" + wrap * depth


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02N",  # no STOP
        b"\x80\x09N.",
        b"\x80\x02.",  # nothing to return
        b"\x80\x02h\x05.",  # memo never set
        b"\x80\x02t.",  # no mark
        b"\x80\x02(l(" + b"b.",
        b"\x80\x02}]](NNNu.",  # items for a list
        b"\x80\x02}(Nu.",  # odd number of items
        b"\x80\x02NQ.",  # persistent id None
        b"\x80\x05\x97.",  # out-of-band buffer
        b"p99999999999999999999\n.",
        b"\x80\x02Nr\xff\xff\xff\xff" + b"X\xff\xff\xff\x7f.",  # a string longer than the file
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a bytearray of 8 exabytes
        assemble(Persistent(("storage", Name("torch", "Size"), "0", "cpu", 1))),
        assemble(Persistent(("storage", Name("torch", "HalfStorage"), "0", "cpu", -1))),
        assemble(Persistent(("module", Name("torch", "HalfStorage"), "0", "cpu", 1))),
        assemble({(1, 2): 3}),
        assemble({2**64: 3}),
    ],
)
def test_damage_is_one_sentence(data: bytes) -> None:
    with pytest.raises(InputError) as error:
        read_inert(data, "bad.pt")
    assert str(error.value).startswith("bad.pt: its pickle ")
    assert "\n" not in str(error.value)


def test_bombs_are_harmless() -> None:
    """Each of these takes Python's loader gigabytes, for ever, or down."""
    doubled = nested(60, b"2\x86")  # ((((...), ...)): 2**60 leaves
    assert isinstance(read_inert(doubled + b".", "x.pt"), tuple)
    with pytest.raises(InputError):
        read_inert(b"\x80\x02}" + doubled[2:] + b"Ns.", "x.pt")  # as a key: hashing visits every leaf
    assert read_inert(nested(200_000, b"\x85") + b"0N.", "x.pt") is None  # freed without recursion
    chain = b"cultralytics.nn.modules.conv\nConv\nq\x00" + b")\x81" + b"h\x00)\x81" * 1000 + b"0" * 1000
    assert isinstance(read_inert(b"\x80\x02" + chain + b".", "x.pt"), StandIn)
    assert read_inert(b"\x80\x02Nr\xff\xff\xff\xff.", "x.pt") is None  # memo index 2**32 - 1 takes no memory
    with pytest.raises(InputError, match="steps"):
        read_inert(b"\x80\x02" + b"N0" * MAX_STEPS + b"N.", "x.pt")


def test_only_one_pickle_of_a_stream_is_read() -> None:
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps(2))
    assert [read_inert(stream, "x.pt"), read_inert(stream, "x.pt")] == [1, 2]


def test_every_opcode_of_python_is_known_or_refused() -> None:
    """A new Python may add opcodes: then this says so, rather than a user."""
    from edgekit.checkpoint.published import inert_pickle

    known = inert_pickle._PUSHES | set(inert_pickle._ACTIONS) | {"STOP"}
    assert {op.name for op in pickletools.opcodes} - known == {"NEXT_BUFFER", "READONLY_BUFFER"}


OPCODES = b"".join(op.code.encode("latin-1") for op in pickletools.opcodes)


@settings(max_examples=400)
@given(st.lists(st.one_of(st.sampled_from([bytes([b]) for b in OPCODES]), st.binary(max_size=4)), max_size=40))
def test_random_opcodes_end_in_a_value_or_a_sentence(parts: list[bytes]) -> None:
    data = b"\x80\x04(]})N" + b"".join(parts) + b"."
    try:
        read_inert(data, "x.pt")
    except EdgekitError as error:
        assert str(error).startswith("x.pt: ")
