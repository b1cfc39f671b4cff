"""Answers of a model: probabilities, whether an answer is known, and the most probable answer."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from kntools.engine.capability import capability
from kntools.engine.forward import by_row
from kntools.engine.from_layer import row_groups, shared_starts
from kntools.engine.plan import Intervention, pass_overhead
from kntools.engine.sweep import sweep
from kntools.engine.values import Metric, Several
from kntools.metrics import probability
from kntools.options import progress_bar
from kntools.prompts import Encoded, Prompts, encode_many
from kntools.sites import Hook

# Rows whose logits are held at a time.
_CHUNK = 256

_Row = tuple[int, ...]  # which hooks, and the tokens


@dataclass(frozen=True)
class Answer:
    """How a model takes a prompt's answer, and what it would say itself."""

    probability: float  # of an answer of several tokens under teacher forcing: the product
    says: tuple[int, ...]  # the most probable token at each position of the answer
    first: bool  # the answer's first token is more probable than every other token
    exact: bool  # ... and so is each further one: what the model would say, token by token
    right: float  # share of its tokens that are most probable under teacher forcing
    preferred: bool | None  # the target is more probable than the foil; None without a foil


def ask(model: Any, prompts: Prompts) -> list[Answer]:
    """Ask the model, as it is now, for the answers of all prompts, in as few passes as their lengths allow.

    ```python
    [answer] = ask(model, kn.Prompt("The capital of Canada is", " Ottawa", foil=" Rome"))
    answer.probability, answer.first, answer.preferred
    ```

    A tie is no knowledge: `first`, `exact` and `preferred` ask for more, not for as much.
    """
    encoded = encode_many(model, prompts)
    found: list[Answer] = []
    with progress_bar(len(encoded), "prompt") as bar:
        for e, logits in zip(encoded, answer_logits(model, encoded), strict=True):
            found.append(answer_of(e, logits))
            bar.update()
    return found


def answer_logits(
    model: Any, encoded: Sequence[Encoded], hooks: Sequence[Sequence[Hook]] | None = None
) -> Iterator[Float[Tensor, "piece d_vocab"]]:
    """The logits that each prompt's answer is read from, under hooks of its own if given: those of an edit.

    They are made as they are asked for: those of all prompts may not fit in memory.
    """
    each = [()] * len(encoded) if hooks is None else hooks
    # One row per text and hooks: answers of one token share it.
    rows: list[_Row] = [(id(own), *e.tokens[0].tolist()) for e, own in zip(encoded, each, strict=True)]
    for part in _parts(rows):
        yield from _logits(model, encoded[part], each[part], rows[part])


def _parts(rows: Sequence[_Row]) -> Iterator[slice]:
    """Prompts that follow each other, and have at most `_CHUNK` rows together."""
    first, found = 0, set[_Row]()
    for n, row in enumerate(rows):
        found.add(row)
        if len(found) > _CHUNK:
            yield slice(first, n)
            first, found = n, {row}
    if rows:
        yield slice(first, len(rows))


def _logits(
    model: Any, encoded: Sequence[Encoded], hooks: Sequence[Sequence[Hook]], rows: Sequence[_Row]
) -> Iterator[Float[Tensor, "piece d_vocab"]]:
    device = encoded[0].tokens.device
    longest = max((e.tokens for e in encoded), key=lambda tokens: tokens.shape[1])
    # What follows a beginning changes nothing in it: the shortest row that has it is asked what comes next.
    fill = capability(model, longest).fill

    def beginning(row: _Row, p: int) -> _Row:
        return row[: p + 2] if fill else (*row, p)

    asked: dict[_Row, list[int]] = {}
    place: dict[_Row, tuple[_Row, int]] = {}
    for row, e in sorted(zip(rows, encoded, strict=True), key=lambda pair: len(pair[0])):
        for p in e.positions:
            if beginning(row, p) not in place:
                own = asked.setdefault(row, [])
                place[beginning(row, p)] = row, len(own)
                own.append(p)
    width = max(map(len, asked.values()))
    filled = torch.tensor([[*at, *[at[-1]] * (width - len(at))] for at in asked.values()], device=device)
    hooks_of = dict(zip(rows, hooks, strict=True))
    each, texts = list(asked), [row[1:] for row in asked]
    # Beginnings are run without hooks.
    starts = shared_starts(texts, [0 if hooks_of[row] else min(asked[row]) for row in each], pass_overhead(model))
    found: dict[_Row, Tensor] = {}
    with torch.no_grad():
        for group in row_groups(model, [torch.tensor(text, device=device) for text in texts], starts, 0):
            own_hooks = by_row([hooks_of[each[n]] for n in group.numbers])
            logits = group.run(own_hooks, filled[group.numbers])
            found |= zip((each[n] for n in group.numbers), logits, strict=True)
    for row, e in zip(rows, encoded, strict=True):
        read = [place[beginning(row, p)] for p in e.positions]
        yield torch.stack([found[at][n] for at, n in read])


def answer_of(encoded: Encoded, logits: Float[Tensor, "piece d_vocab"]) -> Answer:
    """How the model takes the answer of a prompt, from its `answer_logits`."""
    logits = logits.float()
    ids = torch.tensor(encoded.target_ids, device=logits.device)
    own = logits.gather(1, ids[:, None])
    p = float((own[:, 0] - logits.logsumexp(-1)).sum().exp())
    if not math.isfinite(p):
        raise FloatingPointError(f"the probability after {encoded.prompt.text!r} is nan; load the model in float32")
    others = logits.scatter(1, ids[:, None], -torch.inf).amax(-1)
    right = (own[:, 0] > others).tolist()
    foil = encoded.foil_ids
    return Answer(
        probability=p,
        says=tuple(logits.argmax(-1).tolist()),
        first=right[0],
        exact=all(right),
        right=sum(right) / len(right),
        preferred=None if foil is None else bool(own[0, 0] > logits[0, foil[0]]),
    )


def answer_values(
    model: Any,
    prompts: Prompts,
    interventions: Sequence[Sequence[Hook]] = ((),),
    metric_of: Callable[[Encoded], Metric] = lambda encoded: probability(encoded.target_ids),
) -> Float[Tensor, "intervention prompt"]:
    """A metric (the probability of the answer) of every prompt under every intervention.

    ```python
    before, after = answer_values(model, prompts, [[], kn.ablate_neurons(neurons)])      # [prompt] each
    ```

    Hooks without `pos` act at each prompt's own answer. `metric_of` makes the metric of an encoded prompt.
    """
    if not interventions:
        raise ValueError("no interventions given; pass at least one list of hooks ([] changes nothing)")
    encoded = encode_many(model, prompts)
    texts: dict[tuple[Any, ...], list[int]] = {}
    for n, e in enumerate(encoded):
        texts.setdefault((e.positions, *e.tokens[0].tolist()), []).append(n)
    asked = [encoded[own[0]] for own in texts.values()]
    most = max(map(len, texts.values()))
    # A text is run once for all of its answers; one with fewer than others has its answers repeated.
    metrics = [Several([metric_of(encoded[n]) for n in (own * most)[:most]]) for own in texts.values()]
    runs = [Intervention(tuple(hooks), prompt=t) for hooks in interventions for t in range(len(asked))]
    values = sweep(model, asked, runs, metric=metrics).float().cpu()
    values = rearrange(values, "(edit text) answer -> edit text answer", text=len(asked))
    found = torch.empty(len(interventions), len(encoded), dtype=torch.float32)
    for t, own in enumerate(texts.values()):
        found[:, own] = values[:, t, : len(own)]
    return found
