"""Peak memory of a piece of work: how far the process grows above what it held when the work began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_gib(work: Callable[[], Any]) -> float:
    """GiB above the start, from the kernel's own high-water mark (Linux).

    The mark is set back first: loading a model takes more for a moment than most work on it, and would hide it.
    Run this in a process of its own, for an allocator that already holds free memory needs no more.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise OSError("peak memory is read from /proc/self, which this system does not have; run on Linux")
    Path("/proc/self/clear_refs").write_text("5")
    before = _kib(status, "VmRSS")
    work()
    return (_kib(status, "VmHWM") - before) / 2**20


def _kib(status: Path, field: str) -> int:
    [line] = [text for text in status.read_text().splitlines() if text.startswith(f"{field}:")]
    return int(line.split()[1])
