"""`kntools figure`, on the model that ships with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.main import get_command

import kntools as kn
from kntools import analyses
from kntools.cli import figures
from kntools.cli.command import command
from kntools.cli.options import ModelOptions
from kntools.cli.output import Output
from tests.cli.test_cli import run, run_json

PAIRS, VERBS = "sample_determiner_noun_agreement_2", "sample_subject_verb_agreement"
BERT = ("--model", "tiny-bert", "--limit", "3")
LOCALISE = ("figure", "localisation", PAIRS, *BERT, "--frames", "3")


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)


def test_every_figure_is_found_by_number_and_by_name() -> None:
    places = {name: (c.module, c.function) for name, c in get_command(figures).commands.items()}
    by_name = {name: place for name, place in places.items() if not name.isdigit()}
    by_number = {name: place for name, place in places.items() if name.isdigit()}
    assert set(by_number) == set(map(str, range(1, 12)))
    assert set(by_number.values()) <= set(by_name.values())
    assert by_number["3"] == by_name["localisation"] and by_number["9"] == by_name["tracing_profile"]
    assert {"selection_methods", "edit_layer"} <= set(by_name)
    listed = run("figure").stdout
    assert all(name in listed for name in by_name)


def test_a_layer_given_twice_is_refused_before_anything_is_traced(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kn.data, "known_facts", lambda **settings: pytest.fail("facts were asked for"))
    found = run("figure", "edit_layer", "--model", tiny, "--layer", "1", "--layer", "1")
    assert found.exit_code == 2 and "layer 1 is given 2 times" in found.stderr


def test_a_model_that_knows_no_fact_is_refused_before_text_is_written(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = kn.data.known_facts(path="sample", limit=0)
    monkeypatch.setattr(kn.data, "known_facts", lambda **settings: none)
    monkeypatch.setattr("kntools.analyses.layer_choice.measure", lambda *args, **settings: pytest.fail("measured"))
    found = run("figure", "edit_layer", "--model", tiny, "--layer", "1")
    assert found.exit_code == 2 and "none of the known facts" in found.stderr


def test_localisation_is_what_the_library_finds(tmp_path: Path) -> None:
    found = run_json(*LOCALISE, "--out", str(tmp_path / "loc"), "--neuron", "L3.N10", "--neuron", "L2.N7")
    model = kn.load_model("tiny-bert")
    groups = analyses.prompt_groups(model, PAIRS, frames=3, limit=3)
    expected = analyses.localisation(model, groups)
    [summary], [row] = found["summary"], expected.summary().to_dict("records")
    assert summary["r1"] == pytest.approx(row["r1"]) and summary["null_r1"] == pytest.approx(row["null_r1"])
    table = pd.read_csv(tmp_path / "loc.csv")
    assert summary["groups"] == len(table) == 3 and summary["count"] == pytest.approx(table["count"].mean())
    assert {row["neuron"] for row in found["shares"]} == {"L3.N10", "L2.N7"}
    assert len(found["layers"]) == 4 and sum(row["share"] for row in found["layers"]) == pytest.approx(1)
    assert len(pd.read_csv(tmp_path / "loc-shares.csv")) == len(found["shares"])
    assert kn.load(tmp_path / "loc.json").rows == expected.rows
    shown = run(*LOCALISE)
    assert shown.exit_code == 0 and "difference" in shown.stdout and "shares" in shown.stdout


def test_an_interrupted_figure_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, calls = (*LOCALISE, "--run", str(tmp_path / "run.jsonl")), []
    attribute = analyses.SearchSettings.attribute

    def interrupted(self: Any, model: Any, prompts: Any) -> Any:
        calls.append(prompts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attribute(self, model, prompts)

    monkeypatch.setattr(analyses.SearchSettings, "attribute", interrupted)
    monkeypatch.setattr("kntools.analyses.neuron_search.TOGETHER", 1)
    stopped = run(*words)
    assert stopped.exit_code == 130 and stopped.stdout == ""
    assert str(tmp_path / "run.jsonl") in stopped.stderr.splitlines()[-1] and "resume" in stopped.stderr
    resumed = run_json(*words)
    assert len(calls) == 4  # two were finished, the third is made again
    monkeypatch.undo()
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)
    assert resumed["summary"] == run_json(*LOCALISE)["summary"]


def test_two_commands_that_write_one_run_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute, file = analyses.SearchSettings.attribute, tmp_path / "run.jsonl"

    def beside_another(self: Any, model: Any, prompts: Any) -> Any:
        with file.open("a") as other:
            other.write("{")
        return attribute(self, model, prompts)

    monkeypatch.setattr(analyses.SearchSettings, "attribute", beside_another)
    found = run(*LOCALISE, "--run", str(file))
    assert found.exit_code == 2 and found.stdout == ""
    assert "another process has written to" in found.stderr and found.stderr.count("\n") == 1


def test_out_alone_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("figure", "pair_search", PAIRS, *BERT, "--frames", "3", "--out", str(tmp_path / "pairs"))
    first = run_json(*words)
    monkeypatch.setattr(analyses.SearchSettings, "attribute", None)
    assert run_json(*words) == first
    other = run(*words, "--paper")
    assert other.exit_code == 2 and "another run" in other.stderr


def test_files_in_a_folder_have_the_name_of_the_figure(tmp_path: Path) -> None:
    found = run_json("figure", "1", PAIRS, *BERT, "--classes", "2", "--out", str(tmp_path))
    names = {"attribution_profile.safetensors", "attribution_profile.csv", "attribution_profile.html"}
    assert {Path(file).name for file in found["files"]} == names
    assert all(Path(file).is_file() for file in found["files"])


def test_one_figure_reads_the_result_of_another(tmp_path: Path) -> None:
    effect, text = tmp_path / "effect", tmp_path / "corpus.txt"
    words = (PAIRS, "--neuron", "L3.N152", *BERT)
    changed = run_json("figure", "5", *words, "--out", str(effect))
    shifted = run_json("figure", "7", *words)
    pairs = {(row["group"], row["word"]): row["before"] for row in shifted["rows"]}
    assert {(row["group"], row["word"]) for row in changed["rows"]} == set(pairs)
    text.write_text("We saw these horses and those books.\nShe read this book near that horse.\n" * 8)
    biased = run("figure", "6", f"{effect}.json", str(text), "--section", "plural", "--least", "1")
    # Two sentences may be too few for a correlation; the error is then one line.
    assert biased.exit_code in (0, 2) and "Traceback" not in biased.stderr


def test_only_the_main_process_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kntools.results.processes.is_main", lambda: False)
    result = run("figure", "1", PAIRS, *BERT, "--classes", "2", "--out", str(tmp_path / "profile"))
    assert result.exit_code == 0 and result.stdout == "" and not (tmp_path / "profile.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["3", "determiner_noun_agreement_9", "--model", "no-such-model"], "did you mean 'determiner_noun_agreement"),
        (["2", PAIRS, "--neuron", "9.1094", "--model", "no-such-model"], "'L24.N1005'"),
        (["3", PAIRS, "--neuron", "L9.N1094", *BERT], "another model"),
        (["8", PAIRS, "--edit", "supress", "--model", "no-such-model"], "did you mean 'suppress'"),
        (["9", "facts", "--kind", "atn", "--model", "no-such-model"], "did you mean 'attn'"),
        (["9", "facts", "--kind", "mlp", "--kind", "mlp", "--model", "no-such-model"], "'mlp' is given 2 times"),
        (["3", VERBS, VERBS, *BERT], f"'{VERBS}' is given 2 times"),
        (["6", "nowhere.json", __file__, f"{Path(__file__).parent}/../cli/test_cli_figure.py"], "is given 2 times"),
        (
            ["3", VERBS, "--frames", "3", "--neuron", "L0.N1", *BERT],
            "has no effect on sources without determiner-noun pairs",
        ),
        (["6", "nowhere.json"], "give text files after the result, or --expected"),
        (["6", "nowhere.json", __file__, "--field", "x"], "field='x' has no effect"),
        (["6", "nowhere.json", __file__, *BERT[:2]], "model='tiny-bert' has no effect without --expected"),
        (["8", "P36", "--neuron", "L0.N1", "--count", "7", "--model", "no-such-model"], "count=7 has no effect"),
        (["8", "P36", "--neuron", "L0.N1", "--paper", "--model", "no-such-model"], "paper=True has no effect"),
        (["transfer", "--neuron", "L0.N1", "--frames", "1", "--model", "no-such-model"], "frames=1 has no effect"),
        (["transfer", "--neuron", "L0.N1", "--pairs", "1", "--model", "no-such-model"], "pairs=1 has no effect"),
        (["9", "facts", "--kind", "hidden", "--window", "3", "--model", "no-such-model"], "window=3 has no effect"),
        (["9", "fact"], "'subject_verb'"),
        (["5", PAIRS], "--neuron"),
        (["4", "nowhere.json", "--layers", "4"], "nowhere.json"),
        (["5", "P36", "--neuron", "L0.N1", *BERT], "relation"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str) -> None:
    result = run("figure", *words)
    assert result.exit_code == 2 and result.stdout == ""
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("kntools: ") and said in line


@pytest.mark.parametrize("number", ["1", "8"])
def test_where_nothing_is_left_the_error_counts_why(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"field": "f", "linguistics_term": "t", "UID": "passive_1", "pair_id": 0}
    row = {"sentence_good": "The dog was seen.", "sentence_bad": "The dog was to be seen.", **about}
    (tmp_path / "passive_1.jsonl").write_text(json.dumps(row))
    monkeypatch.setenv("KNTOOLS_DATA", str(tmp_path))
    said = run("figure", number, "passive_1", *BERT).stderr
    assert "passive_1: " in said and "(skipped: 1 " in said


def test_nan_is_null() -> None:
    text = run("figure", "3", VERBS, *BERT, "--frames", "3", "--json").stdout
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {row["p"] for row in found["difference"]} == {None}  # one kind alone has no difference


def test_a_command_has_the_options_of_its_dataclasses() -> None:
    def show(text: str, options: ModelOptions) -> Output:
        """Show a text."""
        return Output({}, [])

    made = command(show)
    assert made.__name__ == "show" and made.__doc__ == "Show a text."
    assert {"text", "model", "bos", "seed", "out", "as_json"} <= set(made.__annotations__)
    assert "options" not in made.__annotations__ and "line" not in made.__annotations__


def test_nouns_that_selected_the_neurons_are_left_out(tmp_path: Path) -> None:
    """What is claimed of a neuron is shown with other nouns than those that it was chosen by."""
    search = ("figure", "pair_search", PAIRS, "--model", "tiny-bert", "--frames", "1", "--out", str(tmp_path / "pairs"))
    run_json(*search)
    chosen_by = kn.load(tmp_path / "pairs.json").nouns("selection")
    words = ("figure", "suppression_effect", PAIRS, "--model", "tiny-bert", "--neuron", "L3.N10", "--limit", "500")
    shifted = ("figure", "probability_shift", *words[2:])
    model = kn.load_model("tiny-bert")
    with_all, without = (analyses.noun_prompts(model, PAIRS, without=left_out) for left_out in ((), chosen_by))
    counts = [
        {row["n"] for row in run_json(*words, *more)["rows"]}
        for more in ((), ("--found-by", str(tmp_path / "pairs.json")))
    ]
    assert counts == [{len(listed) for listed in prompts.values()} for prompts in (with_all, without)]
    assert sum(counts[1]) < sum(counts[0])
    assert run(*shifted, "--found-by", str(tmp_path / "pairs.json")).exit_code == 0
    wrong = run(*shifted, "--found-by", str(tmp_path / "no.json"))
    assert wrong.exit_code != 0 and "no.json" in wrong.stderr
