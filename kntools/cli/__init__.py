"""The command line: `kntools attribute`, `kntools search`, `kntools patch`, `kntools trace`, `kntools edit`,
`kntools evaluate`, `kntools localise`, `kntools report`.

One file per command. What a command needs is imported when it runs, so that one command does not wait for the others.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from kntools.cli.attribute import attribute
from kntools.cli.edit import edit
from kntools.cli.evaluate import evaluate
from kntools.cli.localise import localise
from kntools.cli.patch import patch
from kntools.cli.report import report
from kntools.cli.search import search
from kntools.cli.trace import trace

app = typer.Typer(
    name="kntools",
    help="Knowledge-neuron research on any model that TransformerLens can load.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"kntools {version('kntools')}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Knowledge-neuron research on any model that TransformerLens can load."""


app.command()(attribute)
app.command()(search)
app.command()(patch)
app.command()(trace)
app.command()(edit)
app.command()(evaluate)
app.command()(localise)
app.command()(report)
