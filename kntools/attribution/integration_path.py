"""The path of integrated gradients: all neurons of one layer, scaled from zero to what they are.

A *line* is one prompt and one layer. On it, m(g) is the metric (the answer's probability, say) when the layer's
activations w at the answer position are multiplied by g, and `dm/dg = sum_i w_i dm/dw_i`. Any number of points on any
number of lines are evaluated in one sweep.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.attribution.quadrature import Rule
from kntools.engine.inputs import make_inputs
from kntools.engine.plan import Intervention
from kntools.engine.runner import Runner
from kntools.engine.values import Metric, apply_metric
from kntools.hooks.positioned import PositionedHook
from kntools.hooks.states import capture, scale_site
from kntools.metrics import probability
from kntools.models import adapter
from kntools.models.neuron_layers import is_of_neurons, layers_of
from kntools.prompts import Encoded
from kntools.sites import ANSWER, Hook, hook_name

_TOGETHER = 16  # nodes of one intervention, whose rows are not divided between passes


@dataclass(frozen=True)
class Point:
    """What is known at one g."""

    value: float  # m(g)
    slope: float  # dm/dg
    terms: Float[Tensor, " neuron"]  # w_i dm/dw_i, float64


@dataclass(eq=False)
class Line:
    """The integral over one line, as far as it is known."""

    prompt: int
    layer: int
    end: float = float("nan")  # m(1)
    start: float = float("nan")  # m(0)
    scores: Float[Tensor, "..."] = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # [neuron]
    nodes: int = 0  # how many were evaluated
    residual: float = 0.0  # `sum(scores)` minus the change of m on what is integrated so far
    allowed: float = 0.0  # what the adaptive rule lets `residual` be
    floor: float = 0.0  # what rounding alone makes of it
    points: dict[float, Point] = field(default_factory=dict)  # by g

    def integral(self, at: Iterable[float], weights: Float[np.ndarray, " node"]) -> Float[Tensor, " neuron"]:
        """`sum_k weights[k] * w_i dm/dw_i(g_k)`, at points that are known."""
        return torch.from_numpy(weights) @ torch.stack([self.points[g].terms for g in at])


class Paths:
    """The lines of prompts of equal length, and the model on them.

    Arguments:
        norms: for layers whose MLP is followed by a norm that is held: the site of that norm's scale.
    """

    def __init__(
        self, model: Any, encoded: Sequence[Encoded], metrics: Sequence[Metric], site: str, norms: Mapping[int, str]
    ) -> None:
        self.site, self.metrics, self.norms = site, metrics, norms
        self.layers = layers_of(model, site)
        adapter.hook_point(model, hook_name(site, self.layers[0]))
        if not is_of_neurons(site):
            raise ValueError(f"site={site!r} has no neurons; use 'mlp.hook_post', or 'mlp.hook_pre'")
        [(_, inputs)] = make_inputs(model, encoded)
        self.runner = Runner(model, inputs, rounds=True)
        self.clean: list[dict[str, Tensor]] = [{} for _ in encoded]  # w by hook name, [1 pos neuron]; scales of norms
        sites = [(site, self.layers), *((scale, [layer]) for layer, scale in norms.items())]
        runs = [
            Intervention([h for name, layers in sites for h in capture(name, layers, w, ANSWER)], prompt=p)
            for p, w in enumerate(self.clean)
        ]
        self.logits = self.runner.rows(runs)
        self.ends = torch.cat(list(map(apply_metric, metrics, self.logits)))  # m(1)
        answers = [probability(e.target_ids) for e in encoded]
        self.probabilities = torch.cat(list(map(apply_metric, answers, self.logits)))
        self.precision = torch.finfo(self.activation(0, self.layers[0]).dtype).eps  # of the activations

    def activation(self, prompt: int, layer: int) -> Float[Tensor, "pos neuron"]:
        """w, at the answer's positions."""
        return self.clean[prompt][hook_name(self.site, layer)][0]

    def lines(self) -> list[Line]:
        """All of them, prompt by prompt."""
        return [Line(prompt, layer, end=end) for prompt, end in enumerate(self.ends.tolist()) for layer in self.layers]

    def evaluate(self, asked: Mapping[Line, Iterable[float]]) -> None:
        """Fill in the `points` of lines at these g, where they are not known: a row of one sweep each.

        At g = 1 nothing is scaled: one row serves all layers of a prompt, but for those whose own norm is held.
        """
        rows: list[tuple[list[Line], list[float]]] = []  # lines that the same rows are of, and where
        unscaled: dict[int, list[Line]] = {}
        for line, at in asked.items():
            new = [g for g in dict.fromkeys(at) if g not in line.points]
            if 1.0 in new and line.layer not in self.norms:
                new.remove(1.0)
                unscaled.setdefault(line.prompt, []).append(line)
            rows += [([line], new[k : k + _TOGETHER]) for k in range(0, len(new), _TOGETHER)]
        rows += [(lines, [1.0]) for lines in unscaled.values()]
        with norms_may_be_held():
            found = self.runner.gradients([self._run(lines, at) for lines, at in rows], self.metrics)
        read = [
            (line, at, own.values, derivative.gradient)
            for (lines, at), own in zip(rows, found, strict=True)
            for line, derivative in zip(lines, own.wrt.values(), strict=True)
        ]
        # Over the answer's positions (one, unless it has several pieces) contributions add up.
        terms = [(self.activation(line.prompt, line.layer).float() * by.float()).sum(1) for line, *_, by in read]
        values = _on_cpu([own for *_, own, _ in read])
        for (line, at, *_), own, per_node in zip(read, values, _on_cpu(terms), strict=True):
            line.points |= zip(at, map(Point, own.tolist(), per_node.sum(1).tolist(), per_node), strict=True)
            line.nodes += len(at)

    def _run(self, lines: Sequence[Line], at: Sequence[float]) -> Intervention:
        factors = torch.tensor(at, dtype=torch.float64)
        hooks: list[Hook] = []
        for line in lines:
            hooks += [] if at == [1.0] else scale_site(self.site, line.layer, factors, pos=ANSWER)
            if line.layer in self.norms:
                name = hook_name(self.norms[line.layer], line.layer)
                hooks.append(hold(name, self.clean[line.prompt][name]))
        wrt = [(hook_name(self.site, line.layer), ANSWER) for line in lines]
        return Intervention(hooks, prompt=lines[0].prompt, rows=len(at), wrt=wrt)


def hold(name: str, scale: Tensor) -> Hook:
    """Keep a norm at a scale."""
    return name, PositionedHook(ANSWER, lambda x: scale.to(x).expand_as(x), f"hold {name}", name=name)


@contextmanager
def norms_may_be_held() -> Iterator[None]:
    """A bridge warns that a norm whose scale is held is computed from that scale: as it should be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"transformer_lens\.")
        yield


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """In float64, and all at once: a GPU is waited for a single time."""
    flat = torch.cat([x.flatten() for x in tensors]).cpu().double() if tensors else torch.empty(0)
    return [part.view(x.shape) for part, x in zip(flat.split([x.numel() for x in tensors]), tensors, strict=True)]


def integrate(paths: Paths, rule: Rule) -> list[Line]:
    """All lines, each at the nodes of `rule`."""
    lines, nodes = paths.lines(), rule.nodes.tolist()
    # m(0) as well, without which nobody could tell how complete the rule is.
    paths.evaluate(dict.fromkeys(lines, (0.0, *nodes)))
    for line in lines:
        line.scores = line.integral(nodes, rule.weights)
        line.start, line.nodes = line.points[0.0].value, len(nodes)
    return lines
