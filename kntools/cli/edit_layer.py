"""Which layer to edit, by causal traces and by edits in several layers, and their correlation."""

from pathlib import Path
from typing import Annotated

import typer

from kntools import analyses, data
from kntools.analyses import layer_choice
from kntools.analyses.edit_cases import EditData, make_cases
from kntools.arguments import check_distinct
from kntools.cli.analysis import RunOptions
from kntools.cli.command import command
from kntools.models.adapter import check_layer
from kntools.models.neuron_layers import layers_of
from kntools.results.result import Result

Tokens = Annotated[int, typer.Option(min=0, help="Tokens to measure second moments on; 0: C = I.")]
Folder = Annotated[Path | None, typer.Option(help="Folder for second moments: C3.safetensors, ...")]


@command
def edit_layer(
    options: RunOptions,
    layer: Annotated[list[int], typer.Option(min=0, help="A layer to edit; may be repeated.")],
    limit: Annotated[int, typer.Option(min=1, help="Facts to edit in every layer.")] = 12,
    traced: Annotated[int, typer.Option(min=1, help="Known facts to trace for the proposal of a layer.")] = 10,
    tokens: Tokens = 50_000,
    moments: Folder = None,
) -> Result:
    """Choose the layer to edit: by causal traces, and by edits in several layers.

    Example: kntools figure edit_layer --layer 1 --layer 3 --layer 5 --moments moments --out layers
    """
    model = options.load()
    check_distinct("layer", layer)
    for number in layer:
        check_layer(model, number)
    facts = data.known_facts(known_only=model, limit=traced, seed=options.seed).prompts(model, multi_token="first")
    if not facts:
        raise ValueError(f"{options.model} answers none of the known facts; give another model")
    measured = layer_choice.measure(model, layer, tokens=tokens, seed=options.seed, folder=moments)
    cases = layer_choice.cases_for_choice(model, limit)
    return analyses.edit_layer(model, cases, layer, traced=facts, second_moments=measured, **options.shared)


@command
def tracing_and_editing(
    what: Annotated[EditData, typer.Argument(help="Data set of the facts.")],
    options: RunOptions,
    limit: Annotated[int, typer.Option(min=1, help="Facts to trace, and to edit in every layer.")] = 40,
    layer: Annotated[list[int] | None, typer.Option(min=0, help="A layer to edit; one or several (all).")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of noise per trace.")] = 10,
    tokens: Tokens = 50_000,
    moments: Folder = None,
) -> Result:
    """Does the causal trace of a layer explain how well a fact is edited there, beyond the layer itself?

    Example: kntools figure tracing_and_editing counterfact --limit 40 --moments moments --out traced
    """
    model = options.load()
    layers = sorted(set(layer or layers_of(model, "mlp.hook_post")))
    measured = layer_choice.measure(model, layers, tokens=tokens, seed=options.seed, folder=moments)
    cases = make_cases(model, what, limit, seed=options.seed)
    methods = {n: analyses.rome_method(n, measured.get(n)) for n in layers}
    return analyses.tracing_and_editing(model, cases, methods, samples=samples, **options.shared)
