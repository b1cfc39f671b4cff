"""`kntools patch`: where does the activation of one prompt change the answer of another?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly
from kntools.files import write

if TYPE_CHECKING:
    from kntools.patching.patch_grid import PatchGrid
    from kntools.prompts import Prompt


class Metric(StrEnum):
    """What is measured; see `activation_patch`."""

    logit_difference = "logit_difference"
    probability = "probability"
    log_probability = "log_probability"
    kl_divergence = "kl_divergence"


def patch(
    text: Annotated[str | None, typer.Argument(help="The clean prompt, up to the answer (or with one [MASK]).")] = None,
    target: Annotated[str | None, typer.Argument(help="Its answer, e.g. ' Ottawa'.")] = None,
    corrupted: Annotated[str | None, typer.Argument(help="The other prompt, of as many tokens.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help='Several pairs, one a line: {"text": .., "target": .., "corrupted": ..}.'),
    ] = None,
    foil: Annotated[str | None, typer.Option(help="The wrong answer, for the logit difference.")] = None,
    model: options.Model = options.DEFAULT_MODEL,
    site: Annotated[str, typer.Option(help="resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, ...")] = "resid_pre",
    metric: Annotated[
        Metric | None, typer.Option(help="Default: logit_difference with a foil, else probability.")
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="One column per head, not per position.")] = False,
    noising: Annotated[bool, typer.Option("--noising", help="Corrupted activations into the clean run.")] = False,
    attribution: Annotated[
        bool, typer.Option("--attribution", help="First-order approximation: two forward passes, one backward.")
    ] = False,
    multi_token: options.MultiTokenOption = options.MultiToken.error,
    bos: options.Bos = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap over pairs (intervals, with --file).")] = 0,
    top: Annotated[int, typer.Option(help="How many cells to show.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for a figure (index.html), safetensors and a table (CSV)."),
    ] = None,
    as_json: options.Json = False,
    device: options.Device = None,
    max_rows: options.MaxRows = None,
    debug: options.Debug = False,
) -> None:
    """Patch activations of one prompt into another, in every layer and position (or head).

    Example: kntools patch "The capital of Canada is" " Ottawa" "The capital of France is" --foil " Paris"
    """
    with friendly(debug):
        common.prepare(out, 0)
        clean, others = _pairs(text, target, corrupted, foil, file)
        loaded = common.load(model, device)

        from kntools.patching.activation_patching import activation_patch, attribution_patch

        grid = (attribution_patch if attribution else activation_patch)(
            loaded,
            clean,
            others,
            site=site,
            metric=None if metric is None else metric.value,
            heads=heads,
            noising=noising,
            multi_token=multi_token.value,
            prepend_bos=bos,
            max_rows=max_rows,
            progress=common.show_progress(),
        )
        files = [] if out is None else _write(out, grid)
        if as_json:
            common.print_json(_json(grid, seed, files))
        else:
            _print(grid, min(top, grid.values.numel()), seed, files)


def _pairs(
    text: str | None, target: str | None, corrupted: str | None, foil: str | None, file: Path | None
) -> tuple[list[Prompt], list[str]]:
    """Clean prompts and corrupted texts, of the command line or of a file."""
    from kntools.data.read import json_lines
    from kntools.prompts import Prompt

    if file is None:
        if text is None or target is None or corrupted is None:
            raise ValueError(
                "give the clean prompt, its answer and the other prompt, e.g. kntools patch 'The capital of Canada is' "
                "' Ottawa' 'The capital of France is', or --file FILE"
            )
        return [Prompt(text, target, foil=foil)], [corrupted]
    if text is not None:
        raise ValueError("give one pair, or --file FILE with several; not both")
    rows = json_lines(file)
    clean = [
        Prompt(row.text("text"), row.text("target"), foil=row.text("foil") if "foil" in row.values else foil)
        for row in rows
    ]
    return clean, [row.text("corrupted") for row in rows]


def _write(out: Path, grid: PatchGrid) -> list[str]:
    files = [
        write(out / "index.html", grid.plot().to_html(include_plotlyjs=True)),
        grid.save(out / "grid.safetensors"),
        write(out / "grid.csv", grid.to_frame().to_csv(index=False)),
    ]
    return [str(file) for file in files]


def _json(grid: PatchGrid, seed: int, files: list[str]) -> dict[str, Any]:
    interval = grid.interval(seed=seed)._asdict() if len(grid.pairs) > 1 else {}
    return {
        "command": "patch",
        **grid.provenance,
        "site": grid.site,
        "method": grid.method,
        "metric": grid.metric,
        "noising": grid.noising,
        "clean": grid.clean,
        "corrupted": grid.corrupted,
        "pairs": len(grid.pairs),
        "tokens": list(grid.tokens[0]),
        "layers": list(grid.layers),
        f"{grid.axis}s": list(grid.columns),
        "values": grid.values.tolist(),
        "effect": grid.effect.tolist(),
        "effect_interval": {end: values.tolist() for end, values in interval.items()} or None,
        "files": files,
    }


def _print(grid: PatchGrid, top: int, seed: int, files: list[str]) -> None:
    n = len(grid.pairs)
    low, high = grid.interval(seed=seed) if n > 1 else (None, None)
    rows = []
    for layer, column in grid.top(top):
        cell = grid.layers.index(layer), grid.columns.index(column)
        name = f"{column} {grid.tokens[0][column]!r}" if grid.axis == "position" and n == 1 else str(column)
        rows.append([name, str(layer), f"{float(grid.values[cell]):.4f}", f"{float(grid.effect[cell]):+.4f}"])
        if low is not None and high is not None:
            rows[-1].append(f"{float(low[cell]):+.4f} to {float(high[cell]):+.4f}")
    clean, corrupted = grid.pairs[0]
    of = f"{clean.text!r} | {corrupted.text!r}" if n == 1 else f"mean of {n} pairs"
    common.print_table(
        [grid.axis, "layer", grid.metric, "effect", *(["95% interval"] if n > 1 else [])],
        rows,
        title=f"{grid.site}: {of}: {grid.metric} {grid.clean:.4f} clean, {grid.corrupted:.4f} corrupted",
        notes=[f"wrote {f}" for f in files],
    )
