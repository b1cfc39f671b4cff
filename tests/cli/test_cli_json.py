"""What every command prints with `--json`: these keys, no more and no fewer, whatever is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import kntools as kn
from kntools import analyses
from kntools.cli import app, figures
from tests.cli.test_cli import TARGET, TEXT, TEXTS, run, run_json


def names(text: str) -> set[str]:
    return set(text.split())


PROVENANCE = {"model", "fingerprint", "settings", "versions"}
RUN = PROVENANCE | {"kind", "format"}
NEURON = {"neuron", "layer", "index", "score"}
CHECK = names("neurons prompts draws seed untouched suppressed enhanced random_suppressed random_mean")
EDIT = ("edit", TEXT, " Rome", "-s", "Canada", "--old", TARGET, "--steps", "2", "--tokens", "2")
PATCH = ("patch", TEXT, TARGET, "The capital of France is", "--foil", " Paris")
TRACE = ("trace", TEXT, TARGET, "-s", "Canada", "--samples", "2", "--window", "2")
LOCALISE = ("--model", "tiny-bert", "--limit", "3", "--frames", "3")
BERT = ("--model", "tiny-bert", "--limit", "2")
NOUNS = ("sample_determiner_noun_agreement_2", "--neuron", "L3.N10", *BERT)
TRACED = ("--model", "TINY", "--layer", "1", "--samples", "1", "--tokens", "0")
# What is typed after `kntools figure NAME`, and the keys beside those of a run.
FIGURES = {
    "attribution_profile": (("sample_determiner_noun_agreement_2", *BERT), {"rows"}),
    "pair_search": (NOUNS, {"claims", "shares"}),
    "localisation": (("sample_subject_verb_agreement", *BERT), {"summary", "difference", "shares", "layers"}),
    "layer_distribution": (("RESULT", "--layers", "4"), {"rows"}),
    "suppression_effect": (NOUNS, {"rows"}),
    "cooccurrence_bias": (("RESULT", "TEXT", "--section", "plural", "--least", "1"), {"rows"}),
    "probability_shift": (NOUNS, {"rows"}),
    "reliability": (("sample_determiner_noun_agreement_2", *BERT, "--edit", "suppress"), {"summary"}),
    "transfer": (("sample_determiner_noun_agreement_2", "--neuron", "L3.N10", *BERT), {"summary"}),
    "selection_methods": (("sample_determiner_noun_agreement_2", *BERT), {"summary", "overlap"}),
    "planted_facts": (("P36", *BERT, "--draws", "1"), {"summary", "recall"}),
    "tracing_profile": (("facts", "--model", "TINY", "--limit", "2", "--samples", "1", "--window", "1"), {"sites"}),
    "forgetting_curve": (("P36", "--model", "TINY", "--edits", "1", "--method", "fine_tune"), {"summary"}),
    "tracing_and_editing": (("P36", *TRACED), {"regression", "layers"}),
    "edit_layer": (
        ("--model", "TINY", "--layer", "1", "--layer", "0", "--limit", "1", "--traced", "1", "--tokens", "0"),
        {"summary", "differences"},
    ),
}
# Which figure makes the RESULT that these read.
MADE_FROM = {"layer_distribution": "localisation", "cooccurrence_bias": "suppression_effect"}


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)


def keys(rows: list[dict[str, Any]]) -> set[str]:
    """The keys of rows that all have the same ones."""
    (found,) = {frozenset(row) for row in rows}
    return set(found)


def files_are_there(found: dict[str, Any], folder: Path) -> None:
    """Every file that is named was written there."""
    assert found["files"] and all(Path(f).is_file() and Path(f).is_relative_to(folder) for f in found["files"])


def test_every_command_with_json_is_tested_here() -> None:
    commands = {name for name, command in get_command(app).commands.items() if name != "figure"}
    assert commands == {"attribute", "card", "edit", "evaluate", "patch", "report", "search", "trace"}
    assert all("--json" in run(name, "-h").stdout for name in commands)
    analyses_there = {name for name, command in get_command(figures).commands.items() if not command.hidden}
    assert analyses_there == {*FIGURES, "edit_examples", "edit_consistency"}


@pytest.mark.parametrize("draws", ["2", "0"])
def test_attribute(tiny: str, draws: str, tmp_path: Path) -> None:
    found = run_json("attribute", TEXT, TARGET, "--model", tiny, "--top", "3", "--draws", draws, "--out", str(tmp_path))
    assert set(found) == PROVENANCE | names("command prompt probability rule largest_residual neurons check files")
    assert found["command"] == "attribute"
    assert found["prompt"] == {"text": TEXT, "target": TARGET}
    assert keys(found["neurons"]) == NEURON | {"rank"} and len(found["neurons"]) == 3
    assert found["check"] is None if draws == "0" else set(found["check"]) == CHECK
    files_are_there(found, tmp_path)


def test_search(tiny: str, tmp_path: Path) -> None:
    found = run_json("search", TARGET, *TEXTS, "--model", tiny, "--draws", "2", "--out", str(tmp_path))
    made = names("prompts rule largest_residual search share found converged neurons check")
    assert set(found) == PROVENANCE | made | {"command", "files"}
    assert found["command"] == "search"
    assert keys(found["prompts"]) == {"text", "target", "probability"} and len(found["prompts"]) == len(TEXTS)
    assert keys(found["neurons"]) == NEURON | {"prompts"} and set(found["check"]) == CHECK
    assert set(found["search"]) == {"threshold", "share", "target_count", "step", "negatives"}
    files_are_there(found, tmp_path)


PATCHED = PROVENANCE | names("command site method window metric noising clean corrupted pairs tokens layers files")
PATCHED |= names("values effect effect_interval")


@pytest.mark.parametrize(
    ("options", "axis", "size"),
    [((), "positions", 6), (("--site", "z", "--heads", "--method", "gradient"), "heads", 4)],
)
def test_patch(tiny: str, options: tuple[str, ...], axis: str, size: int, tmp_path: Path) -> None:
    found = run_json(*PATCH, *options, "--model", tiny, "--out", str(tmp_path))
    assert set(found) == PATCHED | {axis}
    assert found["command"] == "patch" and found["effect_interval"] is None and found["pairs"] == 1
    for name in ("values", "effect"):
        assert [len(row) for row in found[name]] == [size] * len(found["layers"])
    assert found[axis] == list(range(size)) and len(found["tokens"]) == 6
    files_are_there(found, tmp_path)


def test_patch_of_several_pairs(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    row = {"text": TEXT, "target": TARGET, "corrupted": "The capital of France is"}
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "corrupted": "The capital of Italy is"}) + "\n")
    found = run_json("patch", "--file", str(file), "--model", tiny)
    assert set(found) == PATCHED | {"positions"}
    assert set(found["effect_interval"]) == {"low", "high"} and found["pairs"] == 2 and found["files"] == []


@pytest.mark.parametrize(("options", "kinds"), [((), ["hidden"]), (("--kind", "all"), ["hidden", "mlp", "attn"])])
def test_trace(tiny: str, options: tuple[str, ...], kinds: list[str], tmp_path: Path) -> None:
    found = run_json(*TRACE, *options, "--model", tiny, "--out", str(tmp_path))
    assert set(found) == PROVENANCE | names("command prompt tokens clean corrupted total_effect metric traces files")
    assert found["command"] == "trace" and set(found["prompt"]) == {"text", "target", "subject"}
    assert keys(found["traces"]) == {"kind", "window", "sever", "effect", "leading"}
    assert [one["kind"] for one in found["traces"]] == kinds
    for one in found["traces"]:
        assert keys(one["leading"]) == {"role", "position", "token", "layer", "score", "effect"}
        for row in one["leading"]:
            assert one["effect"][row["layer"]][row["position"]] == pytest.approx(row["effect"])
            assert found["tokens"][row["position"]] == row["token"]
    assert found["total_effect"] == pytest.approx(found["clean"] - found["corrupted"])
    files_are_there(found, tmp_path)


def test_edit(tiny: str, tmp_path: Path) -> None:
    found = run_json(*EDIT, "--model", tiny, "--layer", "2", "--symmetric", "Rome is", "--out", str(tmp_path))
    made = names("target layer uses_second_moment before after key_cosine relative_norm warnings loss")
    assert set(found) == PROVENANCE | made | {"command", "prompt", "saved_model", "examples", "files"}
    assert found["command"] == "edit" and found["uses_second_moment"] is False and len(found["loss"]) == 2
    assert found["prompt"] == {"text": TEXT, "target": TARGET, "subject": "Canada"} and found["target"] == " Rome"
    assert keys(found["examples"]) == {"group", "text", "before", "after"}
    files_are_there(found, tmp_path)


def test_evaluate(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kntools.cli import evaluate
    from tests.analyses.test_edit_consistency import cases

    monkeypatch.setattr(evaluate, "make_cases", lambda *args, **kwargs: cases(2))
    words = ("evaluate", "counterfact", "--model", tiny, "--layer", "2", "--steps", "2", "--method", "rome")
    found = run_json(*words, "--out", str(tmp_path / "edits"))
    assert set(found) == RUN | {"command", "cases", "skipped", "scores", "files"}
    assert found["command"] == "evaluate" and found["cases"] == ["case 0", "case 1"]
    assert keys(found["scores"]) == {"method", "condition", "score", "n", "value", "low", "high"}
    files_are_there(found, tmp_path)


def test_localisation(tmp_path: Path) -> None:
    found = run_json("figure", "3", "sample_determiner_noun_agreement_2", *LOCALISE, "--out", str(tmp_path / "found"))
    assert set(found) == RUN | {"command", "summary", "difference", "shares", "layers", "widths", "files"}
    assert found["command"] == "localisation"
    measured = {f"{name}{end}" for name in ("count", "tau", "r1") for end in ("", "_low", "_high")}
    nulls = {f"null_{name}" for name in ("count", "tau", "r1")}
    assert keys(found["summary"]) == {"source", "kind", "groups", "converged", "above_null"} | measured | nulls
    assert keys(found["difference"]) == names("measure linguistic factual difference paradigms relations t p p_holm")
    assert [row["measure"] for row in found["difference"]] == ["|KN|", "tau", "R1^2"]
    assert keys(found["shares"]) == names("neuron determiner number nouns found share low high opposite p p_holm")
    assert keys(found["layers"]) == {"kind", "layer", "neurons", "share", "low", "high"}
    files_are_there(found, tmp_path)


def test_localisation_without_determiners_has_no_shares() -> None:
    found = run_json("figure", "localisation", "sample_subject_verb_agreement", *LOCALISE)
    assert set(found) == RUN | {"command", "summary", "difference", "shares", "layers", "widths", "files"}
    assert found["shares"] is None and found["files"] == []


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kntools.analyses import layer_choice
    from tests.analyses.test_edit_consistency import cases

    for command in ("evaluate", "edit_layer"):
        monkeypatch.setattr(f"kntools.cli.{command}.make_cases", lambda *args, **kwargs: cases(3))
    monkeypatch.setattr(analyses, "noun_numbers", lambda: dict.fromkeys(("horses", "books", "cats"), "plural"))
    if name == "edit_layer":  # the model knows no fact
        facts = kn.data.known_facts(path="sample", limit=2)
        monkeypatch.setattr(kn.data, "known_facts", lambda **settings: facts)
        monkeypatch.setattr(layer_choice, "cases_for_choice", lambda *args: cases(2))
    words, tables = FIGURES[name]
    if name in MADE_FROM:
        run_json("figure", MADE_FROM[name], *FIGURES[MADE_FROM[name]][0], "--out", str(tmp_path / "made"))
    text = tmp_path / "corpus.txt"
    text.write_text("We saw these horses and those books.\nThese cats like both books.\nTwo cats saw several horses.\n")
    named = {"TINY": tiny, "RESULT": str(tmp_path / "made.json"), "TEXT": str(text)}
    found = run_json("figure", name, *(named.get(word, word) for word in words), "--out", str(tmp_path / "found"))
    assert tables <= set(found) and found["command"] == name
    others = {table for _, every in FIGURES.values() for table in every} - tables
    assert not others & set(found)
    assert all(found[table] or table == "shares" for table in tables)
    if name not in MADE_FROM:
        assert set(found) >= PROVENANCE
    files_are_there(found, tmp_path)


def test_report(tmp_path: Path) -> None:
    words = ("report", "--model", "tiny-bert", "--quick", "--figures", "attribution_profile", "--out", str(tmp_path))
    found = run_json(*words)
    assert set(found) == RUN | {"command", "figures", "page", "files", "note", "warning"}
    assert found["command"] == "report" and Path(found["page"]).is_file()
    assert keys(found["figures"]) == {"figure", "analysis", "finding", "notes"}
    assert [(row["figure"], row["analysis"]) for row in found["figures"]] == [("1", "attribution_profile")]
    files_are_there(found, tmp_path)
