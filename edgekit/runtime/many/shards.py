"""Which images are whose. Image number i of the listing belongs to shard i modulo N: shares differ by one image at
most and neighbours go to different shards, so large pictures at one place do not all meet one process. It needs the
same listing everywhere, which is checked.

    shard = parse("2/8")
    with locked(folder): ...            # nobody else works on it meanwhile
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UsageError

MOST = 99_999  # shards; their folders' names have so many digits


@dataclass(frozen=True)
class Shard:
    """Share ``index`` (from 0) of ``count``."""

    index: int = 0
    count: int = 1

    def owns(self, position: int) -> bool:
        """Whether the image at this place of the listing is its."""
        return position % self.count == self.index

    def position(self, ordinal: int) -> int:
        """The place in the listing of its ``ordinal``-th image."""
        return ordinal * self.count + self.index

    def size(self, total: int) -> int:
        """How many of ``total`` images are its."""
        return (total - self.index + self.count - 1) // self.count if total > self.index else 0

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"shard-{self.index:05d}-of-{self.count:05d}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """``I/N``, ``auto`` or ``auto/N``; None is everything.

    Raises:
        UsageError: it is none of these, out of range, or the variables do not say it.
    """
    if text is None:
        return Shard()
    found = re.fullmatch(r"(\d+|auto)(?:/(\d+))?", text.strip())
    if found is None or (found[2] is None and found[1] != "auto"):
        raise UsageError(f"`shard` {text}: write I/N, as 0/4, or auto, or auto/4")
    count = int(found[2]) if found[2] else None
    if count == 0 or (count or 0) > MOST:
        raise UsageError(f"`shard` {text}: there are 1 to {MOST} shards")
    index, count = _from_environment(count, environment) if found[1] == "auto" else (int(found[1]), int(found[2]))
    if index >= count:
        raise UsageError(f"`shard` {index}/{count}: out of range; {count} shards are 0/{count} to {count - 1}/{count}")
    return Shard(index, count)


def _from_environment(count: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Index and number of shards as a scheduler's variables say."""
    numbers = {name: int(value) for name, value in environment.items() if value.isdecimal()}
    if "SLURM_ARRAY_TASK_ID" in numbers:
        task = numbers["SLURM_ARRAY_TASK_ID"]
        if count is not None:
            return task, count
        first, step = numbers.get("SLURM_ARRAY_TASK_MIN", 0), numbers.get("SLURM_ARRAY_TASK_STEP") or 1
        count = numbers.get("SLURM_ARRAY_TASK_COUNT")
        last = numbers.get("SLURM_ARRAY_TASK_MAX")
        if count is None or last is None or last != first + (count - 1) * step:
            raise UsageError("`shard` auto: this Slurm array does not say of how many shards it is; give auto/N")
        return (task - first) // step, count
    if "JOB_COMPLETION_INDEX" in numbers:
        if count is None:
            raise UsageError("`shard` auto: Kubernetes says which shard this is, not of how many; give auto/N")
        return numbers["JOB_COMPLETION_INDEX"], count
    raise UsageError("`shard` auto: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set; give I/N")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else works in ``folder`` while the block lasts; the system lets go of it when a process dies.

    Raises:
        UsageError: another process does.
    """
    with open(folder / "lock", "a+b") as handle:
        try:
            _lock(handle.fileno())
        except OSError:
            handle.seek(0)
            who = handle.read(200).decode("utf-8", "replace").strip()
            raise UsageError(f"{folder}: another process works on this shard{who and f' ({who})'}; "
                             "give every process its own `shard`") from None  # fmt: skip
        handle.truncate(0)
        handle.write(
            f"process {os.getpid()} of {os.uname().nodename if hasattr(os, 'uname') else 'this host'}".encode()
        )
        handle.flush()
        yield


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte that nobody reads: what is locked cannot be read there
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
