"""The published data sets: how much there is, and that every record is either used or counted as skipped.

Needs the folder of data sets; see `data_root` in conftest.py.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kntools import data
from kntools.data import TokenizerOnly
from kntools.data.read import json_lines
from kntools.prompts import MASK
from tests import data_tokenizers

pytestmark = pytest.mark.data
WORD = re.compile(r"\w+")
TOKENIZERS = pytest.mark.parametrize("kind", data_tokenizers.KINDS)

# Facts per relation and tokenizer in the tests that multiply them by all patterns.
SOME = 10

Tokenizers = dict[str, TokenizerOnly]
Blimp = dict[str, data.Loaded[data.MinimalPair]]


@pytest.fixture(autouse=True)
def _data(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNTOOLS_DATA", str(data_root))


@pytest.fixture(scope="module")
def tokenizers(data_root: Path) -> Tokenizers:
    """Trained on every seventh sentence, so that they do not know every word."""
    files = sorted((data_root / "blimp").glob("*.jsonl"))
    sentences = [row.text("sentence_good") for file in files for row in json_lines(file)[::7]]
    return {kind: TokenizerOnly(data_tokenizers.train(kind, sentences)) for kind in data_tokenizers.KINDS}


@pytest.fixture(scope="module")
def blimp(data_root: Path) -> Blimp:
    """All of BLiMP, read once."""
    return {paradigm: data.blimp(paradigm, path=data_root) for paradigm in data.PARADIGMS}


# --- how much there is ------------------------------------------------------------------------------


def test_blimp_is_67_paradigms_of_1000_pairs(blimp: Blimp, data_root: Path) -> None:
    assert sorted(blimp) == sorted(file.stem for file in (data_root / "blimp").glob("*.jsonl"))
    assert len(blimp) == 67
    for paradigm, pairs in blimp.items():
        assert len(pairs) == pairs.total == 1000
        assert [pair.pair_id for pair in pairs] == list(range(1000))
        assert {pair.paradigm for pair in pairs} == {paradigm}


def test_seven_blimp_pairs_are_identical(blimp: Blimp) -> None:
    same = {paradigm: sum(pair.good == pair.bad for pair in pairs) for paradigm, pairs in blimp.items()}
    assert {paradigm: n for paradigm, n in same.items() if n} == {"passive_1": 2, "principle_A_case_2": 5}


def test_pararel_is_39_relations_with_patterns(data_root: Path) -> None:
    patterns = {file.stem for file in (data_root / "pararel" / "patterns").glob("*.jsonl")}
    facts = {file.stem for file in (data_root / "pararel" / "facts").glob("*.jsonl")}
    assert patterns == set(data.RELATIONS)
    assert (len(patterns), len(facts)) == (39, 41)
    loaded = [data.pararel(relation) for relation in data.RELATIONS]
    assert sum(len(relation[0].patterns) for relation in loaded) == 329
    without = [len(json_lines(data_root / "pararel" / "facts" / f"{r}.jsonl")) for r in sorted(facts - patterns)]
    assert sum(map(len, loaded)) + sum(without) == 29_411


def test_facts_to_trace_and_to_edit() -> None:
    assert len(data.known_facts()) == 1209
    full, reduced = data.counterfact(), data.counterfact_reduced()
    assert (len(full), len({record.case_id for record in full})) == (1000, 1000)
    assert [record.case_id for record in reduced] == list(range(21_919))
    for record in full:
        short = reduced[record.case_id]
        assert (record.prompt, record.subject) == (short.prompt, short.subject)
        assert (record.target, record.new_target) == (short.target, short.new_target)
        assert record.target != record.new_target
        assert (len(record.paraphrase_prompts), len(record.neighborhood_prompts)) == (2, 10)


def test_the_synonym_table_covers_every_field_of_work() -> None:
    table = data.field_occupations()
    assert {fact.target for fact in data.pararel("P101")} <= set(table)


# --- used + skipped = total, for three kinds of tokenizer -------------------------------------------


@pytest.mark.slow
@TOKENIZERS
def test_every_pair_is_used_or_counted(kind: str, blimp: Blimp, tokenizers: Tokenizers) -> None:
    """Every eighth pair."""
    identical = used = 0
    step = 8
    for pairs in blimp.values():
        prompts = replace(pairs, records=pairs.records[::step]).prompts(tokenizers[kind])
        assert len(prompts) + prompts.skipped.total == 1000 // step
        check(prompts, masked=kind == "bert_like")
        identical += prompts.skipped["identical pair"]
        used += len(prompts)
        assert prompts.skipped["does not re-encode to the same tokens"] == 0
        for pair, prompt in zip(prompts.records, prompts, strict=True):
            assert whole_word(prompt.target, pair.good) and whole_word(prompt.foil, pair.bad)
    assert identical >= 1  # and some that differ in capitals only
    assert 15_000 < used * step < 45_000


@TOKENIZERS
def test_every_question_about_a_fact_is_used_or_counted(kind: str, tokenizers: Tokenizers) -> None:
    masked = kind == "bert_like"
    for relation in data.RELATIONS:
        facts = data.pararel(relation, limit=SOME, seed=0)
        prompts = facts.prompts(tokenizers[kind], multi_token="first")
        patterns = facts[0].patterns
        assert prompts.total == len(facts) * len(patterns)
        check(prompts, masked)
        inside = sum(not re.search(r"\[Y\] ?\.?$", pattern) for pattern in patterns)
        assert prompts.skipped["mask not last"] == (0 if masked else inside * len(facts))
        one_token = facts.prompts(tokenizers[kind])
        assert one_token.total == prompts.total
        assert {replace(p, multi_token="first") for p in one_token} <= set(prompts)


@TOKENIZERS
def test_every_other_record_is_used_or_counted(kind: str, tokenizers: Tokenizers) -> None:
    sets = {
        "counterfact": (data.counterfact(limit=50, seed=1), 23),
        "reduced": (data.counterfact_reduced(limit=500, seed=1), 2),
        "known": (data.known_facts(limit=300, seed=1), 1),
        "P36": (data.symmetric_facts("P36"), 3),
        "P1376": (data.symmetric_facts("P1376"), 3),
        "P101": (data.synonym_facts("P101"), 2),
        "frames": (data.agreement_frames(), 1),
    }
    for loaded, questions in sets.values():
        prompts = loaded.prompts(tokenizers[kind], multi_token="first")
        assert prompts.total == questions * len(loaded)
        assert len(prompts) > 0
        check(prompts, masked=kind == "bert_like")


def check(prompts: data.PromptSet, masked: bool) -> None:
    for prompt in prompts:
        assert prompt.text.count(MASK) == masked
        assert masked or prompt.text == prompt.text.rstrip()
        assert prompt.target != prompt.foil
        # A decoder's answer brings its space; a few begin with punctuation that stands without one.
        assert prompt.target.startswith(" ") != masked
        assert prompt.subject is None or prompt.subject in prompt.text


def whole_word(answer: str | None, sentence: str) -> bool:
    return answer is not None and set(WORD.findall(answer)) <= set(WORD.findall(sentence))


# --- what the names say -----------------------------------------------------------------------------


def agreement(blimp: Blimp, term: str) -> Iterator[data.Loaded[data.MinimalPair]]:
    return (pairs for pairs in blimp.values() if pairs[0].term == term)


def test_every_determiner_pair_has_a_determiner_and_a_number(blimp: Blimp) -> None:
    for pairs in agreement(blimp, "determiner_noun_agreement"):
        groups = data.group(pairs, data.determiner)
        assert list(groups) == ["that", "these", "this", "those"]
        assert sum(map(len, groups.values())) == 1000
        assert all(len(group) > 150 and group.total == 1000 for group in groups.values())
        plural = data.group(pairs, data.number)["plural"]
        assert len(plural) == len(groups["these"]) + len(groups["those"])


def test_every_anaphor_pair_has_a_gender_or_a_plural(blimp: Blimp) -> None:
    gender = data.group(blimp["anaphor_gender_agreement"], data.gender)
    assert list(gender) == ["feminine", "masculine", "neuter"]
    pairs = blimp["anaphor_number_agreement"]
    number = data.group(pairs, data.number)
    assert {name: len(group) for name, group in number.items()} == {"plural": 479, "singular": 521}
    assert len(data.group(pairs, data.gender)["other"]) == len(number["plural"])


def test_subject_verb_pairs_have_the_number_of_their_subject(blimp: Blimp) -> None:
    unnamed = []
    for pairs in agreement(blimp, "subject_verb_agreement"):
        groups = data.group(pairs, data.number)
        unnamed += [pair.bad for pair in groups.pop("other", ())]
        for name, group in groups.items():
            of_the_other = {"plural": "is was has does", "singular": "are were have do"}[name].split()
            assert not {pair.target.removesuffix("n't") for pair in group} & set(of_the_other)
    # The one pair whose verbs differ in more than number.
    assert unnamed == ["All patients that hurts Steven singing."]
