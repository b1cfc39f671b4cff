"""A process killed at a random moment goes on: the same bytes in the end, and no finished item again.

Of numbers and of tensors; every long analysis, interrupted in this process: tests/test_interrupts.py.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.long_runs import ANALYSES, PROCESSES, result_of, slow_result_of


def lines(run: Path) -> int:
    file = run.with_suffix(".jsonl")
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def kill(what: str, run: Path) -> None:
    """Begin in a process of its own, and kill it after one to three items."""
    process = PROCESSES.Process(target=slow_result_of, args=(what, run))
    process.start()
    try:
        wanted, deadline = random.Random(what).randint(1, 3), time.monotonic() + 300
        while lines(run) < 1 + wanted:
            assert process.is_alive() and time.monotonic() < deadline, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()


@pytest.mark.slow
@pytest.mark.parametrize("what", ANALYSES)
def test_killed_runs_go_on(what: str, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    kill(what, run)
    content = run.with_suffix(".jsonl").read_bytes()
    done = content[: content.rfind(b"\n") + 1]
    resumed = result_of(what, run)
    again = run.with_suffix(".jsonl").read_bytes()
    assert again.startswith(done), "a finished item was made again"
    assert len(again.splitlines()) > len(done.splitlines()), "nothing was left to do"
    assert resumed == result_of(what, tmp_path / "whole")
