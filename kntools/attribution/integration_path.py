"""The path of integrated gradients: all neurons of one layer, scaled from zero to what they are.

A *line* is one prompt and one layer. On it, P(g) is the answer's probability when the layer's activations w at the
answer position are multiplied by g, and `dP/dg = sum_i w_i dP/dw_i`. Any number of points on any number of lines
are evaluated in one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from kntools.attribution.quadrature import Rule
from kntools.engine.answers import answer_metric
from kntools.engine.inputs import make_inputs
from kntools.engine.runner import Runner
from kntools.engine.sweep import Intervention, run_gradients
from kntools.hooks.states import capture, scale_site
from kntools.models.neuron_layers import layers_of
from kntools.prompts import Encoded
from kntools.sites import ANSWER, hook_name


@dataclass
class Line:
    """The integral over one line, as far as it is known."""

    prompt: int
    layer: int
    end: float = float("nan")  # P(1)
    start: float = float("nan")  # P(0)
    scores: Float[Tensor, "..."] = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # [neuron]
    nodes: int = 0  # how many were evaluated
    residual: float = 0.0  # `sum(scores)` minus the change of P on what is integrated so far
    allowed: float = 0.0  # what the adaptive rule lets `residual` be


@dataclass(frozen=True)
class Nodes:
    """Points of a line, and what each counts in an integral."""

    line: Line
    at: Float[np.ndarray, " node"]
    weights: Float[np.ndarray, " node"]


@dataclass(frozen=True)
class Points:
    """What is found there."""

    values: Float[np.ndarray, " node"]  # P(g)
    slopes: Float[np.ndarray, " node"]  # dP/dg
    integral: Float[Tensor, " neuron"]  # sum_k weights[k] * w_i dP/dw_i(g_k), float64


class Paths:
    """The lines of prompts of equal length, and the model on them."""

    def __init__(self, model: Any, encoded: Sequence[Encoded], site: str) -> None:
        self.site, self.layers = site, layers_of(model, site)
        [(_, inputs)] = make_inputs(model, encoded)
        self.runner = Runner(model, inputs)
        self.metrics = [answer_metric(e) for e in encoded]
        self.activations: list[dict[str, Tensor]] = [{} for _ in encoded]  # w by hook name, [1 pos neuron]
        self.ends: list[float] = []  # P(1) of each prompt

    def lines(self) -> list[Line]:
        """All of them, prompt by prompt."""
        return [Line(prompt, layer) for prompt in range(len(self.metrics)) for layer in self.layers]

    def evaluate(self, nodes: Sequence[Nodes]) -> list[Points]:
        """P along lines, and the integral of `w_i dP/dw_i`: a row of one sweep per node."""
        runs = [
            Intervention(
                scale_site(self.site, n.line.layer, torch.from_numpy(n.at), pos=ANSWER),
                prompt=n.line.prompt,
                rows=len(n.at),
                wrt=[(hook_name(self.site, n.line.layer), ANSWER)],
            )
            for n in nodes
        ]
        if not self.ends:  # the first sweep also runs each prompt as it is
            runs += [
                Intervention(capture([self.site], self.layers, w, ANSWER), prompt=p)
                for p, w in enumerate(self.activations)
            ]
        rows = run_gradients(self.runner, runs, self.metrics)
        self.ends = self.ends or [float(clean.values) for clean in rows[len(nodes) :]]
        found = []
        for n, row in zip(nodes, rows, strict=False):
            n.line.end = self.ends[n.line.prompt]
            [(name, derivative)] = row.wrt.items()
            check_neurons(self.site, derivative.gradient)
            terms = self.activations[n.line.prompt][name].double() * derivative.gradient.double()
            # Over the answer's positions (one, unless it has several pieces) contributions add up.
            per_node = reduce(terms, "node pos neuron -> node neuron", "sum").cpu()
            integral = torch.from_numpy(n.weights) @ per_node
            found.append(Points(row.values.double().cpu().numpy(), per_node.sum(-1).numpy(), integral))
        return found


def check_neurons(site: str, activation: Tensor) -> None:
    """Scores are of the entries of `[batch pos neuron]`; a site that is split into heads has none."""
    if activation.ndim != 3:
        raise ValueError(f"site={site!r} is split into heads and has no neurons; use 'mlp.hook_post'")


def integrate(paths: Paths, rule: Rule) -> list[Line]:
    """All lines, each at the nodes of `rule`."""
    # One more row at g = 0 gives P(0), without which nobody could tell how complete the rule is.
    before = np.zeros(int(rule.nodes[0] != 0))
    nodes, weights = np.concatenate([before, rule.nodes]), np.concatenate([before, rule.weights])
    lines = paths.lines()
    points = paths.evaluate([Nodes(line, nodes, weights) for line in lines])
    for line, found in zip(lines, points, strict=True):
        line.scores, line.start, line.nodes = found.integral, float(found.values[0]), len(rule.nodes)
    return lines
