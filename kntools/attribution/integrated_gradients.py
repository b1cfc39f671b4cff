"""Neuron attribution: how much each MLP neuron adds to the probability of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from kntools.attribution import adaptive
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.integration_path import Paths, Request
from kntools.attribution.quadrature import fixed_rule
from kntools.engine.sweep import Intervention, sweep_gradients
from kntools.metrics import probability
from kntools.models import adapter
from kntools.prompts import Encoded, MultiToken, Prompt, by_length, encode
from kntools.results.provenance import provenance
from kntools.sites import hook_name

# Prompts that share their passes. More would only make the steps of the progress bar longer.
_TOGETHER = 8


def integrated_gradients(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    *,
    rule: str = "adaptive",
    steps: int = 20,
    tol: float = 0.01,
    site: str = "mlp.hook_post",
    multi_token: MultiToken = "error",
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = True,
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

    so that the scores of a layer sum to P(w) - P(0) (completeness; Sundararajan et al. 2017, proposition 1).

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
        multi_token: for an answer of several tokens: `"first"`, or `"sum"`: P is the probability of all its tokens
            under teacher forcing, and a neuron's score is summed over the positions that predict them.
        prepend_bos: as in `encode`.
        max_rows: rows per forward pass; `None` chooses from free memory.
        progress: show a progress bar.

    Returns:
        `Attribution`, on the CPU; scores are probabilities (-1 to 1).

    Raises:
        ValueError: an unknown rule, `steps` or `tol` out of range, a prompt that cannot be encoded.
        FloatingPointError: activations that are nan or inf.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}; an integral needs at least 1 node (20 is what was published)")
    if rule == "adaptive":
        if not 0 < tol < 1:
            raise ValueError(f"tol={tol}; give the relative residual to allow per layer, between 0 and 1 (0.01)")
        integrate: _Integrate = _adaptive(tol)
    else:
        integrate = _fixed(rule, steps)
    encoded, asked = _encode_all(model, prompts, prepend_bos, multi_token)
    layers = range(adapter.n_layers(model))
    for layer in layers:
        adapter.hook_point(model, hook_name(site, layer))  # a wrong site is an error before any work
    about = provenance(
        model,
        rule=rule,
        steps=None if rule == "adaptive" else steps,
        tol=tol if rule == "adaptive" else None,
        multi_token=multi_token,
        prepend_bos=encoded[0].prepend_bos,
    )

    found: dict[int, _PromptScores] = {}
    with tqdm(total=len(encoded) * len(layers), disable=not progress, unit="layer", leave=False) as bar:
        for group in _groups(encoded):
            part = [encoded[i] for i in group]
            paths = Paths(model, part, [probability(e.target_ids) for e in part], site, max_rows)
            lines = integrate(paths, len(part), len(layers), partial(_advance, bar, bar.n))
            for p, number in enumerate(group):
                found[number] = _PromptScores.of([line for line in lines if line.prompt == p])
    return Attribution(
        scores=torch.stack([found[i].scores for i in range(len(encoded))]),
        residual=torch.stack([found[i].residual for i in range(len(encoded))]),
        gap=torch.stack([found[i].gap for i in range(len(encoded))]),
        probability=torch.tensor([found[i].probability for i in range(len(encoded))]),
        nodes=torch.stack([found[i].nodes for i in range(len(encoded))]),
        prompts=asked,
        site=site,
        rule=rule,
        provenance=about,
    )


def activation_x_gradient(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    *,
    site: str = "mlp.hook_post",
    multi_token: MultiToken = "error",
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = True,
) -> Attribution:
    """`w_i * dP/dw_i`: integrated gradients with a single node at g = 1. Cheap, and not complete.

    ```python
    att = kn.activation_x_gradient(model, prompt)      # one forward and one backward pass per prompt
    ```

    Arguments and result are those of `integrated_gradients`; `residual` and `gap` are nan.
    """
    return _baseline(
        model,
        prompts,
        "activation_x_gradient",
        lambda w, g: w * g,
        site,
        multi_token,
        prepend_bos,
        max_rows,
        progress,
    )


def activation(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    *,
    site: str = "mlp.hook_post",
    multi_token: MultiToken = "error",
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = True,
) -> Attribution:
    """The activations themselves, `w_i`, as scores: the baseline of Dai et al. 2022, section 4.1.

    ```python
    kn.activation(model, prompt).top(5)
    ```

    Arguments and result are those of `integrated_gradients`; `residual` and `gap` are nan.
    """
    return _baseline(model, prompts, "activation", lambda w, g: w, site, multi_token, prepend_bos, max_rows, progress)


def mean_activations(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    site: str = "mlp.hook_post",
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> Float[Tensor, "layer d_mlp"]:
    """Mean activation of every neuron at the answer position, for `mean_ablate_neurons`.

    ```python
    hooks = kn.mean_ablate_neurons(neurons, kn.mean_activations(model, other_prompts))
    ```
    """
    att = activation(model, prompts, site=site, multi_token="first", prepend_bos=prepend_bos, progress=progress)
    return att.scores.mean(0)


# --- how a line is integrated -------------------------------------------------------------------------


def _advance(bar: Any, before: int, done: int) -> None:
    """Move the bar to `done` lines of this group, after those of earlier groups."""
    bar.update(before + done - bar.n)


_Integrate = Callable[[Paths, int, int, Callable[[int], object]], list[adaptive.Line]]


def _lines(prompts: int, layers: int) -> list[adaptive.Line]:
    return [adaptive.Line(p, layer) for p in range(prompts) for layer in range(layers)]


def _adaptive(tol: float) -> _Integrate:
    def integrate(paths: Paths, prompts: int, layers: int, on_done: Callable[[int], object]) -> list[adaptive.Line]:
        lines = _lines(prompts, layers)
        adaptive.integrate(paths, lines, tol, on_done)
        return lines

    return integrate


def _fixed(name: str, steps: int) -> _Integrate:
    rule = fixed_rule(name, steps)

    def integrate(paths: Paths, prompts: int, layers: int, on_done: Callable[[int], object]) -> list[adaptive.Line]:
        lines = _lines(prompts, layers)
        with_zero = rule.nodes[0] == 0.0
        # One more row at g = 0 gives P(0), without which nobody could tell how complete the rule is.
        nodes = rule.nodes if with_zero else [0.0, *rule.nodes]
        weights = rule.weights if with_zero else [0.0, *rule.weights]
        requests = [Request(line.prompt, line.layer, _float64(nodes), _float64(weights)) for line in lines]
        for n, (line, points) in enumerate(zip(lines, paths.evaluate(requests), strict=True)):
            line.total, line.nodes = points.weighted, len(rule.nodes)
            line.start, line.end = float(points.values[0]), paths.clean_value(line.prompt)
            on_done(n + 1)
        return lines

    return integrate


def _float64(values: Any) -> Any:
    return torch.as_tensor(values, dtype=torch.float64).numpy()


@dataclass(frozen=True)
class _PromptScores:
    scores: Float[Tensor, "layer neuron"]
    residual: Float[Tensor, " layer"]
    gap: Float[Tensor, " layer"]
    nodes: Int[Tensor, " layer"]
    probability: float

    @classmethod
    def of(cls, lines: Sequence[adaptive.Line]) -> _PromptScores:
        totals = torch.stack([line.total for line in lines if line.total is not None])
        gap = torch.tensor([line.end - line.start for line in lines], dtype=torch.float64)
        return cls(
            scores=totals.float(),
            residual=(totals.sum(-1) - gap).float(),
            gap=gap.float(),
            nodes=torch.tensor([line.nodes for line in lines]),
            probability=lines[0].end,
        )


# --- shared -------------------------------------------------------------------------------------------


def _encode_all(
    model: Any, prompts: Prompt | Sequence[Prompt], prepend_bos: bool | None, multi_token: MultiToken
) -> tuple[list[Encoded], tuple[Prompt, ...]]:
    asked = (prompts,) if isinstance(prompts, Prompt) else tuple(prompts)
    if not asked:
        raise ValueError("no prompts given; pass a Prompt, or a list with at least one")
    return [encode(model, p, prepend_bos, multi_token=multi_token) for p in asked], asked


def _groups(encoded: Sequence[Encoded]) -> list[list[int]]:
    """Prompts that share passes, at most `_TOGETHER` at once."""
    return [same[i : i + _TOGETHER] for same in by_length(encoded) for i in range(0, len(same), _TOGETHER)]


def _baseline(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    name: str,
    score: Callable[[Tensor, Tensor], Tensor],
    site: str,
    multi_token: MultiToken,
    prepend_bos: bool | None,
    max_rows: int | None,
    progress: bool,
) -> Attribution:
    encoded, asked = _encode_all(model, prompts, prepend_bos, multi_token)
    about = provenance(model, rule=name, multi_token=multi_token, prepend_bos=encoded[0].prepend_bos)
    names = [hook_name(site, layer) for layer in range(adapter.n_layers(model))]
    scores: dict[int, Tensor] = {}
    values: dict[int, float] = {}
    with tqdm(total=len(encoded), disable=not progress, unit="prompt", leave=False) as bar:
        for group in _groups(encoded):
            part = [encoded[i] for i in group]
            found = sweep_gradients(
                model,
                torch.cat([e.tokens for e in part]),
                [Intervention((), prompt=p, wrt=[(n, e.positions) for n in names]) for p, e in enumerate(part)],
                [probability(e.target_ids) for e in part],
                pos=[list(e.positions) for e in part],
                max_rows=max_rows,
            )
            for number, rows in zip(group, found, strict=True):
                layers = [score(rows.wrt[n].activation[0], rows.wrt[n].gradient[0]).sum(0) for n in names]
                scores[number] = torch.stack(layers).float().cpu()
                values[number] = float(rows.values[0])
            bar.update(len(group))
    stacked = torch.stack([scores[i] for i in range(len(encoded))])
    unknown = torch.full(stacked.shape[:2], torch.nan)
    return Attribution(
        scores=stacked,
        residual=unknown,
        gap=unknown.clone(),
        probability=torch.tensor([values[i] for i in range(len(encoded))]),
        nodes=torch.ones(stacked.shape[:2], dtype=torch.long),
        prompts=asked,
        site=site,
        rule=name,
        provenance=about,
    )
