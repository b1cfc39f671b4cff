"""`kntools patch`: where does the activation of one prompt change the answer of another?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly

if TYPE_CHECKING:
    from kntools.patch_grid import PatchGrid


class Metric(StrEnum):
    """What is measured; see `activation_patch`."""

    logit_difference = "logit_difference"
    probability = "probability"
    log_probability = "log_probability"
    kl_divergence = "kl_divergence"


def patch(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="The clean prompt, up to the answer (or with one [MASK]).")],
    target: Annotated[str, typer.Argument(help="Its answer, e.g. ' Ottawa'.")],
    corrupted: Annotated[str, typer.Argument(help="The other prompt, of as many tokens.")],
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
        from kntools.prompts import Prompt

        clean = Prompt(text, target, foil=foil)
        loaded = common.load(model, device)

        from kntools.patching import activation_patch, attribution_patch

        grid = (attribution_patch if attribution else activation_patch)(
            loaded,
            clean,
            corrupted,
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
            common.print_json(_json(grid, files))
        else:
            _print(grid, min(top, grid.values.numel()), files)


def _write(out: Path, grid: PatchGrid) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    grid.plot().write_html(out / "index.html", include_plotlyjs=True)
    grid.save(out / "grid.safetensors")
    grid.to_frame().to_csv(out / "grid.csv", index=False)
    return [str(out / name) for name in ("index.html", "grid.safetensors", "grid.csv")]


def _json(grid: PatchGrid, files: list[str]) -> dict[str, Any]:
    return {
        "command": "patch",
        **grid.provenance,
        "site": grid.site,
        "method": grid.method,
        "metric": grid.metric,
        "noising": grid.noising,
        "clean": grid.clean,
        "corrupted": grid.corrupted,
        "tokens": list(grid.tokens[0]),
        "layers": list(grid.layers),
        f"{grid.axis}s": list(grid.columns),
        "values": grid.values.tolist(),
        "files": files,
    }


def _print(grid: PatchGrid, top: int, files: list[str]) -> None:
    rows = []
    for layer, column in grid.top(top):
        cell = grid.layers.index(layer), grid.columns.index(column)
        name = f"{column} {grid.tokens[0][column]!r}" if grid.axis == "position" else str(column)
        rows.append([name, str(layer), f"{float(grid.values[cell]):.4f}", f"{float(grid.effect[cell]):+.4f}"])
    clean, corrupted = grid.pairs[0]
    common.print_table(
        [grid.axis, "layer", grid.metric, "effect"],
        rows,
        title=f"{grid.site}: {clean.text!r} | {corrupted.text!r}: {grid.metric} {grid.clean:.4f} clean, "
        f"{grid.corrupted:.4f} corrupted",
        notes=[f"wrote {f}" for f in files],
    )
