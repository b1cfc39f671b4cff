"""Causal tracing: kntools and plain loops."""

from __future__ import annotations

from typing import Any

import torch

import kntools as kn
from scripts.architectures import plain
from scripts.architectures.build import SUBJECT, Case
from scripts.architectures.changes import added, put
from scripts.architectures.plain import Place
from scripts.architectures.primitives import (
    Compared,
    primitive,
    probability,
    prompt,
    shown,
)

SAMPLES, WINDOW = 2, 2


def _trace(case: Case, kind: Any) -> kn.Trace:
    options = {} if kind == "hidden" else {"window": WINDOW}
    return kn.causal_trace(case.model, prompt(case), kind=kind, samples=SAMPLES, **options)


def _states(case: Case, kind: str) -> dict[int, Place]:
    """Where a block's output is, and what its MLP and its attention add to the residual stream."""
    blocks = case.model.blocks
    if kind == "hidden":
        return {layer: (block, "output") for layer, block in enumerate(blocks)}
    # Norms after adding: what is added is seen before them.
    if case.source is not case.model and case.family.model.startswith(("Bert", "Roberta")):
        return {n: plain.written(case, n) if kind == "mlp" else (b.attn.o, "output") for n, b in enumerate(blocks)}
    return plain.named(case, f"hook_{kind}_out")


def _traced(case: Case, found: kn.Trace, kind: str) -> list[Compared]:
    tokens, value = case.tokens(), probability(case)
    [at] = (tokens[0] == case.token(SUBJECT)).nonzero()[:, 0].tolist()
    embedding: Place = (_embedding(case), "output")
    [rows] = plain.seen(case, tokens, [embedding])
    level = 3 * float(rows[0, [at]].double().std())
    noise = level * torch.randn(SAMPLES, 1, rows.shape[-1], generator=torch.Generator().manual_seed(0))
    places = _states(case, kind)
    clean = dict(zip(places, plain.seen(case, tokens, list(places.values())), strict=True))
    restored = torch.zeros(len(plain.layers(case)), len(shown(case)))
    noisy = [(embedding, added(sample, [at])) for sample in noise]
    with torch.no_grad():
        corrupted = torch.stack([value(plain.logits_at_answer(case, tokens, [sample])) for sample in noisy])
        for layer in plain.layers(case):  # of the last sample; every cell would take as long again
            around = [layer] if kind == "hidden" else range(layer - WINDOW // 2, layer - WINDOW // 2 + WINDOW)
            together = [n for n in around if n in places]
            for column, pos in enumerate(shown(case)):
                back = [(places[n], put(clean[n], pos)) for n in together]
                restored[layer, column] = value(plain.logits_at_answer(case, tokens, [noisy[-1], *back]))
    return [
        ("noise", found.noise, noise),
        ("corrupted", found.corrupted_per_sample, corrupted),
        ("restored", found.per_sample[-1][:, shown(case)], restored),
    ]


def _embedding(case: Case) -> Any:
    """The module that gives token embeddings."""
    if case.source is not case.model:
        return case.source.get_input_embeddings()
    return getattr(case.model.embed, "embed", case.model.embed)  # a HookedEncoder has it inside of another


@primitive("causal_trace hidden", lambda case: _trace(case, "hidden"))
def _(case: Case, found: kn.Trace) -> list[Compared]:
    return _traced(case, found, "hidden")


@primitive("causal_trace mlp", lambda case: _trace(case, "mlp"))
def _(case: Case, found: kn.Trace) -> list[Compared]:
    return _traced(case, found, "mlp")


@primitive("causal_trace attn", lambda case: _trace(case, "attn"))
def _(case: Case, found: kn.Trace) -> list[Compared]:
    return _traced(case, found, "attn")
