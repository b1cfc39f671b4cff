"""Neuron attribution: how much each MLP neuron adds to the answer."""

import warnings
from functools import partial
from typing import Any, Literal

from kntools.arguments import decimal, without_effect
from kntools.attribution.adaptive import SMALL_GAP, integrate_adaptively
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.attribution_run import PostNorm, attribute
from kntools.attribution.integration_path import integrate
from kntools.attribution.quadrature import FixedRule, Rule, fixed_rule
from kntools.engine.metric_choice import Metrics
from kntools.prompts import Prompts


def integrated_gradients(
    model: Any,
    prompts: Prompts,
    *,
    rule: Literal["adaptive"] | FixedRule = "adaptive",
    steps: int | None = None,
    tol: float | None = None,
    site: str = "mlp.hook_post",
    metric: Metrics = None,
    post_norm: PostNorm = "frozen",
) -> Attribution:
    """Attribution scores of all neurons by integrated gradients (Dai et al. 2022, equation 4).

    ```python
    att = kn.integrated_gradients(model, kn.Prompt("The capital of Canada is", " Ottawa"))
    att.scores                  # [prompt layer neuron], in the metric's unit
    att.top(5)                  # (L24.N1005, ...)
    att.residual.abs().max()    # how far the scores of a layer are from adding up to what the layer does
    pair = kn.Prompt("Carla could see the", " horses", foil=" horse")
    kn.integrated_gradients(model, pair).metric     # "contrast": logit of " horses" minus logit of " horse"
    ```

    For prompt x with answer y, a metric m of the model's logits, and the activations w of all neurons of one layer at
    the answer position,

        a_i = w_i * integral_0^1 dm(g w)/dw_i dg,      m(w) = m(y | x, the layer's activations are w),

    and the scores of a layer sum to m(w) - m(0) (completeness; Sundararajan et al. 2017, proposition 1). For an
    answer of several tokens (`Prompt(..., multi_token="sum")`) the probability is that of all of them under teacher
    forcing, and a neuron's score is summed over the positions that predict them.

    Arguments:
        rule: `"adaptive"` refines each layer until it is complete to `tol`. `"midpoint"`, `"gauss_legendre"`,
            `"dai"` (left sums, the code of Dai et al.) and `"kn_thesis"` (the code of Niu et al. and EleutherAI)
            use `steps` nodes (20); in the first layers, where the metric can leap, they may be off by 10 % to 70 %.
        tol: for `"adaptive"`: the residual allowed per layer (0.01), relative to |m(w) - m(0)|, or to a fiftieth of the
            largest such gap of the prompt if that is more. In half precision, rounding may leave more than that
            (`Attribution.floor`): refinement stops there, with a warning.
        site: the scaled activation: `"mlp.hook_post"`, the input of `W_out`; `"mlp.hook_pre"`, as in the code of Niu et
            al. differentiates by (the gate's pre-activation in gated models).
        metric: what is attributed: `"probability"` of the answer, `"log_probability"`, `"contrast"` (logit of the
            target minus logit of the foil), or a function from logits `[row d_vocab]` at the answer position to one
            value per row (or one per prompt). `None` is the contrast where every prompt has a foil of one token, else
            the probability. Which it was is in the result. Of a probability below 1e-38, which float32 does not hold,
            all scores are 0, with a warning.
        post_norm: only where a norm follows the MLP (Gemma 2 and 3, OLMo 2): `"frozen"` fixes that norm's scale at its
            value in the run; `"live"` is the published path, along which the norm undoes the scaling.

    Raises:
        TypeError, ValueError: an unknown rule, site or metric, `steps` or `tol` out of range, a prompt that cannot be
            encoded, a contrast without foils, a model in training mode with dropout, or one without neurons (a
            mixture of experts in every layer).
        FloatingPointError: activations that are nan or inf.
    """
    exact = nodes_of(rule, steps, tol)
    score = partial(integrate, rule=exact) if isinstance(exact, Rule) else partial(integrate_adaptively, tol=exact)
    how = {"tol": None, "steps": len(exact.nodes)} if isinstance(exact, Rule) else {"tol": exact, "steps": None}
    att = attribute(model, prompts, score, rule=rule, site=site, metric=metric, post_norm=post_norm, **how)
    if not isinstance(exact, Rule):
        _warn_of_residuals(att, exact)
    return att


def nodes_of(rule: str, steps: int | None, tol: float | None) -> Rule | float:
    """The nodes of a fixed rule, or the tolerance of the adaptive one."""
    if rule == "adaptive":
        without_effect("with rule='adaptive', which chooses its nodes by tol=", steps=steps)
        return decimal("tol", 0.01 if tol is None else tol, above=0, below=1)
    fixed = fixed_rule(rule, 20 if steps is None else steps)
    without_effect(f"with rule={rule!r}, which has steps= nodes", tol=tol)
    return fixed


def _warn_of_residuals(att: Attribution, tol: float) -> None:
    sizes, residuals = att.gap.abs(), att.residual.abs()
    asked = tol * sizes.maximum(SMALL_GAP * sizes.amax(1, keepdim=True))
    missed = residuals > asked
    if not bool(missed.any()):
        return
    assert att.floor is not None
    by_rounding = bool((missed & (asked < att.floor)).any())
    why = (
        f"rounding errors reach {float(att.floor.max()):.1g} (Attribution.floor): load the model in float32"
        if by_rounding
        else f"the {att.metric} jumps along their path"
    )
    warnings.warn(
        f"{int(missed.sum())} of {missed.numel()} layers are not complete to tol={tol:g}: their residual is up to "
        f"{float(residuals[missed].max()):.1g}; {why}",
        stacklevel=3,
    )
