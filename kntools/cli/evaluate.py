"""`kntools evaluate`: edits of many facts, and what they did to other questions."""

from __future__ import annotations

from typing import Annotated

import typer

from kntools.analyses import fig11_edit_consistency as edit_consistency
from kntools.analyses.edit_cases import EditData
from kntools.cli.analysis import RunOptions, choose, result_output
from kntools.cli.command import command
from kntools.cli.edit import RomeOptions
from kntools.cli.output import Output

METHODS = ("rome", "fine-tuning", "values")


@command
def evaluate(
    what: Annotated[EditData, typer.Argument(help="P36, P1376: symmetric facts; P101: synonyms.")],
    options: RunOptions,
    how: RomeOptions,
    method: Annotated[list[str] | None, typer.Option(help=f"{', '.join(METHODS)}; may be repeated (all).")] = None,
    limit: Annotated[int, typer.Option(help="Facts to edit.")] = 20,
    generations: Annotated[int, typer.Option(help="Facts of which the entropy of generated text is measured.")] = 0,
) -> Output:
    """Edit facts one by one, ask what follows from each, and undo it.

    Example: kntools evaluate counterfact --limit 20 --out edits
    """
    methods = choose("method", method, METHODS)
    model = options.load()
    found = edit_consistency.evaluate(
        model,
        what,
        **how.arguments(model),
        methods=methods,
        limit=limit,
        continuations=edit_consistency.Continuations(generations, seed=options.seed) if generations else None,
        seed=options.seed,
        run=options.kept,
    )
    return result_output(found, options, tables={}, rows="scores", cases=list(found.cases), skipped=found.skipped)
