"""`kntools evaluate`: edits of many facts, and what they did to other questions."""

from __future__ import annotations

from typing import Annotated

import typer

from kntools.analyses.edit_cases import EditData, make_cases
from kntools.analyses.edit_measures import Continuations
from kntools.analyses.edit_methods import EDITORS, editors
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.cli.analysis import RunOptions, choose, result_output
from kntools.cli.command import command
from kntools.cli.edit import RomeOptions
from kntools.cli.output import Output

Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help=f"{', '.join(EDITORS)}; one or several (all; alpha_edit needs --second-moment)."),
]
Bound = Annotated[float, typer.Option(help="The largest change of a weight by fine_tune.")]


@command
def evaluate(
    what: Annotated[EditData, typer.Argument(help="P36, P1376: symmetric facts; P101: synonyms; P27: two hops.")],
    options: RunOptions,
    how: RomeOptions,
    method: Methods = None,
    limit: Annotated[int, typer.Option(help="Facts to edit.")] = 20,
    generations: Annotated[int, typer.Option(help="Facts of which the entropy of generated text is measured.")] = 0,
    bound: Bound = 5e-4,
) -> Output:
    """Edit facts one by one by several editors, ask what follows from each, and undo it.

    Example: kntools evaluate counterfact --method rome --method emmet --limit 20 --out edits
    """
    if method:
        choose("method", method, EDITORS)
    model = options.load()
    methods = editors(model, method, **how.arguments(model), bound=bound)
    cases, drawn = make_cases(model, what, limit, seed=options.seed), Continuations(generations, seed=options.seed)
    found = edit_consistency(model, cases, methods, continuations=drawn, run=options.kept)
    return result_output(found, options, tables={}, rows="scores", cases=list(found.cases), skipped=found.skipped)
