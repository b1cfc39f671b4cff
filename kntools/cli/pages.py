"""The pages that `--out` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kntools.attribution.attribution_result import Attribution
from kntools.cli.neuron_check import Check
from kntools.cli.options import Options
from kntools.plots import neuron_heatmap
from kntools.report import page
from kntools.report.page import Chart, Page, Section, Table
from kntools.sites import Neuron

_COLOURS = "Red neurons make the answer more probable, blue ones less; the colours are scaled by the square root."

# Above this share of what a layer does, the error of a fixed rule is worth a note.
_INCOMPLETE = 0.05


def folder(make: Callable[[], Page], **results: Any) -> Callable[[Path], list[Path]]:
    """What writes a page, the tables that it names, and results as `NAME.safetensors` into a folder."""

    def write(out: Path) -> list[Path]:
        content = make()
        tables = [b for s in content.sections for b in s.blocks if isinstance(b, Table) and b.csv]
        written = [page.write(out / "index.html", content), *(out / table.csv for table in tables)]
        return [*written, *(result.save(out / f"{name}.safetensors") for name, result in results.items())]

    return write


def make_page(title: str, lead: str, sections: Sequence[Section], made: Mapping[str, Any], options: Options) -> Page:
    """A page that says by which model and which command it was made.

    Arguments:
        made: the provenance of the result.
    """
    bos = {True: " (with BOS)", False: " (no BOS)"}.get(made["settings"].get("prepend_bos"), "")
    return Page(
        title=title,
        lead=lead,
        sections=sections,
        source=f"Model: {made['model']}{bos}. Made by `{options.line}`.",
        facts=[
            ("Model", f"{made['model']}, weights {made['fingerprint']}"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in made["versions"].items())),
            ("Command", f"`{options.line}`"),
        ],
    )


def heatmaps(att: Attribution, marked: Sequence[Neuron], check: Check | None) -> list[Section]:
    """All scores, and what suppressing the marked neurons does."""
    n, columns = f"{len(att.prompts)} prompt(s)", min(96, att.scores.shape[-1])
    leading = Chart(
        neuron_heatmap(att, mark=marked),
        f"Columns are the neuron indices that lead in any layer. {_COLOURS}",
        n=n,
        title="The leading columns",
    )
    whole = Chart(
        neuron_heatmap(att, mode="bins", columns=columns, mark=marked),
        f"Every neuron is in one cell; a cell shows the strongest of its neurons. {_COLOURS}",
        n=n,
        title="The whole model",
    )
    checked = [Table(check.to_frame(), check.describe(), digits=4)] if check else []
    return [
        Section("Scores by layer", [leading, whole]),
        *([Section("Checked by intervening", checked)] * len(checked)),
    ]


def notes(att: Attribution) -> list[str]:
    """How the scores were made, and a warning where a fixed rule is not complete."""
    residual = float(att.residual.abs().max())
    about = f"{sum(att.widths):,} neurons of {att.provenance['model']}, rule {att.rule}, largest residual"
    share = att.residual.abs() / att.gap.abs().clamp(min=_INCOMPLETE)
    if att.rule == "adaptive" or float(share.max()) <= _INCOMPLETE:
        return [f"{about} {residual:.1e}"]
    return [
        f"{about} {residual:.1e}",
        f"note: in layer {int(share.amax(0).argmax())} the scores miss {float(share.max()):.0%} of what the layer "
        "does; --rule adaptive integrates until they add up",
    ]
