"""What is asked of a model before and after an edit of one case: the payload that scores are made from."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.edit_cases import NEIGHBOUR, Case
from kntools.analyses.edit_result import generation_entropy
from kntools.arguments import several, shown, whole
from kntools.editing.weight_edits import WeightEdit
from kntools.engine.answers import answer_logits, answer_of
from kntools.engine.generation import generate_edited
from kntools.engine.writing import Drawing, continue_tokens
from kntools.metrics import kl_divergence, log_probability
from kntools.models.causality import is_masked
from kntools.prompts import Prompt, encode_many, text_tokens
from kntools.sites import Hook
from kntools.word_borders import occurrences

#: By a case's key and a text: the logits of the next token.
NeighbourLogits = Mapping[tuple[str, str], Float[Tensor, " d_vocab"]]

#: Sentences unrelated to every edit. What an edit changes in their perplexity is the drift of the model.
UNRELATED = (
    "The children walked slowly along the river because the evening was still warm.",
    "She opened the window and put the letter on the table next to the lamp.",
    "Most plants need water, light and a little time before they begin to grow.",
    "He asked whether the train would arrive before the shop closed.",
    "The first part of the book is easier to read than the second one.",
    "If it rains tomorrow, we can stay at home and play a game.",
    "The new machine makes less noise and uses only half of the power.",
    "They had known each other for years, but they had never talked about music.",
)


@dataclass(frozen=True)
class Continuations:
    """Measures of generated text: entropy, free answers and perplexity.

    The entropy is low where a model repeats itself (Meng et al. 2022, GE). Every edited prompt is also continued by the
    most probable tokens, which is what users see of an edit.
    """

    cases: int = 0  # the entropy is measured on the first so many cases that have a text to be continued
    tokens: int = 30  # per sampled text
    rows: int = 4  # sampled texts per case
    top_k: int = 5  # each token is sampled from so many most probable ones
    seed: int = 0
    answer: int = 16  # tokens by which the edited prompt is continued; 0 measures no free answer
    unrelated: tuple[str, ...] = UNRELATED  # sentences of which the perplexity is measured; () measures none

    def __post_init__(self) -> None:
        for name, least in {"cases": 0, "tokens": 1, "rows": 1, "top_k": 1, "seed": None, "answer": 0}.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        object.__setattr__(self, "unrelated", tuple(several("unrelated", self.unrelated, "UNRELATED")))
        for text in self.unrelated:
            if not isinstance(text, str) or not all(text.partition(" ")[::2]):
                raise ValueError(f"unrelated has {shown(text)}; perplexity is that of sentences of several words")

    def entropy(self, model: Any, text: str, hooks: Sequence[Hook] = ()) -> float:
        """The mean entropy of the continuations of a text."""
        draw = Drawing(temperature=1.0, top_k=self.top_k, seed=self.seed)
        drawn = continue_tokens(model, [text_tokens(model, text)] * self.rows, self.tokens, draw, hooks)
        return sum(generation_entropy(ids.tolist()) for ids in drawn) / self.rows

    def perplexities(self, model: Any, each: Sequence[Sequence[Hook]]) -> list[float]:
        """The perplexity of the unrelated sentences under the hooks of each edit.

        It is exp of the mean -log p of their tokens, without those of their first words.
        """
        words = [text.partition(" ") for text in self.unrelated]
        encoded = encode_many(model, [Prompt(first, f" {rest}", multi_token="sum") for first, _, rest in words])
        rows = answer_logits(model, encoded * len(each), [hooks for hooks in each for _ in encoded])
        log_p = [
            float(log_probability(e.target_ids)(logits[None]))
            for e, logits in zip(encoded * len(each), rows, strict=True)
        ]
        count, tokens = len(encoded), sum(len(e.target_ids) for e in encoded)
        return [math.exp(-sum(log_p[n * count : (n + 1) * count]) / tokens) for n in range(len(each))]


def measure(
    model: Any,
    cases: Sequence[Case],
    how: Continuations,
    *,
    edits: Sequence[WeightEdit] | None = None,
    drawn: Collection[str] = (),
    unedited: NeighbourLogits | None = None,
) -> list[dict[str, Any]]:
    """What the model, as it is now, says to each case; with `edits`, under the edit of each case.

    Edits are acted out by hooks, so that those of several cases share passes. The entropy is measured for the cases
    whose keys are in `drawn`; `unedited` are the `neighbour_logits` that the KL divergence is measured from.
    """
    hooks: Sequence[Sequence[Hook]] = [()] * len(cases) if edits is None else [edit.hooks(model) for edit in edits]
    found = _answers(model, cases, hooks, unedited or {})
    causal = not is_masked(model)
    if causal and how.answer:
        texts = generate_edited(model, [case.prompt for case in cases], hooks, how.answer)
        for payload, case, text in zip(found, cases, texts, strict=True):
            payload |= {"says": text, "free": float(says_only(text, case.target, case.prompt.target))}
    for payload, case, own in zip(found, cases, hooks, strict=True):
        payload["entropy"] = how.entropy(model, str(case.generation), own) if case.key in drawn else None
    if causal and how.unrelated:
        for payload, perplexity in zip(found, how.perplexities(model, hooks), strict=True):
            payload["perplexity"] = perplexity
    return found


def _answers(
    model: Any, cases: Sequence[Case], hooks: Sequence[Sequence[Hook]], unedited: NeighbourLogits
) -> list[dict[str, Any]]:
    """The answers to the questions of each case by role, and how far those about neighbours have moved."""
    asked = [(n, question) for n, case in enumerate(cases) for question in case.questions]
    encoded = encode_many(model, [question.prompt for _, question in asked])
    found: list[dict[str, Any]] = [{"answers": {}} for _ in cases]
    moved: dict[int, list[Tensor]] = {}
    rows = answer_logits(model, encoded, [hooks[n] for n, _ in asked])
    for (n, question), e, logits in zip(asked, encoded, rows, strict=True):
        a = answer_of(e, logits)
        taken = {"p": a.probability, "first": a.first, "exact": a.exact, "tokens": a.right}
        found[n]["answers"].setdefault(question.role, []).append(taken)
        before = unedited.get((cases[n].key, question.text))
        if question.role == NEIGHBOUR and before is not None:
            moved.setdefault(n, []).append(kl_divergence(before)(logits[:1]))
    for n, divergences in moved.items():
        found[n]["kl"] = float(torch.cat(divergences).mean())
    return found


def neighbour_logits(model: Any, cases: Sequence[Case]) -> NeighbourLogits:
    """The logits of the next token after each neighbour's prompt, by the case's key and the text."""
    asked = [(case.key, question) for case in cases for question in case.questions if question.role == NEIGHBOUR]
    if not asked:
        return {}
    rows = answer_logits(model, encode_many(model, [question.prompt for _, question in asked]))
    return {(key, question.text): logits[0] for (key, question), logits in zip(asked, rows, strict=True)}


def says_only(text: str, new: str, old: str) -> bool:
    """Does a text begin with the new answer, as whole words, without coming back to the old one?"""
    written = text.strip()
    begins = [end for start, end in occurrences(written, new.strip()) if start == 0]
    return bool(begins) and not occurrences(written[begins[0] :], old.strip())
