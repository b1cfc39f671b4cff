"""`kntools evaluate`: edits of many facts, and what they did to other questions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly
from kntools.files import write


class What(StrEnum):
    """Which facts; see `kntools.analyses.fig11_edit_consistency`."""

    counterfact = "counterfact"
    P36 = "P36"
    P1376 = "P1376"
    P101 = "P101"


def evaluate(
    what: Annotated[What, typer.Argument(help="counterfact, P36, P1376 (symmetric facts) or P101 (synonyms).")],
    model: options.Model = options.DEFAULT_MODEL,
    layer: Annotated[
        int | None, typer.Option(help="Layer to edit (default: published, or at a sixth of the depth).")
    ] = None,
    second_moment: Annotated[
        Path | None, typer.Option(help="C of that layer, as SecondMoment.save wrote it (default: C = I).")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="rome, fine-tuning, values (default: all).")] = None,
    limit: Annotated[int, typer.Option(help="Facts to edit.")] = 20,
    steps: Annotated[int, typer.Option(help="Steps of the value optimisation.")] = 20,
    generations: Annotated[int, typer.Option(help="Facts of which the entropy of generated text is measured.")] = 0,
    bos: options.Bos = None,
    seed: Annotated[int, typer.Option(help="Of the facts' new answers, and of generated text.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for a figure, a table (CSV), and the run: goes on after a kill."),
    ] = None,
    as_json: options.Json = False,
    device: options.Device = None,
    debug: options.Debug = False,
) -> None:
    """Edit facts one by one, ask what follows from each, and undo it.

    Example: kntools evaluate counterfact --limit 20 --out edits
    """
    with friendly(debug):
        loaded = common.load(model, device)

        from kntools.analyses.fig11_edit_consistency import evaluate as run
        from kntools.editing.rome_settings import settings_for

        result = run(
            loaded,
            what.value,
            layer=settings_for(loaded)["layer"] if layer is None else layer,
            second_moment=second_moment,
            methods=method or ("rome", "fine-tuning", "values"),
            limit=limit,
            steps=steps,
            generations=generations,
            seed=seed,
            prepend_bos=bos,
            run=None if out is None else out / "run",
            progress=common.show_progress(),
        )
        files = []
        if out is not None:
            files = [str(result.save(out / "scores.csv")), str(out / "index.html")]
            write(files[1], result.plot().to_html(include_plotlyjs=True))
        frame = result.to_frame()
        if as_json:
            common.print_json(
                {
                    "command": "evaluate",
                    **result.header,
                    "cases": list(result.cases),
                    "skipped": result.skipped,
                    "scores": frame.to_dict("records"),
                    "files": files,
                }
            )
        else:
            rows = [
                [
                    r["method"],
                    r["condition"],
                    r["score"],
                    f"{r['value']:.3f}",
                    f"{r['low']:.3f} to {r['high']:.3f}",
                    str(r["n"]),
                ]
                for r in frame.to_dict("records")
            ]
            common.print_table(
                ["method", "condition", "score", "value", "95 %", "n"],
                rows,
                title=f"Edits of {len(result.cases)} facts ({what.value}), every one undone",
                notes=[
                    *(f"left out: {n} ({why})" for why, n in result.skipped.items()),
                    *(f"wrote {f}" for f in files),
                ],
            )
