"""One forward pass, many interventions: the engine under attribution, patching, tracing and neuron scans.

Four things make it fast (the parts are in `kntools/engine/`). Interventions share what comes before the first
block where they act; they share the tokens before the first position where they act; many of them fill one
batch; and only logits that are asked for are made. Three things make it safe: every row is what `run_with_hooks`
would have given, a model that does not allow this runs the plain loop instead, and a hook that never fired is an
error.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import several
from kntools.engine.forward import PassOutput, Watched
from kntools.engine.inputs import Inputs, PromptsOrTokens, make_inputs
from kntools.engine.plan import Embedding, Intervention, as_interventions
from kntools.engine.runner import Runner
from kntools.metrics import LogitDifference
from kntools.models.gradients import with_gradients
from kntools.results.display import number
from kntools.results.result import Result
from kntools.sites import Hook, Positions

T = TypeVar("T")

#: From logits `[row d_vocab]` (or `[row pos d_vocab]`, if several positions are asked for) to one value per row.
Metric = Callable[[Tensor], Tensor]


def sweep(
    model: Any,
    prompts: PromptsOrTokens,
    interventions: Sequence[Sequence[Hook] | Intervention],
    *,
    pos: Positions | Sequence[Positions] = None,
    metric: Metric | Sequence[Metric] | None = None,
    embedding: Embedding | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Run many interventions on a prompt, in few forward passes.

    ```python
    hooks = [kn.ablate_neurons([(layer, n)]) for layer in range(30) for n in range(50)]
    logits = kn.sweep(model, prompt, hooks)                                  # [1500 d_vocab]
    p = kn.sweep(model, prompt, hooks, metric=kn.probability(answer_id))     # [1500]
    ```

    Row *i* is `model.run_with_hooks(tokens, fwd_hooks=interventions[i])[0, pos]`, for any hooks. Hooks of your own
    may do anything to their activation `[1 pos ...]`; hooks of `kntools.hooks` also say where they
    act; earlier tokens are not run again. All rows run together: hooks that hand something on to other hooks need a
    place of their own for it in each intervention.

    Arguments:
        prompts: a `Prompt`, an `Encoded` or token ids; or several, of any lengths (then give
            `Intervention(hooks, prompt=...)`).
        interventions: lists of hooks, or `Intervention`s.
        pos: whose logits to return: `None` is the answer's position; an index; several (they become an axis);
            `slice(None)` for all; or one entry of several positions per prompt (`[[3], [5]]`).
        metric: reduce the logits of each row to a value, at once (46,080 rows of logits do not fit in memory); one
            metric, or one per prompt.
        embedding: for each prompt, hooks on its embedding (`kn.corrupt`) that come before those of every
            intervention. The prompt so changed is then run once, and is what interventions share.
        attention_mask: for token ids that are filled up to equal length, left or right: 1 for each token of the text.
            Each row is run as its text alone; positions count its tokens, and the answer is at its last one.

    Returns:
        Logits `[intervention d_vocab]` in the model's dtype, or values `[intervention]`. An intervention with
        `rows=n` contributes n rows.

    Raises:
        KeyError: a hook name that does not exist on the model.
        IndexError: a position, neuron, head or prompt that does not exist.
        ValueError: the answer position is needed and unknown (token ids of a masked model, or of several rows);
            token ids that look filled up, without `attention_mask`.
        RuntimeError: a hook that never fired.
    """
    groups = make_inputs(model, prompts, pos, attention_mask)
    rows = _in_groups(model, groups, interventions, metric, run_rows, embedding)
    if len({r.shape[1:] for r in rows}) > 1:
        raise ValueError("prompts of different lengths give different numbers of logits here; sweep each on its own")
    return torch.cat(rows)


def _in_groups(
    model: Any,
    groups: Sequence[tuple[list[int], Inputs]],
    interventions: Sequence[Sequence[Hook] | Intervention],
    metric: Metric | Sequence[Metric] | None,
    run: Callable[..., list[T]],
    embedding: Embedding | None = None,
) -> list[T]:
    """Run the interventions on the prompts of each length; what each gives, in order."""
    prompts = sum(len(numbers) for numbers, _ in groups)
    metrics = None if metric is None else per_prompt(metric, prompts, "kn.probability(encoded.target_ids)")
    given = as_interventions(interventions, prompts)
    if embedding is not None and len(embedding) != prompts:
        raise ValueError(f"embedding hooks for {len(embedding)} prompts, but there are {prompts}")
    found: dict[int, T] = {}
    for numbers, inputs in groups:
        place = {number: row for row, number in enumerate(numbers)}
        own = [n for n, inter in enumerate(given) if inter.prompt in place]
        if own:
            runner = Runner(model, inputs, None if embedding is None else [embedding[n] for n in numbers])
            runs = [replace(given[n], prompt=place[given[n].prompt]) for n in own]
            own_metrics = None if metrics is None else [metrics[n] for n in numbers]
            found |= zip(own, run(runner, runs, own_metrics), strict=True)
    return [found[n] for n in range(len(given))]


