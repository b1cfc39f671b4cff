"""What makes each result of the documentation, and where it lies."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

import kntools as kn
from kntools.results.run_file import RunFile

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


#: The results that are kept whole, beside their tables.
SAVED = sorted(path.stem for path in RESULTS.glob("*.json"))


def tables_of(name: str) -> dict[Path, pd.DataFrame]:
    """The tables of a result that is kept, as `command` writes them, by file."""
    result = kn.load(RESULTS / f"{name}.json")
    tables = {name: result.to_frame(), **{f"{name}-{part}": frame for part, frame in result.tables().items()}}
    return {RESULTS / f"{stem}.csv": frame for stem, frame in tables.items()}


def items(name: str) -> dict[str, Any]:
    """The finished items of a run: from key to payload."""
    return RunFile(RESULTS / "runs" / name).read()[1]
