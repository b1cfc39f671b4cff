"""Many processes make the tables that one makes: launched as a user would, on two CPU processes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.distributed.run import parse_args

from kntools.results import processes
from kntools.results.run_file import RunFile
from tests.conftest import ROOT

# What `torchrun --nproc_per_node 2` runs, on a free port.
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

SCRIPT = """
import sys
from pathlib import Path
import kntools as kn
from kntools.results import processes
from kntools.analyses.fig03_localisation import localisation
from kntools.analyses.neuron_search import SearchSettings
from kntools.analyses.prompt_group import prompt_groups
from kntools.analyses.fig08_reliability import reliability
from kntools.analyses.fig11_edit_consistency import edit_consistency
from tests import planted, zoo
from tests.analyses.test_edit_consistency import METHODS, SHORT, cases

out = Path(sys.argv[1])
model = planted.build()
groups = prompt_groups(model, "determiner_noun_agreement_1", frames=3, path=sys.argv[2])
prompts = {"all": [p for g in groups for p in g.prompts][:7]}
def results(run):
    return {
        "localisation": localisation(model, groups, null="answers", settings=SearchSettings(target_count=(1, 5)),
                                     run=run("localisation")),
        "reliability": reliability(model, prompts, count=1, run=run("reliability")),
        "edits": edit_consistency(zoo.fresh("llama"), cases(5), METHODS, continuations=SHORT, together=2,
                                  run=run("edits")),
    }
found = results(lambda name: out / "runs" / name)
found |= {f"{name} in memory": result for name, result in results(lambda name: None).items()}
if processes.is_main():
    for name, result in found.items():
        result.save(out / f"{name}.json")
        result.save(out / f"{name}.csv")
print(f"process {processes.index()} of {processes.count()}: {sum(len(r.to_frame()) for r in found.values())} rows")
"""


# One of two processes fails, and then both.
FAILING = """
from kntools.results.run_store import RunStore
store = RunStore(out / "failing", kind="test", model=zoo.tiny("llama"), settings={})
def make(n):
    if n == 3:
        raise ZeroDivisionError("three is bad")
    return n
try:
    store.each(range(6), key=str, make=make)
except RuntimeError as error:
    print(f"process {processes.index()} was told: {error}")
"""


# A report, whose words come last.
REPORT = """
from contextlib import redirect_stdout, suppress
from kntools.cli import app
sys.argv = ["kntools", *sys.argv[3:], "--json", "--out", str(out / "report")]
with open(out / f"report of {processes.index()}", "w") as said, redirect_stdout(said), suppress(SystemExit):
    app()
"""


def launch(out: Path, pairs: Path, *words: str) -> str:
    script = out.with_suffix(".py")
    script.write_text(SCRIPT + FAILING + REPORT)  # in one launch, which takes seconds
    command = [sys.executable, *LAUNCHER, str(script), str(out), str(pairs), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=out.parent, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_make_the_tables_of_one_and_an_error_in_one_is_told_to_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept in files and in memory; and those of a report."""
    from tests import planted
    from tests.cli.test_cli import run_json
    from tests.report.test_report import files_of

    pairs = planted.write_pairs(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setattr(sys, "argv", ["one", str(one), str(pairs)])
    exec(SCRIPT, {})
    assert "process 0 of 1" in capsys.readouterr().out
    # A value per fact, and neurons by edits; all kinds of items: in the script.
    words = ("report", "--model", "tiny-bert", "--quick", "--figures", "facts", "--figures", "8")
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)
    report = run_json(*words, "--out", one / "report")
    said = launch(two, pairs, *words)
    assert "process 0 of 2" in said and "process 1 of 2" in said
    tables = sorted(p.name for p in one.iterdir() if p.suffix in (".csv", ".json"))
    assert len(tables) == 12
    for name in tables:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    runs = [sorted((where / "runs").iterdir()) for where in (one, two)]
    for a, b in zip(*runs, strict=True):  # the items of both processes are in one file
        assert a.name == b.name and RunFile(a).read() == RunFile(b).read()
    assert sum(len(RunFile(file).read()[1]) for file in runs[0]) > 15

    for index in (0, 1):
        assert f"process {index} was told: process 1: ZeroDivisionError: three is bad" in said
    assert {*RunFile(two / "failing").read()[1]} == {"0", "1", "2", "4"}, "what was finished is kept, in one file"
    assert [p.name for p in two.glob("failing*")] == ["failing.jsonl"]

    assert json.loads((two / "report of 0").read_text())["figures"] == report["figures"]
    assert (two / "report of 1").read_text() == "", "printed once"
    assert files_of(one / "report") == files_of(two / "report")


def test_one_process_has_everything() -> None:
    assert (processes.count(), processes.index(), processes.is_main(), processes.device()) == (1, 0, True, None)
    assert list(processes.share(range(5))) == processes.gather([0, 1, 2, 3, 4]) == [0, 1, 2, 3, 4]


def test_every_item_goes_to_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(list(processes.share(range(8))))
    assert sorted(chain(*parts)) == list(range(8)) and [len(p) for p in parts] == [3, 3, 2]


def test_torchrun_leaves_the_options_of_kntools_alone() -> None:
    """As the page has the command, and with `--run`, which torchrun would read as the beginning of its `--run-path`."""
    [line] = [line for line in (ROOT / "docs" / "processes.md").read_text().splitlines() if " torchrun --" in line]
    command = shlex.split(line)
    found = parse_args([*command[command.index("torchrun") + 1 :], "--run", "runs/a.jsonl"])
    assert found.module and found.nproc_per_node == "2"
    assert [found.training_script, *found.training_script_args][:2] == ["kntools", "report"]
    assert found.training_script_args[-4:] == ["--out", "report", "--run", "runs/a.jsonl"]


def test_processes_take_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert processes.device() == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    found = []
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        found.append(processes.device())
    assert found == ["cuda:0", "cuda:1", "cuda:0"]
