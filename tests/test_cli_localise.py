"""`kntools localise`, on the model that ships with the package."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.test_cli import run, run_json

WORDS = ["localise", "sample_determiner_noun_agreement_2", "--model", "tiny-bert", "--limit", "4", "--frames", "3"]


def test_tables_files_and_json(tmp_path: Path) -> None:
    found = run_json(*WORDS, "--out", str(tmp_path), "--landmark", "3.10", "--landmark", "L2.N7")
    [summary] = found["summary"]
    rows = pd.read_csv(tmp_path / "localisation.csv")
    assert summary["groups"] == len(rows) == 4
    assert summary["count"] == pytest.approx(rows["count"].mean()) and summary["r1"] == pytest.approx(rows["r1"].mean())
    assert summary["null_r1"] < summary["r1"]
    assert {row["neuron"] for row in found["shares"]} == {"L3.N10", "L2.N7"}
    assert len(found["layers"]) == 4 and sum(row["share"] for row in found["layers"]) == pytest.approx(1)
    assert all(Path(f).is_file() for f in found["files"]) and len(found["files"]) == 12
    before = (tmp_path / "run.jsonl").read_bytes()
    table = run(*WORDS, "--out", str(tmp_path))
    assert table.exit_code == 0 and "share of pairs" in table.stdout
    assert (tmp_path / "run.jsonl").read_bytes() == before and len(before.splitlines()) == 1 + 4


def test_known_pairs_without_bos() -> None:
    found = run_json("localise", "sample_determiner_noun_agreement_1", "--known", "--no-bos", *WORDS[2:])
    assert found["settings"]["search"]["prepend_bos"] is False
    everything = run_json("localise", "sample_determiner_noun_agreement_1", *WORDS[2:])
    assert everything["settings"]["search"]["prepend_bos"] is None
    assert found["summary"][0]["groups"] == everything["summary"][0]["groups"] == 4


def test_errors_and_help() -> None:
    result = run("localise", "--help")
    assert result.exit_code == 0
    for option in ("--model", "--out", "--seed", "--json", "--preset"):
        assert option in result.stdout
    unknown = run("localise", "determiner_noun_agreement_9", "--model", "no-such-model")
    assert unknown.exit_code == 2 and "did you mean 'determiner_noun_agreement" in unknown.stderr
    foreign = run("localise", "sample_determiner_noun_agreement_2", "--model", "tiny-bert", "--preset", "paper")
    assert foreign.exit_code == 2 and "neurons of another model" in foreign.stderr
