"""What counts as an exact or a known answer, and the score of a layer: all worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses.edit_cases import Case, Question
from kntools.analyses.edit_result import KNOWN, EditConsistency, knew
from kntools.analyses.fig11_edit_consistency import SAYS_IT, edit_consistency
from kntools.analyses.layer_choice import edit_layer
from kntools.editing.changes import Change
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.weight_edits import LayerEdit
from kntools.engine.answers import ask
from kntools.engine.writing import Drawing, continue_tokens
from kntools.models import adapter
from kntools.results.provenance import provenance
from tests import zoo
from tests.analyses.test_edit_consistency import payload

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
TARGET = " Rome"
LONG = " the city of Paris"  # four tokens
pytestmark = pytest.mark.filterwarnings("ignore:.*in L[0-9]+. the")


def chained(*chains: Sequence[int]) -> Any:
    """A model in which each token of a chain is followed by the next, whatever stands before: P about 1.

    Nothing attends and no MLP writes. A token with two successors likes both equally well, bit by bit.
    """
    model = zoo.fresh("llama")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if any(part in name for part in ("o_proj", "down_proj")):
                p.zero_()
            elif "norm" in name:
                p.fill_(1.0)
        embed, read = zoo.weight(model, "embed_tokens"), zoo.weight(model, "lm_head")
        embed.zero_()
        read.zero_()
        embed[:, 0] = 1.0  # of all tokens without a successor
        axes = {token: n + 1 for n, token in enumerate(dict.fromkeys(t for chain in chains for t in chain[:-1]))}
        for token, axis in axes.items():
            embed[token] = 0.0
            embed[token, axis] = 1.0
        for chain in chains:
            for token, successor in pairwise(chain):
                read[successor, axes[token]] = 4.0
    return model


def ids(answer: str, text: str = PROMPT.text) -> tuple[int, ...]:
    return kn.encode(zoo.tiny("llama"), kn.Prompt(text, answer, multi_token="sum")).target_ids


def is_() -> int:
    """The last token of `PROMPT`."""
    return int(kn.encode(zoo.tiny("llama"), PROMPT).tokens[0, -1])


@pytest.mark.parametrize("right", range(5))
def test_an_answer_is_exact_if_every_piece_is(right: int) -> None:
    """The model says so many pieces of a long answer, and then something else."""
    pieces = ids(LONG)
    assert len(pieces) == 4
    said = (*pieces[:right], *ids(TARGET)) if right < 4 else pieces
    model = chained((is_(), *said), pieces[right:])  # what comes after the wrong piece would be right again
    [answer] = ask(model, Question("forward true", PROMPT.text, LONG).prompt)
    assert (answer.first, answer.exact) == (right > 0, right == 4)
    tokens = kn.encode(model, PROMPT).tokens
    [written] = continue_tokens(model, list(tokens), len(said), Drawing())
    assert written.tolist() == list(said)
    assert (answer.probability > 0.9) == answer.exact


def test_a_case_of_which_the_model_says_the_first_token_is_evaluated_and_was_not_known() -> None:
    """Zero edits: before and after, the model gives one fact wholly, and of two answers the first token alone."""
    pieces = ids(LONG)
    model = chained((is_(), *pieces[:2], ids(TARGET)[0]))

    def unchanged(model: Any, prompts: Sequence[kn.Prompt], targets: Sequence[str]) -> list[LayerEdit]:
        update = torch.zeros_like(adapter.w_out(model, 1).detach())
        return [LayerEdit((Change(1, update, None),), f"nothing {n}", provenance(model)) for n, _ in enumerate(prompts)]

    begun, whole = LONG, model.tokenizer.decode([*pieces[:2], ids(TARGET)[0]])
    assert ids(whole) == (*pieces[:2], ids(TARGET)[0])

    def case(key: str, new: str, true: str) -> Case:
        questions = tuple(Question(f"forward {w}", PROMPT.text, a) for w, a in (("new", new), ("true", true)))
        return Case(key, kn.Prompt(PROMPT.text, true, subject="Canada"), new, questions)

    cases = [case("begun is new", begun, whole), case("begun is true", TARGET, begun), case("says it", whole, begun)]
    found = edit_consistency(model, cases, {"none": unchanged})
    assert found.cases == ("begun is new", "begun is true") and found.skipped == {SAYS_IT: 1}
    assert found.scores("none", "reliability, first") == [1.0, 0.0]
    assert found.scores("none", "reliability, exact") == [0.0, 0.0]
    # The true answer of the second case was begun and not finished: the model did not know it.
    assert [knew(before, "reliability, exact") for before in found.before] == [True, False]
    assert found.scores("none", "reliability, first", known=True) == [1.0]


def test_every_question_that_a_score_rests_on_must_have_been_answered_wholly() -> None:
    whole, begun = (0.9, True, True), (0.4, True, False)
    for about, roles in KNOWN.items():
        for wrong in (None, *roles):
            asked = {role.replace(" ", "_"): [begun if role == wrong else whole] for role in roles}
            assert knew(payload(**asked), f"{about}, exact") == (wrong is None)
    before, after = payload(forward_true=[whole], reverse_old=[whole]), payload(reverse_old=[begun])
    result = EditConsistency(("a",), (before,), {"rome": (after,)}, {}, {"model": "hand-made"})
    assert result.value("rome", "old direction gone") == 1.0
    assert result.value("rome", "old direction, first") == 1.0 and result.value("rome", "old direction, exact") == 0.0


def test_the_score_of_a_layer_is_a_harmonic_mean() -> None:
    """Efficacy 1/2, paraphrase 1/4, neighborhood 1: 3 / (2 + 4 + 1). The edit is too small to change an order."""
    model = zoo.tiny("llama")

    def ordered(text: str) -> list[str]:
        """Answers with their probability at least doubling from one to the next, none of them what the model says."""
        at = model(kn.encode(model, kn.Prompt(text, TARGET)).tokens)[0, -1].detach().softmax(-1)
        p = {f" {city}": float(at[ids(f" {city}", text)[0]]) for city in zoo.COUNTRIES.values()}
        kept: list[str] = []
        for city in sorted((c for c in p if p[c] < float(at.max())), key=lambda c: p[c]):
            if not kept or p[city] > 2 * p[kept[-1]]:
                kept.append(city)
        assert len(kept) >= 2
        return kept

    def case(country: str, wins: bool, paraphrases: Sequence[bool]) -> Case:
        text = f"The capital of {country} is"
        low, *_, high = ordered(text)
        new, true = (high, low) if wins else (low, high)
        questions = [Question("rewrite new", text, new), Question("rewrite true", text, true)]
        for other, right in zip(("Japan", "Spain"), paraphrases, strict=True):
            low, *_, high = ordered(f"Is {other} near")
            for which, answer in (("new", high if right else low), ("true", low if right else high)):
                questions.append(Question(f"paraphrase {which}", f"Is {other} near", answer))
        low, *_, high = ordered("The dog is near")
        for which, answer in (("new", low), ("true", high)):
            questions.append(Question(f"neighborhood {which}", "The dog is near", answer))
        return Case(country, kn.Prompt(text, true, subject=country), new, tuple(questions))

    options: dict[str, Any] = {"settings": RomeSettings(steps=2, templates=["{}"], lr=1e-6)}
    some = [case("Canada", True, (True, False)), case("Cuba", False, (False, False))]
    table = edit_layer(model, some, [1, 2], **options).summary()
    for row in table.to_dict("records"):
        parts = [row[s] for s in ("efficacy", "paraphrase", "neighborhood")]
        assert parts == pytest.approx([1 / 2, 1 / 4, 1]) and row["n"] == 2
        assert row["score"] == pytest.approx(3 / 7)
    hopeless = edit_layer(model, some[1:], [1], **options).summary()
    assert hopeless["efficacy"].tolist() == hopeless["score"].tolist() == [0.0]


def test_a_tie_is_not_known() -> None:
    """Whichever of the two answers is asked for, and whichever has the lower token id."""
    rome, paris = ids(" Rome")[0], ids(" Paris")[0]
    tied = chained((is_(), rome), (is_(), paris))
    logits = tied(kn.encode(tied, PROMPT).tokens)[0, -1]
    assert logits[rome] == logits[paris] == logits.max()
    both = [kn.Prompt(PROMPT.text, a, foil=b) for a, b in ((" Rome", " Paris"), (" Paris", " Rome"))]
    for two_way in (True, False):
        assert kn.data.known(tied, both, two_way=two_way) == [False, False]
        assert kn.data.known(chained((is_(), rome)), both, two_way=two_way) == [True, False]
    # A tie of others than the answer and its foil is none between these.
    elsewhere = [kn.Prompt(PROMPT.text, " Rome", foil=" Ottawa")]
    assert kn.data.known(tied, elsewhere, two_way=True) == [True]
