"""Are these the neurons that matter? Keep the leading ones, ablate the rest, and see what is left of the answer."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kntools import randomness
from kntools.arguments import decimal, several, tensor, whole
from kntools.attribution.ablation import Ablation, ablation_name, keep_neurons, replacements
from kntools.attribution.attribution_result import Attribution, exists
from kntools.attribution.faithfulness_curve import FaithfulnessCurve
from kntools.engine.inputs import bos_of
from kntools.engine.metric_choice import Metrics, choose_metrics
from kntools.engine.sweep import Intervention, sweep
from kntools.metrics import alike
from kntools.models import neuron_layers
from kntools.options import options, progress_bar
from kntools.prompts import Prompts, encode_many
from kntools.results.provenance import provenance

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_BLOCK = 64


def faithfulness(
    model: Any,
    prompts: Prompts,
    scores: Attribution | Float[Tensor, "... layer neuron"],
    *,
    shares: Sequence[float] = SHARES,
    ablation: Ablation = "zero",
    metric: Metrics = None,
    draws: int = 5,
    seed: int = 0,
) -> FaithfulnessCurve:
    """How much of an answer the leading neurons of some scores carry (Mueller et al. 2025, MIB).

    ```python
    curve = kn.faithfulness(model, prompts, kn.integrated_gradients(model, prompts))
    curve.cpr, curve.random_cpr
    ```

    For each share k of all neurons,

        f(k) = (m(the leading k kept, the rest ablated) - m(all ablated)) / (m(none ablated) - m(all ablated)),

    of the means over prompts: f(all) = 1 and f(none) = 0. Neurons are ablated at the positions of the answer,
    where attribution has its scores, in all layers at once.

    Arguments:
        prompts: one or several; they need not be those of the scores.
        scores: neurons with the highest mean score over prompts lead. A tensor `[prompt layer neuron]` or
            `[layer neuron]` will do; give `scores.abs()` to rank by size.
        shares: from 0 to 1, at least two of them above 0; sorted in the result.
        ablation: what replaces a neuron's activation: 0 (`"zero"`); its `"mean"` over `prompts`; that of the next
            prompt (`"resample"`); or activations `[layer neuron]` or `[prompt layer neuron]`, e.g. those of
            `kn.activation(model, other_prompts)`.
        metric: as in `integrated_gradients`.
        draws: how often random neurons are drawn (with `seed`), as many in each layer as lead there.

    Raises:
        ValueError: shares out of range; scores or activations of another model; one prompt, or answers of several
            tokens, with `"mean"` or `"resample"`; prompts that ablating all neurons does not change.
    """
    draws = whole("draws", draws, least=1)
    shares = _checked(shares)
    encoded = encode_many(model, prompts)
    widths = neuron_layers.widths(model)
    ranking = _ranking(scores, widths)
    total = sum(widths)
    counts = tuple(round(share * total) for share in shares)
    rank = ranking.flatten().argsort(descending=True, stable=True).argsort().view_as(ranking)
    lead = torch.stack([rank < count for count in counts])
    generator = randomness.generator(seed)
    masks = torch.cat([lead, ~lead & exists(widths), *(_random(lead, widths, generator) for _ in range(draws))])
    base = replacements(model, encoded, ablation)
    metrics, metric_name = choose_metrics(model, encoded, metric)
    parts = torch.cat([torch.zeros_like(masks[:1]), masks]).split(min(_BLOCK, options().max_rows or _BLOCK))
    found = []
    with progress_bar(len(encoded), "prompt") as bar:
        for e, put, own_metric in zip(encoded, base, metrics, strict=True):
            runs = [Intervention(())]
            for part in parts:
                hooks = [keep_neurons(part[:, n, :width], put[n, :width], n) for n, width in enumerate(widths) if width]
                runs.append(Intervention(hooks, rows=len(part)))
            found.append(sweep(model, e, runs, metric=own_metric).float().cpu())
            bar.update()
    clean, ablated, values = (part.double() for part in torch.stack(found).split([1, 1, len(masks)], dim=1))
    full, empty = masks.sum((1, 2)) == total, ~masks.any(2).any(1)
    # The same runs under another name: rounding in a batch of another size is no effect.
    values = torch.where(full, clean, torch.where(empty, ablated, values))
    if alike(float(clean.mean()), float(ablated.mean())):
        raise ValueError(f"{metric_name} is the same with all neurons ablated: faithfulness is not defined")
    kept, removed, *random = values.split(len(shares), dim=1)
    return FaithfulnessCurve(
        shares=shares,
        counts=counts,
        clean=clean[:, 0],
        ablated=ablated[:, 0],
        kept=kept,
        removed=removed,
        at_random=torch.stack(random, 1),
        rule=scores.rule if isinstance(scores, Attribution) else "scores",
        ablation=ablation_name(ablation),
        metric=metric_name,
        prompts=tuple(e.prompt for e in encoded),
        provenance=provenance(model, prepend_bos=bos_of(encoded), draws=draws, seed=seed),
    )


def _checked(shares: Sequence[float]) -> tuple[float, ...]:
    found = tuple(sorted({decimal("shares", share, 0, 1) for share in several("shares", shares, "(0.01, 0.1, 1)")}))
    if sum(share > 0 for share in found) < 2:
        raise ValueError(f"shares={tuple(shares)}; give at least two shares of all neurons above 0")
    return found


def _ranking(scores: Attribution | Tensor, widths: Sequence[int]) -> Float[Tensor, "layer neuron"]:
    """Mean scores; -inf where there is no neuron."""
    given = scores.scores if isinstance(scores, Attribution) else tensor("scores", scores, "[layer neuron]")
    mean = given.detach().double().cpu().flatten(0, -3).mean(0) if given.ndim > 2 else given.detach().double().cpu()
    if mean.shape != (len(widths), max(widths)):
        raise ValueError(
            f"scores are {tuple(given.shape)}; the model has {len(widths)} layers of {max(widths)} neurons"
        )
    if bool(mean[exists(widths)].isnan().any()):
        raise ValueError("some scores are nan: neurons cannot be ranked by them")
    return mean.masked_fill(~exists(widths), -torch.inf)


def _random(
    lead: Bool[Tensor, "share layer neuron"], widths: Sequence[int], generator: torch.Generator
) -> Bool[Tensor, "share layer neuron"]:
    """As many random neurons in each layer; those of a small share are among those of a larger one."""
    found = torch.zeros_like(lead)
    for layer, width in enumerate(widths):
        rank = torch.randperm(width, generator=generator).argsort()
        found[:, layer, :width] = rank < lead[:, layer].sum(1, keepdim=True)
    return found
