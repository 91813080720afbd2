"""Counting how often the samples of shards on this machine are read."""

import os
from collections import Counter

import pytest


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """From here on, how often bytes are read at each (path, offset), in this process."""
    reads = Counter[tuple[str, int]]()
    pread = os.pread

    def counted(file: int, size: int, start: int) -> bytes:
        reads[os.readlink(f"/proc/self/fd/{file}"), start] += 1  # noqa: PTH115
        return pread(file, size, start)

    monkeypatch.setattr(os, "pread", counted)
    return reads
