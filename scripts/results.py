"""The tables of the documentation, from the results they stand on: `python -m scripts.results`, from the root.

`docs/results/runs/` holds every finished item of the runs that `COMMANDS` name, `docs/results/` the tables that these
commands wrote. This script makes the tables anew from the results beside them, and puts them into the pages, between
their markers; a test compares pages, tables, results and items. A command that is given again finds all its items
there, and writes the same tables, unless its run is one of an earlier version, which can be read but not resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kntools.analyses import EDITORS
from kntools.files import write
from scripts import tables
from scripts.result_cells import (
    CUT,
    KEPT,
    STATES,
    before_plurals,
    by_count,
    by_editor,
    by_size,
    by_state,
    column,
    in_short,
    interval,
    p_value,
    share,
)
from scripts.result_commands import COMMANDS, COUNTS, RESULTS, ROOT, SAVED, TRACES, command, tables_of


@dataclass(frozen=True)
class Table:
    """A table of a page: `columns` are headings and how a cell is made from a row of the CSV file, or of several."""

    page: str
    marker: str
    csv: str
    columns: dict[str, Callable[[Any], object]]
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame

    def cells(self) -> list[list[object]]:
        files = sorted(RESULTS.glob(self.csv))
        frame = self.prepare(pd.concat([pd.read_csv(file).assign(file=file.stem) for file in files]))
        return [[make(row) for make in self.columns.values()] for row in frame.to_dict("records")]

    def write(self, page: Path) -> None:
        tables.write(page, list(self.columns), self.cells(), marker=self.marker)


FINDINGS, EVALUATION, TRACING = "docs/findings.md", "docs/evaluation.md", "docs/tracing.md"

TABLES: tuple[Table, ...] = (
    *(
        Table(
            FINDINGS,
            marker,
            f"{marker}-claims.csv",
            {
                "neuron": column("neuron"),
                "number": column("number"),
                "found in": share("share", "low", "high"),
                "nouns": lambda row: f"{row['found']} of {row['nouns']}",
                "other number": lambda row: f"{row['opposite']:.1%}".replace("%", " %"),
                **foils,
                "p (Holm)": p_value("p_holm"),
            },
        )
        for marker, foils in (
            ("pairs", {"for the foil": lambda row: f"{row['against']:.0f}"}),
            ("pairs-probability", {}),
        )
    ),
    Table(
        FINDINGS,
        "transfer-plurals",
        "transfer-plurals-summary.csv",
        {
            "plural pairs": lambda row: f"`{row['source'].split(',')[0]}`",
            "suppressed": column("edit"),
            "n": column("right"),
            "overturned": share("share", "low", "high"),
            "random": lambda row: f"{row['random']:.1%}".replace("%", " %"),
            "change of the contrast": interval("change", "change_low", "change_high"),
            "p (Holm)": p_value("p_holm"),
        },
    ),
    *(
        Table(
            FINDINGS,
            marker,
            f"{marker}-summary.csv",
            {
                "paradigm or relation": lambda row: f"`{row['source']}`",
                "n": column("groups"),
                "KNs": interval("count", digits=1),
                "tau": interval("tau"),
                "R1^2": interval("r1"),
                "null R1^2": column("null_r1", 2),
                "null KNs": column("null_count", 1),
            },
        )
        for marker in ("localisation", "localisation-contrast")
    ),
    Table(
        FINDINGS,
        "difference",
        "localisation-difference.csv",
        {
            "measure": column("measure"),
            "linguistic": column("linguistic", 2),
            "factual": column("factual", 2),
            "paradigms, relations": lambda row: f"{row['paradigms']}, {row['relations']}",
            "p (Welch, Holm)": p_value("p_holm"),
        },
    ),
    *(
        Table(
            FINDINGS,
            f"reliability-{what}",
            f"reliability-{what}-summary.csv",
            {
                "paradigm" if what == "pairs" else "relation": lambda row: f"`{row['source']}`",
                "edit": column("edit"),
                "n": column("n"),
                "overturned": share("share", "low", "high"),
                "random neurons": share("random", "random_low", "random_high"),
                "p (Holm)": p_value("p_holm"),
                "P(answer)": lambda row: f"{row['before']:.3f} -> {row['after']:.3f}",
            },
        )
        for what in ("pairs", "facts")
    ),
    *(
        Table(
            FINDINGS,
            marker,
            f"{marker}.csv",
            {
                "section": column("section"),
                "modifier": column("word"),
                "n": column("n"),
                "log-odds of the plural": lambda row: f"{row['before']:.2f} -> {row['after']:.2f}",
                "change": interval("change", "low", "high"),
                "p (Holm)": p_value("p_corrected"),
            },
            before_plurals,
        )
        for marker in ("effect-plural", "effect-plurals")
    ),
    Table(
        "docs/editing.md",
        "edit-layers",
        "edit-layers-summary.csv",
        {
            "layer": column("layer"),
            "n": column("n"),
            **{
                name: column(name)
                for name in ("efficacy", "efficacy magnitude", "paraphrase", "neighborhood", "score", "traced effect")
            },
        },
    ),
    *(
        Table(
            EVALUATION,
            marker,
            "editors-*.csv",
            {
                "facts": column("data"),
                "score": column("score"),
                **{name: column(name) for name in ("n", "before", *EDITORS, *last)},
            },
            prepare,
        )
        for marker, last, prepare in (("editors", ("paper",), in_short), ("editors-all", (), by_editor))
    ),
    *(
        Table(
            EVALUATION,
            marker,
            f"{marker}.csv",
            {
                "editor": column("editor"),
                **{f"{count} edit{'s' * (count > 1)}": column(str(count)) for count in COUNTS},
                **{f"{score}, {COUNTS[-1]}": column(score) for score in KEPT},
            },
            by_count,
        )
        for marker in ("forgetting", "forgetting-sequence")
    ),
    Table(
        EVALUATION,
        "traced",
        "traced-regression.csv",
        {
            "success on": column("success on"),
            "R^2": interval("r2", "low", "high", digits=3),
            "facts": column("facts"),
            "layers": column("layers"),
        },
    ),
    Table(
        FINDINGS,
        "methods",
        "methods-summary.csv",
        {
            "method": column("method"),
            "n": column("n"),
            "drop of P(answer)": interval("drop", "low", "high", digits=3),
            "CPR": interval("cpr"),
            "CMD": interval("cmd"),
            "rows run backwards": column("gradients", 0),
            "p (paired, Holm)": p_value("p_holm"),
        },
    ),
    *(
        Table(
            FINDINGS,
            f"planted-{what}",
            f"planted-{what}-recall.csv",
            {
                "method": column("method"),
                "n": column("n"),
                **{f"recall at {k}": column(str(k)) for k in sizes},
            },
            by_size,
        )
        for what, sizes in (("tiny-bert", (10, 20, 50)), ("smollm2", (46, 92, 230)))
    ),
    *(
        Table(
            TRACING,
            f"tracing-{what}",
            f"tracing-{what}-sites.csv",
            {
                "restored": lambda row: STATES[row["kind"]] + CUT[row["severed"]],
                **{name: column(name) for name in ("early site", "late site", "rest")},
                "early - rest": column("early site - rest"),
                "late - rest": column("late site - rest"),
            },
            by_state,
        )
        for what in TRACES
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.results", description=__doc__)
    parser.add_argument("--commands", action="store_true", help="print what makes the results, and change nothing")
    if parser.parse_args(argv).commands:
        print("\n".join(map(command, COMMANDS)))
        return
    for name in SAVED:
        for path, frame in tables_of(name).items():
            write(path, frame.to_csv(index=False))
    for table in TABLES:
        table.write(ROOT / table.page)


if __name__ == "__main__":
    main()
