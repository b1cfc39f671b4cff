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

SCRIPT = """
import sys, time
from pathlib import Path
import kntools as kn
from kntools.run_folder import RunFolder
from kntools.analyses.neuron_search import SearchSettings
from kntools.analyses.prompt_groups import prompt_groups
from tests import planted

what, folder, out, wait = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
put = RunFolder.put
def slowly(self, key, payload):
    put(self, key, payload)
    time.sleep(wait)
RunFolder.put = slowly

model = planted.build()
path = planted.write_pairs(out.parent)
groups = prompt_groups(model, "determiner_noun_agreement_1", frames=3, path=path).groups
prompts = {"all": [p for g in groups for p in g.prompts]}
one, quiet = SearchSettings(target_count=(1, 5)), {"progress": False, "run": folder}
if what == "localisation":
    from kntools.analyses.localisation import localisation
    result = localisation(model, groups, settings=one, null="answers", **quiet)
elif what == "pair_search":
    from kntools.analyses.pair_search import pair_search
    result = pair_search(model, groups, settings=one, **quiet)
elif what == "reliability":
    from kntools.analyses.reliability import reliability
    result = reliability(model, prompts, count=1, **quiet)
elif what == "tracing_profile":
    from kntools.analyses.tracing_profile import tracing_profile
    some = [kn.Prompt(p.text, p.target, subject=p.text.split()[-1]) for p in prompts["all"]]
    result = tracing_profile(model, some[:6], window=2, samples=2, known_only=False, **quiet)
elif what == "suppression_effect":
    from kntools.analyses.suppression_effect import suppression_effect
    some = {str(i): g.prompts for i, g in enumerate(groups)}
    result = suppression_effect(model, some, [planted.PLURAL], words=["book", "books"], **quiet)
else:
    from kntools.analyses.attribution_profile import attribution_profile
    result = attribution_profile(model, {str(i): g.prompts for i, g in enumerate(groups)}, **quiet)
tensors = what in ("attribution_profile", "tracing_profile")
result.save(out.with_suffix(".safetensors" if tensors else ".json")).rename(out)
"""
ANALYSES = (
    "localisation",
    "pair_search",
    "reliability",
    "suppression_effect",
    "attribution_profile",
    "tracing_profile",
)


def start(what: str, folder: Path, out: Path, wait: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, what, str(folder), str(out), str(wait)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("what", ANALYSES)
def test_killed_runs_go_on(what: str, tmp_path: Path) -> None:
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    folder, out = tmp_path / "killed" / "run", tmp_path / "killed" / "result"
    process = start(what, folder, out, 0.5)
    try:
        wanted, deadline = random.Random(what).randint(1, 3), time.monotonic() + 300
        while len(list((folder / "items").glob("*.json"))) < wanted:
            assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    done = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (folder / "items").glob("*.json")}
    assert start(what, folder, out, 0).wait() == 0
    assert start(what, tmp_path / "whole" / "run", tmp_path / "whole" / "result", 0).wait() == 0
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in done} == done, "a finished item was made again"
    assert len(list((folder / "items").glob("*.json"))) > len(done), "nothing was left to do"
    assert out.read_bytes() == (tmp_path / "whole" / "result").read_bytes()
