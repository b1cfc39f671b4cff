"""Scores without an integral: activations, and their product with the gradient."""

from dataclasses import replace
from typing import Any

from kntools.attribution.attribution_result import Attribution
from kntools.attribution.attribution_run import PostNorm, attribute
from kntools.attribution.integration_path import Line, Paths
from kntools.engine.metric_choice import Metrics
from kntools.prompts import Prompts


def activation_x_gradient(
    model: Any, prompts: Prompts, *, site: str = "mlp.hook_post", metric: Metrics = None, post_norm: PostNorm = "frozen"
) -> Attribution:
    """`w_i * dm/dw_i`: integrated gradients with a single node at g = 1. Cheap, but not complete.

    ```python
    att = kn.activation_x_gradient(model, prompt)      # two forward passes and a backward one
    ```

    Arguments and result are those of `integrated_gradients`; `residual` and `gap` are nan. Where a norm follows the
    MLP, `post_norm="frozen"` takes a pass per layer; with `"live"` the scores of a layer add up to nearly 0.
    """

    def score(paths: Paths) -> list[Line]:
        lines = paths.lines()
        paths.evaluate(dict.fromkeys(lines, (1.0,)))
        return [Line(line.prompt, line.layer, scores=line.points[1.0].terms, nodes=1) for line in lines]

    rule = "activation_x_gradient"
    return attribute(model, prompts, score, rule=rule, site=site, metric=metric, post_norm=post_norm)


def activation(model: Any, prompts: Prompts, *, site: str = "mlp.hook_post") -> Attribution:
    """The activations themselves, `w_i`, as scores: the baseline of Dai et al. 2022, section 4.1.

    ```python
    kn.activation(model, prompt).top(5)
    kn.activation(model, other_prompts).scores.mean(0)      # for mean_ablate_neurons
    ```

    As `integrated_gradients`, without a metric; `residual` and `gap` are nan. Those of the several positions of a
    longer answer (`multi_token="sum"`) add up.
    """

    def score(paths: Paths) -> list[Line]:
        prompts = range(len(paths.metrics))
        return [Line(p, layer, scores=paths.activation(p, layer).sum(0)) for p in prompts for layer in paths.layers]

    att = attribute(model, prompts, score, rule="activation", site=site, metric="probability", post_norm=None)
    return replace(att, metric="activation", value=None)
