"""Neuron attribution: how much each MLP neuron adds to the probability of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kntools.attribution.adaptive import integrate_adaptively
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.integration_path import Line, Paths, check_neurons, integrate
from kntools.attribution.quadrature import FixedRule, fixed_rule
from kntools.engine.answers import answer_metric
from kntools.engine.inputs import batches, bos_of, check_count, in_order
from kntools.engine.sweep import Intervention, sweep_gradients
from kntools.models import adapter
from kntools.models.neuron_layers import layers_of
from kntools.options import progress_bar
from kntools.prompts import Encoded, Prompts, encode_many
from kntools.results.provenance import provenance
from kntools.sites import ANSWER, hook_name


def integrated_gradients(
    model: Any,
    prompts: Prompts,
    *,
    rule: Literal["adaptive"] | FixedRule = "adaptive",
    steps: int = 20,
    tol: float = 0.01,
    site: str = "mlp.hook_post",
) -> Attribution:
    """Attribution scores of all neurons by integrated gradients (Dai et al. 2022, equation 4).

    ```python
    att = kn.integrated_gradients(model, kn.Prompt("The capital of Canada is", " Ottawa"))
    att.scores                  # [prompt layer neuron]
    att.top(5)                  # (L29.N393, ...)
    att.residual.abs().max()    # how far the scores of a layer are from adding up to what the layer does
    ```

    For prompt x with answer y, and the activations w of all neurons of one layer at the answer position,

        a_i = w_i * integral_0^1 dP(g w)/dw_i dg,      P(w) = p(y | x, the layer's activations are w),

    so that the scores of a layer sum to P(w) - P(0) (completeness; Sundararajan et al. 2017, proposition 1). For an
    answer of several tokens (`Prompt(..., multi_token="sum")`) P is the probability of all of them under teacher
    forcing, and a neuron's score is summed over the positions that predict them.

    Arguments:
        prompts: one or several.
        rule: `"adaptive"` refines each layer until it is complete to `tol`. `"midpoint"`, `"gauss_legendre"`,
            `"dai"` (left sums, the code of Dai et al.) and `"kn_thesis"` (the code of Niu et al. and EleutherAI)
            use `steps` nodes; in the first layers, where P can leap, they may be off by 10 % to 70 %.
        steps: nodes of a fixed rule.
        tol: for `"adaptive"`: the residual allowed per layer, relative to |P(w) - P(0)|, or to 0.05 if that is
            smaller (to less for an answer that is never more probable than 0.2).
        site: what is scaled: `"mlp.hook_post"`, the input of `W_out`; `"mlp.hook_pre"` is what the code of Niu et
            al. differentiates by (the gate's pre-activation in gated models).

    Returns:
        `Attribution`, on the CPU; scores are probabilities (-1 to 1). Layers without neurons (`widths` 0) have zeros.

    Raises:
        TypeError, ValueError: an unknown rule or site, `steps` or `tol` out of range, a prompt that cannot be
            encoded, a model in training mode with dropout, or one without neurons (a mixture of experts in every
            layer).
        FloatingPointError: activations that are nan or inf.
    """
    check_count("steps", steps)
    if not 0 < tol < 1:
        raise ValueError(f"tol={tol}; give the relative residual to allow per layer, between 0 and 1 (0.01)")
    nodes = None if rule == "adaptive" else fixed_rule(rule, steps)
    encoded = encode_many(model, prompts)
    nodes_of = {"tol": tol, "steps": None} if rule == "adaptive" else {"tol": None, "steps": steps}
    about = provenance(model, rule=rule, prepend_bos=bos_of(encoded), **nodes_of)
    groups, parts = batches(encoded), []
    with progress_bar(len(groups), "batch") as bar:
        for group in groups:
            paths = Paths(model, [encoded[i] for i in group], site)
            lines = integrate_adaptively(paths, tol) if nodes is None else integrate(paths, nodes)
            parts.append(_scores(lines, len(group), adapter.n_layers(model)))
            bar.update()
    return _attribution(encoded, in_order(groups, parts), site, about)


def activation_x_gradient(model: Any, prompts: Prompts, *, site: str = "mlp.hook_post") -> Attribution:
    """`w_i * dP/dw_i`: integrated gradients with a single node at g = 1. Cheap, and not complete.

    ```python
    att = kn.activation_x_gradient(model, prompt)      # one forward and one backward pass per prompt
    ```

    Arguments and result are those of `integrated_gradients`; `residual` and `gap` are nan.
    """
    return _baseline(model, prompts, site, "activation_x_gradient", lambda w, gradient: w * gradient)


def activation(model: Any, prompts: Prompts, *, site: str = "mlp.hook_post") -> Attribution:
    """The activations themselves, `w_i`, as scores: the baseline of Dai et al. 2022, section 4.1.

    ```python
    kn.activation(model, prompt).top(5)
    kn.activation(model, other_prompts).scores.mean(0)      # for mean_ablate_neurons
    ```

    Arguments and result are those of `integrated_gradients`; `residual` and `gap` are nan. Those of the several
    positions of a longer answer (`multi_token="sum"`) add up.
    """
    return _baseline(model, prompts, site, "activation", lambda w, gradient: w)


def _baseline(
    model: Any, prompts: Prompts, site: str, name: str, score: Callable[[Tensor, Tensor], Tensor]
) -> Attribution:
    """Scores from activations and gradients of the run as it is, `[pos neuron]` each; summed over positions."""
    encoded = encode_many(model, prompts)
    about = provenance(model, rule=name, prepend_bos=bos_of(encoded))
    names = {hook_name(site, layer): layer for layer in layers_of(model, site)}
    groups, parts = batches(encoded), []
    with progress_bar(len(groups), "batch") as bar:
        for group in groups:
            part = [encoded[i] for i in group]
            runs = [Intervention((), prompt=p, wrt=[(hook, ANSWER) for hook in names]) for p in range(len(part))]
            lines = []
            for p, rows in enumerate(sweep_gradients(model, part, runs, [answer_metric(e) for e in part])):
                for hook, d in rows.wrt.items():
                    check_neurons(site, d.gradient)
                    scores = score(d.activation[0], d.gradient[0]).sum(0)
                    lines.append(Line(p, names[hook], end=float(rows.values), scores=scores, nodes=1))
            parts.append(_scores(lines, len(part), adapter.n_layers(model)))
            bar.update()
    return _attribution(encoded, in_order(groups, parts), site, about)


def _scores(lines: Sequence[Line], prompts: int, layers: int) -> dict[str, Tensor]:
    """What `Attribution` says of these lines, with the prompt as the first axis; zero where a layer has no neurons."""
    widest = max(len(line.scores) for line in lines)
    scores = torch.zeros(prompts, layers, widest, dtype=torch.float64)
    gap, probability = torch.zeros(prompts, layers, dtype=torch.float64), torch.zeros(prompts)
    nodes, widths = torch.zeros(2, prompts, layers, dtype=torch.long)
    for line in lines:
        at = line.prompt, line.layer
        widths[at], nodes[at] = len(line.scores), line.nodes
        scores[at][: len(line.scores)] = line.scores
        gap[at], probability[line.prompt] = line.end - line.start, line.end
    return {
        "scores": scores.float(),
        "residual": (scores.sum(-1) - gap).float(),
        "gap": gap.float(),
        "probability": probability,
        "nodes": nodes,
        "widths": widths,
    }


def _attribution(
    encoded: Sequence[Encoded], tensors: dict[str, Tensor], site: str, about: dict[str, Any]
) -> Attribution:
    widths = tensors.pop("widths")[0]
    return Attribution(
        **tensors,
        prompts=tuple(e.prompt for e in encoded),
        site=site,
        rule=about["settings"]["rule"],
        provenance=about,
        widths=tuple(widths.tolist()),
    )
