"""The command line: one file per command, and `kntools figure` for all analyses.

A command is a function that returns an `Output` (`command.py`); options that commands share are fields of the
dataclasses that they take (`options.py`).
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from kntools.cli.attribute import attribute
from kntools.cli.card import card
from kntools.cli.command import Group
from kntools.cli.edit import edit
from kntools.cli.evaluate import evaluate
from kntools.cli.figure import figure
from kntools.cli.patch import patch
from kntools.cli.report import report
from kntools.cli.search import search
from kntools.cli.trace import trace

app = typer.Typer(
    name="kntools",
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
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


for _command in (attribute, search, card, patch, trace, edit, evaluate, report):
    app.command()(_command)
app.add_typer(figure, name="figure", help="Run one analysis of Niu et al. 2024, by number or by name.")
