"""The command line: one file per command, and `kntools figure` for all analyses.

A command is a function that returns an `Output` (`command.py`); options that commands share are fields of the
dataclasses that they take (`options.py`). Its module is imported when it runs (`group.py`).
"""

from importlib.metadata import version
from typing import Annotated

import typer

from kntools.cli.group import HELP, LateCommand, group_of

COMMANDS = ("attribute", "search", "card", "patch", "trace", "edit", "evaluate", "report")
# Where the command of each figure is, in the order of the paper.
FIGURES = {
    "attribution_profile": "figure:attribution_profile",
    "pair_search": "figure:pair_search",
    "localisation": "figure:localisation",
    "layer_distribution": "figure:layer_distribution",
    "suppression_effect": "figure:suppression_effect",
    "cooccurrence_bias": "figure:cooccurrence_bias",
    "probability_shift": "figure:probability_shift",
    "reliability": "figure:reliability",
    "tracing_profile": "figure:tracing_profile",
    "edit_examples": "edit:edit",
    "edit_consistency": "evaluate:evaluate",
}
OTHER_ANALYSES = {
    "transfer": "figure:transfer",
    "selection_methods": "figure:selection_methods",
    "planted_facts": "figure:planted_facts",
    "edit_layer": "edit_layer:edit_layer",
    "forgetting_curve": "evaluate:forgetting_curve",
    "tracing_and_editing": "edit_layer:tracing_and_editing",
}

_numbered = list(enumerate(FIGURES.items(), start=1))
figures = typer.Typer(
    cls=group_of(
        {
            **{name: LateCommand(name, place, prefix=f"{number}: ") for number, (name, place) in _numbered},
            **{str(number): LateCommand(str(number), place, hidden=True) for number, (_, place) in _numbered},
            **{name: LateCommand(name, place) for name, place in OTHER_ANALYSES.items()},
        }
    ),
    no_args_is_help=True,
)
app = typer.Typer(
    name="kntools",
    cls=group_of({name: LateCommand(name, f"{name}:{name}") for name in COMMANDS}),
    context_settings=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(figures, name="figure")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kntools {version('kntools')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Knowledge-neuron research on any model that TransformerLens can load."""


@figures.callback()
def _figures() -> None:
    """Run one analysis of Niu et al. 2024, by number or by name."""
