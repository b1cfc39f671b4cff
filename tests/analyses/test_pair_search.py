"""Which neurons are found in which determiner-noun pairs, on a model whose number neurons were set by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import kntools as kn
from kntools.analyses.fig01_attribution_profile import attribution_profile
from kntools.analyses.fig02_pair_search import PairSearch, pair_search, pairs_of
from kntools.analyses.fig03_localisation import localisation
from kntools.analyses.neuron_search import SearchSettings
from kntools.analyses.prompt_group import PromptGroup, by_answer, prompt_groups
from kntools.data.records import Loaded
from tests import planted

ONE = SearchSettings(target_count=(1, 5))
QUICK = replace(ONE, rule="gauss_legendre", steps=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_pairs(tmp_path_factory.mktemp("blimp"))


@pytest.fixture(scope="module")
def groups(folder: Path) -> Loaded[PromptGroup]:
    return prompt_groups(planted.cached(), "determiner_noun_agreement_1", frames=4, path=folder)


def test_number_neurons_in_their_pairs_and_not_in_the_others(groups: Loaded[PromptGroup], tmp_path: Path) -> None:
    found = pair_search(planted.cached(), groups, settings=QUICK, run=tmp_path / "run")
    assert found.leading("plural") == (planted.PLURAL,) and found.leading("singular", 3) == (planted.SINGULAR,)
    shares = found.shares().set_index(["neuron", "determiner"])
    for determiner, own in planted.DETERMINERS.items():
        for neuron in (planted.SINGULAR, planted.PLURAL):
            row = shares.loc[(repr(neuron), determiner)]
            assert row["nouns"] == 1 and row["share"] == (neuron == own), "of two nouns, one is for the selection"
            assert row["opposite"] == (neuron != own)
    assert shares.loc[("L1.N7", "those"), "p"] == pytest.approx(stats.fisher_exact([[1, 0], [0, 1]]).pvalue)
    low = stats.binomtest(1, 1).proportion_ci(method="wilson").low
    assert shares.loc[("L1.N7", "those"), "low"] == pytest.approx(low)
    assert found.shares([(0, 3)])["found"].sum() == 0
    path = found.save(tmp_path / "a.json")
    again = pair_search(planted.cached(), groups, settings=QUICK, run=tmp_path / "run")
    assert again.save(tmp_path / "b.json").read_bytes() == path.read_bytes()
    assert kn.load(path).leading("plural") == (planted.PLURAL,)
    located = localisation(planted.cached(), groups, settings=QUICK, null=None)
    assert pairs_of(located, groups).rows == found.rows
    with pytest.raises(ValueError, match="same ones"):
        pairs_of(located, groups[1:])
    assert [bars.name for bars in found.plot([(0, 3)]).data] == ["L0.N3"]
    assert len(found.plot().data) == 2 and "4 singular, 2 plural; 3 for the selection and 3 for" in repr(found)
    assert found.nouns("selection") | found.nouns("test") == set(planted.NOUNS)
    with pytest.raises(ValueError, match="half='tests'"):
        found.nouns("tests")
    assert not found.nouns("selection") & found.nouns("test") and {row["metric"] for row in found.rows} == {"contrast"}


@pytest.mark.parametrize("identity", [0.0, 1.0, 5.0, 20.0])
def test_number_neurons_at_every_size_of_the_noun_effect(groups: Loaded[PromptGroup], identity: float) -> None:
    """The contrast is of two forms of one noun, and P is of a noun: what moves both forms drowns number in P alone."""
    model, groups = planted.build(identity=identity), [replace(g, prompts=g.prompts[:1]) for g in groups]
    found = pair_search(model, groups, settings=QUICK)
    assert found.leading("plural", 3) == (planted.PLURAL,) and found.leading("singular", 3) == (planted.SINGULAR,)
    assert found.claims()["share"].tolist() == [1, 1] and found.claims()["opposite"].tolist() == [0, 0]
    asked_for_p = pair_search(model, groups, settings=replace(QUICK, metric="probability"))
    assert {row["metric"] for row in asked_for_p.rows} == {"probability"}
    assert (asked_for_p.leading("plural") == ()) == (identity >= 5)
    with pytest.raises(ValueError, match="only a contrast"):
        asked_for_p.shuffled(0)


def many_groups(nouns: int) -> list[PromptGroup]:
    """One prompt per group, and so many nouns with both determiners."""
    pairs = {d: (good, bad) for d, good, bad in planted.PAIRS if d != "this"}
    return [
        PromptGroup(
            f"{d} {n}",
            "determiner_noun_agreement_1",
            "linguistic",
            (kn.Prompt(f"{planted.FRAMES[n % 4]} {d}", f" {good}", foil=f" {bad}"),),
            (("determiner", d), ("noun", f"noun{n}"), ("number", "plural" if d == "those" else "singular")),
        )
        for n in range(nouns)
        for d, (good, bad) in pairs.items()
    ]


def test_claims_stand_on_other_pairs_and_shuffled_foils_give_none() -> None:
    """`shuffled` is what a search of the turned pairs finds, and in 40 of these there is hardly a claim."""
    model, groups = planted.cached(), many_groups(24)
    found = pair_search(model, groups, settings=QUICK)
    plural = found.claims().set_index("number").loc["plural"]
    assert (plural["neuron"], plural["nouns"], plural["found"], plural["against"]) == (repr(planted.PLURAL), 12, 12, 0)
    by_fisher = stats.fisher_exact([[12, 0], [0, 12]], alternative="greater").pvalue
    by_sign = 0.5**12
    assert plural["p"] == pytest.approx(max(by_fisher, by_sign)) and plural["p_holm"] < 0.01
    assert plural["random"] == pytest.approx(1 / model.cfg.d_mlp)
    [turned] = [replace(p, target=p.foil, foil=p.target) for p in groups[0].prompts]
    once = pair_search(model, [replace(groups[0], prompts=(turned,))], settings=QUICK).rows[0]
    assert (once["neurons"], once["against"]) == (found.rows[0]["against"], found.rows[0]["neurons"])
    claimed = sum((found.shuffled(seed).claims()["p_holm"] < 0.05).any() for seed in range(40))
    assert claimed <= 2
    # The foils say something in pairs with a contrast alone.
    half = [row | ({"metric": "probability"} if n % 3 == 0 else {}) for n, row in enumerate(found.rows)]
    contrasts = sum(row["metric"] == "contrast" for row in half if (row["half"], row["number"]) == ("test", "plural"))
    mixed = PairSearch.of(half, found.provenance, **found.details).claims().set_index("number").loc["plural"]
    assert 0 < contrasts < 12 and mixed["p"] == pytest.approx(max(by_fisher, 0.5**contrasts))
    # A share of no pairs is none.
    for number, absent in (("singular", ["opposite"]), ("plural", ["share", "low", "high", "random"])):
        rows = [row for row in found.rows if (row["half"], row["number"]) != ("test", number)]
        of_one = PairSearch.of(rows, found.provenance, **found.details).claims().set_index("number").loc["plural"]
        assert of_one[absent].isna().all() and np.isnan(of_one["p"]) and of_one["found"] == (number == "singular") * 12
    halves = found.frame.groupby("nouns")["half"].nunique()
    assert (halves == 1).all() and found.frame["half"].value_counts().to_dict() == {"selection": 24, "test": 24}


def by_hand(nouns: int, pairs: dict[str, tuple[list[list[int]], list[list[int]]]]) -> PairSearch:
    """Determiner -> neurons and those against, of so many nouns of either half."""
    rows = [
        {
            "pair": f"{d} {half}{n}",
            "determiner": d,
            "number": "plural" if d in ("these", "those") else "singular",
            "nouns": f"{half}{n}",
            "half": half,
            "metric": "contrast",
            "neurons": own,
            "against": against,
        }
        for half in ("selection", "test")
        for n in range(nouns)
        for d, (own, against) in pairs.items()
    ]
    return PairSearch.of(rows, {"model": "by hand"}, widths=[10, 10])


def test_a_noun_counts_once_whatever_its_determiners() -> None:
    own, other = ([[1, 7], [0, 3]], [[0, 4]]), ([[0, 4]], [[1, 7]])
    once = by_hand(6, {"that": other, "those": own})
    twice = by_hand(6, {"this": other, "that": other, "these": own, "those": own})
    assert (twice.claims() == once.claims()).fillna(True).all(axis=None) and once.claims()["nouns"].eq(6).all()
    assert twice.leading("plural", 2) == once.leading("plural", 2)
    shares = twice.shares([(1, 7)]).set_index("determiner")
    assert shares["nouns"].eq(6).all() and shares["p"].nunique() == 1
    assert shares.loc["those", "p"] == pytest.approx(stats.fisher_exact([[6, 0], [0, 6]]).pvalue)


def test_a_third_of_the_pairs_does_not_make_a_neuron_one_of_a_noun() -> None:
    """Pairs of two sources: a noun may have more than two."""
    nothing: tuple[list[list[int]], list[list[int]]] = ([], [])
    neuron = kn.Neuron(1, 7)
    once, never = (by_hand(6, {"this": nothing, "these": side}).rows for side in (([[1, 7]], []), nothing))
    table = {"provenance": {"model": "by hand"}, "widths": [10, 10]}
    assert PairSearch.of([*once, *never], **table).leading("plural") == (neuron,)
    assert PairSearch.of([*once, *never, *never], **table).leading("plural") == ()


def test_half_of_the_pairs_make_a_neuron_one_of_a_noun_and_a_foil_of_the_other_half_its_opposite() -> None:
    for_one, against_one = ([[1, 7]], []), ([], [[1, 7]])
    nothing: tuple[list[list[int]], list[list[int]]] = ([], [])
    claim = by_hand(6, {"that": nothing, "these": for_one, "those": nothing}).claims().iloc[0]
    by_fisher = stats.fisher_exact([[6, 0], [0, 6]], alternative="greater").pvalue
    assert (claim["found"], claim["against"]) == (6, 0) and claim["p"] == pytest.approx(max(by_fisher, 0.5**6))
    claim = by_hand(6, {"that": nothing, "these": for_one, "those": against_one}).claims().iloc[0]
    assert (claim["found"], claim["against"], claim["p"]) == (6, 6, 1), "as often for the foil"
    mixed = PairSearch.of(
        [
            *by_hand(6, {"that": nothing, "these": for_one}).rows,
            *(
                {**row, "nouns": f"other {row['nouns']}"}
                for row in by_hand(2, {"these": (*for_one[:1], [[1, 7]])}).rows
            ),
        ],
        {"model": "by hand"},
        widths=[10, 10],
    )
    claim = mixed.claims().iloc[0]
    assert claim["against"] == 2 and claim["p"] == pytest.approx(0.5**6), "nouns on both sides decide nothing"


def test_a_search_of_a_model_that_knows_nothing_finds_nothing(groups: Loaded[PromptGroup]) -> None:
    model = planted.build(push=0.0)
    found = pair_search(model, groups, settings=QUICK)
    assert all(not row["converged"] and row["neurons"] == [] for row in found.rows)
    assert found.leading("plural") == () and found.shares().empty and found.claims().empty


def test_errors_say_what_to_do(groups: Loaded[PromptGroup]) -> None:
    with pytest.raises(ValueError, match="no groups given"):
        pair_search(planted.cached(), [])
    fact = PromptGroup("Canada", "P36", "factual", (kn.Prompt("a", " b"),) * 3)
    with pytest.raises(ValueError, match=r"\['Canada'\] have none"):
        pair_search(planted.cached(), [fact])
    some = replace(
        groups[0], labels=(("determiner", "some"), ("noun", "horses"), ("number", "plural")), key="some horses"
    )
    with pytest.raises(ValueError, match=r"of this, that, these, those: \['some horses'\]"):
        pair_search(planted.cached(), [some])
    with pytest.raises(ValueError, match="'singular' or 'plural'"):
        PairSearch.of((), {"model": "m"}).leading("dual")


# Figure 1


def test_profile_is_the_mean_of_attributions(folder: Path, tmp_path: Path) -> None:
    model = planted.cached()
    prompts = by_answer(model, "determiner_noun_agreement_1", path=folder)
    assert {name: len(some) for name, some in prompts.items()} == {"this": 8, "that": 8, "those": 8}
    profile = attribution_profile(model, prompts, settings=QUICK, run=tmp_path / "run")
    assert profile.counts == (4, 4, 4)
    for name, *halves in zip(profile.classes, profile.selection, profile.scores, strict=True):
        how: Any = {"metric": "contrast", "rule": QUICK.rule, "steps": QUICK.steps}
        expected = kn.integrated_gradients(model, prompts[name], **how).scores.mean(0)
        torch.testing.assert_close(sum(halves) / 2, expected, atol=1e-5, rtol=1e-4)
    assert set(profile.leading(1)) == {planted.SINGULAR, planted.PLURAL} == set(profile.leading_of_each())
    assert profile.to_frame([planted.SINGULAR]).query("`class` == 'those'")["score"].item() == 0
    loaded = kn.load(profile.save(tmp_path / "a.safetensors"))
    assert torch.equal(loaded.scores, profile.scores) and torch.equal(loaded.errors, profile.errors)
    assert (loaded.classes, loaded.counts) == (profile.classes, profile.counts)
    again = attribution_profile(model, prompts, settings=QUICK, run=tmp_path / "run")
    assert torch.equal(again.scores, profile.scores) and len(profile.plot().data) == 1
    assert "this (n = 4)" in repr(profile) and len(profile.to_frame()) == 3 * len(profile.leading())
    assert {len(some) for some in by_answer(model, "determiner_noun_agreement_1", limit=3, path=folder).values()} == {3}


def test_prompts_of_an_answer_are_each_given_once(tmp_path: Path) -> None:
    """Pairs that differ only behind the noun are one prompt for a causal model."""
    path = planted.write_pairs(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines + [line.replace('."', ' there."') for line in lines]) + "\n")
    found = by_answer(planted.cached(), "determiner_noun_agreement_1", path=path)
    assert {name: len(some) for name, some in found.items()} == {"this": 8, "that": 8, "those": 8}
    assert all(len(some) == len(set(some)) for some in found.values())
    profile = attribution_profile(planted.cached(), found, settings=QUICK)
    assert profile.counts == (4, 4, 4)


def test_profile_errors() -> None:
    with pytest.raises(ValueError, match="every group needs 2"):
        attribution_profile(planted.cached(), {"a": []})
    with pytest.raises(ValueError, match="did you mean"):
        by_answer(planted.cached(), "passive_3")
