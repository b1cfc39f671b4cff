"""From prompts to an `Attribution`: what all ways to score neurons have in common."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kntools.attribution.attribution_result import Attribution
from kntools.attribution.integration_path import Line, Paths
from kntools.engine.inputs import bos_of, check_choice, in_batches
from kntools.engine.metric_choice import Metrics, choose_metrics
from kntools.metrics import PROBABILITIES
from kntools.models import adapter, neuron_layers
from kntools.prompts import Prompts, encode_many
from kntools.results.provenance import provenance

#: What becomes of a norm that follows the MLP (Gemma 2 and 3, OLMo 2): its scale is held as it is in the run, or not.
PostNorm = Literal["frozen", "live"]

_LIVE = (
    "post_norm='live': a norm after the MLP cancels the scaling of the path, except where that norm's epsilon matters; "
    "scores measure the epsilon. post_norm='frozen' fixes the norm's scale"
)
# Of a long answer, the probability may be less than float32 holds: its gradient is 0, which says nothing of a neuron.
_LOST = (
    "the {metric} of {lost} of {prompts} prompts is too small for float32, or constant, and all of their scores are 0; "
    "use metric='log_probability'"
)


def attribute(
    model: Any,
    prompts: Prompts,
    score: Callable[[Paths], list[Line]],
    *,
    rule: str,
    site: str,
    metric: Metrics | str = None,
    post_norm: str | None = "frozen",
    **settings: Any,
) -> Attribution:
    """Score the lines of all prompts, in batches of equal length."""
    check_choice("post_norm", post_norm, (None, "frozen", "live"))
    encoded = encode_many(model, prompts)
    metrics, name = choose_metrics(model, encoded, metric)
    held = post_norm == "frozen"
    norms = neuron_layers.norms_behind(model, site, held=held) if post_norm else {}
    if norms and not held:
        warnings.warn(_LIVE, stacklevel=3)
    about = provenance(model, rule=rule, prepend_bos=bos_of(encoded), **settings)

    def scored(group: list[int]) -> dict[str, Tensor]:
        own = [encoded[i] for i in group], [metrics[i] for i in group]
        paths = Paths(model, *own, site, norms if held else {})
        return _tensors(score(paths), paths, adapter.n_layers(model))

    tensors: dict[str, Any] = in_batches(encoded, scored)
    widths = tensors.pop("widths")[0]
    lost = tensors["scores"].abs().amax((1, 2)) < torch.finfo(torch.float32).tiny
    if name in PROBABILITIES and bool(lost.any()):
        warnings.warn(_LOST.format(metric=name, lost=int(lost.sum()), prompts=len(encoded)), stacklevel=3)
    return Attribution(
        **tensors,
        prompts=tuple(e.prompt for e in encoded),
        site=site,
        rule=rule,
        metric=name,
        post_norm=post_norm if norms else None,
        provenance=about,
        widths=tuple(widths.tolist()),
    )


def _tensors(lines: Sequence[Line], paths: Paths, layers: int) -> dict[str, Tensor]:
    """What `Attribution` says of these lines, with the prompt as the first axis; zero where a layer has no neurons."""
    # As wide as the site is, not the model: `mlp.hook_pre` of ModernBERT shows its gate too.
    prompts, widest = len(paths.metrics), max(len(line.scores) for line in lines)
    scores = torch.zeros(prompts, layers, widest, dtype=torch.float64)
    gap, floor = torch.zeros(2, prompts, layers, dtype=torch.float64)
    nodes, widths = torch.zeros(2, prompts, layers, dtype=torch.long)
    for line in lines:
        at = line.prompt, line.layer
        widths[at], nodes[at] = len(line.scores), line.nodes
        scores[at][: len(line.scores)] = line.scores
        gap[at], floor[at] = line.end - line.start, line.floor
    return {
        "scores": scores.float(),
        "residual": (scores.sum(-1) - gap).float(),
        "gap": gap.float(),
        "value": paths.ends.float().cpu(),
        "probability": paths.probabilities.float().cpu(),
        "floor": floor.float(),
        "nodes": nodes,
        "widths": widths,
    }
