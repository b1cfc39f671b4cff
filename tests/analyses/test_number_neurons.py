"""tiny-bert knows number, by training: are there number neurons, and do they do what the grammar says?"""

from __future__ import annotations

import sys
from typing import Any

import pytest

import kntools as kn
from kntools.analyses.fig02_pair_search import PairSearch, pair_search
from kntools.analyses.fig05_suppression_effect import SuppressionEffect, suppression_effect
from kntools.analyses.fig06_cooccurrence_bias import cooccurrence_bias, count_beside
from kntools.analyses.prompt_group import prompt_groups
from kntools.analyses.words import FIGURE_5, noun_prompts
from tests.conftest import ROOT

PARADIGM = "sample_determiner_noun_agreement_2"
# In tiny-bert's grammar these three are neutral, with a bias to the singular.
BIASED = ("unique", "single", "sole")
WORDS = {
    "plural": FIGURE_5["plural"],
    "singular": tuple(w for w in FIGURE_5["singular"] if w not in BIASED),
    "neutral": (*FIGURE_5["neutral"], *BIASED),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return kn.load_model("tiny-bert", device="cpu")


@pytest.fixture(scope="module")
def found(model: Any) -> PairSearch:
    return pair_search(model, prompt_groups(model, PARADIGM, frames=5, limit=40))


@pytest.fixture(scope="module")
def effect(model: Any, found: PairSearch) -> SuppressionEffect:
    return suppression_effect(model, noun_prompts(model, PARADIGM), found.leading("plural"), words=WORDS)


def test_a_plural_neuron_in_most_plural_pairs_and_in_no_singular_one(found: PairSearch) -> None:
    [neuron] = found.leading("plural")
    shares = found.shares([neuron]).set_index("determiner")
    assert (shares.loc[["these", "those"], "share"] > 0.5).all() and (shares.loc[["this", "that"], "share"] == 0).all()
    assert found.claims().set_index("neuron").loc[repr(neuron), "p_holm"] < 0.01


def test_singular_neurons_are_one_per_determiner(found: PairSearch) -> None:
    """No neuron is found in most pairs of both `this` and `that`: the docs say so."""
    shares = found.shares(found.leading("singular", 50)).set_index(["determiner", "neuron"])["share"]
    majority = {
        determiner: {n for n, share in shares[determiner].items() if share > 0.5} for determiner in ("this", "that")
    }
    assert majority["this"] and majority["that"] and not majority["this"] & majority["that"]
    for neuron in found.leading("singular", 2):
        assert shares["these"][repr(neuron)] == shares["those"][repr(neuron)] == 0


def test_suppressing_it_moves_modifiers_as_the_grammar_says(effect: SuppressionEffect) -> None:
    with_plurals = effect.to_frame().query("group == 'plural'")
    changes = {section: some["change"] for section, some in with_plurals.groupby("section")}
    assert changes["plural"].mean() < 0 < changes["singular"].mean()
    assert (changes["singular"] > 0).all()
    assert (with_plurals.query("section == 'plural'")["significant"]).mean() > 0.5


def test_neutral_modifiers_follow_the_counts_of_the_training_text(effect: SuppressionEffect) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from tiny_bert import grammar, lexicon, text
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    nouns = {n.singular.split()[-1]: "singular" for n in lexicon.NOUNS}
    nouns |= {n.plural.split()[-1]: "plural" for n in lexicon.NOUNS}
    counts = count_beside(text.training_text(0, 20_000), [w for some in WORDS.values() for w in some], nouns)
    result = cooccurrence_bias(effect, counts, group="plural")
    for row in result.rows:  # the counter finds the rates that were built in
        rate = row["plural"] / (row["plural"] + row["singular"])
        assert rate == pytest.approx(grammar.DETERMINERS[row["word"]].plural, abs=0.07), row["word"]
    assert result.details["correlation"]["n"] == 11
    assert result.details["correlation"]["spearman"] < -0.6 and result.details["correlation"]["high"] < 0