def per_prompt(metric: Metric | Sequence[Metric], prompts: int, example: str) -> list[Metric]:
    if callable(metric):
        return [metric] * prompts
    if isinstance(metric, str):
        raise TypeError(f"metric={metric!r}: here a metric is a function of logits, e.g. {example}")
    metrics = several("metric", metric, f"{example}, or one per prompt")
    if len(metrics) != prompts or not all(map(callable, metrics)):
        raise ValueError(f"{len(metrics)} metrics for {prompts} prompts; give one function for all, or one per prompt")
    return metrics


@torch.no_grad()
def run_rows(
    runner: Runner, interventions: Sequence[Intervention], metrics: Sequence[Metric] | None = None
) -> list[Tensor]:
    """The rows of each intervention, on a runner that is kept for several rounds; `metrics` of each prompt."""
    if with_wrt := [n for n, inter in enumerate(interventions) if inter.wrt]:
        raise ValueError(f"intervention {with_wrt[0]} has wrt=, but sweep takes no gradients; use kn.sweep_gradients")

    def finish(result: PassOutput) -> dict[int, Tensor]:
        return _values(result, runner, interventions, metrics)

    return runner.run(interventions, finish, vocab_ids=_vocab_ids(metrics))


@dataclass(frozen=True, eq=False, repr=False)
class Derivative(Result):
    """An activation and the gradient of the metric by it, both `[row pos ...]`.

    ```python
    d = gradients.wrt["blocks.3.mlp.hook_post"]
    (d.activation * d.gradient).sum((0, 1))      # activation x gradient of every neuron
    ```
    """

    activation: Tensor
    gradient: Tensor

    def to_frame(self) -> pd.DataFrame:
        """One row: `[row pos ...]`, `largest activation`, `largest gradient`."""
        largest = [float(x.abs().max()) for x in (self.activation, self.gradient)]
        names = ["[row pos ...]", "largest activation", "largest gradient"]
        return pd.DataFrame([(str(list(self.gradient.shape)), *largest)], columns=names)


@dataclass(frozen=True, eq=False, repr=False)
class RowGradients(Result):
    """Gradients of one intervention of `sweep_gradients`.

    ```python
    [g] = kn.sweep_gradients(model, prompt, [kn.Intervention((), wrt=[(name, -1)])], kn.probability(answer_id))
    g.values, g.wrt[name].gradient
    ```
    """

    values: Float[Tensor, " row"]
    wrt: dict[str, Derivative]

    def describe(self) -> str:
        values = ", ".join(map(number, self.values[:5].tolist())) + (", ..." if len(self.values) > 5 else "")
        return f"RowGradients of the values {values}"

    def to_frame(self) -> pd.DataFrame:
        """One row per hook point: `by`, and the columns of `Derivative.to_frame`."""
        parts = [derivative.to_frame().assign(by=name) for name, derivative in self.wrt.items()]
        return pd.concat(parts, ignore_index=True).set_index("by").reset_index() if parts else pd.DataFrame()


def sweep_gradients(
    model: Any,
    prompts: PromptsOrTokens,
    interventions: Sequence[Intervention],
    metric: Metric | Sequence[Metric],
    *,
    pos: Positions | Sequence[Positions] = None,
    attention_mask: Tensor | None = None,
) -> list[RowGradients]:
    """The same with a backward pass: how a metric of each row depends on activations within that row.

    ```python
    name = "blocks.3.mlp.hook_post"
    halves = Intervention(kn.scale_site("mlp.hook_post", 3, 0.5), wrt=[(name, -1)])
    [g] = kn.sweep_gradients(model, prompt, [halves], kn.probability(answer_id))
    g.values, g.wrt[name].gradient        # [1], [1 1 d_mlp]
    ```

    `wrt` names hook points and positions; each is differentiated by as it is after this intervention's own hooks there.
    One `RowGradients` per intervention, in order; the model's parameters get no gradients.

    Raises:
        FloatingPointError: values or gradients that are not finite.
        RuntimeError: called within `torch.inference_mode()`.
    """
    return _in_groups(model, make_inputs(model, prompts, pos, attention_mask), interventions, metric, run_gradients)


