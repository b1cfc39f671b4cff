"""Answers and generations of a model, edited or not: what an evaluation of edits is made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kntools.analyses.edit_cases import Question
from kntools.engine.from_layer import Upper
from kntools.engine.generation import generate
from kntools.prompts import Prompt, encode


@dataclass(frozen=True)
class Answer:
    """How a model takes an answer: its probability, and whether it would give it by itself."""

    p: float  # of an answer of several tokens: the product
    first: bool  # the most probable first token is the answer's
    exact: bool  # ... and so on to its last token: what the model would say, token by token


@torch.no_grad()
def ask(model: Any, questions: Sequence[Question], *, prepend_bos: bool | None = None) -> list[Answer]:
    """Ask them all, in as few passes as their lengths allow.

    ```python
    [answer] = ask(model, [Question("rewrite", "The capital of Canada is", " Rome")])
    answer.p, answer.first, answer.exact
    ```
    """
    encoded = [encode(model, Prompt(q.text, q.answer), prepend_bos, multi_token="sum") for q in questions]
    # One row per text that is read: answers of one token share it.
    numbers: dict[tuple[int, ...], int] = {}
    row_of = [numbers.setdefault(tuple(e.tokens[0].tolist()), len(numbers)) for e in encoded]
    device = encoded[0].tokens.device
    tokens = [torch.tensor(ids, device=device) for ids in numbers]
    asked: list[list[int]] = [[] for _ in tokens]
    for row, e in zip(row_of, encoded, strict=True):
        asked[row] += [p for p in e.positions if p not in asked[row]]
    width = max(map(len, asked))
    filled = torch.tensor([[*at, *[at[-1]] * (width - len(at))] for at in asked], device=device)
    logits: dict[int, torch.Tensor] = {}
    for group in Upper(model, tokens, [0] * len(tokens), 0).groups:
        found = group.run([], filled[group.numbers]).float().log_softmax(-1)
        logits.update(zip(group.numbers, found, strict=True))
    out = []
    for row, e in zip(row_of, encoded, strict=True):
        pieces = logits[row][[asked[row].index(p) for p in e.positions]]
        ids = torch.tensor(e.target_ids, device=pieces.device)
        right = (pieces.argmax(-1) == ids).tolist()
        p = float(pieces.gather(1, ids[:, None]).sum().exp())
        if not math.isfinite(p):
            raise FloatingPointError(f"the probability after {e.prompt.text!r} is nan; load the model in float32")
        out.append(Answer(p, right[0], all(right)))
    return out


def generation_entropy(ids: Sequence[int]) -> float:
    """Weighted mean of the entropies of 2-grams and 3-grams, in bits: low where a text repeats itself.

    2/3 of the bigrams' entropy plus 4/3 of the trigrams', halved, as in the released code of Meng et al. 2022 (GE).
    """
    weighted = [(2 / 3, _entropy(ids, 2)), (4 / 3, _entropy(ids, 3))]
    return sum(weight * entropy for weight, entropy in weighted) / 2


def _entropy(ids: Sequence[int], n: int) -> float:
    counts = Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0


def continued(
    model: Any, text: str, *, tokens: int, rows: int, seed: int, top_k: int | None = 5, prepend_bos: bool | None = None
) -> list[list[int]]:
    """`rows` continuations of a text, drawn among the `top_k` most probable tokens with a generator of its own."""
    start = encode(model, Prompt(text, " the"), prepend_bos, multi_token="first").tokens.expand(rows, -1)
    generator = torch.Generator().manual_seed(seed)
    return generate(model, start, tokens, generator=generator, top_k=top_k).tolist()
