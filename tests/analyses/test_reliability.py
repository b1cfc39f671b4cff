"""Which predictions edits overturn, by hand on planted neurons; and ways to choose neurons, on the same."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses.fig08_reliability import EDITS, reliability
from kntools.analyses.method_comparison import METHODS, RANDOM, selection_methods
from tests import planted, zoo


def pairs() -> list[kn.Prompt]:
    return [
        kn.Prompt(f"{frame} {d}", f" {good}", foil=f" {bad}")
        for frame in planted.FRAMES
        for d, good, bad in planted.PAIRS
    ]


def facts() -> list[kn.Prompt]:
    """What the planted model says of all words: one of two nouns that tie, so only `books` and `book` are asked."""
    return [
        kn.Prompt(f"{frame} {d}", f" {n}")
        for frame in planted.FRAMES
        for d, n in (("this", "book"), ("those", "books"))
    ]


def test_planted_neurons_decide(tmp_path: Path) -> None:
    """Suppressed or erased, the pair ties (not more probable: overturned); written towards the foil, it turns around;
    doubled, it stays. Random neurons are silent: nothing changes."""
    model = planted.build()
    before = zoo.bits(model)
    found = reliability(model, {"pairs": pairs()}, count=1, run=tmp_path / "run")
    assert zoo.bits(model) == before, "every edit is undone"
    summary = found.summary().set_index("edit")
    assert summary["share"].to_dict() == {"suppress": 1, "enhance": 0, "erase": 1, "values": 1}
    assert (summary["random"] == 0).all() and (summary["n"] == 24).all()
    assert summary.loc["suppress", "p"] == pytest.approx(2 * 0.5**24)
    assert summary.loc["suppress", "p_holm"] == pytest.approx(8 * 0.5**24)
    assert summary.loc["enhance", "p"] == 1 and summary.loc["enhance", "after"] > summary.loc["enhance", "before"]
    path = found.save(tmp_path / "a.json")
    again = reliability(model, {"pairs": pairs()}, count=1, run=tmp_path / "run")
    assert again.save(tmp_path / "b.json").read_bytes() == path.read_bytes()
    assert kn.load(path).summary().equals(found.summary()) and len(found.plot().data) == 2


def test_given_neurons_act_on_their_own_number_alone() -> None:
    found = reliability(planted.cached(), {"pairs": pairs()}, neurons=[planted.PLURAL], edits=["suppress"])
    for row in found.rows:
        assert row["overturned"] == row["text"].endswith("those")


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_facts_against_whole_runs(name: str) -> None:
    model = zoo.fresh(name)
    mask, space = (" [MASK] .", "") if model.tokenizer.mask_token else ("", " ")
    prompts = [kn.Prompt(f"The capital of {c} is{mask}", space + a) for c, a in list(zoo.COUNTRIES.items())[:4]]
    neurons = [(0, 1), (1, 5), (2, 9), (2, 11)]
    found = reliability(model, {"P36": prompts}, neurons=neurons, correct_only=False)
    for prompt in prompts:
        e = kn.encode(model, prompt)

        def says(hooks: Any = (), e: Any = e) -> int:
            with torch.no_grad():
                return int(model.run_with_hooks(e.tokens, fwd_hooks=list(hooks))[0, e.position].argmax())

        clean = says()
        second = model(e.tokens)[0, e.position].topk(2).indices.tolist()
        new = next(i for i in second if i != e.target_ids[0])
        expected = {
            "suppress": says(kn.ablate_neurons(neurons, pos=e.positions)),
            "enhance": says(kn.enhance_neurons(neurons, pos=e.positions)),
        }
        with kn.erase_values(model, neurons).applied(model):
            expected["erase"] = says()
        with kn.edit_values(model, neurons, e.target_ids[0], new).applied(model):
            expected["values"] = says()
        rows = {row["edit"]: row["overturned"] for row in found.rows if row["text"] == prompt.text}
        assert rows == {edit: answer != clean for edit, answer in expected.items()}
    assert any(row["overturned"] for row in found.rows), "nothing is overturned: the test says nothing"


def test_a_figure_says_whether_neurons_were_given() -> None:
    found = reliability(planted.cached(), {"a": pairs()}, neurons=[(1, 1)], edits=["suppress"], correct_only=False)
    assert {bars.name for bars in found.plot().data} == {"given neurons", "random neurons"}


def test_what_the_model_gets_wrong_is_left_out() -> None:
    model = planted.cached()
    wrong = [kn.Prompt(f"{planted.FRAMES[0]} those", " book", foil=" books")]
    found = reliability(model, {"a": [*pairs()[:3], *wrong]}, count=1, edits=["suppress"])
    assert len(found.rows) == 3 and found.details["wrong"] == 1
    with pytest.raises(ValueError, match="none of the 1 prompts right"):
        reliability(model, {"a": wrong}, count=1)


def test_errors_say_what_to_do() -> None:
    model = planted.cached()
    with pytest.raises(ValueError, match="edit='forget' is unknown; use 'suppress'"):
        inspect.unwrap(reliability)(model, {"a": pairs()}, edits=["forget"])
    with pytest.raises(ValueError, match="edit 'suppress' is given 2 times"):
        reliability(model, {"a": pairs()}, edits=["suppress", "erase", "suppress"])
    with pytest.raises(ValueError, match="no prompts"):
        reliability(model, {})
    with pytest.raises(ValueError, match="another model"):
        reliability(model, {"a": pairs()}, neurons=[(30, 1)])
    with pytest.raises(ValueError, match="count=40"):
        reliability(model, {"a": pairs()}, count=40)
    with pytest.raises(ValueError, match="use multi_token='first'"):
        reliability(model, {"a": [kn.Prompt("The dog and", " Ouagadougou", multi_token="sum")]})
    with pytest.raises(ValueError, match="none called 'random'"):
        selection_methods(model, {"a": pairs()}, methods={RANDOM: kn.activation})
    with pytest.raises(ValueError, match="count=0"):
        selection_methods(model, {"a": pairs()}, count=0)


# Ways to choose


def test_methods_agree_where_one_neuron_decides(tmp_path: Path) -> None:
    model, prompts = planted.cached(), pairs()[:6:2]  # this book, that book, those books
    found = selection_methods(model, {"pairs": prompts}, count=1, run=tmp_path / "run")
    summary = found.summary().set_index("method")
    assert list(summary.index) == [*METHODS, RANDOM] and set(EDITS) == {"suppress", "enhance", "erase", "values"}
    for prompt in prompts:
        e = kn.encode(model, prompt)
        p = [
            float(model.run_with_hooks(e.tokens, fwd_hooks=h)[0, -1].detach().softmax(-1)[e.target_ids[0]])
            for h in ([], kn.ablate_neurons([planted.PLURAL, planted.SINGULAR]))
        ]
        for row in found.rows:
            if row["text"] == prompt.text and row["method"] not in (RANDOM, "query neurons"):  # nothing attends
                assert row["neurons"] in ([[1, 5]], [[1, 7]]) and row["drop"] == pytest.approx(p[0] - p[1], abs=1e-5)
    assert summary.loc[RANDOM, "drop"] == 0 and summary.loc["adaptive", "drop"] > 0.1
    assert summary.loc["kn_thesis", "gradients"] == 20 * 4 and summary.loc["activation x gradient", "gradients"] == 4
    overlap = found.overlap().set_index(["one", "other"])["jaccard"]
    assert overlap[("adaptive", "activation")] == 1 and overlap[("adaptive", RANDOM)] == 0
    f = found.curve("adaptive").values  # of 192 neurons, 0.001 and 0.002 are none
    torch.testing.assert_close(f, torch.tensor([0.0, 0, *[1] * 8], dtype=torch.float64), atol=1e-4, rtol=0)
    assert summary.loc[RANDOM, "cpr"] < 0.5 and set(summary.columns) >= {"cpr_low", "cpr_high", "cmd_low", "cmd_high"}
    path = found.save(tmp_path / "a.json")
    again = selection_methods(model, {"pairs": prompts}, count=1, run=tmp_path / "run")
    assert again.save(tmp_path / "b.json").read_bytes() == path.read_bytes(), "times too are those of the first run"
    assert kn.load(path).summary().equals(found.summary())
    assert [t.type for t in found.plot().data] == ["bar", "heatmap", "scatter"]


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_faithfulness_of_methods_is_that_of_each_prompt_by_its_own_scores(ablation: Any) -> None:
    model = zoo.tiny("llama")
    prompts = [kn.Prompt(f"The capital of {c} is", f" {a}") for c, a in list(zoo.COUNTRIES.items())[:3]]
    chosen = {"activation": kn.activation, "dla": kn.direct_logit_attribution}
    found = selection_methods(model, {"a": prompts[:2], "b": prompts[2:]}, methods=chosen, count=2, ablation=ablation)
    active = kn.activation(model, prompts).scores
    base = {"zero": torch.zeros_like(active), "mean": active.mean(0).expand_as(active), "resample": active[[1, 2, 0]]}
    size = active[0].numel()
    for name, method in chosen.items():
        curve = found.curve(name)
        for number, prompt in enumerate(prompts):
            order = method(model, prompt).scores[0].flatten().argsort(descending=True)
            for column, share in enumerate(curve.shares):
                out = order[round(share * size) :].tolist()
                assert size - len(out) == curve.counts[column]
                off = [kn.Neuron(*divmod(i, active.shape[2])) for i in out]
                values = [float(base[ablation][number, n.layer, n.index]) for n in off]
                p = kn.sweep(model, prompt, [kn.set_neurons(off, values) if off else []])[0].softmax(-1)
                expected = float(p[kn.encode(model, prompt).target_ids[0]])
                assert float(curve.kept[number, column]) == pytest.approx(expected, abs=2e-6)
        f = (curve.kept.mean(0) - curve.ablated.mean()) / (curve.clean.mean() - curve.ablated.mean())
        torch.testing.assert_close(curve.values, f.double(), atol=1e-5, rtol=1e-4)
        row = found.summary().set_index("method").loc[name]
        assert (row["cpr"], row["cmd"]) == (curve.cpr, curve.cmd) and row["cpr_low"] <= row["cpr"] <= row["cpr_high"]
    assert found.curve(RANDOM).values[-1] == 1 and found.curve("dla").plot().data
    with pytest.raises(KeyError, match="activation, dla, random"):
        found.curve("adaptive")
