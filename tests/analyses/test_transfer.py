"""Neurons found in one paradigm, suppressed in others: on planted neurons, and against whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy import stats

import kntools as kn
from kntools.analyses import neuron_transfer
from kntools.analyses.neuron_transfer import number_prompts, transfer
from tests import planted, zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_pairs(tmp_path_factory.mktemp("blimp"))


def test_a_planted_neuron_overturns_its_own_number_alone(folder: Path, tmp_path: Path) -> None:
    model = planted.cached()
    prompts = number_prompts(model, ["determiner_noun_agreement_1"], path=folder)
    assert list(map(len, prompts.values())) == [16, 8]
    found = transfer(model, prompts, [planted.PLURAL], run=tmp_path / "run")
    summary = found.summary().set_index(["source", "edit"])
    for edit in ("at the answer", "at all positions"):
        own, other = (summary.loc[(f"determiner_noun_agreement_1, {n}", edit)] for n in ("plural", "singular"))
        assert (own["right"], own["share"], own["random"], own["random_change"]) == (8, 1, 0, 0)
        assert own["change_low"] <= own["change"] <= own["change_high"] < -1 and own["p_holm"] < 0.001
        assert (other["share"], other["change"], other["p"]) == (0, 0, 1)
        assert own["low"] == pytest.approx(stats.binomtest(8, 8).proportion_ci(method="wilson").low)
    path = found.save(tmp_path / "a.json")
    again = transfer(model, prompts, [planted.PLURAL], run=tmp_path / "run")
    assert again.save(tmp_path / "b.json").read_bytes() == path.read_bytes() and kn.load(path).rows == found.rows
    assert found.plot().data[0].z.shape == (2, 4)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_values_are_those_of_whole_runs(name: str) -> None:
    model, neurons = zoo.tiny(name), [(0, 3), (2, 7)]
    mask, space = (" [MASK] .", "") if model.tokenizer.mask_token else ("", " ")
    prompts = [kn.Prompt(f"The capital of {c} is{mask}", f"{space}Rome", foil=f"{space}Paris") for c in zoo.COUNTRIES]
    for row in transfer(model, {"capitals": prompts}, neurons).rows:
        [e] = [kn.encode(model, p) for p in prompts if p.text == row["text"]]
        pos = e.positions if row["edit"] == "at the answer" else None
        for column, hooks in (("before", []), ("after", kn.ablate_neurons(neurons, pos=pos))):
            logits = model.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, e.position].detach()
            assert row[column] == pytest.approx(float(logits[e.target_ids[0]] - logits[e.foil_ids[0]]), abs=1e-4)


def test_a_share_of_no_pair_is_an_empty_cell() -> None:
    good, bad = (
        kn.Prompt("The capital of Canada is", a, foil=b) for a, b in ((" Ottawa", " Paris"), (" Paris", " Ottawa"))
    )
    found = transfer(zoo.tiny("llama"), {"a": [good], "b": [bad]}, ["L1.N3"])
    shares = found.summary().groupby("source", sort=False)["share"].first()
    cells, texts = found.plot().data
    row = shares.index[shares.isna()].item()
    at = list(cells.y).index(row)
    assert all(value != value for value in cells.z[at]) and set(cells.customdata[at]) == {"no value"}
    assert [word == "" for word in texts.text] == [y == row for y in texts.y]


def test_what_is_asked(folder: Path) -> None:
    model, paradigm = planted.cached(), "determiner_noun_agreement_1"
    left = number_prompts(model, [paradigm], number="plural", without={"cat"}, limit=3, path=folder)
    assert list(left) == [f"{paradigm}, plural"] and len(left[f"{paradigm}, plural"]) == 3
    assert all(p.target == " books" for p in left[f"{paradigm}, plural"])
    with pytest.raises(ValueError, match="no pair of a number is left"):
        number_prompts(model, [paradigm], without={"cat", "book"}, path=folder)
    for wrong in ({"without": "cat"}, {"limit": -1}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            number_prompts(model, [paradigm], path=folder, **wrong)
    with pytest.raises(ValueError, match="'dual' is unknown; use 'singular', 'plural'"):
        number_prompts(model, [paradigm], number="dual", path=folder)
    with pytest.raises(ValueError, match="is a relation"):
        number_prompts(model, ["P36"])
    with pytest.raises(ValueError, match="needs a foil"):
        transfer(model, {"a": [kn.Prompt("The dog and", " book")]}, [planted.PLURAL])


def test_a_paradigm_without_pairs_is_left_out_with_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paradigm, other, real = "determiner_noun_agreement_1", "anaphor_number_agreement", neuron_transfer.pairs_of_number

    def pairs(model: Any, name: str, nouns: Any, path: Any) -> Any:
        return real(model, paradigm, nouns if name == paradigm else ["cat", "book"], path)

    monkeypatch.setattr(neuron_transfer, "pairs_of_number", pairs)
    with pytest.warns(UserWarning, match=f"^{other}: no pair of a number is left .*; left out"):
        left = number_prompts(planted.cached(), [paradigm, other], path=folder)
    assert set(left) == {f"{paradigm}, plural", f"{paradigm}, singular"}


def test_a_title_says_how_many_neurons_are_suppressed(folder: Path) -> None:
    model = planted.cached()
    prompts = number_prompts(model, ["determiner_noun_agreement_1"], limit=2, path=folder)
    five, six = (transfer(model, prompts, [(1, i) for i in range(n)]).describe() for n in (5, 6))
    assert five.startswith("L1.N0, L1.N1, L1.N2, L1.N3, L1.N4 suppressed")
    assert six.startswith("L1.N0, L1.N1, L1.N2, L1.N3 and 2 more neurons suppressed")
