"""Options that commands share, each written down once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODEL = "smollm2-135m"


class Rule(StrEnum):
    """How the integral is done; see `integrated_gradients`."""

    adaptive = "adaptive"
    midpoint = "midpoint"
    gauss_legendre = "gauss_legendre"
    dai = "dai"
    kn_thesis = "kn_thesis"


class MultiToken(StrEnum):
    """What to do with an answer of several tokens; see `encode`."""

    error = "error"
    first = "first"
    sum = "sum"


_METHOD = "Method"
_OUTPUT = "Output"
_RUNNING = "Running"

Model = Annotated[
    str, typer.Option("--model", "-m", help="smollm2-135m, tiny-bert, a local folder or a Hugging Face id.")
]
RuleOption = Annotated[Rule, typer.Option("--rule", help="Rule of integration.", rich_help_panel=_METHOD)]
Steps = Annotated[int, typer.Option(help="Nodes of a fixed rule (all but adaptive).", rich_help_panel=_METHOD)]
Tol = Annotated[float, typer.Option(help="Relative residual per layer that adaptive allows.", rich_help_panel=_METHOD)]
MultiTokenOption = Annotated[
    MultiToken,
    typer.Option("--multi-token", help="An answer of several tokens: error, first one only, or all (sum).",
                 rich_help_panel=_METHOD),
]  # fmt: skip
Bos = Annotated[
    bool | None,
    typer.Option("--bos/--no-bos", help="Beginning-of-sequence token first (default: the model's own way).",
                 rich_help_panel=_METHOD),
]  # fmt: skip
Draws = Annotated[
    int,
    typer.Option(help="Draws of random neurons that the found ones are compared with; 0: no check.",
                 rich_help_panel=_METHOD),
]  # fmt: skip
Seed = Annotated[int, typer.Option(help="Seed of the random neurons.", rich_help_panel=_METHOD)]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for a page (index.html), the scores (safetensors) and tables (CSV).",
                 rich_help_panel=_OUTPUT),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else to stdout.", rich_help_panel=_OUTPUT)]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, mps (default: TransformerLens chooses).", rich_help_panel=_RUNNING)
]
MaxRows = Annotated[
    int | None, typer.Option(help="Rows per forward pass (default: from free memory).", rich_help_panel=_RUNNING)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_RUNNING)]
