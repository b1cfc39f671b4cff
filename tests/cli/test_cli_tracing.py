"""`kntools patch` and `kntools trace`, on a tiny model in a local folder."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import kntools as kn
from tests.cli.test_cli import run, run_json

TEXT, TARGET = "The capital of Canada is", " Ottawa"


def test_trace_prints_what_the_library_says(tiny: str, tmp_path: Path) -> None:
    options = ["--model", tiny, "--samples", "2", "--window", "2", "--seed", "3", "--out", str(tmp_path)]
    found = run_json("trace", TEXT, TARGET, "--subject", "Canada", "--kind", "all", *options)
    prompt = kn.Prompt(TEXT, TARGET, subject="Canada")
    for kind, row in zip(("hidden", "mlp", "attn"), found["traces"], strict=True):
        trace = kn.causal_trace(kn.load_model(tiny), prompt, kind=kind, window=2, samples=2, seed=3)
        assert row["kind"] == kind and found["clean"] == pytest.approx(trace.clean)
        for ours, theirs in zip(row["effect"], trace.effect.tolist(), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
        assert len(pd.read_csv(tmp_path / f"trace-{kind}.csv")) == trace.scores.numel()
        assert kn.load(tmp_path / f"trace-{kind}.safetensors").kind == kind
    assert "Canada" in (tmp_path / "index.html").read_text()
    table = run("trace", TEXT, TARGET, "-s", "Canada", "--sever", "mlp", "--noise", "0.3", *options[:4])
    assert table.exit_code == 0 and "last subject token" in table.stdout and "mlp severed" in table.stdout
    other = "The capital of France is"
    words = ["--corrupted", other, "--metric", "contrast", "--foil", " Paris", "--model", tiny]
    replaced = run_json("trace", TEXT, TARGET, "--subject", "Canada", *words)
    prompt = kn.Prompt(TEXT, TARGET, subject="Canada", foil=" Paris")
    trace = kn.causal_trace(kn.load_model(tiny), prompt, corrupted=other, metric="contrast")
    assert replaced["metric"] == "contrast" and replaced["corrupted"] == pytest.approx(trace.corrupted)


def test_patch_prints_what_the_library_says(tiny: str, tmp_path: Path) -> None:
    other = "The capital of France is"
    words = ["patch", TEXT, TARGET, other, "--foil", " Paris", "--model", tiny]
    found = run_json(*words, "--out", str(tmp_path))
    clean = kn.Prompt(TEXT, TARGET, foil=" Paris")
    grid = kn.activation_patch(kn.load_model(tiny), clean, other)
    assert found["metric"] == "contrast" and found["positions"] == list(range(6))
    for ours, theirs in zip(found["values"], grid.values.tolist(), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert len(pd.read_csv(tmp_path / "grid.csv")) == grid.values.numel()
    assert kn.load(tmp_path / "grid.safetensors").site == "resid_pre"
    heads = run_json(*words, "--site", "z", "--heads", "--metric", "contrast", "--method", "atp_star", "--noising")
    assert heads["heads"] == [0, 1, 2, 3] and heads["method"] == "atp_star" and heads["noising"]
    table = run(*words, "--top", "3")
    assert table.exit_code == 0 and "Canada/France" in table.stdout


def test_patch_reads_several_pairs_from_a_file(tiny: str, tmp_path: Path) -> None:
    pairs = [("Canada", " Ottawa", "France", " Paris"), ("Japan", " Tokyo", "Cuba", " Havana")]
    rows = [
        {"text": f"The capital of {a} is", "target": x, "corrupted": f"The capital of {b} is", "foil": y}
        for a, x, b, y in pairs
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["patch", "--file", str(file), "--model", tiny, "--site", "attn_out"]
    found = run_json(*words, "--seed", "5")
    grid = kn.activation_patch(
        kn.load_model(tiny),
        [kn.Prompt(row["text"], row["target"], foil=row["foil"]) for row in rows],
        [row["corrupted"] for row in rows],
        site="attn_out",
    )
    assert found["pairs"] == 2
    for ours, theirs in zip(found["effect"], grid.effect.tolist(), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    for end, theirs in grid.interval(seed=5)._asdict().items():
        assert torch.tensor(found["effect_interval"][end]).allclose(theirs, atol=1e-5)
    assert run_json(*words, "--seed", "5") == found
    table = run(*words)
    assert table.exit_code == 0 and "effect" in table.stdout and "mean of 2 pairs" in table.stdout
    file.write_text(2 * file.read_text())
    assert "is given 2 times" in run(*words).stderr
    file.write_text(json.dumps({"text": "Canada", "target": "Ottawa"}))
    broken = run(*words)
    assert broken.exit_code == 2 and "pairs.jsonl:1" in broken.stderr and "'corrupted'" in broken.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trace", TEXT, TARGET, "-s", "Japan"], "not in the text"),
        (["trace", TEXT, TARGET, "-s", "Canada", "--noise", "much"], "3sigma"),
        (["trace", TEXT, TARGET, "-s", "Canada", "--kind", "mlp", "--window", "9"], "from 1 to 4"),
        (["patch", TEXT, TARGET, "The capital of lazy dog is"], "token"),
        (["patch", TEXT, TARGET, "The capital of France is", "--site", "residual"], "unknown site"),
        (["patch", TEXT, TARGET, "The capital of France is", "--metric", "contrast"], "needs a foil"),
        (["patch", TEXT, TARGET, "The capital of France is", "--heads"], "has no heads"),
        (["patch", TEXT], "or --file FILE"),
        (["patch", TEXT, "--file", "pairs.jsonl"], "not both"),
        (["patch", "--file", "nowhere.jsonl"], "nowhere.jsonl"),
        (["trace", TEXT, TARGET, "-s", "Canada", "--noise", "-1"], "at least 0"),
        (["trace", TEXT, TARGET, "-s", "Canada", "--samples", "0"], "--samples"),
        (["trace", TEXT, " Ouagadougou", "-s", "Canada"], "multi_token"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tiny: str) -> None:
    result = run(*words, "--model", tiny)
    assert result.exit_code == 2 and result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert said in lines[-1] and lines[-1].startswith("kntools: ") and "Traceback" not in result.stderr
