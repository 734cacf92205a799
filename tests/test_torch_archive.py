"""The zip container: every kind of file that is no published checkpoint gets its own sentence, and no zip can bomb."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.checkpoint.published import is_edgekit_checkpoint, read_published, torch_archive
from edgekit.checkpoint.published.torch_archive import open_archive
from edgekit.errors import EdgekitError, InputError, UnsafeFileError
from tests.hostile.checkpoints import STORAGES, Call, Name, assemble, attacks, network, write_archive

GOOD = assemble({"model": network()})


def sentence(path: Path) -> str:
    """What ``read_published`` says about a bad file; checks the form every such sentence has."""
    with pytest.raises(InputError) as error:
        read_published(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text and not text.endswith(".")
    assert not is_edgekit_checkpoint(path)
    return text


def test_reads_what_is_there(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "good.pt", GOOD)
    with open_archive(path) as archive:
        assert archive.pickle == GOOD
        assert archive.read_storage("1", 12) == STORAGES["1"]
    with pytest.raises(ValueError):  # closed
        archive._stream.read(1)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_stored_and_deflated_members(compression: int, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "good.pt", GOOD, compression=compression)
    assert read_published(path).names == ("cell", "plate")


# What a user may bring instead


def test_missing_folder_empty(tmp_path: Path) -> None:
    assert "no such file" in sentence(tmp_path / "none.pt")
    assert "a folder, not a checkpoint" in sentence(tmp_path)
    empty = tmp_path / "empty.pt"
    empty.touch()
    assert "an empty file" in sentence(empty)
    with pytest.raises(InputError, match="cannot be read"):
        read_published("nul\0.pt")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "not a regular file" in sentence(tmp_path / "pipe.pt")


def npz_bytes() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        (
            "m.pt",
            struct.pack("<Q", 60) + b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'.ljust(62),
            "safetensors",
        ),
        ("m.safetensors", b"anything", "safetensors"),
        ("m.onnx", b"anything", "ONNX graph"),
        ("m.pt", b"\x08\x08\x12\x07pytorch\x1a\x052.0.0", "ONNX graph"),
        ("m.xml", b"<net name='m' version='11'>", "OpenVINO"),
        ("m.pt", b"<?xml version='1.0'?>\n<net name='m'>", "OpenVINO"),
        ("m.pt", b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        ("m.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("m.pt", b"ftrt\0\0\0\0", "TensorRT engine"),
        ("m.pt", b"PK\x05\x06" + b"\0" * 18, "an empty or damaged zip"),
        ("m.pt", npz_bytes(), "a zip file without data.pkl"),
        ("m.pt", b"\xff\xd8\xff\xe0 a photograph", "not a PyTorch checkpoint, nor any format edgekit knows"),
        ("m.pt", b"conf: 0.5\nnames:\n  0: a\n", "not a PyTorch checkpoint, nor any format edgekit knows"),
        ("m.pt", b".", "not a PyTorch checkpoint, nor any format edgekit knows"),
        ("m.pt", pickle.dumps({"a": 1}), "a bare pickle without a zip"),
        ("m.pt", b"\x80", "a bare pickle without a zip"),
    ],
)
def test_other_formats_by_name(name: str, data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert says in sentence(path)


def test_torchscript_and_legacy_files_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, files of it remain
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    assert "a TorchScript file" in sentence(tmp_path / "script.pt")
    model = {"model": torch.nn.Linear(2, 2)}
    torch.save(model, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    assert "PyTorch's format of before 1.6" in sentence(tmp_path / "legacy.pt")


def test_onnx_files_of_the_onnx_package(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    for name, model in {
        "a": onnx.helper.make_model(graph),
        "b": onnx.helper.make_model(graph, producer_name="x"),
    }.items():
        (tmp_path / name).write_bytes(model.SerializeToString())
        assert "an ONNX graph" in sentence(tmp_path / name)


# Pickles that would run something, in a zip, bare, and in the old format


@pytest.mark.parametrize("name", sorted(attacks(Path("/nowhere"))))
def test_attacks_are_refused_in_every_wrapping(name: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    data = attacks(sentinel)[name][1]
    old = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}." + data
    for path, content in {tmp_path / "bare.pt": data, tmp_path / "old.pt": old}.items():
        path.write_bytes(content)
        with pytest.raises(UnsafeFileError, match="wants to call"):
            read_published(path)
    zipped = write_archive(tmp_path / "zip.pt", data)
    with pytest.raises(UnsafeFileError, match="wants to call"):
        read_published(zipped)
    assert not is_edgekit_checkpoint(zipped)
    assert not sentinel.exists()


@pytest.mark.parametrize("where", ["train_args", "names", "names_in_model", "deep"])
def test_an_attack_inside_a_good_checkpoint_is_refused(where: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    attack = Call(Name("posix", "system"), (f"touch {sentinel}",))
    values = {
        "train_args": {"model": network(), "train_args": {"lr": attack}},
        "names": {"edgekit": 1, "model": network(), "names": attack},
        "names_in_model": {"model": network(names={0: attack, 1: "b"})},
        "deep": {"model": network(), "unused": [[[{"a": (attack,)}]]]},
    }
    path = write_archive(tmp_path / "m.pt", assemble(values[where]))
    with pytest.raises(UnsafeFileError, match=r"'posix\.system'"):
        read_published(path)
    assert not is_edgekit_checkpoint(path)
    assert not sentinel.exists()


# Damage and bombs


def test_every_truncation_is_a_sentence(tmp_path: Path) -> None:
    whole = write_archive(tmp_path / "good.pt", GOOD).read_bytes()
    path = tmp_path / "cut.pt"
    for length in [*range(1, 60), *range(60, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        sentence(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated or damaged zip" in sentence(path)


def test_a_changed_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "m.pt", GOOD)
    data = bytearray(path.read_bytes())
    data[data.index(STORAGES["0"]) + 3] ^= 1
    path.write_bytes(data)
    assert "a damaged zip (Bad CRC-32" in sentence(path)


def test_storages_missing_or_of_another_size(tmp_path: Path) -> None:
    less = {k: v for k, v in STORAGES.items() if k != "2"}
    assert "tensor storage '2' is missing" in sentence(write_archive(tmp_path / "a.pt", GOOD, less))
    short = STORAGES | {"0": STORAGES["0"][:-2]}
    assert "tensor storage '0' has 46 bytes where the file's own description says 48" in sentence(
        write_archive(tmp_path / "b.pt", GOOD, short)
    )


def test_byte_order(tmp_path: Path) -> None:
    big = write_archive(tmp_path / "big.pt", GOOD, extra={"m/byteorder": b"big"})
    assert "big-endian byte order" in sentence(big)
    odd = write_archive(tmp_path / "odd.pt", GOOD, extra={"m/byteorder": b"middle"})
    assert "unknown byte order" in sentence(odd)


def test_two_entries_of_one_name_and_two_pickles(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "m.pt", GOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("m/data.pkl", b"N.")
    assert "two entries of the zip have the same name" in sentence(path)
    two = write_archive(tmp_path / "two.pt", GOOD, extra={"n/data.pkl": b"N."})
    assert "the zip holds 2 pickles" in sentence(two)


def test_names_that_leave_the_folder_leave_nothing(tmp_path: Path) -> None:
    outside = {"m/../../escaped": b"x", "/absolute": b"x", "../up": b"x"}
    (tmp_path / "in").mkdir()
    read_published(write_archive(tmp_path / "in" / "m.pt", GOOD, extra=outside))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "m.pt"]


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_archive, "MAX_ENTRIES", 10)
    path = write_archive(tmp_path / "m.pt", GOOD, extra={f"m/x{i}": b"" for i in range(20)})
    assert "a zip with 26 entries, over the limit of 10" in sentence(path)


def test_a_directory_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """A sparse file whose end record claims a directory of 2 GiB."""
    path = tmp_path / "m.pt"
    size = 2 << 30
    with open(path, "wb") as handle:
        handle.write(b"PK\x03\x04")
        handle.truncate(size)
        handle.seek(size)
        handle.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, size - 4, 4, 0))
    tracemalloc.start()
    assert "truncated or damaged zip" in sentence(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_compression_bombs(tmp_path: Path) -> None:
    zeros = bytes(torch_archive.MAX_PICKLE + 1)
    bomb = write_archive(tmp_path / "a.pt", zeros, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 17
    assert "its pickle would take" in sentence(bomb)

    # an entry that declares 48 bytes and holds 64 MiB: no more than it declares is read
    path = write_archive(tmp_path / "b.pt", GOOD, STORAGES | {"0": bytes(1 << 26)}, compression=zipfile.ZIP_DEFLATED)
    data = path.read_bytes().replace(struct.pack("<L", 1 << 26), struct.pack("<L", 48))
    path.write_bytes(data)
    tracemalloc.start()
    assert "damaged zip" in sentence(path)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()

    # and the other way round
    path = write_archive(tmp_path / "c.pt", GOOD, compression=zipfile.ZIP_STORED)
    data = path.read_bytes().replace(struct.pack("<L", 48), struct.pack("<L", 1 << 30))
    path.write_bytes(data)
    sentence(path)


def test_the_total_of_all_storages_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_archive, "MAX_TOTAL", 50)
    assert "its tensors take over 50 bytes" in sentence(write_archive(tmp_path / "m.pt", GOOD))


def test_encrypted_and_exotic_compression(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "m.pt", GOOD, compression=zipfile.ZIP_BZIP2)
    assert "compressed in a way PyTorch does not write" in sentence(path)
    path = write_archive(tmp_path / "n.pt", GOOD)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    data[directory + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in sentence(path)


# Fuzzing: whatever the bytes, a model or a sentence


def only_a_sentence(path: Path) -> None:
    try:
        read_published(path)
    except EdgekitError as error:
        assert str(error).startswith(f"{path}: ")
        str(error).encode("utf-8")
    is_edgekit_checkpoint(path)


@pytest.fixture(scope="module")
def fuzz_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "m.pt"


EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 2), st.binary(min_size=1, max_size=8)), max_size=6)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Overwrite, insert or delete a few bytes at a few places."""
    for where, how, piece in edits:
        at = where % (len(data) + 1)
        data = data[:at] + (piece if how < 2 else b"") + data[at + (0 if how == 1 else len(piece)) :]
    return data


