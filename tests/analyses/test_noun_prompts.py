"""Words in the place of a determiner, and the noun after them: figures 5 to 7 for a causal model."""

from __future__ import annotations

import pytest
import torch

import kntools as kn
from kntools.analyses.fig05_suppression_effect import suppression_effect
from kntools.analyses.fig07_probability_shift import probability_shift
from kntools.analyses.words import check_words, noun_prompts, word_probabilities
from tests import planted, zoo


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[kn.Prompt]]:
    path = planted.write_pairs(tmp_path_factory.mktemp("pairs"))
    return noun_prompts(planted.cached(), "determiner_noun_agreement_1", path=path)


def test_the_determiner_gives_way_to_a_slot(prompts: dict[str, list[kn.Prompt]]) -> None:
    assert {number: len(some) for number, some in prompts.items()} == {"plural": 8, "singular": 8}, (
        "as the determiner is gone, this book and that book are one"
    )
    assert {p.text for some in prompts.values() for p in some} == {f"{frame} {{}}" for frame in planted.FRAMES}
    assert {p.target for p in prompts["plural"]} == {" books", " people"}


def test_a_masked_model_is_asked_for_the_determiner() -> None:
    model = kn.load_model("tiny-bert")
    found = noun_prompts(model, "sample_determiner_noun_agreement_2", limit=4)
    assert {number: len(some) for number, some in found.items()} == {"plural": 4, "singular": 4}
    assert {p.target.strip() for p in found["plural"]} <= {"these", "those"}
    assert all("{}" not in p.text and kn.encode(model, p).target_ids for some in found.values() for p in some)


def test_the_value_is_the_answer_after_each_word(prompts: dict[str, list[kn.Prompt]]) -> None:
    model, words = planted.cached(), ["those", "this", "Ouagadougou"]  # a word of several tokens will do here
    some = prompts["plural"][:3]
    check_words(model, some, words)
    edits = [[], kn.ablate_neurons([planted.PLURAL])]
    found = word_probabilities(model, some, words, edits)
    for p, prompt in enumerate(some):
        for w, word in enumerate(words):
            e = kn.encode(model, kn.Prompt(prompt.text.replace("{}", word), prompt.target))
            for n, hooks in enumerate(([], kn.ablate_neurons([planted.PLURAL]))):
                logits = model.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, -1].detach()
                torch.testing.assert_close(found[n, p, w], logits.softmax(-1)[e.target_ids[0]], atol=1e-6, rtol=0)


def test_suppression_says_what_the_weights_say(prompts: dict[str, list[kn.Prompt]]) -> None:
    """The plural neuron fires after `those` alone, so plural nouns lose there, and nothing else changes."""
    words = {"plural": ["those"], "singular": ["this", "that"], "neutral": ["some"]}
    found = suppression_effect(planted.cached(), prompts, [planted.PLURAL], words=words)
    change = {(row["group"], row["word"]): row["change"] for row in found.rows}
    assert found.details["change"] == "log_odds"
    # The log-odds of plural against singular, whichever of the two a prompt was made of.
    assert (
        change["plural", "those"] == pytest.approx(change["singular", "those"], abs=1e-5)
        and change["plural", "those"] < -1
    )
    others = {key: value for key, value in change.items() if key[1] != "those"}
    assert others and set(others.values()) == {0.0}


def test_log_odds_are_the_difference_of_logits(prompts: dict[str, list[kn.Prompt]]) -> None:
    model, words = planted.cached(), ["those", "this"]
    shift = probability_shift(model, prompts, [planted.PLURAL], words=words)
    for group, sign in (("plural", 1), ("singular", -1)):
        for word in words:
            for found, hooks in zip(
                shift.log_odds(group, word), ([], kn.ablate_neurons([planted.PLURAL])), strict=True
            ):
                for value, prompt in zip(found, prompts[group], strict=True):
                    e = kn.encode(model, kn.Prompt(prompt.text.replace("{}", word), prompt.target, foil=prompt.foil))
                    logits = model.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, -1].detach()
                    expected = sign * (logits[e.target_ids[0]] - logits[e.foil_ids[0]])
                    assert float(value) == pytest.approx(float(expected), abs=1e-4)
    frame = shift.to_frame().set_index(["group", "word"])
    row, foil = frame.loc[("plural", "those")], frame.loc[("singular", "those")]
    assert row["foil_before"] < row["before"] and foil["foil_before"] > foil["before"]


def test_both_forms_are_those_of_their_own_prompt() -> None:
    """Prompts of different nouns, by runs of their own: one probability for the answer, and one for its foil."""
    model, neurons = zoo.tiny("llama"), [(1, 3)]
    nouns = [
        ("Is {}", " Cuba", " Rome"),
        ("The capital of {}", " Japan", " Spain"),
        ("The dog and {}", " Paris", " Tokyo"),
    ]
    listed = [kn.Prompt(text, good, foil=bad) for text, good, bad in nouns]
    shift = probability_shift(model, {"plural": listed}, neurons, words=["near", "the"])
    for n, prompt in enumerate(listed):
        for w, word in enumerate(("near", "the")):
            e = kn.encode(model, kn.Prompt(prompt.text.replace("{}", word), prompt.target, foil=prompt.foil))
            for found, foil, hooks in (
                (shift.before, shift.foil_before, []),
                (shift.after, shift.foil_after, kn.scale_neurons(neurons, 0.0, pos=-1)),
            ):
                p = model.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, -1].detach().softmax(-1)
                both = (float(found[n, w]), float(foil[n, w]))
                assert both == pytest.approx((float(p[e.target_ids[0]]), float(p[e.foil_ids[0]])), rel=1e-3)


def test_prompts_with_and_without_a_slot_do_not_go_together() -> None:
    model = zoo.tiny("llama")
    mixed = [kn.Prompt("The dog and {}", " Paris"), kn.Prompt("The dog and", " Paris")]
    with pytest.raises(ValueError, match="1 of 2 prompts have a slot"):
        word_probabilities(model, mixed, ["these"], [[]])


def test_paradigms_without_determiners_are_refused() -> None:
    with pytest.raises(ValueError, match="use determiner_noun_agreement_1 or _2"):
        noun_prompts(planted.cached(), "sample_subject_verb_agreement")
