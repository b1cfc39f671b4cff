"""`kntools evaluate`: edits of many facts, and their effects on other questions."""

from dataclasses import dataclass
from typing import Annotated, Any

from typer import Argument, Option

from kntools import analyses
from kntools.analyses.edit_cases import EditData, make_cases
from kntools.analyses.edit_measures import Continuations
from kntools.analyses.edit_methods import EDITORS, Editor, editors
from kntools.analyses.forgetting import ORDERS
from kntools.arguments import without_effect
from kntools.cli.analysis import RunOptions, choose, result_output
from kntools.cli.command import command
from kntools.cli.edit import RomeOptions
from kntools.cli.options import changed, method
from kntools.cli.output import Output

_VALUES = set(EDITORS) - {"edit_values", "fine_tune"}  # editors that search for a value
_READ_BY = {"layer": {*_VALUES, "fine_tune"}, "steps": _VALUES, "second_moment": _VALUES}
_READ_BY |= {"key": {"rome"}, "bound": {"fine_tune"}}


@dataclass(frozen=True, kw_only=True)
class EditorOptions(RomeOptions):
    methods: Annotated[
        list[str] | None,
        method("--method", help=f"{', '.join(EDITORS)}; one or several (all; alpha_edit needs --second-moment)."),
    ] = None
    bound: Annotated[float, method(help="Largest change of a weight by fine_tune.")] = 5e-4

    def load(self, options: RunOptions) -> tuple[Any, dict[str, Editor]]:
        """The model, and the editors; a wrong name is an error before the model is loaded."""
        chosen = choose("method", self.methods, EDITORS)
        for name, value in changed(self).items():
            if name in _READ_BY and not set(chosen) & _READ_BY[name]:
                without_effect(f"on {', '.join(chosen)}", **{name: value})
        model = options.load()
        return model, editors(
            model, self.methods, **self.arguments(model), second_moment=self.moments(), bound=self.bound
        )


@command
def evaluate(
    what: Annotated[EditData, Argument(help="P36, P1376: symmetric facts; P101: synonyms; P27: two hops.")],
    options: RunOptions,
    how: EditorOptions,
    limit: Annotated[int, Option(min=1, help="Facts to edit.")] = 20,
    generations: Annotated[int, Option(min=0, help="Number of facts for the entropy of generated text.")] = 0,
    together: Annotated[int, Option(min=1, help="Facts in shared passes; more are faster and need memory.")] = 8,
) -> Output:
    """Edit facts one by one with several editors and score the answers after each edit.

    Example: kntools evaluate counterfact --method rome --method emmet --limit 20 --out edits
    """
    if what != "counterfact":
        without_effect(f"for {what}, whose facts have no texts to continue", generations=generations or None)
    model, methods = how.load(options)
    cases, drawn = make_cases(model, what, limit, seed=options.seed), Continuations(generations, seed=options.seed)
    found = analyses.edit_consistency(model, cases, methods, continuations=drawn, together=together, run=options.kept)
    return result_output(found, options, tables={}, rows="scores", cases=list(found.cases), skipped=found.skipped)


@command
def forgetting_curve(
    what: Annotated[EditData, Argument(help="Data set of the facts.")],
    options: RunOptions,
    how: EditorOptions,
    edits: Annotated[
        list[int] | None, Option(min=1, help="A number of edits; one or several (1, 10, 50, 100).")
    ] = None,
    order: Annotated[list[str] | None, Option(help=f"{', '.join(ORDERS)} (both).")] = None,
) -> Output:
    """Success of 1, 10, 50 and 100 edits, made at once and in sequence, by several editors.

    Example: kntools figure forgetting_curve counterfact --method rome --method emmet --edits 10 --out forgotten
    """
    orders = choose("order", order, ORDERS)
    model, methods = how.load(options)
    counts = edits or [1, 10, 50, 100]
    cases = make_cases(model, what, max(counts), seed=options.seed)
    found = analyses.forgetting_curve(model, cases, methods, counts=counts, orders=orders, run=options.kept)
    return result_output(found, options, tables={"summary": found.summary()})