@settings(max_examples=300, deadline=None)
@given(EDITS)
def test_fuzzed_archives(fuzz_path: Path, edits: list[tuple[int, int, bytes]]) -> None:
    whole = write_archive(fuzz_path, GOOD).read_bytes()
    fuzz_path.write_bytes(edited(whole, edits))
    only_a_sentence(fuzz_path)


@settings(max_examples=500, deadline=None)
@given(EDITS)
def test_fuzzed_pickles_in_sound_archives(fuzz_path: Path, edits: list[tuple[int, int, bytes]]) -> None:
    only_a_sentence(write_archive(fuzz_path, edited(GOOD, edits)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"PK\x05\x06", b"(", b"c", b"\x08"]))
def test_random_files(fuzz_path: Path, data: bytes, start: bytes) -> None:
    fuzz_path.write_bytes(start + data)
    only_a_sentence(fuzz_path)


@settings(max_examples=100, deadline=None)
@given(EDITS, st.sampled_from(sorted(attacks(Path("/nowhere")))))
def test_fuzzed_attacks_never_run(fuzz_path: Path, edits: list[tuple[int, int, bytes]], name: str) -> None:
    sentinel = fuzz_path.with_name("ran")
    fuzz_path.write_bytes(edited(attacks(sentinel)[name][1], edits))
    only_a_sentence(fuzz_path)
    only_a_sentence(write_archive(fuzz_path, edited(attacks(sentinel)[name][1], edits)))
    assert not sentinel.exists()
