"""Which neurons are found in which determiner-noun pairs, on a model whose number neurons were set by hand."""

from __future__ import annotations

from pathlib import Path

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_pairs(tmp_path_factory.mktemp("blimp"))


@pytest.fixture(scope="module")
def groups(folder: Path) -> Loaded[PromptGroup]:
    return prompt_groups(planted.cached(), "determiner_noun_agreement_1", frames=4, path=folder)


def test_number_neurons_in_their_pairs_and_not_in_the_others(groups: Loaded[PromptGroup], tmp_path: Path) -> None:
    found = pair_search(planted.cached(), groups, settings=ONE, run=tmp_path / "run")
    assert found.leading("plural") == (planted.PLURAL,) and found.leading("singular", 3) == (planted.SINGULAR,)
    shares = found.shares().set_index(["neuron", "determiner"])
    for determiner, own in planted.DETERMINERS.items():
        for neuron in (planted.SINGULAR, planted.PLURAL):
            row = shares.loc[(repr(neuron), determiner)]
            assert row["pairs"] == 2 and row["share"] == (neuron == own)
            assert row["opposite"] == (neuron != own)
    stats = pytest.importorskip("scipy.stats")
    assert shares.loc[("L1.N7", "those"), "p"] == pytest.approx(stats.fisher_exact([[2, 0], [0, 4]]).pvalue)
    low = stats.binomtest(2, 2).proportion_ci(method="wilson").low
    assert shares.loc[("L1.N7", "those"), "low"] == pytest.approx(low)
    assert found.shares([(0, 3)])["found"].sum() == 0
    path = found.save(tmp_path / "a.json")
    again = pair_search(planted.cached(), groups, settings=ONE, run=tmp_path / "run")
    assert again.save(tmp_path / "b.json").read_bytes() == path.read_bytes()
    assert kn.load(path).leading("plural") == (planted.PLURAL,)
    located = localisation(planted.cached(), groups, settings=ONE, null=None)
    assert pairs_of(located, groups).rows == found.rows
    with pytest.raises(ValueError, match="same ones"):
        pairs_of(located, groups[1:])
    assert [bars.name for bars in found.plot([(0, 3)]).data] == ["L0.N3"]
    assert len(found.plot().data) == 2 and "4 singular, 2 plural" in repr(found)


def test_a_search_of_a_model_that_knows_nothing_finds_nothing(groups: Loaded[PromptGroup]) -> None:
    model = planted.build(push=0.0)
    found = pair_search(model, groups, settings=ONE)
    assert all(not row["converged"] and row["neurons"] == [] for row in found.rows)
    assert found.leading("plural") == () and found.shares().empty


def test_errors_say_what_to_do(groups: Loaded[PromptGroup]) -> None:
    with pytest.raises(ValueError, match="none were given"):
        pair_search(planted.cached(), [])
    fact = PromptGroup("Canada", "P36", "factual", (kn.Prompt("a", " b"),) * 3)
    with pytest.raises(ValueError, match=r"\['Canada'\] have none"):
        pair_search(planted.cached(), [fact])
    with pytest.raises(ValueError, match="'singular' or 'plural'"):
        PairSearch.of((), {"model": "m"}).leading("dual")


# Figure 1


def test_profile_is_the_mean_of_attributions(folder: Path, tmp_path: Path) -> None:
    model = planted.cached()
    prompts = by_answer(model, "determiner_noun_agreement_1", path=folder)
    assert {name: len(some) for name, some in prompts.items()} == {"book": 8, "cat": 8, "books": 4, "people": 4}
    profile = attribution_profile(model, prompts, run=tmp_path / "run")
    for name, scores in zip(profile.classes, profile.scores, strict=True):
        expected = kn.integrated_gradients(model, prompts[name], metric="probability").scores.mean(0)
        torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-5)
    assert set(profile.leading(1)) == {planted.SINGULAR, planted.PLURAL}
    each = kn.integrated_gradients(model, prompts["book"], metric="probability").scores.double()[
        :, 1, planted.SINGULAR.index
    ]
    [row] = profile.to_frame([planted.SINGULAR]).query("`class` == 'book'").to_dict("records")
    margin = stats.sem(each.numpy()) * stats.t.ppf(0.975, 7)  # of 8 prompts
    middle = float(each.mean())
    assert [row["low"], row["high"]] == pytest.approx([middle - margin, middle + margin], abs=1e-6)
    loaded = kn.load(profile.save(tmp_path / "a.safetensors"))
    assert torch.equal(loaded.scores, profile.scores) and torch.equal(loaded.errors, profile.errors)
    assert (loaded.classes, loaded.counts) == (profile.classes, profile.counts)
    again = attribution_profile(model, prompts, run=tmp_path / "run")
    assert torch.equal(again.scores, profile.scores) and len(profile.plot().data) == 1
    assert "book (n = 8)" in repr(profile) and len(profile.to_frame()) == 4 * len(profile.leading())
    assert {len(some) for some in by_answer(model, "determiner_noun_agreement_1", limit=3, path=folder).values()} == {3}


def test_profile_errors() -> None:
    with pytest.raises(ValueError, match="every group needs 1"):
        attribution_profile(planted.cached(), {"a": []})
    with pytest.raises(ValueError, match="did you mean"):
        by_answer(planted.cached(), "passive_3")
