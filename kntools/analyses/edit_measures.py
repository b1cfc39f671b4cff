"""What is asked of a model before and after an edit of one case: the payload that scores are made from."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from kntools.analyses.edit_cases import Case
from kntools.analyses.edit_result import Payload, generation_entropy
from kntools.engine.answers import answer_values, ask
from kntools.engine.generation import Drawing, continue_tokens, generate
from kntools.engine.plan import Intervention
from kntools.engine.sweep import Metric, sweep
from kntools.metrics import kl_divergence, log_probability
from kntools.models.causality import is_masked
from kntools.prompts import Prompt, encode_many, text_tokens
from kntools.word_borders import occurrences

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

    cases: int = 0  # the entropy is measured on the first so many cases
    tokens: int = 30  # per sampled text
    rows: int = 4  # sampled texts per case
    top_k: int = 5  # each token is sampled from so many most probable ones
    seed: int = 0
    answer: int = 16  # tokens by which the edited prompt is continued; 0 measures no free answer
    unrelated: tuple[str, ...] = UNRELATED  # sentences of which the perplexity is measured; () measures none

    def entropy(self, model: Any, text: str) -> float:
        """The mean entropy of the continuations of a text."""
        draw = Drawing(temperature=1.0, top_k=self.top_k, seed=self.seed)
        drawn = continue_tokens(model, [text_tokens(model, text)] * self.rows, self.tokens, draw)
        return sum(generation_entropy(ids.tolist()) for ids in drawn) / self.rows

    def perplexity(self, model: Any) -> float:
        """Of the unrelated sentences: exp of the mean of -log p over all tokens but each one's first word."""
        words = [text.partition(" ") for text in self.unrelated]
        encoded = encode_many(model, [Prompt(first, f" {rest}", multi_token="sum") for first, _, rest in words])
        log_p = answer_values(model, encoded, metric_of=lambda e: log_probability(e.target_ids))
        return math.exp(-float(log_p.double().sum()) / sum(len(e.target_ids) for e in encoded))


def measure(
    model: Any,
    case: Case,
    how: Continuations,
    *,
    entropy: bool = False,
    original: list[torch.Tensor] | None = None,
) -> Payload:
    """What the model, as it is now, says to a case; `original` are its `neighbour_logits` without the edit."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for question, a in zip(case.questions, ask(model, [q.prompt for q in case.questions]), strict=True):
        taken = {"p": a.probability, "first": a.first, "exact": a.exact, "tokens": a.right}
        answers.setdefault(question.role, []).append(taken)
    found: dict[str, Any] = {"answers": answers, "entropy": None}
    if entropy and case.generation is not None:
        found["entropy"] = how.entropy(model, case.generation)
    if not is_masked(model) and how.answer:
        found["says"] = generate(model, case.prompt, max_new_tokens=how.answer)
        found["free"] = float(says_only(found["says"], case.target, case.prompt.target))
    if not is_masked(model) and how.unrelated:
        found["perplexity"] = how.perplexity(model)
    if original:
        metrics: list[Metric] = [kl_divergence(logits) for logits in original]
        asked = _neighbours(case)
        moved = sweep(model, asked, [Intervention((), prompt=n) for n in range(len(asked))], metric=metrics)
        found["kl"] = float(moved.mean())
    return found


def says_only(text: str, new: str, old: str) -> bool:
    """Does a text begin with the new answer, as whole words, without coming back to the old one?"""
    written = text.strip()
    begins = [end for start, end in occurrences(written, new.strip()) if start == 0]
    return bool(begins) and not occurrences(written[begins[0] :], old.strip())


def neighbour_logits(model: Any, case: Case) -> list[torch.Tensor]:
    """The logits of the next token after each neighbour's prompt."""
    asked = _neighbours(case)
    if not asked:
        return []
    return list(sweep(model, asked, [Intervention((), prompt=n) for n in range(len(asked))]).cpu())


def _neighbours(case: Case) -> list[Prompt]:
    asked = {q.text: q.answer for q in case.questions if q.role == "neighborhood true"}
    return [Prompt(text, answer, multi_token="first") for text, answer in asked.items()]
