"""`kntools figure edit_layer`: which layer to edit, by causal traces and by edits in each of several layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kntools import data
from kntools.analyses import layer_choice
from kntools.cli.analysis import RunOptions, write_tables
from kntools.cli.command import command
from kntools.cli.output import Output, Sheet, records


@command
def edit_layer(
    options: RunOptions,
    layer: Annotated[list[int], typer.Option(help="A layer to edit; may be repeated.")],
    limit: Annotated[int, typer.Option(help="Facts to edit in every layer.")] = 12,
    traced: Annotated[int, typer.Option(help="Facts that the model knows, traced to propose a layer.")] = 10,
    tokens: Annotated[int, typer.Option(help="Tokens to measure second moments on; 0: C = I.")] = 50_000,
    moments: Annotated[Path | None, typer.Option(help="Folder for second moments: C3.safetensors, ...")] = None,
) -> Output:
    """Which layer to edit: what traces propose, and what edits in several layers do.

    Example: kntools figure edit_layer --layer 1 --layer 3 --layer 5 --moments moments --out layers
    """
    model = options.load()
    facts = data.known_facts(known_only=model, limit=traced, seed=options.seed).prompts(model, multi_token="first")
    proposal = layer_choice.propose_layer(model, list(facts), seed=options.seed)
    measured = layer_choice.measure(model, layer, tokens=tokens, seed=options.seed, folder=moments)
    cases = layer_choice.cases_for_choice(model, limit)
    table = layer_choice.sweep_layers(model, cases, layer, second_moments=measured, run=options.kept)
    table["traced effect"] = [float(proposal.effects[number]) for number in layer]
    title = f"Edits by layer; causal traces of {proposal.prompts} facts propose layer {proposal.layer}"
    found = {"proposed": proposal.layer, "traced": proposal.prompts, "rows": records(table)}
    return Output(found, [Sheet(title, table)], lambda out: write_tables({"": table}, options))
