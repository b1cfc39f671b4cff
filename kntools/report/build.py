"""From a study to a folder: each figure in turn, its tables, its pictures, and one page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.io

from kntools.models import adapter, neuron_layers
from kntools.plots.card_view import COMMAND
from kntools.report import page
from kntools.report.cards import page_cards
from kntools.report.choices import NotPossible
from kntools.report.figure import Figure, Shown
from kntools.report.figures import FIGURES
from kntools.report.study import Study
from kntools.results import processes

# What a figure is drawn as, and pixels per CSS pixel.
_FORMATS = {"png": 2, "svg": 1}
_WIDTH = 1000
_PAPER = "Niu et al. 2024 (What does the Knowledge Neuron Thesis have to do with Knowledge?)"


@dataclass(frozen=True)
class Report:
    """What is shown, figure by figure, and which files were written (by the main process alone)."""

    shown: tuple[tuple[Figure, Shown], ...]
    page: Path
    files: tuple[Path, ...]
    note: str  # about pictures that could not be drawn


def build(
    study: Study,
    figures: Sequence[Figure],
    *,
    command: str = "",
    card_command: str = COMMAND,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Make the figures and write `index.html`, `tables/` and, where they can be drawn, `figures/` into `study.out`.

    ```python
    build(Study(model, QUICK, out="out/report"), choose(["2", "5"])).page
    ```

    Run again with the same study, it makes only what is missing, and writes the same bytes.

    Arguments:
        command: what to type for all figures; `--figures` is added for those that are chosen.
        card_command: what to type for the card of a {neuron} that the page does not hold.
        tell: called with a line before each figure.
    """
    shown = []
    for figure in figures:
        tell(figure.heading)
        shown.append((figure, _shown(figure, study)))
    out = Path(study.out)
    if not processes.is_main():
        return Report(tuple(shown), out / "index.html", (), "")
    content = _page(study, shown, command)
    cards = page_cards(study.model, content.sections)
    written = [page.write(out / "index.html", replace(content, cards=cards, card_command=card_command))]
    written += [out / name for name in content.files]
    charts = [block for _, one in shown for block in one.blocks if isinstance(block, page.Chart)]
    drawn, note = _pictures(out / "figures", charts)
    return Report(tuple(shown), written[0], (*written, *drawn), note)


def _shown(figure: Figure, study: Study) -> Shown:
    try:
        return figure.show(study)
    except NotPossible as why:
        return Shown(f"Not shown for this model: {why}.")
    except (neuron_layers.NoNeurons, adapter.NoHookPoint) as error:  # a mixture of experts; layers without attention
        return Shown(f"Not shown for this model: {error.args[0].rsplit(';', 1)[0]}.")


def _pictures(folder: Path, charts: Sequence[page.Chart]) -> tuple[list[Path], str]:
    """The files, drawn in one go (the browser's start takes its time), or why there are none."""
    if find_spec("kaleido") is None:
        return [], "no PNG and SVG files (the buttons on the page save them): pip install 'kntools[images]'"
    if not charts:
        return [], ""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [(chart, ending) for chart in charts for ending in _FORMATS]
    written = [folder / f"{chart.name}.{ending}" for chart, ending in drawn]
    try:
        plotly.io.write_images(
            fig=[chart.figure for chart, _ in drawn],
            file=written,
            width=[max(_WIDTH, chart.min_width) for chart, _ in drawn],
            height=[chart.height for chart, _ in drawn],
            scale=[_FORMATS[ending] for _, ending in drawn],
        )
    except Exception as error:  # kaleido, the browser and what is between them have errors of many kinds
        return [], f"no PNG and SVG files (the buttons on the page save them): {type(error).__name__}: {error}"
    return written, ""


def _neurons(model: Any) -> str:
    widths = [layer.width for layer in neuron_layers.neurons_of(model)]
    if not any(widths):
        return "none"
    if len(set(widths)) == 1:
        return f"{len(widths)} layers of {widths[0]:,}"
    return ", ".join(f"{width:,} in layer {layer}" for layer, width in enumerate(widths) if width)


def _page(study: Study, shown: Sequence[tuple[Figure, Shown]], command: str) -> page.Page:
    about = study.header
    name, bos = about["model"], "with BOS" if about["settings"]["prepend_bos"] else "without BOS"
    links = page.Links([(figure.heading, content.sentence) for figure, content in shown])
    return page.Page(
        title=f"Knowledge neurons of {name}",
        lead=f"The figures of {_PAPER}, on `{name}`. Brackets hold 95 % intervals.",
        warning=study.size.warning,
        source=f"Model: {name}.",
        facts=[
            ("Model", f"{name}, weights {about['fingerprint']}"),
            ("Neurons", _neurons(study.model)),
            ("Kind", "masked" if study.masked else f"causal, {bos}"),
            ("Data", _data(study)),
            ("Size, seed", f"{study.size.name}, {study.seed}"),
            ("Versions", ", ".join(f"{library} {version}" for library, version in about["versions"].items())),
            *([("Command", f"`{_command(command, [figure for figure, _ in shown])}`")] if command else []),
        ],
        sections=[
            page.Section("Summary", [links]),
            *(page.Section(figure.heading, _blocks(figure, content, command)) for figure, content in shown),
        ],
    )


def _data(study: Study) -> str:
    text = f"pairs of {'the built-in sample' if study.sampled else 'BLiMP'}"
    others = [name for name in study.stand_ins if name != "BLiMP"]
    return f"{text}; the built-in sample also replaces {', '.join(others)}" if others else text


def _command(command: str, figures: Sequence[Figure]) -> str:
    chosen = [] if len(figures) == len(FIGURES) else figures
    return " ".join([command, *(f"--figures {figure.key}" for figure in chosen)])


def _blocks(figure: Figure, content: Shown, command: str) -> list[page.Block]:
    notes = [("Question", figure.question), ("The paper", figure.claim), ("This model", content.sentence)]
    notes += [("Notes", content.remarks)] if content.remarks else []
    alone: list[page.Block] = []
    if command:
        alone = [page.Text("This figure alone:"), page.Command(_command(command, [figure]))]
    return [page.Notes(notes), *content.blocks, *alone]
