"""`kntools report`: all figures of Niu et al. 2024 on one model, on one page."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly

if TYPE_CHECKING:
    from kntools.report import Report


def report(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the page, tables, pictures, and the runs: goes on after a kill."),
    ],
    model: options.Model = options.DEFAULT_MODEL,
    quick: Annotated[bool, typer.Option("--quick", help="Minutes for a small model, with wide intervals.")] = False,
    figures: Annotated[
        list[str] | None,
        typer.Option(help="facts, 1 to 11, or the name of an analysis; may be repeated (default: all)."),
    ] = None,
    bos: options.Bos = None,
    seed: Annotated[int, typer.Option(help="Of samples, nulls, noise and generated text.")] = 0,
    as_json: options.Json = False,
    device: options.Device = None,
    max_rows: options.MaxRows = None,
    debug: options.Debug = False,
) -> None:
    """Run all analyses on a model, and write one page that opens offline.

    Example: kntools report --model smollm2-135m --no-bos --quick --out report
    """
    given = dict(locals())
    with friendly(debug):
        from kntools.data.sources import STANDS_IN
        from kntools.report import FULL, QUICK, Study, build, choose
        from kntools.results import processes

        chosen = choose(figures or [])  # an unknown one is told before a model is loaded
        loaded = common.load(model, device or processes.device())
        study = Study(
            loaded,
            QUICK if quick else FULL,
            out=out,
            seed=seed,
            prepend_bos=bos,
            max_rows=max_rows,
            progress=common.show_progress(),
        )
        if study.stand_ins and processes.is_main():
            typer.echo(
                f"kntools: not at hand: {', '.join(study.stand_ins)}; the built-in sample stands in. Set KNTOOLS_DATA "
                "to the folder that holds them for more",
                err=True,
            )
        warnings.filterwarnings("ignore", message=STANDS_IN)  # said once; `friendly` puts the filters back
        command = common.command_line(report, {**given, "figures": None, "device": None, "max_rows": None})
        done = build(study, chosen, command=command, tell=_tell)
        if not processes.is_main():
            return
        if as_json:
            common.print_json(_json(done, study.header))
        else:
            _print(done)


def _tell(line: str) -> None:
    from kntools.results import processes

    if processes.is_main():
        typer.echo(f"{line} ...", err=True)


def _json(done: Report, header: dict[str, object]) -> dict[str, object]:
    return {
        "command": "report",
        **header,
        "figures": [
            {"figure": f.key, "analysis": f.name, "finding": s.finding, "n": s.n, "notes": list(s.notes)}
            for f, s in done.shown
        ],
        "page": str(done.page),
        "files": [str(file) for file in done.files],
        "note": done.note,
    }


def _print(done: Report) -> None:
    for figure, shown in done.shown:
        typer.echo(f"{figure.heading}\n  {shown.finding}\n")
    if done.note:
        typer.echo(done.note, err=True)
    typer.echo(f"{len(done.files)} files. The page: {done.page}")
