"""Attribution and scans of neurons: kntools and plain loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kntools as kn
from scripts.architectures import plain
from scripts.architectures.build import Case
from scripts.architectures.changes import scaled
from scripts.architectures.primitives import (
    Compared,
    primitive,
    probability,
    probe,
    prompt,
    without_neurons,
)


def _layers_of_scores(case: Case, scores: Tensor, expected: dict[int, Tensor]) -> list[Compared]:
    """Scores `[1 layer neuron]` against those of the layers that have neurons; zero elsewhere."""
    wide = torch.zeros_like(scores[0])
    for layer, own in expected.items():
        wide[layer, : len(own)] = own
    return [("scores", scores[0], wide)]


@primitive("activation", lambda case: kn.activation(case.model, prompt(case)).scores, of_neurons=True)
def _(case: Case, found: Tensor) -> list[Compared]:
    tokens, layers = case.tokens(), plain.neuron_layers(case)
    w = plain.seen(case, tokens, [plain.neurons(case, layer) for layer in layers])
    at = case.position(tokens)
    return _layers_of_scores(case, found, {layer: x[0, at] for layer, x in zip(layers, w, strict=True)})


@primitive(
    "activation_x_gradient", lambda case: kn.activation_x_gradient(case.model, prompt(case)).scores, of_neurons=True
)
def _(case: Case, found: Tensor) -> list[Compared]:
    return _layers_of_scores(case, found, _midpoint(case, nodes=(1.0,)))


STEPS = 3


@primitive(
    "integrated_gradients",
    lambda case: kn.integrated_gradients(case.model, prompt(case), rule="midpoint", steps=STEPS).scores,
    of_neurons=True,
)
def _(case: Case, found: Tensor) -> list[Compared]:
    return _layers_of_scores(case, found, _midpoint(case, tuple((k + 0.5) / STEPS for k in range(STEPS))))


def _midpoint(case: Case, nodes: tuple[float, ...]) -> dict[int, Tensor]:
    """Mean over nodes g of `w dP(g w)/dw`, layer by layer; a norm behind the MLP keeps its scale."""
    tokens, value = case.tokens(), probability(case)
    at, found = case.position(tokens), {}
    for layer in plain.neuron_layers(case):
        place, held = plain.neurons(case, layer), plain.frozen_norm(case, tokens, layer)
        rows = [plain.gradient(case, tokens, place, value, at=at, scale=g, changes=held) for g in nodes]
        found[layer] = torch.stack([w[0] / g * d[0] for g, (w, d, _) in zip(nodes, rows, strict=True)]).mean(0)
    return found


def _adaptive(case: Case) -> tuple[kn.Attribution, bool]:
    """The result, and whether a warning says that layers are not complete to the tolerance."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        att = kn.integrated_gradients(case.model, prompt(case))
    return att, any("not complete to tol" in str(w.message) for w in said)


@primitive("integrated_gradients, adaptive", _adaptive, of_neurons=True)
def _(case: Case, result: tuple[kn.Attribution, bool]) -> list[Compared]:
    """P(w) - P(0), how far the scores are from adding up to it, and whether that is what was promised.

    Where experts are chosen anew along the path, P leaps, and the tolerance is not reached: then the call must warn.
    """
    found, warned = result
    tokens, value = case.tokens(), probability(case)
    at, gaps = case.position(tokens), torch.zeros(len(plain.layers(case)))
    with torch.no_grad():
        clean = value(plain.logits_at_answer(case, tokens))
        for layer in plain.neuron_layers(case):
            held = plain.frozen_norm(case, tokens, layer)
            off = (plain.neurons(case, layer), scaled(0.0, at))
            gaps[layer] = clean - value(plain.logits_at_answer(case, tokens, [*held, off]))
    residual = found.scores[0].double().sum(-1).float() - gaps
    allowed = 0.01 * gaps.abs().maximum(0.02 * gaps.abs().max()) + 1e-5  # and rounding
    beyond = (residual.abs() - allowed).clamp(min=0) * (not warned)
    return [
        ("gap", found.gap[0], gaps),
        ("residual", found.residual[0], residual),
        ("beyond the tolerance", beyond, torch.zeros_like(beyond)),
    ]


def _scan(case: Case) -> Tensor:
    return kn.neuron_scan(case.model, prompt(case), probe(case) or None, layers=None if probe(case) else 0).values[0]


def _scan_elsewhere(case: Case) -> list[Callable[[], Any]]:
    return [lambda n=n: kn.neuron_scan(case.model, prompt(case), layers=n) for n in without_neurons(case)]


@primitive("neuron_scan", _scan, of_neurons=True, refused=_scan_elsewhere)
def _(case: Case, found: Tensor) -> list[Compared]:
    tokens, value = case.tokens(), probability(case)
    at = case.position(tokens)
    with torch.no_grad():
        rows = [
            value(plain.logits_at_answer(case, tokens, [(plain.neurons(case, layer), scaled(0.0, at, [n]))]))
            for layer, n in probe(case)
        ]
    return [("probabilities", found, torch.stack(rows))]
