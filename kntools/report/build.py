"""From a study to a folder: each figure in turn, its tables, its pictures, and one page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kntools.models import adapter
from kntools.report import page, pictures
from kntools.report.choices import NotPossible
from kntools.report.shown import Figure, Numbers, Picture, Shown
from kntools.report.study import Study
from kntools.results import processes

SUMMARY = "What was found"
_PAPER = "Niu et al. 2024 (What does the Knowledge Neuron Thesis have to do with Knowledge?)"
# Longer tables stand behind a line to click on.
_ROWS = 12


@dataclass(frozen=True)
class Report:
    """What was found, figure by figure, and which files were written (by the main process alone)."""

    shown: tuple[tuple[Figure, Shown], ...]
    page: Path
    files: tuple[Path, ...]
    note: str  # about pictures that could not be drawn


def build(
    study: Study, figures: Sequence[Figure], *, command: str = "", tell: Callable[[str], None] = lambda line: None
) -> Report:
    """Make the figures and write `index.html`, `tables/` and, where they can be drawn, `figures/` into `study.out`.

    ```python
    build(Study(model, QUICK, out="out/report"), choose(["2", "5"])).page
    ```

    Started again with the same study, it makes only what is missing, and writes the same bytes.

    Arguments:
        command: what to type to do the same; `--figures` is added for a single one.
        tell: called with a line before each figure.
    """
    shown = []
    for figure in figures:
        tell(figure.heading)
        shown.append((figure, _shown(figure, study)))
    out = Path(study.out)
    if not processes.is_main():
        return Report(tuple(shown), out / "index.html", (), "")
    sheet = _page(study, shown, command)
    written = [page.write(out / "index.html", sheet)]
    tables = [b for s in sheet.sections for b in s.blocks if isinstance(b, page.Table)]
    written += [out / name for table in tables for name in (table.csv, table.json)]
    drawn, note = pictures.write(out / "figures", [p for _, s in shown for p in s.parts if isinstance(p, Picture)])
    return Report(tuple(shown), written[0], (*written, *drawn), note)


def _shown(figure: Figure, study: Study) -> Shown:
    try:
        return figure.show(study)
    except NotPossible as why:
        return Shown(f"Not shown for this model: {why}.")


def _page(study: Study, shown: Sequence[tuple[Figure, Shown]], command: str) -> page.Page:
    about = study.header
    name, bos = about["model"], {True: "with BOS", False: "without BOS", None: "BOS as the model has it"}
    layers, width = adapter.n_layers(study.model), study.neurons_per_layer
    return page.Page(
        title=f"Knowledge neurons of {name}",
        lead=(
            f"The figures of {_PAPER}, on `{name}`: what the paper found, and what this model shows. "
            "Brackets hold 95 % intervals."
        ),
        source=f"Model: {name}.",
        facts=[
            ("Model", f"{name}, weights {about['fingerprint']}"),
            ("Neurons", f"{layers} layers of {width:,}"),
            ("Kind", "masked" if study.masked else f"causal, {bos[study.prepend_bos]}"),
            ("Data", _data(study)),
            ("Size, seed", f"{study.size.name}, {study.seed}"),
            ("Versions", ", ".join(f"{k} {v}" for k, v in about["versions"].items())),
            *([("Command", f"`{command}`")] if command else []),
        ],
        sections=[
            page.Section(SUMMARY, [page.Links([(figure.heading, found.finding) for figure, found in shown])]),
            *(page.Section(figure.heading, _blocks(figure, found, command)) for figure, found in shown),
        ],
    )


def _data(study: Study) -> str:
    text = f"pairs of {'the built-in sample' if study.sampled else 'BLiMP'}"
    others = [name for name in study.stand_ins if name != "BLiMP"]
    return f"{text}; the sample also in place of {', '.join(others)}" if others else text


def _blocks(figure: Figure, found: Shown, command: str) -> list[page.Block]:
    notes = [("Question", figure.question), ("The paper", figure.claim), ("This model", found.finding)]
    notes += [("In numbers", " ".join(found.details))] if found.details else []
    notes += [("n", f"{found.n}.")] if found.n else []
    notes += [("Notes", " ".join(found.notes))] if found.notes else []
    alone: list[page.Block] = []
    if command:
        alone = [page.Text("This figure alone:"), page.Command(f"{command} --figures {shlex.quote(figure.key)}")]
    return [page.Notes(notes), *(_block(part) for part in found.parts), *alone]


def _block(part: Picture | Numbers | str) -> page.Block:
    if isinstance(part, str):
        return page.Text(part)
    if isinstance(part, Picture):
        return page.Chart(
            part.figure, part.caption, title=part.title, name=part.name, min_width=part.min_width
        )  # fmt: skip
    files: dict[str, Any] = {kind: f"tables/{part.name}.{kind}" for kind in ("csv", "json")}
    return page.Table(part.frame, part.caption, digits=part.digits, folded=len(part.frame) > _ROWS, **files)
