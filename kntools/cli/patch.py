"""`kntools patch`: patch activations of one prompt into the run of another."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from kntools.arguments import check_distinct, without_effect
from kntools.cli import pages
from kntools.cli.command import command
from kntools.cli.options import ModelOptions, MultiToken
from kntools.cli.output import Output, Sheet
from kntools.data.read import json_lines
from kntools.engine.metric_choice import FOIL_METRICS, MetricName
from kntools.patching.activation_patching import activation_patch, attribution_patch
from kntools.patching.first_order import Method
from kntools.prompts import Prompt
from kntools.report.page import Chart, Page, PageTable, Section
from kntools.results.display import number

_LINE = '{"text": .., "target": .., "corrupted": ..}'


@command
def patch(
    options: ModelOptions,
    text: Annotated[str | None, Argument(help="The clean prompt, up to the answer (or with one [MASK]).")] = None,
    target: Annotated[str | None, Argument(help="Its answer, e.g. ' Ottawa'.")] = None,
    corrupted: Annotated[str | None, Argument(help="The other prompt, of as many tokens.")] = None,
    file: Annotated[Path | None, Option("--file", "-f", help=f"Several pairs, one per line: {_LINE}.")] = None,
    foil: Annotated[str | None, Option(help="The wrong answer, for the contrast.")] = None,
    site: Annotated[str, Option(help="resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, ...")] = "resid_pre",
    metric: Annotated[MetricName | None, Option(help="Default: contrast with a foil, else probability.")] = None,
    heads: Annotated[bool, Option("--heads", help="One column per head, not per position.")] = False,
    noising: Annotated[bool, Option("--noising", help="Patch corrupted activations into the clean run.")] = False,
    method: Annotated[Literal["activation", Method], Option(help="Exact, or an estimate.")] = "activation",
    window: Annotated[int, Option(min=1, help="Layers patched together.")] = 1,
    multi_token: MultiToken = "error",
    top: Annotated[int, Option(min=1, help="Number of cells to show.")] = 10,
) -> Output:
    """Patch activations of one prompt into another, in every layer and position (or head).

    Example: kntools patch "The capital of Canada is" " Ottawa" "The capital of France is" --foil " Paris"
    """
    if metric not in (None, *FOIL_METRICS):
        without_effect(f"with --metric {metric}", foil=foil)
    asked = _asked(text, target, corrupted, foil, file)
    clean = [Prompt(text, answer, foil=wrong, multi_token=multi_token) for text, answer, wrong, _ in asked]
    others = [other for *_, other in asked]
    cells: dict[str, Any] = {"site": site, "metric": metric, "heads": heads, "window": window, "noising": noising}
    run = activation_patch if method == "activation" else partial(attribution_patch, method=method)
    grid = run(options.load(), clean, others, **cells)
    interval = grid.interval(seed=options.seed) if len(asked) > 1 else None
    of = f"mean of {len(asked)} pairs" if interval else f"{clean[0].text!r} | {others[0]!r}"
    title = f"{grid.site}: {of}: {grid.metric} {number(grid.clean)} clean, {number(grid.corrupted)} corrupted"

    def page() -> Page:
        chart = Chart(grid.plot(), f"{title}.", n=f"{len(asked)} pair(s)")
        cells = PageTable(grid.to_frame(), "All cells.", csv="grid.csv", folded=True)
        lead = "Where does the activation of one prompt change the answer of another?"
        return Page(f"Patching: {clean[0].text}", [Section("Patched", [chart, cells])], lead)

    measured = ("site", "method", "window", "metric", "noising", "clean", "corrupted")
    data = {
        **{name: getattr(grid, name) for name in measured},
        "pairs": len(asked),
        "tokens": list(grid.tokens[0]),
        "layers": list(grid.layers),
        f"{grid.axis}s": list(grid.columns),
        "values": grid.values.tolist(),
        "effect": grid.effect.tolist(),
        "effect_interval": interval and {"low": interval.low.tolist(), "high": interval.high.tolist()},
    }
    sheet = Sheet(title, grid.preview(top, interval))
    return pages.page_output(options, grid.provenance, [sheet], data, page, grid=grid)


def _asked(
    text: str | None, target: str | None, corrupted: str | None, foil: str | None, file: Path | None
) -> list[tuple[str, str, str | None, str]]:
    """Clean text, answer, foil and corrupted text of each pair, from the command line or a file."""
    if file is not None:
        if text is not None:
            raise ValueError("give one pair, or --file FILE with several; not both")
        rows = json_lines(file)
        foils = [row.text("foil") if "foil" in row.values else foil for row in rows]
        pairs = [
            (row.text("text"), row.text("target"), wrong, row.text("corrupted"))
            for row, wrong in zip(rows, foils, strict=True)
        ]
        check_distinct("the pair", pairs)
        return pairs
    if text is None or target is None or corrupted is None:
        raise ValueError(
            "give the clean prompt, its answer and the other prompt, e.g. kntools patch 'The capital of Canada is' "
            "' Ottawa' 'The capital of France is', or --file FILE"
        )
    return [(text, target, foil, corrupted)]
