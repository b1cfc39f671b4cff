"""A process killed at a random moment goes on: the same bytes in the end, and no finished item again.

Of numbers and of tensors; every long analysis, interrupted in this process: tests/test_interrupts.py.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.long_runs import ANALYSES, result_of


def lines(run: Path) -> int:
    file = run.with_suffix(".jsonl")
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def kill(what: str, run: Path) -> None:
    """Begin in a process of its own, and kill it after one to three items."""
    command = [sys.executable, "-m", "tests.long_runs", what, str(run)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wanted, deadline = random.Random(what).randint(1, 3), time.monotonic() + 300
        while lines(run) < 1 + wanted:
            assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


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
