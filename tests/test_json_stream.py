"""JSON read a window at a time, beside the standard library's reader of whole files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.data import json_stream
from edgekit.data.json_stream import members

LISTS = ("images", "annotations")


def read(path: Path) -> Any:
    found: dict[str | None, Any] = {}
    for key, value in members(path, LISTS):
        found[key] = list(value) if isinstance(value, Iterator) else value
    return found.get(None, found)


def made(rng: random.Random, depth: int = 3) -> Any:
    kind = rng.randrange(8 if depth else 6)
    if kind < 6:
        text = "".join(rng.choice('aé"\\\n\u2028𝄞{}[],:') for _ in range(rng.randrange(8)))
        return (None, True, rng.randrange(-(10**12), 10**12), rng.uniform(-1, 1) * 10 ** rng.randrange(-9, 9), text, 0)[
            kind
        ]
    values = [made(rng, depth - 1) for _ in range(rng.randrange(4))]
    return values if kind == 6 else {f"{i}{made(rng, 0)}": value for i, value in enumerate(values)}


@pytest.mark.parametrize("window", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_it_reads_what_json_reads(window: int, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", window)
    rng = random.Random(window)
    for i in range(30):
        document = {"info": made(rng), "images": [made(rng) for _ in range(rng.randrange(5))], "annotations": made(rng)}
        text = json.dumps(document, ensure_ascii=i % 2 == 0, indent=i % 3 or None)
        path = tmp_path / f"{i}.json"
        path.write_bytes(f" {text}\n".encode(encoding))
        assert read(path) == document == json.loads(path.read_bytes())


@pytest.mark.parametrize("text", ["12345", "[1, 2]", '"a"', "{}", '{"images": [1], "images": [2, 3]}', "[NaN, 1e400]"])
def test_other_values_are_read_alike(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", 1)
    (tmp_path / "a.json").write_text(text)
    assert repr(read(tmp_path / "a.json")) == repr(json.loads(text))


def test_what_json_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = '{"images": [{"id": 1, "b": [1.5, 2]}, {}], "annotations": [], "c": {"d": null}}'
    path = tmp_path / "a.json"
    broken = [whole[:i] for i in range(len(whole))]
    broken += [whole[:i] + whole[i + 1 :] for i in range(len(whole)) if whole[i] in '{}[]",:']
    broken += [whole + "x", whole + "{}", '{"images": [1,]}', '{"images": [,]}', "{1: 2}", '{"a": 1,}', "", " ", "\x00"]
    for window in (1, 10):
        monkeypatch.setattr(json_stream, "WINDOW", window)
        for text in broken:
            path.write_text(text)
            with pytest.raises(ValueError):
                json.loads(text)
            with pytest.raises(ValueError):
                read(path)
    path.write_bytes(b'{"images": ["\xff"]}')
    with pytest.raises(ValueError):
        read(path)


def test_it_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", 8)
    text = '{"images": [' + "1, " * 1000 + "oops]}"
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=str(text.index("oops"))):
        read(tmp_path / "a.json")


def test_what_is_held_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a few windows at a time."""
    import tracemalloc

    monkeypatch.setattr(json_stream, "WINDOW", 1 << 14)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [{"id": i, "outline": [1.5] * 100} for i in range(2000)]}))
    assert path.stat().st_size > 1e6
    tracemalloc.start()
    [rows] = [sum(1 for _ in value) for _, value in members(path, LISTS) if isinstance(value, Iterator)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 2000 and peak < 3e5
