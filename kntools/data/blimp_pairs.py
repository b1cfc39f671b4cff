"""BLiMP: 67 paradigms of 1,000 minimal pairs each (Warstadt et al., 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from kntools.data import hub, sample, sources
from kntools.data.filters import Filters, select
from kntools.data.pairs import MinimalPair
from kntools.data.read import Row, json_lines
from kntools.data.records import Loaded
from kntools.models.names import check_name

PARADIGMS: tuple[str, ...] = (
    "adjunct_island",
    "anaphor_gender_agreement",
    "anaphor_number_agreement",
    "animate_subject_passive",
    "animate_subject_trans",
    "causative",
    "complex_NP_island",
    "coordinate_structure_constraint_complex_left_branch",
    "coordinate_structure_constraint_object_extraction",
    "determiner_noun_agreement_1",
    "determiner_noun_agreement_2",
    "determiner_noun_agreement_irregular_1",
    "determiner_noun_agreement_irregular_2",
    "determiner_noun_agreement_with_adj_2",
    "determiner_noun_agreement_with_adj_irregular_1",
    "determiner_noun_agreement_with_adj_irregular_2",
    "determiner_noun_agreement_with_adjective_1",
    "distractor_agreement_relational_noun",
    "distractor_agreement_relative_clause",
    "drop_argument",
    "ellipsis_n_bar_1",
    "ellipsis_n_bar_2",
    "existential_there_object_raising",
    "existential_there_quantifiers_1",
    "existential_there_quantifiers_2",
    "existential_there_subject_raising",
    "expletive_it_object_raising",
    "inchoative",
    "intransitive",
    "irregular_past_participle_adjectives",
    "irregular_past_participle_verbs",
    "irregular_plural_subject_verb_agreement_1",
    "irregular_plural_subject_verb_agreement_2",
    "left_branch_island_echo_question",
    "left_branch_island_simple_question",
    "matrix_question_npi_licensor_present",
    "npi_present_1",
    "npi_present_2",
    "only_npi_licensor_present",
    "only_npi_scope",
    "passive_1",
    "passive_2",
    "principle_A_c_command",
    "principle_A_case_1",
    "principle_A_case_2",
    "principle_A_domain_1",
    "principle_A_domain_2",
    "principle_A_domain_3",
    "principle_A_reconstruction",
    "regular_plural_subject_verb_agreement_1",
    "regular_plural_subject_verb_agreement_2",
    "sentential_negation_npi_licensor_present",
    "sentential_negation_npi_scope",
    "sentential_subject_island",
    "superlative_quantifiers_1",
    "superlative_quantifiers_2",
    "tough_vs_raising_1",
    "tough_vs_raising_2",
    "transitive",
    "wh_island",
    "wh_questions_object_gap",
    "wh_questions_subject_gap",
    "wh_questions_subject_gap_long_distance",
    "wh_vs_that_no_gap",
    "wh_vs_that_no_gap_long_distance",
    "wh_vs_that_with_gap",
    "wh_vs_that_with_gap_long_distance",
)

# Which of our own pairs can stand in when BLiMP is not there.
_STAND_INS = {
    "determiner_noun_agreement_1": "sample_determiner_noun_agreement_1",
    "determiner_noun_agreement_2": "sample_determiner_noun_agreement_2",
    "regular_plural_subject_verb_agreement_1": "sample_subject_verb_agreement",
}


def blimp(paradigm: str, *, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[MinimalPair]:
    """The minimal pairs of one BLiMP paradigm.

    ```python
    pairs = kn.data.blimp("determiner_noun_agreement_2", limit=100, seed=0)
    pairs[0].good, pairs[0].bad
    prompts = pairs.prompts(model)            # those that differ in exactly one of the model's tokens
    ```

    Arguments:
        paradigm: one of `kn.data.PARADIGMS`, or of the built-in ones, whose names begin with `sample_`.
        path: a `.jsonl` file, a folder of them, a data folder, a folder in the layout of the hub's
            `nyu-mll/blimp`, or `"sample"`. `None` looks in `$KNTOOLS_DATA`, then on the hub, then takes the
            built-in sample.
        filters: `limit`, `seed`, `target`, `known_only`; see `kn.data.Filters`.

    Returns:
        `Loaded[MinimalPair]`.

    Raises:
        ValueError: an unknown paradigm (the message offers the nearest), or a malformed record.
        FileNotFoundError: the data is nowhere, and the built-in sample has nothing like it.
    """
    if paradigm in sample.PARADIGMS:
        tables, source = sample.pairs(paradigm), sources.SAMPLE_SOURCE
    else:
        check_name("BLiMP paradigm", paradigm, (*PARADIGMS, *sample.PARADIGMS))
        stand_in = _STAND_INS.get(paradigm)
        wanted = sources.Wanted(
            name=f"BLiMP {paradigm}",
            files=(f"blimp/{paradigm}.jsonl",),
            read=json_lines,
            hub_set=hub.BLIMP,
            hub_config=paradigm,
            sample=(lambda: sample.pairs(stand_in)) if stand_in else None,
        )
        tables, source = sources.load(wanted, path)
    expected = None if path is not None or source.is_sample else paradigm
    return select([_pair(row, expected) for row in tables[0]], source, **filters)


def _pair(row: Row, paradigm: str | None) -> MinimalPair:
    if paradigm is not None and row.text("UID") != paradigm:
        raise ValueError(f"{row.where}: field 'UID' is {row.text('UID')!r}; expected {paradigm!r}")
    return MinimalPair(
        good=row.text("sentence_good"),
        bad=row.text("sentence_bad"),
        paradigm=row.text("UID"),
        pair_id=row.integer("pair_id"),
        field=row.text("field"),
        term=row.text("linguistics_term"),
    )
