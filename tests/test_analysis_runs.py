"""Every long analysis, killed at a random moment, goes on: the same bytes in the end, and no finished item again."""

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


def kill(what: str, folder: Path) -> None:
    """Begin in a process of its own, and kill it after one to three items."""
    command = [sys.executable, "-m", "tests.long_runs", what, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wanted, deadline = random.Random(what).randint(1, 3), time.monotonic() + 300
        while len(list((folder / "items").glob("*.json"))) < wanted:
            assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("what", ANALYSES)
def test_killed_runs_go_on(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    kill(what, folder)
    done = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (folder / "items").glob("*.json")}
    resumed = result_of(what, folder)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in done} == done, "a finished item was made again"
    assert len(list((folder / "items").glob("*.json"))) > len(done), "nothing was left to do"
    assert resumed == result_of(what, tmp_path / "whole")
