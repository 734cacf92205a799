"""Bytes into the manifest reader and, as raw tensors, into post-processing: a Result or one sentence, nothing else.

    python -m tests.hostile.fuzz --seeds DIR                 write the seeds: every manifest of the table, some tensors
    python -m tests.hostile.fuzz 600                         mutate them for ten minutes
    python -m tests.hostile.fuzz --atheris DIR               guided by coverage, where atheris is installed
    build/cpp-address/fuzz 600 1 DIR/*                       the same seeds into the C++ library

What was found so far: file names with a zero byte or too long for the system raised ``ValueError`` and ``OSError`` (see
``manifests.py``), and outputs whose shapes do not belong together raised ``IndexError`` (see ``test_cpp.py`` and
``FINDS``). ``tests/test_postprocess.py`` feeds them all again.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgekit.checkpoint import catalog
from edgekit.errors import EdgekitError
from edgekit.runtime.image import Geometry
from edgekit.runtime.manifest import MANIFEST, manifest_of, read_bundle, write_manifest
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.spec import HEADS, ROLES, ModelInfo
from edgekit.tasks import ports
from tests.hostile.manifests import NO_OBJECT, WRONG, spoil

WORDS = ("null -1 1e999 NaN [] {} \"\" 99999999999999999999 ../ \\u0000 [[[[[[[[ true , : 16777217 0.5 \\ud800 "
         "false -0 1E5 labels keypoints").split()  # fmt: skip
# Inputs that once raised something else than a sentence, in base64.
FINDS = (
    # mask coefficients that are a single number
    "ZnN7mpmMhGk6AGxlAABsZSJsaWNlbmNlIjogIk1JVCIsICJuYW1lcyI6IFsiY2F0IiwgImRvZyJdLCAib3V0cHV0cyI6IFt7ImR0eXBlIjogImZsb2"
    "F0MzIiLCAibmFtZSI6ICJib3hlcyIsICJyb2xlIjogImJveGVzIiwgInNoYXBl+w==",
    # a role nobody reads that is a single number
    "AgIKtGQAAAQAAwEACAAEAKn870FZlTJCJIciQhb8h0LKhHFAHzYuQgmjEEFHhIZCO6VRQkS04kFcVtZCCpaUQoGtW0IhnUJtQPQ0VfLRPUFo"
    "hlBCQi0YMkLj2aNCXm0/Qi+yIUL6pZhBUiemQjjPOkLllfNBEIU9QjsNEEL+NaRCdlg9QezzQUJdqCRCr57XQgICAQAIAH9VOz4AqfzvQVmV"
    "M0IkhyJCFvyHQsqEcUAfNi5CCaMQQUeEhkI7pVFCRNE28kBtPVX0QWiGUEJCLRhpPwNHhHAaQMDBKkI=",
    # two outputs of one role: C++ took the shape of both and read beyond the second
    "AAIKtGQAAAQAAwEACAAEAO3eGEJkf4FBV7QiQk9uiUFTL0NCtA9bQoNjqkL8EcVCUngCQtpqYEIuI6NCGhNhQuvGTUL39wBAenK+Qh7fSEG3KU9CYf"
    "MBQgGMi0JIZWdCvX7ZP7ef7kAgvydCSic5QkOxE0JMKrhBnj5qv/g+erVjP3odbz/vMLc+x08SPxHMpD4MJBg/swKtPkmCyD4F6WM/AJxoPjGJHz89"
    "EKw9KyhVP0Z/ST9DHXU+RWFgPwnlbz2JF6w+3OJeGT4DAgEACADikuY+6NtLP095LWw+ShRVPWshzz4BR0s+vNy5PaqQFD8GBAEACAACAAMAyF+PQV"
    "5HIULqiD9BbhtiQr1Ar0EKjcpAaPwWQmCEXkKLYdNBChplQjPz70EYHMxB6tkUQrvSbr7mQJy9pi0aQeXaMEJNw+5B4RH+QayWPELpCMdBrEYwQp6s"
    "KkK/sSwgImEiICJhIiwgImEiLCAiYSIsICJhIiwgImGmjxtAdq4vQhhzE0KU2Nk/",
)
ODD = np.array([np.nan, np.inf, -np.inf, -1, 3e38, 1e-45, 1e6, 0], np.float32).tobytes()


def one(data: bytes, folder: Path) -> None:
    """Feed one input; raises what is neither a Result nor an EdgekitError."""
    try:
        if data[:1] in (b"{", b"["):
            (folder / MANIFEST).write_bytes(data)
            read_bundle(folder)
        else:
            _tensors(data)
    except EdgekitError as error:
        assert str(error)


def _tensors(data: bytes) -> None:
    """The same layout as tests/cpp/fuzz.cpp: what each byte decides, then floats for the arrays."""
    left = iter(data)

    def byte() -> int:
        return next(left, 0)

    head = HEADS[byte() % 3]
    names = tuple("abcde"[: 1 + byte() % 5])
    conf, iou, most = byte() / 255, byte() / 255, byte() - 1
    agnostic, multi = bool(byte() % 2), bool(byte() % 2)
    roles = (*list(ROLES), "wishes")
    outputs = {}
    for _ in range(byte() % 9):
        role = roles[byte() % 9]
        shape = [byte() % 9 - 10 * (byte() == 255) for _ in range(byte() % 6)]
        shape = [max(side, 0) for side in shape]  # numpy knows no negative sides
        count = int(np.prod(shape, dtype=np.int64))
        raw = bytes(b for b, _ in zip(left, range(4 * count), strict=False))
        values = np.full(count, 0.5, np.float32)
        values[: len(raw) // 4] = np.frombuffer(raw[: len(raw) // 4 * 4], np.float32)
        outputs[role] = values.reshape(shape)
    info = ModelInfo("any", (64, 64), head, names, (), ())
    options = Options(conf, iou, most, None, agnostic, multi)
    result = postprocess(outputs, info, [Geometry(50, 80, 0.8, 0.8, 0, 12)], options)[0]
    assert len(result) <= options.max_det
    if result.masks is not None:
        result.masks.rle()


def seeds() -> list[bytes]:
    """What was found, every manifest of the table and a sound one, and tensors that make sense."""
    found = [base64.b64decode(text) for text in FINDS]
    found += [text.encode() for text in NO_OBJECT if len(text) < 1000]
    info = ports.info(catalog.spec("yolo12n-seg", classes=2), ("cat", "dog"), (64, 96), license="MIT")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(b"weights")
        for change, _ in [(lambda m: None, ""), *WRONG.values()]:
            write_manifest(folder, manifest_of(info, "ort-fp32", folder))
            spoil(folder, change)
            found.append((folder / MANIFEST).read_bytes()[:20_000])
    rng = np.random.default_rng(0)
    for head in range(3):
        shapes = {0: (1, 8, 4), 2: (1, 3, 8) if head == 0 else (1, 8), 3: (1, 8), 6: (1, 8, 2, 3)}
        body = bytes([head, 2, 10, 180, 100, 0, head == 1, len(shapes)])
        for role, shape in shapes.items():
            values = rng.random(shape) * (60 if role in (0, 6) else 1)
            if role == 0:
                values[..., 2:] += values[..., :2]
            sides = b"".join(bytes([side, 0]) for side in shape)
            body += bytes([role, len(shape)]) + sides + values.astype(np.float32).tobytes()
        found.append(body)
    return found


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, cut, repeated or put in."""
    out = bytearray(data)
    for _ in range(1 + chance.randrange(4)):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(5)
        if kind == 0 and at < len(out):
            out[at] = chance.randrange(256)
        elif kind == 1:
            del out[at : at + chance.randrange(40)]
        elif kind == 2:
            out[at:at] = chance.choice(WORDS).encode()
        elif kind == 3:
            start = 4 * chance.randrange(len(ODD) // 4)
            out[at : at + 4] = ODD[start : start + 4]
        elif out:
            start = chance.randrange(len(out))
            out[at:at] = out[start : start + chance.randrange(60)]
    return bytes(out)


def run(seconds: float, seed: int = 0) -> int:
    """How many inputs were fed; the one that fails is left in ``fuzz-last``."""
    chance, start = random.Random(seed), seeds()
    end, runs = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < end:
            data = mutate(chance.choice(start), chance)
            try:
                one(data, Path(scratch))
            except BaseException:
                Path("fuzz-last").write_bytes(data)
                raise
            runs += 1
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", metavar="DIR")
    parser.add_argument("--atheris", metavar="DIR")
    options = parser.parse_args()
    if options.seeds:
        Path(options.seeds).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(seeds()):
            (Path(options.seeds) / f"{number:03}").write_bytes(data)
    if options.atheris:
        _guided(options.atheris, options.seconds)
    elif options.seconds:
        print(json.dumps({"inputs": run(options.seconds, options.seed)}))


def _guided(folder: str, seconds: float) -> None:
    import atheris

    scratch = tempfile.TemporaryDirectory()
    atheris.instrument_all()
    limit = [f"-max_total_time={int(seconds)}"] if seconds else []
    atheris.Setup([sys.argv[0], folder, "-max_len=20000", *limit], lambda data: one(data, Path(scratch.name)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
