"""The tables of the documentation, from the results they stand on: `python -m scripts.results`, from the root.

`docs/results/runs/` holds every finished item of the runs that `COMMANDS` name, `docs/results/` the tables that these
commands wrote. This script puts the tables into the pages, between their markers; a test compares pages, tables and
items. A command that is given again finds all its items there, and writes the same tables.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kntools.analyses import EDITORS
from kntools.results.run_file import RunFile
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

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
AGREEMENT = (
    "determiner_noun_agreement_1 determiner_noun_agreement_irregular_1 determiner_noun_agreement_with_adjective_1 "
    "determiner_noun_agreement_with_adj_irregular_1 regular_plural_subject_verb_agreement_1 "
    "irregular_plural_subject_verb_agreement_1 anaphor_number_agreement"
)
RELATIONS = "P36 P1376 P101 P407 P178 P176 P159 P131"
NUMBER_NEURONS = "L19.N1044 L0.N586 L0.N1293 L26.N1422 L0.N1217 L0.N661"  # the leading ones of `pairs`
KNOWN_RELATIONS = "P36 P407 P178 P101"
CONSEQUENCES = {"P36": 100, "P1376": 50, "P101": 100}  # relations with questions that follow from an edit, and facts
MOMENTS = "moments/C3.safetensors moments/C4.safetensors moments/C5.safetensors"
SEVEN = f"--layer 5 {' '.join(f'--second-moment {file}' for file in MOMENTS.split())} --bound 0.005"
COUNTS = (1, 10, 50, 100)  # edits of `forgetting_curve`
OTHER_NOUNS = "--limit 40 --found-by docs/results/pairs.json"
MINIMAL_PAIRS = (
    "determiner_noun_agreement_1 determiner_noun_agreement_irregular_1 regular_plural_subject_verb_agreement_1 "
    "irregular_plural_subject_verb_agreement_1 anaphor_number_agreement"
)


COMPARED = "adaptive|dai|kn_thesis|activation x gradient|direct logit attribution|activation"
FINDERS = (
    "adaptive|dai|kn_thesis|activation x gradient|direct logit attribution|log-probability increase|query neurons|"
    "activation"
)


def each(option: str, values: str) -> str:
    """An option once for each of several values, which spaces separate, or bars."""
    return " ".join(f"{option} {shlex.quote(v)}" for v in (values.split("|") if "|" in values else values.split()))


#: Name of a result -> analysis and arguments. `--no-bos`, `--run` and `--out` are the same for all; see `command`.
COMMANDS: dict[str, str] = {
    "profile": "attribution_profile anaphor_number_agreement --limit 24 --classes 4",
    "pairs": "pair_search determiner_noun_agreement_1 --limit 256 --frames 1",
    "pairs-probability": "pair_search determiner_noun_agreement_1 --limit 128 --frames 1 --metric probability",
    "transfer-plurals": "transfer --pairs 256 --frames 1 --count 3 --limit 50",
    "localisation": f"localisation {AGREEMENT} {RELATIONS} --known --limit 5 --frames 5 --metric probability",
    "localisation-contrast": f"localisation {AGREEMENT} --known --limit 5 --frames 2",
    "methods": (
        f"selection_methods P36 determiner_noun_agreement_1 --limit 20 --ablation mean {each('--method', COMPARED)}"
    ),
    "planted-smollm2": f"planted_facts P36 --limit 10 --draws 1 --count 46 {each('--method', FINDERS)}",
    "planted-tiny-bert": "planted_facts P36 --model tiny-bert --limit 20",
    "reliability-pairs": f"reliability {MINIMAL_PAIRS} --limit 105 {each('--neuron', NUMBER_NEURONS)}",
    "effect-plural": f"suppression_effect determiner_noun_agreement_1 --neuron L19.N1044 {OTHER_NOUNS}",
    "effect-plurals": (
        f"suppression_effect determiner_noun_agreement_1 {each('--neuron', 'L19.N1044 L0.N586 L0.N1293')} {OTHER_NOUNS}"
    ),
    "reliability-facts": f"reliability {KNOWN_RELATIONS} --limit 57",
    "edit-layers": f"edit_layer {each('--layer', '1 3 5 8 11')} --limit 8 --tokens 50000 --moments moments",
    "editors-counterfact": f"edit_consistency counterfact {SEVEN} --together 24 --limit 100 --generations 8",
    **{
        f"editors-{relation}": f"edit_consistency {relation} {SEVEN} --together 25 --limit {facts}"
        for relation, facts in CONSEQUENCES.items()
    },
    "fine-tune-published": "edit_consistency counterfact --layer 5 --method fine_tune --together 25 --limit 100",
    "forgetting": f"forgetting_curve counterfact {SEVEN} --order 'at once'",
    "forgetting-sequence": (
        f"forgetting_curve counterfact {SEVEN} {each('--method', 'rome memit fine_tune edit_values')} "
        "--order 'in sequence'"
    ),
    "traced": "tracing_and_editing counterfact --limit 40 --moments moments",
    "tracing-facts": "tracing_profile facts --limit 100 --samples 1 --sever mlp --sever attn",
    "tracing-determiner-noun": "tracing_profile determiner_noun --limit 100 --samples 1",
    "tracing-subject-verb": "tracing_profile subject_verb --limit 24 --samples 1",
}
TRACES = ("facts", "determiner-noun", "subject-verb")


def command(name: str) -> str:
    """What to type to make a result."""
    analysis, *rest = shlex.split(COMMANDS[name])
    arguments = shlex.join(rest)
    return (
        f"kntools figure {analysis} {arguments} --no-bos --run docs/results/runs/{name}.jsonl --out docs/results/{name}"
    )


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
                "pairs": lambda row: f"{row['found']} of {row['pairs']}",
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
        "edit-layers.csv",
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
    for table in TABLES:
        table.write(ROOT / table.page)


def items(name: str) -> dict[str, Any]:
    """The finished items of a run: from key to payload."""
    return RunFile(RESULTS / "runs" / name).read()[1]


if __name__ == "__main__":
    main()
