"""Sweeps and hooks on neurons: kntools and plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kntools as kn
from scripts.architectures import plain
from scripts.architectures.build import ANSWER, Case
from scripts.architectures.changes import scaled
from scripts.architectures.plain import Change, Place, hook
from scripts.architectures.primitives import (
    BEFORE,
    Compared,
    primitive,
    probe,
    prompt,
    without_neurons,
)

SITES = {"resid_pre": "hook_resid_pre", "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "z": "attn.hook_z"}


def _scalings(case: Case) -> list[tuple[str, int, int | None]]:
    """Site, layer, position."""
    return [
        (site, layer, pos)
        for site, tail in SITES.items()
        for layer in plain.layers_with(case, tail)
        for pos in (3, None)
    ]


def _sweep(case: Case) -> Tensor:
    last = [("unembed.hook_in", lambda x, hook: x * 0.5)]
    own = [kn.scale_site(site, layer, 0.5, pos=pos) for site, layer, pos in _scalings(case)]
    return kn.sweep(case.model, prompt(case), [*own, last, []]).softmax(-1)


@primitive("sweep", _sweep)
def _(case: Case, found: Tensor) -> list[Compared]:
    tokens = case.tokens()
    changes: list[list[tuple[Place, Change]]] = [
        [(hook(SITES[site], layer), scaled(0.5, pos))] for site, layer, pos in _scalings(case)
    ]
    rows = [*changes, [("unembed.hook_in", scaled(0.5, None))], []]
    with torch.no_grad():
        expected = torch.stack([plain.logits_at_answer(case, tokens, row) for row in rows]).softmax(-1)
    return [("probabilities", found, expected)]


def _sweep_lengths(case: Case) -> Tensor:
    hooks = kn.scale_site("resid_pre", 1, 0.5, pos=2)
    longer = kn.Prompt(BEFORE + case.text(), case.answer())
    runs = [kn.Intervention(h, prompt=p) for p in (0, 1) for h in ([], hooks)]
    return kn.sweep(case.model, [prompt(case), longer], runs).softmax(-1)


@primitive("sweep, two lengths", _sweep_lengths)
def _(case: Case, found: Tensor) -> list[Compared]:
    change: list[tuple[Place, Change]] = [(hook("hook_resid_pre", 1), scaled(0.5, 2))]
    texts = [case.tokens(), case.tokens(before=BEFORE)]
    with torch.no_grad():
        rows = [plain.logits_at_answer(case, tokens, row) for tokens in texts for row in ([], change)]
    return [("probabilities", found, torch.stack(rows).softmax(-1))]


def _ablated(case: Case) -> Tensor:
    tokens = case.tokens()
    hooks = kn.ablate_neurons(probe(case) or [(0, 3)], pos=case.position(tokens))
    if hooks[0][0] not in case.model.hook_dict:  # TransformerLens refuses such a name before kntools is asked
        return kn.sweep(case.model, tokens, [hooks], pos=-1)
    plain.forget_lengths(case)
    return case.model.run_with_hooks(tokens, fwd_hooks=hooks)[0, case.position(tokens)].softmax(-1)


def _ablate_elsewhere(case: Case) -> list[Callable[[], Any]]:
    """Ablation in layers without neurons, in a run and in a sweep."""
    tokens, layers = case.tokens(), without_neurons(case)
    hooks = [kn.ablate_neurons([(layer, 3)], pos=2) for layer in layers]
    names = set(case.model.hook_dict)
    runs = [lambda h=h: case.model.run_with_hooks(tokens, fwd_hooks=h) for h in hooks if h[0][0] in names]
    return [*runs, *(lambda h=h: kn.sweep(case.model, tokens, [h], pos=2) for h in hooks)]


@primitive("ablate_neurons", _ablated, of_neurons=True, refused=_ablate_elsewhere)
def _(case: Case, found: Tensor) -> list[Compared]:
    tokens = case.tokens()
    changes = [
        (plain.neurons(case, layer), scaled(0.0, case.position(tokens), [n for k, n in probe(case) if k == layer]))
        for layer in plain.neuron_layers(case)
    ]
    with torch.no_grad():
        return [("probabilities", found, plain.logits_at_answer(case, tokens, changes).softmax(-1))]


def _sweep_gradients(case: Case) -> list[Tensor]:
    names = [hook("hook_resid_pre", layer) for layer in plain.layers(case)]
    runs = [kn.Intervention((), wrt=[(name, None)]) for name in names]
    metric = kn.log_probability(case.token(ANSWER))
    found = kn.sweep_gradients(case.model, prompt(case), runs, metric)
    return [rows.wrt[name].gradient[0] for rows, name in zip(found, names, strict=True)]


@primitive("sweep_gradients", _sweep_gradients)
def _(case: Case, found: list[Tensor]) -> list[Compared]:
    token = case.token(ANSWER)
    return [
        (
            f"gradient, layer {layer}",
            found[layer],
            plain.gradient(
                case, case.tokens(), hook("hook_resid_pre", layer), lambda logits: logits.log_softmax(-1)[token]
            )[1][0],
        )
        for layer in plain.layers(case)
    ]
