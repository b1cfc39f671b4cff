"""Loaders on the built-in sample: records, filters, names, and what happens when the data is not there."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from kntools import data
from kntools.data.hub import Unavailable
from kntools.data.records import Loaded, Skipped
from kntools.models.names import check_name


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)


# --- everything runs without data -------------------------------------------------------------------


def test_the_sample_is_as_large_as_promised() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # asked for by name, so no warning
        assert [len(data.blimp(p)) for p in data.PARADIGMS[:0]] == []
        assert len(data.blimp("sample_determiner_noun_agreement_1")) == 100
        capitals, reverse = (data.pararel(r, path="sample") for r in ("P36", "P1376"))
        fields, jobs = (data.pararel(r, path="sample") for r in ("P101", "P106"))
    assert len(capitals) == len(reverse) >= 60
    assert len(fields) == len(jobs) >= 40
    for facts in (capitals, reverse, fields, jobs):
        assert sum(pattern.endswith("[Y].") for pattern in facts[0].patterns) >= 4
        assert all(candidate.prompt for candidate in facts[0].candidates(masked=True))
    assert capitals.source == "built-in sample"


@pytest.mark.parametrize(
    ("load", "size"),
    [
        (lambda: data.blimp("determiner_noun_agreement_1"), 100),
        (lambda: data.pararel("P36"), 98),
        (lambda: data.counterfact(), 102),
        (lambda: data.known_facts(), 98),
        (lambda: data.symmetric_facts("P1376"), 98),
        (lambda: data.synonym_facts("P101"), 102),
    ],
)
def test_without_data_the_sample_stands_in_and_says_so(load: Any, size: int) -> None:
    with pytest.warns(UserWarning, match=r"was not found .*KNTOOLS_DATA.*built-in sample instead"):
        loaded = load()
    assert len(loaded) == size
    assert loaded.source.startswith("built-in sample, in place of ")
    assert loaded.skipped.total == 0


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (lambda: data.blimp("passive_1"), "BLiMP passive_1"),
        (lambda: data.pararel("P19"), "ParaRel P19"),
        (lambda: data.counterfact_reduced(), "CounterFact in its reduced form"),
    ],
)
def test_what_the_sample_does_not_have_says_what_to_type(load: Any, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{name} was not found.*Set KNTOOLS_DATA to .* or pass path="):
        load()


def test_counterfact_sample_is_consistent() -> None:
    records = data.counterfact(path="sample")
    field = {record.subject: record.target for record in records}
    for record in records:
        assert record.target != record.new_target
        for prompts, answer in (
            (record.neighborhood_prompts, record.target),
            (record.attribute_prompts, record.new_target),
        ):
            for prompt in prompts:
                assert field[prompt.removesuffix(" worked in the field of")] == answer


# --- filters ----------------------------------------------------------------------------------------


def test_limit_and_seed() -> None:
    everything = data.pararel("P36", path="sample")
    first = data.pararel("P36", path="sample", limit=5)
    assert first.records == everything.records[:5]
    assert first.skipped["over the limit"] == len(everything) - 5
    sample = data.pararel("P36", path="sample", limit=10, seed=3)
    assert sample.records == data.pararel("P36", path="sample", limit=10, seed=3).records
    assert sample.records != data.pararel("P36", path="sample", limit=10, seed=4).records
    assert set(sample) < set(data.pararel("P36", path="sample", limit=20, seed=3))
    order = [everything.records.index(fact) for fact in sample]
    assert order == sorted(order) and order != list(range(10))


@pytest.mark.parametrize("target", ["Paris", {"Paris", "Rome"}, ["Rome"]])
def test_target(target: Any) -> None:
    wanted = {target} if isinstance(target, str) else set(target)
    facts = data.pararel("P36", path="sample", target=target)
    assert {fact.target for fact in facts} == wanted
    assert len(facts) + facts.skipped["other target"] == facts.total


def test_wrong_filters() -> None:
    with pytest.raises(ValueError, match=r"limit=-1; give a whole number at least 0"):
        data.pararel("P36", path="sample", limit=-1)
    for target in (["Ottawa", None], 5):
        with pytest.raises(TypeError, match=r"target=.*; give "):
            data.pararel("P36", path="sample", target=target)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"unknown argument limits; the filters are limit, seed"):
        data.pararel("P36", path="sample", limits=3)  # type: ignore[call-arg]


def test_where_and_repr() -> None:
    facts = data.pararel("P36", path="sample", limit=3)
    short = facts.where(lambda fact: len(fact.subject) < 8, "long name")
    assert len(short) + short.skipped["long name"] == 3
    assert short.total == facts.total == 98
    assert repr(facts) == "Loaded(3 of 98 x Fact, skipped: 95 over the limit, source: built-in sample)"
    assert list(facts) == list(facts[:3]) and facts[0] == facts.records[0]


def test_skipped_counts_add_and_have_one_order() -> None:
    one = Skipped.of({"b": 1, "a": 1, "none": 0}) + Skipped.of(["c", "c"])
    assert one.counts == (("c", 2), ("a", 1), ("b", 1))
    assert (one.total, one["c"], one["never"], str(one)) == (4, 2, 0, "2 c, 1 a, 1 b")
    assert str(Skipped()) == "none"


def test_groups_lose_nothing() -> None:
    pairs = data.blimp("sample_determiner_noun_agreement_2")
    groups = data.group(pairs, lambda pair: pair.target if pair.target.startswith("th") else None)
    assert list(groups)[-1] == "other" or "other" not in groups
    assert sum(map(len, groups.values())) == len(pairs)
    assert all(group.total == len(pairs) for group in groups.values())


@pytest.mark.parametrize("paradigm", ["determiner_noun_agreement_1", "determiner_noun_agreement_2"])
def test_numbers_of_the_sample(paradigm: str) -> None:
    groups = data.group(data.blimp(f"sample_{paradigm}"), data.determiner)
    assert {name: len(group) for name, group in groups.items()} == dict.fromkeys(["that", "these", "this", "those"], 25)


def test_numbers_of_the_subject_verb_sample() -> None:
    groups = data.group(data.blimp("sample_subject_verb_agreement"), data.number)
    assert {name: len(group) for name, group in groups.items()} == {"plural": 50, "singular": 50}


# --- pairs of facts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", ["P36", "P1376"])
@pytest.mark.parametrize("seed", [None, 0, 7])
def test_a_new_target_is_never_the_target(relation: str, seed: int | None) -> None:
    facts = data.pararel(relation, path="sample")
    target = {fact.subject: fact.target for fact in facts}
    for fact in data.symmetric_facts(relation, path="sample", seed=seed):
        assert fact.new_target != fact.target
        assert target[fact.new_subject] == fact.new_target
        forward, new, old = fact.candidates(masked=False)
        assert forward.prompt and new.prompt and old.prompt
        assert (forward.prompt.target, forward.prompt.foil) == (f" {fact.target}", f" {fact.new_target}")
        assert (new.prompt.subject, new.prompt.target) == (fact.new_target, f" {fact.subject}")
        assert (old.prompt.subject, old.prompt.target) == (fact.target, f" {fact.subject}")


def test_a_relation_with_one_target_has_no_new_one(tmp_path: Path) -> None:
    write_relation(tmp_path, "P36", [("Utopia", "Amaurot"), ("Old Utopia", "Amaurot")])
    facts = data.symmetric_facts("P36", path=tmp_path)
    assert len(facts) == 0 and facts.skipped["no other target in the relation"] == facts.total == 2


def test_a_second_true_target_is_never_the_new_one(tmp_path: Path) -> None:
    capitals = [("Bolivia", "Sucre"), ("Bolivia", "Quito"), ("Peru", "Lima")]
    write_relation(tmp_path, "P36", capitals)
    found = data.symmetric_facts("P36", path=tmp_path)
    assert {f.new_target for f in found if f.subject == "Bolivia"} == {"Lima"}


def write_relation(folder: Path, relation: str, facts: list[tuple[str, str]]) -> None:
    for part in ("patterns", "facts"):
        (folder / "pararel" / part).mkdir(parents=True)
    name = f"{relation}.jsonl"
    (folder / "pararel" / "patterns" / name).write_text('{"pattern": "The capital of [X] is [Y]."}\n')
    rows = [f'{{"sub_label": "{s}", "obj_label": "{o}", "uuid": "{s}{o}"}}\n' for s, o in facts]
    (folder / "pararel" / "facts" / name).write_text("".join(rows))


def test_new_targets_depend_on_the_seed_alone() -> None:
    everything = data.symmetric_facts("P36", path="sample", seed=5)
    some = data.symmetric_facts("P36", path="sample", seed=5, limit=9)
    assert set(some) < set(everything)
    assert everything.records != data.symmetric_facts("P36", path="sample", seed=6).records


def test_synonyms_say_something_else() -> None:
    facts = data.synonym_facts(path="sample")
    for fact in facts:
        assert fact.occupation != fact.new_occupation and fact.target != fact.new_target
    einstein = next(fact for fact in facts if fact.subject == "Albert Einstein")
    assert (einstein.target, einstein.occupation) == ("physics", "physicist")


def test_a_field_without_an_occupation_is_counted(tmp_path: Path) -> None:
    table = tmp_path / "mine.tsv"
    table.write_text("field\toccupation\nphysics\tphysicist\nlogic\tlogician\n")
    facts = data.synonym_facts(path="sample", synonyms=table)
    assert {fact.target for fact in facts} == {"physics", "logic"}
    assert facts.skipped["no occupation for this field"] == 102 - len(facts)


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: data.blimp("determiner_noun_agreement_with_adj_1"), "did you mean 'determiner_noun_agreement"),
        (lambda: data.blimp("xyzzy"), "unknown BLiMP paradigm 'xyzzy'; there are 70, e.g. 'adjunct_island'"),
        (lambda: data.pararel("p36"), r"did you mean 'P36' \(capital\)"),
        (lambda: data.pararel("capital of"), r"did you mean 'P1376' \(capital of\)"),
        (lambda: data.pararel("P31"), "ParaRel has facts of P31 but no patterns"),
        (lambda: data.symmetric_facts("P101"), "unknown symmetric relation 'P101'"),
        (lambda: data.synonym_facts("P106"), "unknown relation with synonyms 'P106'; did you mean 'P101'"),
        (lambda: data.agreement_frames("verb"), "choose one of subject_verb, determiner_noun"),
        (lambda: data.pararel("P19", path="sample"), "no built-in sample of ParaRel P19"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(load: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load()


def test_few_names_are_all_offered() -> None:
    with pytest.raises(ValueError, match="unknown letter 'xyz'; use one of 'a', 'b'"):
        check_name("letter", "xyz", ["a", "b"])


def test_check_name_accepts_what_is_known() -> None:
    check_name("letter", "a", ["a", "b"])
    check_name("letter", "b", {"a": "first", "b": "second"})


def test_loaded_is_empty_without_records() -> None:
    assert repr(Loaded((), Skipped(), "nowhere")) == "Loaded(0 of 0 x record, skipped: none, source: nowhere)"
    assert issubclass(Unavailable, Exception)
