"""The built-in sample: complete, clean and reproducible."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "kntools" / "data" / "sample"
DATA = Path(os.environ.get("KNTOOLS_DATA", ROOT.parent / "shared" / "data"))
HEADERS = {
    "countries.tsv": ["country", "capital"],
    "phrasings.tsv": ["relation", "pattern"],
    "people.tsv": ["name", "field", "occupation"],
    "field_to_occupation.tsv": ["field", "occupation"],
}
RELATIONS = ("capital", "capital_of", "field", "occupation")


def table(name: str) -> list[list[str]]:
    with (SAMPLE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def pairs() -> list[dict[str, object]]:
    lines = (SAMPLE / "agreement_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_tables_are_clean(name: str) -> None:
    header, *rows = table(name)
    assert header == HEADERS[name]
    assert all(len(row) == len(header) for row in rows)
    assert all(cell and cell == " ".join(cell.split()) for row in rows for cell in row)
    assert len({tuple(row) for row in rows}) == len(rows)


def test_countries_can_be_asked_in_both_directions() -> None:
    rows = table("countries.tsv")[1:]
    assert len(rows) >= 70
    assert sum(" " not in country and " " not in capital for country, capital in rows) >= 60
    for column in zip(*rows, strict=True):
        assert len(set(column)) == len(rows), "a repeated name would make a fact ambiguous"
    assert not {country for country, _ in rows} & {capital for _, capital in rows}
    assert rows == sorted(rows)


def test_patterns_have_one_subject_and_one_answer() -> None:
    patterns: dict[str, list[str]] = {relation: [] for relation in RELATIONS}
    for relation, pattern in table("phrasings.tsv")[1:]:
        assert pattern.count("[X]") == 1 and pattern.count("[Y]") == 1, pattern
        assert pattern.endswith("."), pattern
        before = pattern.split("[Y]")[0].split()
        assert not before or before[-1] not in ("a", "an"), f"{pattern}: a/an gives the answer's first letter away"
        patterns[relation].append(pattern)
    for relation, least in (("capital", 6), ("capital_of", 6), ("field", 4), ("occupation", 4)):
        assert len(patterns[relation]) >= least
        assert sum(pattern.endswith("[Y].") for pattern in patterns[relation]) >= 4
    assert "[X] is a famous [Y]." in patterns["occupation"]


def test_people_agree_with_the_synonym_table() -> None:
    people = table("people.tsv")[1:]
    synonyms = dict(table("field_to_occupation.tsv")[1:])
    assert len(people) >= 45
    assert len({name for name, _, _ in people}) == len(people)
    for name, field, occupation in people:
        assert synonyms[field] == occupation, name


def test_synonyms_are_one_row_per_field_and_sorted() -> None:
    fields = [field for field, _ in table("field_to_occupation.tsv")[1:]]
    assert fields == sorted(set(fields))


@pytest.mark.skipif(not (DATA / "pararel").is_dir(), reason="no data folder (set KNTOOLS_DATA)")
def test_synonyms_cover_every_p101_answer() -> None:
    with (DATA / "pararel" / "facts" / "P101.jsonl").open(encoding="utf-8") as file:
        answers = {json.loads(line)["obj_label"] for line in file}
    with gzip.open(DATA / "pararel" / "data_all_allbags.json.gz", "rt", encoding="utf-8") as file:
        answers |= {answer for bag in json.load(file)["P101"] for _, answer, _ in bag}
    assert len(answers) == 107
    assert answers <= dict(table("field_to_occupation.tsv")[1:]).keys()


def test_pairs_are_minimal_distinct_and_balanced() -> None:
    records = pairs()
    counts = Counter(record["UID"] for record in records)
    assert set(counts) == {
        "sample_determiner_noun_agreement_1",
        "sample_determiner_noun_agreement_2",
        "sample_subject_verb_agreement",
    }
    assert min(counts.values()) >= 60
    for record in records:
        assert list(record) == ["sentence_good", "sentence_bad", "field", "linguistics_term", "UID", "pair_id"]
        good, bad = str(record["sentence_good"]).split(), str(record["sentence_bad"]).split()
        places = [at for at, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b]
        assert len(places) == 1, record
        if record["UID"] == "sample_determiner_noun_agreement_1":
            assert places == [len(good) - 1], "the noun is last"
    sentences = [str(record[key]) for record in records for key in ("sentence_good", "sentence_bad")]
    by_uid = [(record["UID"], record["sentence_good"]) for record in records]
    assert len(set(by_uid)) == len(by_uid)
    assert all(text[0].isupper() and text.endswith(".") for text in sentences)
    determiners = Counter(
        next(word for word in str(record["sentence_good"]).split() if word in ("this", "that", "these", "those"))
        for record in records
        if record["UID"] == "sample_determiner_noun_agreement_2"
    )
    assert set(determiners.values()) == {counts["sample_determiner_noun_agreement_2"] // 4}
    for uid, count in counts.items():
        assert sorted(r["pair_id"] for r in records if r["UID"] == uid) == list(range(count))


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_script_writes_the_shipped_pairs(tmp_path: Path, hash_seed: str) -> None:
    out = tmp_path / "pairs.jsonl"
    script = ROOT / "scripts" / "make_sample_pairs.py"
    subprocess.run(
        [sys.executable, str(script), "--out", str(out)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert out.read_bytes() == (SAMPLE / "agreement_pairs.jsonl").read_bytes()


def test_script_writes_the_shipped_facts(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_sample_facts.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.json*")}
    assert len(written) == 10
    assert written == {name: (SAMPLE / name).read_bytes() for name in written}
