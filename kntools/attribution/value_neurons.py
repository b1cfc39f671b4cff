"""Value neurons and query neurons (Yu & Ananiadou 2024): what adds to the answer by itself, and what feeds that."""

from typing import Any

import torch
from torch import Tensor

from kntools.arguments import whole
from kntools.attribution.attention_values import AttentionValues
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.attribution_run import attribute
from kntools.attribution.integration_path import Line, Paths
from kntools.attribution.layer_writes import EndOfStream, FinalNorm, layer_writes
from kntools.engine.inputs import check_choice
from kntools.engine.metric_choice import Metrics
from kntools.models import unembedding
from kntools.prompts import Prompts
from kntools.sites import ANSWER


def log_probability_increase(
    model: Any, prompts: Prompts, *, metric: Metrics = "log_probability", final_norm: FinalNorm = "live"
) -> Attribution:
    """`log p(y | h + v_i) - log p(y | h)`: the contribution of each neuron alone (Yu & Ananiadou 2024, section 3.2).

    ```python
    att = kn.log_probability_increase(model, kn.Prompt("The capital of Canada is", " Ottawa"))
    att.top(5), att.metric          # "log_probability", in nats
    ```

    h is the residual stream at the answer after attention and before the MLP, `v_i = w_i W_out[i]` (through the norm
    behind the MLP, where there is one, at its scale in the run); both are read by the final norm and the unembedding
    as if no layer followed. `residual` and `gap` are nan: the scores of a layer do not add up.

    Arguments:
        metric: another metric of the logits, as in `integrated_gradients`.
        final_norm: `"live"` normalises h + v_i; `"frozen"`, the published code, divides by the scale of the run.

    Raises:
        ValueError: a masked model, whose head reads more than a norm and a matrix.
    """
    unembedding.unembedding(model)
    check_choice("final_norm", final_norm, ("live", "frozen"))

    def score(paths: Paths) -> list[Line]:
        lines = []
        for prompt in range(len(paths.metrics)):
            end = EndOfStream(model, paths, prompt, final_norm)
            for own in layer_writes(model, paths, prompt):
                moves = torch.stack([own.neurons(at) for at in range(len(own.before))], 1)  # [neuron pos d_model]
                lines.append(Line(prompt, own.layer, scores=end.increase(own.before, moves, ANSWER)))
        return lines

    rule = "log_probability_increase"
    return attribute(model, prompts, score, rule=rule, site="mlp.hook_post", metric=metric, post_norm=None)


def query_neurons(
    model: Any,
    prompts: Prompts,
    *,
    heads: int = 30,
    entries: int = 30,
    metric: Metrics = "log_probability",
    final_norm: FinalNorm = "live",
) -> Attribution:
    """How much each neuron feeds the attention values that add most to the answer (Yu & Ananiadou 2024, section 3.3).

    ```python
    att = kn.query_neurons(model, kn.Prompt("The capital of Canada is", " Ottawa"))
    kn.ablate_neurons(att.top(20), pos=None)        # they act at the tokens that heads read from
    ```

    Entry d of a head that reads token s writes `c = pattern_s v_sd W_O[d]` at the answer. Its importance is
    `log p(y | h + c) - log p(y | h)`, h the residual stream that enters the layer. It reads the stream x_s along
    `k = gain W_V[:, d]`; neuron i of a layer below has the share `(w_i W_out[i] . k) / (x_s . k)` in it. A
    score is the sum of importance times share over the leading entries, at all tokens. The published code takes no mean
    away from what LayerNorm reads; this does, so that shares add up. `residual` and `gap` are nan.

    Arguments:
        heads: pairs of a head and a token whose entries are looked at, those with the highest importance. The
            published code looks at all of them: give a number as large as layers x heads x tokens.
        entries: of these heads, those with the highest importance; 30 is published.
        metric, final_norm: as in `log_probability_increase`; `"frozen"` is the published code.

    Raises:
        ValueError: a masked model; attention whose values are not `W_V` times the normalised stream.
    """
    unembedding.unembedding(model)
    check_choice("final_norm", final_norm, ("live", "frozen"))
    heads, entries = whole("heads", heads, least=1), whole("entries", entries, least=1)

    def score(paths: Paths) -> list[Line]:
        lines = []
        for prompt in range(len(paths.metrics)):
            reading = _reading(model, paths, prompt, EndOfStream(model, paths, prompt, final_norm), heads, entries)
            for own in layer_writes(model, paths, prompt, None):
                above = sum((x for layer, x in reading.items() if layer > own.layer), torch.zeros_like(own.added))
                fed = [own.neurons(at) @ direction for at, direction in enumerate(above) if bool(direction.any())]
                scores = sum(fed, own.weight.new_zeros(len(own.weight)))
                lines.append(Line(prompt, own.layer, scores=scores.double().cpu()))
        return lines

    return attribute(model, prompts, score, rule="query_neurons", site="mlp.hook_post", metric=metric, post_norm=None)


@torch.no_grad()
def _reading(model: Any, paths: Paths, prompt: int, end: EndOfStream, heads: int, entries: int) -> dict[int, Tensor]:
    """By layer, what reads the stream at each token `[pos d_model]`: sum of importance times key over reading."""
    found: dict[int, Tensor] = {}
    for answer in paths.runner.inputs.answer_of(prompt):
        layers = {own.layer: own for own in AttentionValues.of_prompt(model, paths, prompt, answer)}
        whole = {(layer,): end.increase_at(answer, own.stream[answer], own.heads()) for layer, own in layers.items()}
        leading = [place for place, _ in _highest(whole, heads)]
        within: dict[tuple[int, ...], Tensor] = {}
        for layer, own in layers.items():  # the entries of a layer share runs
            places = [(source, head) for at, source, head in leading if at == layer]
            if places:
                moves = torch.stack([own.entries(*place) for place in places])  # [place entry d_model]
                values = end.increase_at(answer, own.stream[answer], moves)
                within |= {(layer, *place): row for place, row in zip(places, values, strict=True)}
        for (layer, source, head, entry), importance in _highest(within, entries):
            own = layers[layer]
            key = own.key(source, head, entry)
            rows = found.setdefault(layer, torch.zeros_like(own.stream))
            rows[source] += importance * key / (own.stream[source] @ key)
    return found


def _highest(values: dict[Any, Tensor], count: int) -> list[tuple[tuple[int, ...], float]]:
    """The highest entries of several tensors, each with its place: the tensor's, then the index in it."""
    every = [((*key, *at.tolist()), float(x[tuple(at)])) for key, x in values.items() for at in x.isfinite().nonzero()]
    return sorted(every, key=lambda entry: -entry[1])[:count]
