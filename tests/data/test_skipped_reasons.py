"""Everything that is left out is counted under its own reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kntools import data
from tests import zoo


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def skipped(prompts: Any) -> dict[str, int]:
    """The reasons; with what was kept they are everything that could be asked."""
    assert len(prompts) + sum(n for _, n in prompts.skipped.counts) == prompts.total
    return dict(prompts.skipped.counts)


# --- every reason has its own name and its own count ------------------------------------------------

PAIRS = [
    ("The city of Canada.", "The city of Canada."),
    ("The city of France.", "The city of France."),
    ("The city of Italy.", "The city of Italy."),
    ("Ottawa is the capital of Canada.", "Paris is the capital of Canada."),  # nothing stands before
    ("Rome is the capital of Italy.", "Oslo is the capital of Italy."),
    ("Is Canada near France?", "Is Canada near the lazy France?"),  # another number of tokens
    ("Is Canada near Ouagadougou?", "Is Canada near Italy?"),
    ("Is Japan near Spain?", "Is France near Cuba?"),  # two words
    ("Is Japan near Ouagadougou?", "Is Japan near Cuba?"),
    ("Is Canada near France?", "Is Canada near Italy?"),  # the ones to keep
    ("The dog jumps over this book.", "The dog jumps over this table."),
]


def blimp(tmp_path: Path) -> data.Loaded[Any]:
    rows = [
        {"sentence_good": good, "sentence_bad": bad, "UID": "passive_1", "pair_id": i, "field": "f",
         "linguistics_term": "t"} for i, (good, bad) in enumerate(PAIRS)
    ]  # fmt: skip
    return data.blimp("passive_1", path=write_lines(tmp_path / "passive_1.jsonl", rows))


def test_blimp_counts_each_reason_for_itself(tmp_path: Path) -> None:
    pairs = blimp(tmp_path)
    assert (len(pairs), pairs.skipped.total, pairs.total) == (11, 0, 11)
    causal, masked = pairs.prompts(zoo.tiny("gpt2")), pairs.prompts(zoo.tiny("bert"))
    assert skipped(causal) == {"identical pair": 3, "multi-token difference": 4, "empty context": 2}
    assert skipped(masked) == {"identical pair": 3, "multi-token difference": 4}
    assert [p.target.strip() for p in causal] == ["France", "book"]
    assert [p.target for p in masked] == ["Ottawa", "Rome", "France", "book"]


def pararel(tmp_path: Path) -> data.Loaded[Any]:
    patterns = [
        "The capital of [X] is [Y].", "[Y] is the capital of [X].", "[X] and [Y] are near the table.",
        "The capital of Canada and [X] is [Y].",
    ]  # fmt: skip
    facts = [("Canada", "Ottawa"), ("France", "Paris"), ("Italy", "Ouagadougou"), ("Japan", "Tokyo"), ("Spain", "Rome")]
    write_lines(tmp_path / "pararel" / "patterns" / "P36.jsonl", [{"pattern": p} for p in patterns])
    rows = [{"sub_label": s, "obj_label": o, "uuid": s} for s, o in facts]
    write_lines(tmp_path / "pararel" / "facts" / "P36.jsonl", rows)
    return data.pararel("P36", path=tmp_path)


def test_pararel_counts_each_reason_for_itself(tmp_path: Path) -> None:
    facts = pararel(tmp_path)
    assert (len(facts), facts.total) == (5, 5)
    found = facts.prompts(zoo.tiny("gpt2"))
    assert found.total == 5 * 4
    # Two patterns do not end in the answer; Canada stands twice in the last one; one answer is no single token.
    expected = {"mask not last": 10, "subject also occurs earlier in the prompt": 1, "answer is not one token": 2}
    assert skipped(found) == expected and len(found) == 7
    found = facts.prompts(zoo.tiny("bert"))
    assert skipped(found) == {"subject also occurs earlier in the prompt": 1, "answer is not one token": 4}
    first = facts.prompts(zoo.tiny("gpt2"), multi_token="first")
    assert skipped(first) == {name: n for name, n in expected.items() if name != "answer is not one token"}


def counterfact(tmp_path: Path) -> data.Loaded[Any]:
    def record(number: int, subject: str, true: str, new: str, **more: Any) -> dict[str, Any]:
        rewrite = {
            "prompt": "The capital of {} is", "relation_id": "P36", "subject": subject,
            "target_new": {"str": new, "id": "Q1"}, "target_true": {"str": true, "id": "Q2"},
        }  # fmt: skip
        texts = {"paraphrase_prompts": [], "neighborhood_prompts": [], "attribute_prompts": []}
        return {
            "case_id": number, "pararel_idx": number, "requested_rewrite": rewrite, "generation_prompts": [], **texts,
            **more,
        }  # fmt: skip

    rows = [
        record(0, "Canada", "Ottawa", "Rome", paraphrase_prompts=["Is Japan near", "Is Canada near"]),
        record(1, "France", "Paris", "Ouagadougou", neighborhood_prompts=["The capital of Italy is"]),
        record(2, "Italy", "Ouagadougou", "Paris", attribute_prompts=["The capital of France is"]),
        record(3, "Japan", "Tokyo", "Tokyo", attribute_prompts=["The capital of France is"]),
        record(4, "Spain", "Madrid", "Oslo", neighborhood_prompts=["Is it " + 70 * "very " + "near"]),
        record(5, "capital", "Oslo", "Rome"),  # stands earlier in its own template
    ]
    return data.counterfact(path=write_lines(tmp_path / "counterfact_1000.jsonl", rows).parent)


def test_counterfact_counts_each_reason_for_itself(tmp_path: Path) -> None:
    records = counterfact(tmp_path)
    found = records.prompts(zoo.tiny("gpt2"))
    assert found.total == 6 + 2 + 2 + 2
    assert skipped(found) == {
        "subject not in the prompt": 1,  # Japan for Canada
        "answer is not one token": 1,  # the rewrite of Italy
        "foil is not one token": 3,  # France's rewrite and neighbour, Italy's attribute
        "target equal to the new target": 2,
        "longer than the model's context": 1,
        "subject also occurs earlier in the prompt": 1,
    }
    assert Counter(found.roles) == {"rewrite": 2, "paraphrase": 1}
    rewrites = records.prompts(zoo.tiny("gpt2"), role="rewrite")
    assert rewrites.total == 6 and [p.subject for p in rewrites] == ["Canada", "Spain"]


def known_facts(tmp_path: Path) -> data.Loaded[Any]:
    def fact(number: int, subject: str, answer: str, template: str, prompt: str | None = None) -> dict[str, Any]:
        return {
            "known_id": number, "subject": subject, "attribute": answer, "template": template,
            "prompt": prompt or template.format(subject), "prediction": answer, "relation_id": "P36",
        }  # fmt: skip

    capital = "The capital of {} is"
    rows = [
        fact(0, "Canada", "Ottawa", capital),
        fact(1, "France", "Ouagadougou", capital),
        fact(2, "Italy", "Ouagadougou", capital),
        fact(3, "Japan", "Tokyo", capital, "The capital of Cuba is"),
        fact(4, "capital", "Oslo", capital),
        fact(5, "The", "Oslo", "The capital of {} is"),
        fact(6, "city", "Oslo", "The city and {} is"),
        fact(7, "Spain", "Madrid", 70 * "very " + capital),
        fact(8, "Cuba", "Havana", capital),
    ]
    path = tmp_path / "known_1000.json"
    path.write_text(json.dumps(rows))
    return data.known_facts(path=path)


def test_known_facts_count_each_reason_for_themselves(tmp_path: Path) -> None:
    facts = known_facts(tmp_path)
    found = facts.prompts(zoo.tiny("gpt2"))
    assert skipped(found) == {
        "answer is not one token": 2,
        "subject not in the prompt": 1,
        "subject also occurs earlier in the prompt": 3,
        "longer than the model's context": 1,
    }
    assert [p.subject for p in found] == ["Canada", "Cuba"]


LOADERS = {"blimp": blimp, "pararel": pararel, "counterfact": counterfact, "known_facts": known_facts}


@pytest.mark.parametrize("name", LOADERS)
def test_filters_share_out_all_records(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other targets, unknown, without a prompt and over the limit, at once, each counted by a loop."""
    LOADERS[name](tmp_path)
    paths = {"blimp": "passive_1.jsonl", "pararel": ".", "counterfact": ".", "known_facts": "known_1000.json"}
    source = {"blimp": ("passive_1",), "pararel": ("P36",)}.get(name, ())

    def load(**filters: Any) -> data.Loaded[Any]:
        return getattr(data, name)(*source, path=tmp_path / paths[name], **filters)

    everything, model = load(), zoo.tiny("gpt2")
    targets = {record.target for record in everything[1:]} - {everything[0].target}
    wanted = [record for record in everything if record.target in targets]
    usable, known = [], []
    for record in wanted:
        role = getattr(record, "known_role", None)
        prompts = data.Loaded((record,), data.Skipped(), "").prompts(model, role=role)
        usable += [record] if len(prompts) else []
        if len(prompts) and data.known(model, prompts)[0]:
            known.append(record)
    counts = {
        "other target": len(everything) - len(wanted), "no usable prompt for this model": len(wanted) - len(usable),
        "not known to the model": len(usable) - len(known),
    }  # fmt: skip
    found = load(target=targets, known_only=model)
    assert found.records == tuple(known)
    assert dict(found.skipped.counts) == {reason: n for reason, n in counts.items() if n}
    assert sum(n > 0 for n in counts.values()) >= 2, "one reason only: the test says nothing"
    assert len(found) + found.skipped.total == len(everything)
    # A limit stops the questions: what was not asked is over the limit.
    found = load(target=targets, limit=1, seed=0)
    assert dict(found.skipped.counts) == {
        reason: n for reason, n in (("other target", counts["other target"]), ("over the limit", len(wanted) - 1)) if n
    }
    none = load(target=targets, limit=0, known_only=model)
    assert none.skipped["over the limit"] == len(wanted) and len(none) == 0


def test_a_limit_does_not_hide_what_the_model_does_not_know() -> None:
    model = zoo.tiny("llama")
    frames = data.agreement_frames("determiner_noun")
    right = dict(zip(frames.prompts(model).records, data.known(model, frames.prompts(model)), strict=True))
    known = [frame for frame in frames if right.get(frame)]
    found = data.agreement_frames("determiner_noun", known_only=model, limit=3)
    before = frames.records[: frames.records.index(known[2]) + 1]
    assert found.records == tuple(known[:3])
    expected = {
        "not known to the model": sum(right.get(f) is False for f in before),
        "no usable prompt for this model": sum(f not in right for f in before),
        "over the limit": len(frames) - len(before),
    }
    assert dict(found.skipped.counts) == {reason: n for reason, n in expected.items() if n} and len(expected) > 1
