"""How much of many edits is left: of so many made at once, and of so many made one after the other."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from kntools.analyses.edit_cases import Case
from kntools.analyses.edit_measures import Continuations, measure
from kntools.analyses.edit_methods import Editor, Method, Moments, chosen_editors, same_weights, settings_of
from kntools.analyses.edit_result import SCORES, Payload, interval_of
from kntools.analyses.neuron_search import local_seed, open_run
from kntools.arguments import check_list, several, whole, without_effect
from kntools.editing.rome_value import shared_values
from kntools.editing.weight_edits import AppliedAlready, WeightEdit
from kntools.engine.inputs import check_choice
from kntools.results.table import Row, Table

Order = Literal["at once", "in sequence"]
ORDERS: tuple[Order, ...] = get_args(Order)
_SHOWN = ("reliability, exact", "reliability, free", "neighborhood", "perplexity")


class ForgettingCurve(Table):
    """One row per editor, order, number of edits and score: `editor, order, edits, failed, score, n, value, low, high`.

    `failed` counts edits that could not be made; their facts are asked all the same. `before` is the unedited model.
    """

    def summary(self) -> pd.DataFrame:
        """The leading scores, one column each."""
        at = ["editor", "order", "edits", "failed"]
        wide = self.frame.pivot_table("value", at, "score", sort=False)
        return wide[[s for s in _SHOWN if s in wide]].reset_index().rename_axis(columns=None)

    def plot(self, *, score: str = "reliability, exact", **look: Any) -> Any:
        """A bar per editor and number of edits, a panel per order, with intervals."""
        from kntools.plots.charts import bar_chart

        chosen = self.frame[self.frame["score"] == score]
        if chosen.empty:
            raise ValueError(f"no score {score!r}; there are {sorted(set(self.frame['score']))}")
        counts = chosen.assign(edits=chosen["edits"].astype(str))
        options = {"color": "editor", "facet_col": "order", "labels": {"value": score}, "title": self.describe()}
        return bar_chart(counts, "edits", "value", **{**options, **look}).update_xaxes(type="category")

    def describe(self) -> str:
        return f"Forgetting of up to {self.frame['edits'].max()} edits ({self.provenance['model']})"


def forgetting_curve(
    model: Any,
    cases: Sequence[Case],
    methods: Mapping[str, Method] | Sequence[str] | None = None,
    *,
    counts: Sequence[int] = (1, 10, 50, 100),
    orders: Sequence[Order] = ORDERS,
    layer: int | None = None,
    second_moment: Moments = None,
    continuations: Continuations | None = None,
    run: str | Path | None = None,
) -> ForgettingCurve:
    """Edit the first 1, 10, 50 and 100 facts, at once and in sequence, and score all of them.

    ```python
    cases = make_cases(model, "counterfact", 100)
    forgetting_curve(model, cases, ["rome", "emmet"], layer=5, second_moment=C).plot()
    ```

    At once, `emmet`, `memit` and `alpha_edit` solve all facts together; edits of the other editors are made on the
    unedited model and add up; one that two facts need is applied once. In sequence each edit is made on the model that
    the earlier ones have edited; joint editors preserve its outputs for the earlier keys.

    Arguments:
        cases: from `make_cases`; edited in this order.
        methods, layer, second_moment, continuations: as in `edit_consistency`; the perplexity is of the whole state.
        counts: at most as many as there are cases.
        orders: one of the two alone; in sequence takes far longer, since no two edits share a pass.

    Raises:
        ValueError: counts that are not 1 to `len(cases)`, no editors, an unknown order, or the file of another run.
    """
    chosen = chosen_editors(model, methods, layer, second_moment)
    check_list("cases", cases, Case, "make_cases(model, 'counterfact', 100)")
    sizes = sorted({whole("counts", count, 1, len(cases)) for count in several("counts", counts, "[1, 10]")})
    if not sizes:
        raise ValueError("counts is empty; give numbers of edits, e.g. [1, 10, 100]")
    named = several("orders", orders, "['at once']")
    for order in named:
        check_choice("orders", order, ORDERS)
    wanted = [order for order in ORDERS if order in named]
    if not wanted:
        raise ValueError(f"orders is empty; give some of {list(ORDERS)}")
    how = continuations or Continuations()
    without_effect("in a forgetting curve, which has no entropy", **{"Continuations.cases": how.cases or None})
    written = {"methods": settings_of(chosen), "counts": sizes, "orders": wanted, "continuations": asdict(how)}
    written["cases"] = [[case.key, local_seed(case)] for case in cases[: sizes[-1]]]
    folder = open_run(run, "forgetting curve", model, **written)
    each = replace(how, unrelated=())

    def state(count: int, failed: int) -> Row:
        """What the model says now to the first cases."""
        answers = measure(model, cases[:count], each)
        return {
            "failed": failed,
            "answers": answers,
            "perplexity": how.perplexities(model, [()])[0] if how.unrelated else None,
        }

    def apply(applied: ExitStack, edits: Sequence[WeightEdit]) -> None:
        for edit in several("edits of a method", edits, "one for each fact"):
            with suppress(AppliedAlready):  # another fact needs the same change
                applied.enter_context(edit.applied(model))

    def make(item: tuple[str, str, int]) -> dict[str, Row]:
        name, order, count = item
        if name == "before":
            return {str(size): state(size, 0) for size in sizes}
        with ExitStack() as applied:
            if order == "at once":
                edits, failed = _at_once(model, chosen[name], cases[:count])
                apply(applied, edits)
                return {str(count): state(count, failed)}
            found, failed = {}, 0
            for n, case in enumerate(cases[:count], start=1):
                try:
                    edits = chosen[name](model, [case.prompt], [case.target])
                except (ValueError, FloatingPointError):
                    failed += 1
                else:
                    apply(applied, edits)
                if n in sizes:
                    found[str(n)] = state(n, failed)
            return found

    states = {"at once": sizes, "in sequence": sizes[-1:]}  # a sequence goes through all sizes
    items = [("before", "", sizes[-1])]
    items += [(name, order, size) for order in wanted for name in chosen for size in states[order]]
    with same_weights(model), shared_values():
        payloads = folder.each(items, key=lambda item: "/".join(map(str, item)), make=make, unit="run")
    rows: list[Row] = []
    for (name, order, _), payload in zip(items, payloads, strict=True):
        for size, found in payload.items():
            for panel in [order] if order else wanted:
                at = {"editor": name, "order": panel, "edits": int(size), "failed": found["failed"]}
                rows += [{**at, **row} for row in _scores(found)]
    return ForgettingCurve.of(rows, folder.header)


def _at_once(model: Any, method: Method, cases: Sequence[Case]) -> tuple[Sequence[WeightEdit], int]:
    """Edits to be applied together, and how many facts they leave out because they cannot be edited."""
    edit = method.at_once if isinstance(method, Editor) else method
    try:
        edits = edit(model, [case.prompt for case in cases], [case.target for case in cases])
        return several("edits of a method", edits, "one for each fact"), 0
    except (ValueError, FloatingPointError):
        if len(cases) == 1 or (isinstance(method, Editor) and method.joint is not None):
            return [], len(cases)
    parts = [_at_once(model, method, [case]) for case in cases]
    return [edit for edits, _ in parts for edit in edits], sum(failed for _, failed in parts)


def _scores(found: Row) -> list[Row]:
    payloads: list[Payload] = found["answers"]
    rows = []
    for score, of in SCORES.items():
        values = [value for value in map(of, payloads) if value is not None]
        if values:
            mean, low, high = interval_of(score, values).values()
            rows.append({"score": score, "n": len(values), "value": mean, "low": low, "high": high})
    if found["perplexity"] is not None:
        nan = float("nan")
        rows.append({"score": "perplexity", "n": 1, "value": found["perplexity"], "low": nan, "high": nan})
    return rows
