"""Write the built-in facts (`pararel` and `counterfact` in `kntools/data/sample`) in the layout of the published data.

    python scripts/make_sample_facts.py            # writes the files in the package
    python scripts/make_sample_facts.py --out F    # writes them into the folder F

Everything follows from the tables of the sample: `countries.tsv`, `people.tsv` and `phrasings.tsv`.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).resolve().parents[1] / "kntools" / "data" / "sample"

# Wikidata's relation -> its name in phrasings.tsv, a table, and its columns of subject and answer.
RELATIONS = {
    "P36": ("capital", "countries.tsv", "country", "capital"),
    "P1376": ("capital_of", "countries.tsv", "capital", "country"),
    "P101": ("field", "people.tsv", "name", "field"),
    "P106": ("occupation", "people.tsv", "name", "occupation"),
}


def table(name: str) -> list[dict[str, str]]:
    with (SAMPLE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def patterns(relation: str) -> list[dict[str, Any]]:
    return [{"pattern": row["pattern"]} for row in table("phrasings.tsv") if row["relation"] == RELATIONS[relation][0]]


def facts(relation: str) -> list[dict[str, Any]]:
    _, source, subject, answer = RELATIONS[relation]
    return [
        {"sub_label": row[subject], "obj_label": row[answer], "uuid": f"{relation}-{n}"}
        for n, row in enumerate(table(source))
    ]


def known_facts() -> list[dict[str, Any]]:
    """Capitals in the fields of ROME's known facts. Nobody has checked which model knows them."""
    return [
        {
            "known_id": number,
            "subject": row["country"],
            "attribute": row["capital"],
            "template": "The capital of {} is",
            "prediction": f" {row['capital']}",
            "prompt": f"The capital of {row['country']} is",
            "relation_id": "P36",
        }
        for number, row in enumerate(table("countries.tsv"))
    ]


def counterfact() -> list[dict[str, Any]]:
    """People's fields of work in CounterFact's fields; the new target is the next person's other field."""
    people = table("people.tsv")
    rows = []
    for number, person in enumerate(people):
        name, field = person["name"], person["field"]
        after = people[number + 1 :] + people[:number]
        new = next(other["field"] for other in after if other["field"] != field)
        same, others = ([p["name"] for p in after if p["field"] == wanted] for wanted in (field, new))
        rewrite = {
            "prompt": "{} worked in the field of",
            "relation_id": "P101",
            "target_new": {"str": new, "id": f"sample:{new}"},
            "target_true": {"str": field, "id": f"sample:{field}"},
            "subject": name,
        }
        rows.append(
            {
                "case_id": number,
                "pararel_idx": number,
                "requested_rewrite": rewrite,
                "paraphrase_prompts": [f"{name} is remembered for work in", f"The life of {name} was devoted to"],
                "neighborhood_prompts": [f"{colleague} worked in the field of" for colleague in same],
                "attribute_prompts": [f"{colleague} worked in the field of" for colleague in others],
                "generation_prompts": [
                    f"{name} is a famous",
                    f"Every morning {name} went to",
                    f"{name} is best known for",
                ],
            }
        )
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def texts() -> dict[str, str]:
    """Name of a file below the sample -> its text."""
    found = {}
    for relation in RELATIONS:
        found[f"pararel/patterns/{relation}.jsonl"] = "".join(f"{line}\n" for line in lines(patterns(relation)))
        found[f"pararel/facts/{relation}.jsonl"] = "".join(f"{line}\n" for line in lines(facts(relation)))
    found["counterfact/counterfact_1000.jsonl"] = "".join(f"{line}\n" for line in lines(counterfact()))
    found["counterfact/known_1000.json"] = "[\n" + ",\n".join(lines(known_facts())) + "\n]\n"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SAMPLE)
    out: Path = parser.parse_args().out
    for name, text in texts().items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
