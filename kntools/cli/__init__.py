"""The command line: one file per command, and `kntools figure` for all analyses.

A command is a function that returns an `Output` (`command.py`); options that commands share are fields of the
dataclasses that they take (`options.py`). Its module is imported when it runs (`group.py`).
"""

from __future__ import annotations

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
    "selection_methods": "figure:selection_methods",
    "planted_facts": "figure:planted_facts",
    "edit_layer": "edit_layer:edit_layer",
    "forgetting_curve": "evaluate:forgetting_curve",
    "tracing_and_editing": "edit_layer:tracing_and_editing",
