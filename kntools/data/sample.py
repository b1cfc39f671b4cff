"""The built-in sample as rows: small tables of our own, in the fields of the data sets they stand in for."""

from __future__ import annotations

import tomllib
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


#: What loaders may be asked for: `paradigms` of BLiMP, and `relations` of ParaRel.
NAMES: dict[str, Any] = tomllib.loads(file("names.toml").read_text(encoding="utf-8"))


def pairs(paradigm: str) -> list[list[Row]]:
    """Minimal pairs in BLiMP's fields."""
    return [[row for row in json_lines(file("agreement_pairs.jsonl")) if row.values.get("UID") == paradigm]]


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
    rows = []
    for number, row in enumerate(table(file("countries.tsv"), _COLUMNS["countries.tsv"])):
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
        rows.append(Row(row.where, values))
    return [rows]


def counterfact() -> list[list[Row]]:
    """People's fields of work in CounterFact's fields; the new target is the next person's other field."""
    people = table(file("people.tsv"), _COLUMNS["people.tsv"])
    rows = []
    for number, person in enumerate(people):
        name, field = person.text("name"), person.text("field")
        after = people[number + 1 :] + people[:number]
        new = next(row.text("field") for row in after if row.text("field") != field)
        same, other = ([r.text("name") for r in after if r.text("field") == wanted] for wanted in (field, new))
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
            "neighborhood_prompts": [f"{colleague} worked in the field of" for colleague in same],
            "attribute_prompts": [f"{colleague} worked in the field of" for colleague in other],
            "generation_prompts": [
                f"{name} is a famous",
                f"Every morning {name} went to",
                f"{name} is best known for",
            ],
        }
        rows.append(Row(person.where, values))
    return [rows]
