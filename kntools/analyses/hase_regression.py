"""Does the causal trace of a layer say how well a fact is edited there (Hase et al. 2023)?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.edit_cases import Case
from kntools.analyses.edit_measures import Continuations
from kntools.analyses.edit_methods import Method, settings_of
from kntools.analyses.edit_result import EDITED, probability_of
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.analyses.neuron_search import beside, open_run
from kntools.analyses.prompt_group import prompt_item
from kntools.arguments import check_list, shown, whole
from kntools.engine.inputs import check_choice
from kntools.models import adapter
from kntools.results.statistics import statistic_interval
from kntools.results.table import Table
from kntools.tracing.causal_tracing import causal_trace
from kntools.tracing.restoration import Kind
from kntools.tracing.weak_corruption import unwarned


class TracingAndEditing(Table):
    """One row per fact and layer: `fact, layer, effect, success`.

    `effect` is the indirect effect of the layer at the subject's last token, `success` the share of the way to 1 that
    the new answer's probability goes: (after - before) / (1 - before), Hase's rewrite score.
    """

    def summary(self) -> pd.DataFrame:
        """R^2 of success on the layer (a dummy for each), on the effect, and on both; and what the effect adds.
        Intervals are bootstraps over facts, each with all of its layers.
        """
        success, effect = (self._wide(name) for name in ("success", "effect"))
        rows = []
        for name, at in (("layer", 0), ("effect", 1), ("layer and effect", 2), ("gain", 3)):

            def statistic(drawn: Tensor, at: int = at) -> Tensor:
                return r_squared(success[drawn], effect[drawn])[..., at]

            low, high = statistic_interval(statistic, len(success), resamples=1000, seed=0)
            rows.append((name, float(r_squared(success, effect)[at]), low, high, len(success), success.shape[1]))
        return pd.DataFrame(rows, columns=["success on", "r2", "low", "high", "facts", "layers"])

    def tables(self) -> dict[str, pd.DataFrame]:
        means = self.frame.groupby("layer", as_index=False)[["effect", "success"]].mean()
        return {"regression": self.summary(), "layers": means}

    def plot(self, **look: Any) -> Any:
        """A dot per fact and layer: effect and success, coloured by layer."""
        from kntools.plots.charts import scatter_chart

        labels = {"effect": "indirect effect of the layer", "success": "success of the edit in the layer"}
        frame = self.frame.assign(layer=self.frame["layer"].astype(float))
        options = {"color": "layer", "hover_data": ["fact"], "labels": labels, "title": self.describe(), **look}
        return scatter_chart(frame, "effect", "success", **options)

    def describe(self) -> str:
        layer, _, both, gain = r_squared(self._wide("success"), self._wide("effect")).tolist()
        facts, layers = self.frame["fact"].nunique(), self.frame["layer"].nunique()
        return (
            f"Success of edits, {facts} facts x {layers} layers ({self.provenance['model']}): R^2 {layer:.3f} by "
            f"layer, {both:.3f} with the tracing effect (gain {gain:.3f})"
        )

    def _wide(self, name: str) -> Float[Tensor, "fact layer"]:
        wide = self.frame.pivot(index="fact", columns="layer", values=name)
        return torch.tensor(wide.loc[self.frame["fact"].unique()].to_numpy(), dtype=torch.float64)


def r_squared(
    success: Float[Tensor, "*sample fact layer"], effect: Float[Tensor, "*sample fact layer"]
) -> Float[Tensor, "*sample 4"]:
    """R^2 of least squares on layer dummies, on the effect, on both, and the gain of both over the layer.

    With a dummy for each layer, the slope on the effect is that of the deviations from each layer's means (Frisch and
    Waugh 1933). Where all successes are the same there is nothing to explain: nan.
    """
    every = (-2, -1)
    y, x = (_deviations(values, every) for values in (success, effect))
    within, moved = (_deviations(values, (-2,)) for values in (success, effect))
    total = (y**2).sum(every)
    layer, alone, gain = 1 - (within**2).sum(every) / total, _explained(y, x) / total, _explained(within, moved) / total
    return torch.stack([layer, alone, layer + gain, gain], -1)


def _deviations(values: Float[Tensor, "*sample fact layer"], axes: tuple[int, ...]) -> Tensor:
    """From the mean; what is rounding alone is 0."""
    moved = values - values.mean(axes, keepdim=True)
    return torch.where(moved.abs() > 1e-12 * values.abs().amax((-2, -1), keepdim=True), moved, 0.0)


def _explained(y: Float[Tensor, "*sample fact layer"], x: Float[Tensor, "*sample fact layer"]) -> Tensor:
    """The sum of squares of y that a slope on x explains; both have mean 0."""
    size, both = (x**2).sum((-2, -1)), (x * y).sum((-2, -1))
    return torch.where(size > 0, both**2 / size, 0.0)


def tracing_and_editing(
    model: Any,
    cases: Sequence[Case],
    methods: Mapping[int, Method],
    *,
    kind: Kind = "hidden",
    window: int = 1,
    samples: int = 10,
    seed: int = 0,
    run: str | Path | None = None,
) -> TracingAndEditing:
    """Trace each fact, edit it in every layer, and regress the success of the edit on layer and tracing effect.

    ```python
    methods = {layer: rome_method(layer, moments.get(layer)) for layer in range(model.cfg.n_layers)}
    found = tracing_and_editing(model, make_cases(model, "counterfact", 40), methods)
    found.summary()          # R^2 with and without the effect
    ```

    Arguments:
        cases: facts that the model knows, from `make_cases`.
        methods: layer -> how to edit there.
        kind, window, samples: of `kn.causal_trace`. Fact i draws its noise with `seed + i`.
        run: traces are kept beside it, in a file whose name ends in `-traces`.

    Raises:
        ValueError: no cases or methods, fewer than three facts that can be edited in all layers, or another run's file.
    """
    check_list("cases", cases, Case, "make_cases(model, 'counterfact', 40)")
    if not methods or not isinstance(methods, Mapping):
        raise ValueError(f"methods={shown(methods)}; give a method for each layer, {{layer: rome_method(layer, C)}}")
    check_choice("kind", kind, get_args(Kind))
    named = {str(adapter.check_layer(model, layer)): method for layer, method in methods.items()}
    how = {"traced": kind, "window": whole("window", window, 1), "samples": whole("samples", samples, 1), "seed": seed}
    folder = open_run(beside(run, "traces"), "traces of edited facts", model, **how, methods=settings_of(named))
    plain = Continuations(answer=0, unrelated=())
    facts = [replace(case, questions=tuple(q for q in case.questions if q.role in EDITED)) for case in cases]
    edited = edit_consistency(model, facts, named, continuations=plain, run=run)
    if len(edited.cases) < 3:
        left_out = edited.skipped or "none"
        raise ValueError(f"{len(edited.cases)} facts (left out: {left_out}), a regression needs 3; give more facts")

    def trace(numbered: tuple[int, Case]) -> list[float]:
        number, case = numbered
        asked = replace(case.prompt, multi_token="first")
        width: dict[str, Any] = {"window": window} if kind != "hidden" else {}
        with unwarned():
            found = causal_trace(model, asked, kind=kind, samples=samples, seed=seed + number, **width)
        return found.effect[:, found.subject[-1]].tolist()

    kept = [(number, case) for number, case in enumerate(cases) if case.key in edited.cases]
    effects = folder.each(kept, key=lambda item: f"{item[0]}/{prompt_item(item[1].prompt)}", make=trace, unit="trace")
    rows = []
    for n, ((_, case), effect) in enumerate(zip(kept, effects, strict=True)):
        before = probability_of(edited.before[n])
        for layer in methods:
            after = probability_of(edited.after[str(layer)][n])
            success = (after - before) / (1 - before)
            rows.append({"fact": case.key, "layer": layer, "effect": effect[layer], "success": success})
    if not all(math.isfinite(row["success"]) for row in rows):
        raise FloatingPointError("a probability is nan; load the model in float32")
    return TracingAndEditing.of(rows, folder.header, skipped=edited.skipped)
