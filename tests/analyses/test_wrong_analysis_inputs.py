"""What people give an analysis by mistake: an error of kntools says what to give, before the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import kntools as kn
from kntools import analyses
from tests import zoo
from tests.test_wrong_inputs import ERRORS, PROMPT, TEXT, is_ours, without_type_checks  # noqa: F401 # a fixture

NEURONS, FACT = [(0, 1)], [PROMPT]
PAIRS = {"a": [kn.Prompt(text, " book", foil=" books") for text in (TEXT, "that book is")]}

# Containers of the wrong depth, a text in the place of several, other things than prompts.
NAMED = [
    None,
    [],
    {},
    {"a": []},
    {"a": None},
    {"a": "text"},
    {"a": [TEXT]},
    {"a": PROMPT},
    FACT,
    "abc",
    3,
    {"a": [FACT]},
]
LISTS = [None, [], "abc", [TEXT], 3, [None], [FACT]]
NAMES = [None, "", [], 3, "P999", ["P36"], "nope"]
WORDS = [None, "the", [], 3, {"a": []}, [3], ["the", "the"], {"a": "the"}, [""], [None]]
TEXTS = [None, [], {}, {"a": []}, {"a": None}, {"a": "text"}, {"a": [3]}, FACT, "abc", 3]

Call = Callable[[Any, Any], Any]
CALLS: dict[str, tuple[Call, list[Any]]] = {
    "attribution_profile": (lambda m, x: analyses.attribution_profile(m, x), NAMED),
    "reliability": (lambda m, x: analyses.reliability(m, x), NAMED),
    "reliability edits": (lambda m, x: analyses.reliability(m, PAIRS, edits=x), [None, [], "suppress", ["x"], 3]),
    "transfer": (lambda m, x: analyses.transfer(m, x, NEURONS), NAMED),
    "probability_shift": (lambda m, x: analyses.probability_shift(m, x, NEURONS), NAMED),
    "probability_shift words": (lambda m, x: analyses.probability_shift(m, PAIRS, NEURONS, words=x), WORDS),
    "suppression_effect": (lambda m, x: analyses.suppression_effect(m, x, NEURONS), NAMED),
    "selection_methods": (lambda m, x: analyses.selection_methods(m, x), NAMED),
    "selection_methods methods": (
        lambda m, x: analyses.selection_methods(m, PAIRS, methods=x),
        [[], {}, "adaptive", ["adaptive"], {"a": 3}, 3],
    ),
    "tracing_profile": (lambda m, x: analyses.tracing_profile(m, x), LISTS),
    "tracing_profile kinds": (lambda m, x: analyses.tracing_profile(m, FACT, kinds=x), [None, [], "hidden", ["x"], 3]),
    "planted_facts": (lambda m, x: analyses.planted_facts(m, x), LISTS),
    "propose_layer": (lambda m, x: analyses.propose_layer(m, x), LISTS),
    "edit_examples": (lambda m, x: analyses.edit_examples(m, kn.erase_values(m, [(1, 2)]), x), TEXTS),
    "edit_examples edit": (lambda m, x: analyses.edit_examples(m, x, {"a": [TEXT]}), [None, 3, [PROMPT]]),
    "localisation": (lambda m, x: analyses.localisation(m, x), LISTS),
    "pair_search": (lambda m, x: analyses.pair_search(m, x), LISTS),
    "prompt_groups": (lambda m, x: analyses.prompt_groups(m, x), NAMES),
    "by_answer": (lambda m, x: analyses.by_answer(m, x), NAMES),
    "known_prompts": (lambda m, x: analyses.known_prompts(m, x, limit=1, seed=0), [None, "P36", 3, [None], [3]]),
    "false_facts": (lambda m, x: analyses.false_facts(x, m, limit=2), NAMES),
    "noun_prompts": (lambda m, x: analyses.noun_prompts(m, x), NAMES),
    "number_prompts": (lambda m, x: analyses.number_prompts(m, x), [None, "P36", 3, [], [None], [3]]),
    "traced_prompts": (lambda m, x: analyses.traced_prompts(m, x, limit=2), [None, "x", 3, []]),
    "make_cases": (lambda m, x: analyses.make_cases(m, x, 2), [None, "x", 3, []]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_input_says_what_to_type(name: str) -> None:
    call, wrong = CALLS[name]
    for given in wrong:
        with pytest.raises(ERRORS) as caught:
            call(zoo.tiny("llama"), given)
        assert is_ours(caught.value), (given, caught.getrepr(style="short"))