def run_gradients(
    runner: Runner, interventions: Sequence[Intervention], metrics: Sequence[Metric]
) -> list[RowGradients]:
    """`sweep_gradients` on a runner that is kept for several rounds."""

    def finish(result: PassOutput) -> dict[int, RowGradients]:
        values = _values(result, runner, interventions, metrics)
        if result.logits.requires_grad and not any(rows.requires_grad for rows in values.values()):
            raise ValueError("the metric has no gradient; compute it from the logits with torch alone, without argmax")
        return _differentiate(values, result.watched)

    run = partial(runner.run, interventions, finish, gradients=True, vocab_ids=_vocab_ids(metrics))
    return with_gradients(runner.model, run)


def _vocab_ids(metrics: Sequence[Metric] | None) -> list[int] | None:
    """The tokens whose logits these metrics read; `None` if that may be all."""
    each = [m for metric in metrics or () for m in (metric.metrics if isinstance(metric, Several) else [metric])]
    found = {token for m in each if type(m) is LogitDifference for token in (m.target, m.foil)}
    return sorted(found) if found and all(type(m) is LogitDifference for m in each) and min(found) >= 0 else None


def _values(
    result: PassOutput, runner: Runner, interventions: Sequence[Intervention], metrics: Sequence[Metric] | None
) -> dict[int, Tensor]:
    """The metric of each intervention's rows; or their logits, `[row d_vocab]` where one position is asked for."""
    logits = {n: rows[:, 0] if runner.inputs.single else rows for n, rows in result.of_items().items()}
    if metrics is None:
        return logits
    vocab_ids = _vocab_ids(metrics)
    if vocab_ids is not None and result.logits.shape[-1] == len(vocab_ids):
        metrics = [m.among(vocab_ids) for m in metrics if isinstance(m, LogitDifference | Several)]
    return {n: apply_metric(metrics[interventions[n].prompt], rows) for n, rows in logits.items()}


def _differentiate(values: dict[int, Tensor], watched: dict[int, dict[str, Watched]]) -> dict[int, RowGradients]:
    keys = [(number, name) for number, of_item in watched.items() for name in of_item]
    activations = [watched[number][name] for number, name in keys]
    gradients: Sequence[Tensor] = []
    if activations:  # an intervention may be there for its value alone
        total = torch.cat(list(values.values())).sum()
        tensors = [w.tensor for w in activations]
        # A metric may not depend on an activation at all (a later position): then its gradient is zero.
        gradients = [torch.zeros_like(x) for x in tensors]
        if total.requires_grad:
            gradients = torch.autograd.grad(total, tensors, allow_unused=True, materialize_grads=True)
    finite = torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).tolist() if keys else []
    wrt: dict[int, dict[str, Derivative]] = {number: {} for number in values}
    for (item, name), w, gradient, right in zip(keys, activations, gradients, finite, strict=True):
        if not right:
            raise FloatingPointError(f"the gradient at {name} holds nan or inf; load the model in float32")
        wrt[item][name] = Derivative(w.select(w.tensor).detach(), w.select(gradient))
    return {number: RowGradients(rows.detach(), wrt[number]) for number, rows in values.items()}


@dataclass(frozen=True)
class Several:
    """Metrics of the same logits, which a pass makes once."""

    metrics: Sequence[Metric]

    def __call__(self, logits: Tensor) -> Float[Tensor, "row metric"]:
        return torch.stack([apply_metric(metric, logits) for metric in self.metrics], dim=-1)

    def among(self, tokens: Sequence[int]) -> "Several":
        return Several([m.among(tokens) for m in self.metrics if isinstance(m, LogitDifference)])


def apply_metric(metric: Metric, logits: Tensor) -> Float[Tensor, "row ..."]:
    """Values `[row]` of logits (of `Several`, `[row metric]`), checked: one per row, finite."""
    if isinstance(metric, Several):
        return metric(logits)
    values = None
    if logits.ndim == 2:
        # Of one row, `logits[:, -1]` of what is written for [row pos d_vocab] is a number that fits whatever it is
        # compared with: another row makes that an error. So does one more than tokens.
        more = logits if logits.shape[0] not in (1, logits.shape[1]) else torch.cat([logits, logits[:1]])
        with suppress(Exception):
            found = metric(more)
            values = found[: len(logits)] if found.shape == more.shape[:1] else None
    if values is None:
        values = metric(logits[:, None] if logits.ndim == 2 else logits)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the metric returned {shape} for {logits.shape[0]} rows of logits {tuple(logits.shape)}; it must return a "
            "tensor with one value per row, e.g. lambda logits: logits[:, target] - logits[:, foil]"
        )
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError("the metric is nan or inf: activations overflow; load the model in float32")
    return values
