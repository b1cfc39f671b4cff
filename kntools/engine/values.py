"""What the logits of a pass become: the values of metrics, one per row, and their gradients by activations."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import several
from kntools.engine.forward import PassOutput
from kntools.metrics import LogitDifference
from kntools.results.display import number
from kntools.results.result import Result

#: From logits `[row d_vocab]` (or `[row pos d_vocab]`, if several positions are asked for) to one value per row.
Metric = Callable[[Tensor], Tensor]


def per_prompt(metric: Metric | Sequence[Metric], prompts: int, example: str) -> list[Metric]:
    if callable(metric):
        return [metric] * prompts
    if isinstance(metric, str):
        raise TypeError(f"metric={metric!r}: here a metric is a function of logits, e.g. {example}")
    metrics = several("metric", metric, f"{example}, or one per prompt")
    if len(metrics) != prompts or not all(map(callable, metrics)):
        raise ValueError(f"{len(metrics)} metrics for {prompts} prompts; give one function for all, or one per prompt")
    return metrics


@dataclass(frozen=True)
class Several:
    """Metrics of the same logits, which a pass makes once."""

    metrics: Sequence[Metric]

    def __call__(self, logits: Tensor) -> Float[Tensor, "row metric"]:
        return torch.stack([apply_metric(metric, logits) for metric in self.metrics], dim=-1)

    def among(self, tokens: Sequence[int]) -> "Several":
        return Several([m.among(tokens) for m in self.metrics if isinstance(m, LogitDifference)])


def vocab_ids_of(metrics: Sequence[Metric], words: int) -> list[int] | None:
    """The tokens, of so many, whose logits these metrics read; `None` if that may be all, or an error to come."""
    each = [m for metric in metrics for m in (metric.metrics if isinstance(metric, Several) else [metric])]
    found = {token for m in each if type(m) is LogitDifference for token in (m.target, m.foil)}
    few = found and all(type(m) is LogitDifference for m in each) and 0 <= min(found) <= max(found) < words
    return sorted(found) if few else None


def metric_values(
    logits: dict[int, Tensor], metrics: dict[int, Metric], vocab_ids: Sequence[int] | None
) -> dict[int, Tensor]:
    """The metric of each item's rows. If a pass was asked for `vocab_ids` alone, its logits may be those."""
    values = {}
    for n, rows in logits.items():
        metric = metrics[n]
        if isinstance(metric, LogitDifference | Several) and vocab_ids and rows.shape[-1] == len(vocab_ids):
            metric = metric.among(vocab_ids)
        values[n] = apply_metric(metric, rows)
    return values


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


def differentiate(values: dict[int, Tensor], output: PassOutput) -> dict[int, tuple[Tensor, dict[str, Derivative]]]:
    """The values of each item, and their derivatives by its watched activations."""
    depends = any(rows.requires_grad for rows in values.values())
    if not depends and any(rows.requires_grad for rows in output.logits.values()):
        raise ValueError("the metric has no gradient; compute it from the logits with torch alone, without argmax")
    watched = [(n, name, w) for n, own in output.watched.items() for name, w in own.items()]
    tensors = [w.tensor for *_, w in watched]
    # A metric may not depend on an activation at all (a later position): then its gradient is zero.
    gradients: Sequence[Tensor] = [torch.zeros_like(x) for x in tensors]
    if tensors and depends:  # an intervention may be there for its value alone
        total = torch.cat(list(values.values())).sum()
        gradients = torch.autograd.grad(total, tensors, allow_unused=True, materialize_grads=True)
    finite = torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).tolist() if tensors else []
    wrt: dict[int, dict[str, Derivative]] = {n: {} for n in values}
    for (n, name, w), gradient, right in zip(watched, gradients, finite, strict=True):
        if not right:
            raise FloatingPointError(f"the gradient at {name} holds nan or inf; load the model in float32")
        wrt[n][name] = Derivative(w.select(w.tensor).detach(), w.select(gradient))
    return {n: (rows.detach(), wrt[n]) for n, rows in values.items()}
