"""Cases of the data sets, the choice of a layer, examples before and after, and the command."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import kntools as kn
from kntools.analyses.edit_cases import cases_of, make_cases
from kntools.analyses.edit_methods import rome_method
from kntools.analyses.fig10_edit_examples import edit_examples
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.analyses.layer_choice import EditLayer, cases_for_choice, edit_layer, measure, propose_layer
from kntools.editing.rome_settings import RomeSettings
from kntools.results.run_file import RunFile
from kntools.results.statistics import holm
from tests import zoo
from tests.analyses.test_edit_consistency import ALONE, METHODS, cases


def test_cases_from_data() -> None:
    model = zoo.tiny("llama")
    [record] = kn.data.counterfact(path="sample", limit=1)
    [case] = cases_of(model, [record])
    assert case.target == f" {record.new_target}" and case.prompt.subject == record.subject
    roles = [q.role for q in case.questions]
    assert roles[:2] == ["rewrite new", "rewrite true"]
    assert roles.count("neighborhood true") == len(record.neighborhood_prompts)
    assert roles.count("paraphrase new") == len(record.paraphrase_prompts)
    assert case.generation in record.generation_prompts
    fact = kn.data.symmetric_facts("P36", path="sample")[0]
    [case] = cases_of(model, [fact])
    answers = {q.role: (q.text, q.answer.strip()) for q in case.questions}
    assert answers["reverse new"] == (f"{fact.new_target} is the capital of", fact.subject)
    assert answers["reverse old"] == (f"{fact.target} is the capital of", fact.subject)
    assert answers["reverse new before"][1] == fact.new_subject and case.target == f" {fact.new_target}"
    job = kn.data.synonym_facts("P101", path="sample")[0]
    [case] = cases_of(model, [job])
    assert {q.role: q.answer.strip() for q in case.questions}["synonym new"] == job.new_occupation
    assert cases_of(model, []) == []


@pytest.mark.data
@pytest.mark.parametrize("what", ["P36", "P1376", "P101"])
def test_facts_that_the_model_knows_come_first(what: str, data_root: Path) -> None:
    model = zoo.tiny("llama")
    found = make_cases(model, what, 30, seed=0)
    assert len(found) == 30 and len({c.prompt.subject for c in found}) == 30
    right = kn.data.known(model, [c.prompt for c in found])
    assert right == sorted(right, reverse=True)
    with pytest.raises(ValueError, match="limit=-1"):
        make_cases(model, what, -1)


@pytest.mark.parametrize("case", ["half precision", "an attached hook"])
def test_examples_are_those_of_the_edited_weights(case: str) -> None:
    """Hooks of an edit would round more often, and act behind a hook that is on the model."""
    model = zoo.fresh("llama", torch.bfloat16 if case == "half precision" else torch.float32)
    edit = kn.erase_values(model, [(0, n) for n in range(20)])
    if case == "an attached hook":
        model.add_hook("blocks.0.hook_mlp_out", lambda x, hook: 0 * x)
    before, texts = zoo.bits(model), [f"The capital of {country} is" for country in list(zoo.COUNTRIES)[:6]]
    found = edit_examples(model, edit, {"a": texts}, max_new_tokens=8).to_frame()
    assert zoo.bits(model) == before
    with edit.applied(model):
        assert found["after"].tolist() == kn.generate(model, texts, max_new_tokens=8)
    assert (found["after"] == found["before"]).all() == (case == "an attached hook"), "the edited MLP is erased by it"


def test_proposals_and_sweeps_over_layers(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    prompts = [
        cases(1)[0].prompt,
        kn.Prompt("The city of Paris is the capital of", " France", subject="The city of Paris"),
    ]
    proposal = propose_layer(model, prompts, samples=2, window=1)
    traces = [kn.causal_trace(model, p, kind="mlp", window=1, samples=2, seed=n) for n, p in enumerate(prompts)]
    expected = torch.stack([t.effect[:, t.subject[-1]] for t in traces]).mean(0)
    torch.testing.assert_close(proposal.effects, expected)
    assert proposal.layer == int(expected.argmax()) and proposal.prompts == 2
    for _ in range(2):  # made, and read
        kept = propose_layer(model, prompts, samples=2, window=1, run=tmp_path / "run-traces.jsonl")
        assert torch.equal(kept.effects, proposal.effects)
    assert len(RunFile(tmp_path / "run-traces.jsonl").read()[1]) == 2
    with pytest.raises(ValueError, match="another run"):
        propose_layer(model, prompts, samples=1, window=1, run=tmp_path / "run-traces.jsonl")
    written = measure(model, [0, 2], tokens=20, seed=0, folder=tmp_path)
    assert all(c.count >= 20 for c in written.values())
    again = measure(model, [0, 2], tokens=20, seed=5, folder=tmp_path)  # read, and not written anew
    assert again.keys() == {0, 2} and all(torch.equal(c.matrix, written[n].matrix) for n, c in again.items())
    with pytest.raises(
        ValueError, match=r"C0.safetensors was measured on .* tokens, not 1000000000; name another folder"
    ):
        measure(model, [0, 2], tokens=10**9, seed=0, folder=tmp_path)
    moments = kn.second_moment(model, [0, 2], zoo.SENTENCES * 3)
    few = RomeSettings(steps=2, templates=["{}"])
    found = edit_layer(
        model, cases(2), [2, 0], traced=prompts, seed=3, second_moments=moments, settings=few, run=tmp_path / "edits"
    )
    table = found.summary()
    assert table["layer"].tolist() == [2, 0] and table["n"].tolist() == [2, 2]
    alone = edit_consistency(model, cases(2), {"x": rome_method(2, moments[2], few)}, continuations=ALONE)
    own = found.to_frame().query("layer == 2")
    assert own["case"].tolist() == [*alone.cases]
    for name in ("efficacy", "paraphrase", "neighborhood", "efficacy magnitude", "neighborhood magnitude"):
        assert own[name].tolist() == pytest.approx(alone.scores("x", name), abs=1e-6)
        assert table[name][0] == pytest.approx(alone.value("x", name))
        low, high = alone.to_frame().query("method == 'x' and score == @name")[["low", "high"]].to_numpy()[0]
        assert (table[f"{name}_low"][0], table[f"{name}_high"][0]) == pytest.approx((low, high), abs=1e-5)
    proposed = propose_layer(model, prompts, seed=3)
    assert table["traced effect"].tolist() == pytest.approx(proposed.effects[[2, 0]].tolist())
    assert (found.details["proposed"], found.details["traced"]) == (proposed.layer, 2)
    assert len(RunFile(tmp_path / "edits-traces.jsonl").read()[1]) == 2
    assert [axis.text for axis in found.plot().layout.annotations][-1] == "traced effect"
    assert "traced effect" not in edit_layer(model, cases(2), [0], settings=few).summary()
    with pytest.raises(ValueError, match="layer 2 is given 2 times"):
        edit_layer(model, cases(2), [2, 0, 2])
    with pytest.raises(ValueError, match="layers is empty"):
        edit_layer(model, cases(2), [])
    with pytest.raises(TypeError, match=r"traced=.*give several"):
        edit_layer(model, cases(2), [1], traced=prompts[0])
    with pytest.raises(IndexError, match="layer 9 does not exist"):
        edit_layer(model, cases(2), [9], traced=prompts)
    with pytest.raises(ValueError, match="no prompts"):
        propose_layer(model, [])


def test_layers_are_compared_case_by_case() -> None:
    scores = {0: [0.9, 0.8, 0.6, 0.2], 1: [0.8, 0.6, 0.3, math.nan], 4: [1.0, 0.9, 0.7, 0.1]}
    whole = {"efficacy": 1.0, "paraphrase": math.nan, "efficacy magnitude": 0.0, "neighborhood magnitude": 0.0}
    rows = [
        {"layer": layer, "case": f"case {n}", "neighborhood": value, **whole}
        for layer, values in scores.items()
        for n, value in enumerate(values)
    ]
    found = EditLayer.of(rows, {"model": "by hand"}, proposed=None, traced=0, effects=[])
    table = found.differences().set_index(["measure", "one", "other"])
    compared = table.loc[("neighborhood", 0, 1)]
    assert compared["n"] == 3, "of the case without the question neither layer counts"
    assert compared["difference"] == pytest.approx(-0.2)
    assert compared["p"] == 2 / 8, "all three fell: two of eight choices of signs are as extreme"
    assert table.loc[("neighborhood", 0, 4), "n"] == 4
    falling = EditLayer.of(rows[::-1], found.provenance, **found.details).differences()
    assert falling.query("measure == 'neighborhood'")["difference"].tolist() == pytest.approx([-0.3, -0.05, 0.2])
    assert table.loc["efficacy", "p"].tolist() == [1, 1, 1]
    assert table.loc["paraphrase", "p"].isna().all() and table.loc["paraphrase", "n"].tolist() == [0, 0, 0]
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"].tolist()), nan_ok=True)
    assert compared["p_holm"] > compared["p"]
    assert found.summary()["n"].tolist() == [4, 4, 4] and found.summary()["paraphrase"].isna().all()


@pytest.mark.data
def test_a_layer_is_chosen_on_other_records_than_those_evaluated(data_root: Path) -> None:
    model = zoo.tiny("llama")
    chosen = cases_for_choice(model, 5)
    assert 0 < len(chosen) <= 5
    assert not any(kn.data.known(model, [c.prompt for c in chosen], two_way=False))


def test_examples_before_and_after() -> None:
    model = zoo.fresh("llama")
    digest = zoo.bits(model)
    [case] = cases(1)
    [edit] = METHODS["values"](model, [case.prompt], [case.target])
    texts = {"edited": [case.prompt.text], "unrelated": ["Is Japan near", "The lazy dog"]}
    shown = edit_examples(model, edit, texts, max_new_tokens=4)
    assert zoo.bits(model) == digest
    assert shown.to_frame()["group"].tolist() == ["edited", "unrelated", "unrelated"]

    def plain(text: str) -> str:
        tokens = kn.encode(model, kn.Prompt(text, " the")).tokens
        for _ in range(4):
            tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1)[:, None]], 1)
        return model.tokenizer.decode(tokens[0, -4:])

    assert [row["before"] for row in shown.rows] == [plain(row["text"]) for row in shown.rows]
    with edit.applied(model):
        assert [row["after"] for row in shown.rows] == [plain(row["text"]) for row in shown.rows]
    assert "unrelated" in repr(shown) and "Japan" in shown._repr_html_()
    with pytest.raises(ValueError, match="no texts"):
        edit_examples(model, edit, {"edited": []})
