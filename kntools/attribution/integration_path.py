"""The path of integrated gradients: all neurons of one layer, scaled from zero to what they are.

A *line* is one prompt and one layer. On it, P(g) is the answer's probability when the layer's activations w at the
answer position are multiplied by g, and `dP/dg = sum_i w_i dP/dw_i`. Any number of points on any number of lines
are evaluated in one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor

from kntools.engine.forward import PassOutput
from kntools.engine.runner import Runner
from kntools.engine.sweep import Intervention, Metric, run_gradients, sweep
from kntools.hooks.positioned import PositionedHook
from kntools.prompts import Encoded
from kntools.sites import hook_name


@dataclass(frozen=True)
class Request:
    """Evaluate the line (`prompt`, `layer`) at `nodes`; sum up what comes out with `weights`."""

    prompt: int
    layer: int
    nodes: Float[np.ndarray, " node"]
    weights: Float[np.ndarray, " node"]


@dataclass(frozen=True)
class Points:
    """What a request gives."""

    values: Float[np.ndarray, " node"]  # P(g)
    slopes: Float[np.ndarray, " node"]  # dP/dg
    weighted: Float[Tensor, " neuron"]  # sum_k weights[k] * w_i dP/dw_i(g_k), float64


class Paths:
    """Evaluates lines of prompts of equal length."""

    def __init__(
        self,
        model: object,
        encoded: Sequence[Encoded],
        metrics: Sequence[Metric],
        site: str,
        max_rows: int | None,
    ) -> None:
        self.model, self.encoded, self.metrics, self.site = model, encoded, metrics, site
        self._clean_values: dict[int, float] = {}
        tokens = torch.cat([e.tokens for e in encoded])
        self.runner = Runner(model, tokens, [list(e.positions) for e in encoded], max_rows=max_rows)

    def evaluate(self, requests: Sequence[Request]) -> list[Points]:
        clean: dict[int, Tensor] = {}
        interventions = [self._intervention(n, r, clean) for n, r in enumerate(requests)]
        rows = run_gradients(self.runner, interventions, self.metrics, single=False, on_pass=self._note_clean)
        points = []
        for n, request in enumerate(requests):
            [derivative] = rows[n].wrt.values()
            # Over the answer's positions (one, unless it has several pieces) contributions add up.
            terms = clean[n].double() * derivative.gradient.double()
            per_node = reduce(terms, "node pos neuron -> node neuron", "sum")
            weights = torch.from_numpy(request.weights).to(per_node)
            points.append(
                Points(
                    rows[n].values.double().cpu().numpy(),
                    per_node.sum(-1).cpu().numpy(),
                    einsum(weights, per_node, "node, node neuron -> neuron").cpu(),
                )
            )
        return points

    def clean_value(self, prompt: int) -> float:
        """P(1): nothing scaled. Every pass has a clean row, so that this is known once a line was evaluated."""
        if prompt not in self._clean_values:
            logits = sweep(self.model, self.encoded[prompt].tokens, [()], pos=list(self.encoded[prompt].positions))
            self._clean_values[prompt] = float(self.metrics[prompt](logits)[0])
        return self._clean_values[prompt]

    def _note_clean(self, result: PassOutput) -> None:
        for row, prompt in enumerate(result.prompts):
            logits = result.logits[row : row + 1].detach()
            self._clean_values[prompt] = float(self.metrics[prompt](logits)[0])

    def _intervention(self, number: int, request: Request, clean: dict[int, Tensor]) -> Intervention:
        positions = self.encoded[request.prompt].positions
        factors = torch.from_numpy(request.nodes)

        def scale(x: Tensor) -> Tensor:
            clean[number] = x[:1].detach()  # the rows are still copies of the clean one
            return x * factors.to(x).view(-1, 1, 1)

        name = hook_name(self.site, request.layer)
        hook = PositionedHook(positions, scale, f"path at {name}")
        return Intervention([(name, hook)], request.prompt, rows=len(request.nodes), wrt=[(name, positions)])
