"""The built-in sample as rows: small tables of our own, in the fields of the data sets they stand in for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from kntools.data.read import Row, json_lines, table

# Relation ids of Wikidata that the sample covers -> (name in phrasings.tsv, table, subject column, answer
# column).
RELATIONS = {
    "P36": ("capital", "countries.tsv", "country", "capital"),
    "P1376": ("capital_of", "countries.tsv", "capital", "country"),
    "P101": ("field", "people.tsv", "name", "field"),
    "P106": ("occupation", "people.tsv", "name", "occupation"),
}
PARADIGMS = (
    "sample_determiner_noun_agreement_1",
    "sample_determiner_noun_agreement_2",
    "sample_subject_verb_agreement",
)
_COLUMNS = {"countries.tsv": ("country", "capital"), "people.tsv": ("name", "field", "occupation")}


def file(name: str) -> Path:
    """A table of the sample, as a path."""
    return Path(str(resources.files("kntools.data") / "sample" / name))


def pairs(paradigm: str) -> list[list[Row]]:
    """Minimal pairs in BLiMP's fields."""
    rows = json_lines(file("agreement_pairs.jsonl"))
    return [[row for row in rows if row.values.get("UID") == paradigm]]


def relation(name: str) -> list[list[Row]]:
    """Patterns and facts of one relation in ParaRel's fields."""
    phrasing, source, subject, answer = RELATIONS[name]
    patterns = [
        Row(row.where, {"pattern": row.text("pattern")})
        for row in table(file("phrasings.tsv"), ("relation", "pattern"))
        if row.text("relation") == phrasing
    ]
    facts = [
        Row(row.where, {"sub_label": row.text(subject), "obj_label": row.text(answer), "uuid": f"{name}-{i}"})
        for i, row in enumerate(table(file(source), _COLUMNS[source]))
    ]
    return [patterns, facts]


def known_facts() -> list[list[Row]]:
    """Capitals in the fields of ROME's known facts. Nobody has checked which model knows them."""
    rows = table(file("countries.tsv"), _COLUMNS["countries.tsv"])
    return [[_known(i, row) for i, row in enumerate(rows)]]


def _known(number: int, row: Row) -> Row:
    country, capital = row.text("country"), row.text("capital")
    values = {
        "known_id": number,
        "subject": country,
        "attribute": capital,
        "template": "The capital of {} is",
        "prediction": f" {capital}",
        "prompt": f"The capital of {country} is",
        "relation_id": "P36",
    }
    return Row(row.where, values)


def counterfact() -> list[list[Row]]:
    """People's fields of work in CounterFact's fields; the new target is the next person's other field."""
    people = table(file("people.tsv"), _COLUMNS["people.tsv"])
    return [[_counterfact(i, people) for i in range(len(people))]]


def _counterfact(number: int, people: list[Row]) -> Row:
    name, field = people[number].text("name"), people[number].text("field")
    after = people[number + 1 :] + people[:number]
    new = next(row.text("field") for row in after if row.text("field") != field)
    same = [row.text("name") for row in after if row.text("field") == field]
    other = [row.text("name") for row in after if row.text("field") == new]
    values: dict[str, Any] = {
        "case_id": number,
        "pararel_idx": number,
        "requested_rewrite": {
            "prompt": "{} worked in the field of",
            "relation_id": "P101",
            "target_new": {"str": new, "id": f"sample:{new}"},
            "target_true": {"str": field, "id": f"sample:{field}"},
            "subject": name,
        },
        "paraphrase_prompts": [f"{name} is remembered for work in", f"The life of {name} was devoted to"],
        "neighborhood_prompts": [f"{person} worked in the field of" for person in same],
        "attribute_prompts": [f"{person} worked in the field of" for person in other],
        "generation_prompts": [
            f"{name} is a famous",
            f"Every morning {name} went to",
            f"{name} is best known for",
        ],
    }
    return Row(people[number].where, values)
