"""The examples and the commands of the Makefile, on a tiny model."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from kntools.cli import app
from tests.cli.test_cli import save_tiny
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"
SMALL = ("quickstart", "own_intervention")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama"))


@pytest.mark.parametrize("name", SMALL)
def test_small_examples_run(
    name: str, tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", tiny])
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert "P( Ottawa)" in capsys.readouterr().out


def test_every_example_is_run_here() -> None:
    """`own_analysis` and `own_dataset` are run by tests/test_own_examples.py."""
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {*SMALL, "own_analysis", "own_dataset"}


def commands(file: Path) -> list[str]:
    """Every `kntools report ...` of a file, as it is written there."""
    return re.findall(r"(?<![\w.-])kntools (report(?: [^\n`#]+)?)", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["Makefile", "README.md", "docs/report.md", "docs/processes.md", "docs/cli.md"])
def test_every_command_that_is_written_down_can_be_typed(name: str) -> None:
    """Options exist and take what they are given; nothing is run."""
    found = [one for one in commands(ROOT / name) if "--" in one]
    assert found or name == "README.md"
    report = get_command(app).commands["report"]
    for command in found:
        words = shlex.split(re.sub(r"\$\(\w+\)", "X", command.replace("\\", "").replace("DIR", "X")))
        report.make_context("report", words[1:])
