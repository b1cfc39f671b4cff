"""Direct logit attribution: what each neuron adds to the answer's logit by itself, with every norm held."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.attribution.attribution_result import Attribution
from kntools.attribution.attribution_run import attribute
from kntools.attribution.integration_path import Line, Paths
from kntools.attribution.layer_writes import layer_writes, watched
from kntools.engine.metric_choice import Metrics, has_contrast
from kntools.engine.values import Metric, apply_metric
from kntools.models import adapter, neuron_layers, unembedding
from kntools.prompts import Prompts, encode_many
from kntools.sites import ANSWER


def direct_logit_attribution(model: Any, prompts: Prompts, *, metric: Metrics = None) -> Attribution:
    """`w_i (W_out[i] . gain * u_y) / scale`: the direct contribution of neurons to the logit of the answer.

    ```python
    att = kn.direct_logit_attribution(model, kn.Prompt("The capital of Canada is", " Ottawa", foil=" Rome"))
    att.top(5), att.metric          # "contrast": u_y is the column of " Ottawa" minus that of " Rome"
    ```

    The final norm, and a norm behind the MLP where there is one (Gemma 2), are fixed at their scale in the run, so that
    contributions add up: the scores of a layer sum to `gap`, what it writes to the logit without its `b_out`. What
    later layers make of a neuron does not count.

    Arguments:
        metric: `"logit"` of the answer, `"contrast"` (minus the foil's logit), or any function that is linear in the
            logits. `None` is the contrast where every prompt has a foil of one token. For an answer of several tokens
            (`multi_token="sum"`) the logits of all are summed. A cap of the logits (Gemma 2) is not applied.

    Raises:
        ValueError: a metric that is not linear; a masked model, whose head is not linear either.
    """
    matrix = unembedding.unembedding(model)
    encoded = encode_many(model, prompts)
    asked = metric if metric is not None else "contrast" if all(map(has_contrast, encoded)) else "logit"

    def score(paths: Paths) -> list[Line]:
        return [line for p in range(len(paths.metrics)) for line in _lines(model, paths, p, matrix)]

    att = attribute(model, encoded, score, rule="direct_logit", site="mlp.hook_post", metric=asked, post_norm=None)
    behind = any(layer.norm for layer in neuron_layers.neurons_of(model))
    return replace(att, post_norm="frozen" if behind else None, floor=None)


@torch.no_grad()
def _lines(model: Any, paths: Paths, prompt: int, matrix: Float[Tensor, "d_model d_vocab"]) -> list[Line]:
    """The neurons of each layer, read by what the metric reads from the residual stream behind all norms."""
    layers = layer_writes(model, paths, prompt)
    directions = _coefficients(paths.metrics[prompt], paths.logits[prompt]) @ matrix.float().T
    outside, last = unembedding.logit_multiplier(model), adapter.n_layers(model) - 1
    [states] = watched(paths, prompt, [("resid_post", last)], ANSWER).values()
    readers = [
        norm.back(outside * direction)
        for norm, direction in zip(unembedding.held_norms(model, model.ln_final, states), directions, strict=True)
    ]
    lines = []
    for own in layers:
        line = Line(prompt, own.layer, start=0.0, end=0.0)
        for at, reader in enumerate(readers):
            line.scores = line.scores + (own.neurons(at) @ reader).double().cpu()
            line.end += float((own.added[at] - own.through(own.bias, at)) @ reader)
        lines.append(line)
    return lines


def _coefficients(metric: Metric, logits: Tensor) -> Float[Tensor, "pos d_vocab"]:
    """What the metric multiplies each logit by: its gradient, which must be the same at two places."""

    def gradient(place: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            at = place.detach().float().clone().requires_grad_()
            [found] = torch.autograd.grad(apply_metric(metric, at).sum(), at)
        return found.reshape(-1, place.shape[-1])

    here, at_zero = gradient(logits), gradient(torch.zeros_like(logits))
    if not torch.allclose(here, at_zero, rtol=1e-4, atol=1e-6):
        raise ValueError("this metric is not linear in the logits; use 'logit', 'contrast' or a weighted sum of logits")
    return here
