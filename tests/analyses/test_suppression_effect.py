"""Word probabilities under neuron edits, and their tests: by hand, against scipy, and on nothing at all."""

from __future__ import annotations

import inspect
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses.fig05_suppression_effect import effect_of, suppression_effect
from kntools.analyses.fig06_cooccurrence_bias import (
    cooccurrence_bias,
    count_beside,
    expected_beside,
    noun_numbers,
    read_texts,
)
from kntools.analyses.fig07_probability_shift import ProbabilityShift, probability_shift
from kntools.analyses.words import FIGURE_5, noun_prompts
from kntools.engine.answers import ask
from kntools.results.statistics import spearman
from kntools.sites import Neuron
from tests import planted, zoo

NOUNS = {"plural": ("books", "people"), "singular": ("book", "cat")}


def planted_prompts() -> dict[str, list[kn.Prompt]]:
    return {
        number: [kn.Prompt(f"{frame} {d}", " book") for frame in planted.FRAMES for d in some]
        for number, some in (("plural", ("those",)), ("singular", ("this", "that")))
    }


def test_suppression_on_planted_neurons() -> None:
    """Without its neuron a place gives all four nouns the same probability."""
    model = planted.cached()
    shift = probability_shift(model, planted_prompts(), [planted.PLURAL], words=NOUNS)
    before, after = shift.pair("plural", "books")
    e = kn.encode(model, planted_prompts()["plural"][0])
    book = model.tokenizer.encode(" book", add_special_tokens=False)[0]
    uniform = model.run_with_hooks(e.tokens, fwd_hooks=kn.ablate_neurons([planted.PLURAL]))[0, -1].detach().softmax(-1)
    torch.testing.assert_close(after, uniform[book].expand(4), atol=1e-6, rtol=0)
    assert float(before.min()) > 2 * float(after.max())
    assert bool((shift.pair("plural", "book")[1] > shift.pair("plural", "book")[0]).all())
    assert torch.equal(*shift.pair("singular", "book")), "the other number's neuron is silent here"
    effect = effect_of(shift).to_frame().set_index(["group", "word"])
    b, a = float(before.double().mean()), float(after.double().mean())
    row = effect.loc[("plural", "books")]
    assert row["change"] == row["kn_thesis"] == pytest.approx((a - b) / a)
    assert row["dai"] == pytest.approx((a - b) / b) and row["mean_ratio"] == pytest.approx((a - b) / b, rel=1e-5)
    assert row["significant"] and not effect.loc[("singular", "book"), "significant"]
    assert effect.loc[("singular", "book"), "p"] == 1


@pytest.mark.parametrize("name", ["bert", "gpt2", "neox"])
def test_probabilities_are_those_of_whole_runs(name: str, tmp_path: Path) -> None:
    model = zoo.tiny(name)
    mask, space = (" [MASK] .", "") if model.tokenizer.mask_token else ("", " ")
    prompts = {"a": [kn.Prompt(f"The capital of {c} is{mask}", f"{space}Rome") for c in zoo.COUNTRIES]}
    words, neurons = ["Paris", "Rome", "the"], [(0, 3), (2, 7)]
    shift = probability_shift(model, prompts, neurons, words=words, factor=2.0, run=tmp_path / "run")
    for i, prompt in enumerate(prompts["a"]):
        e = kn.encode(model, prompt)
        for found, hooks in ((shift.before, []), (shift.after, kn.scale_neurons(neurons, 2.0, pos=e.positions))):
            p = model.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, e.position].detach().softmax(-1)
            ids = [kn.encode(model, kn.Prompt(prompt.text, space + w)).target_ids[0] for w in words]
            torch.testing.assert_close(found[i], p[ids], atol=1e-6, rtol=1e-4)
    loaded = kn.load(shift.save(tmp_path / "a.safetensors"))
    assert torch.equal(loaded.after, shift.after) and repr(loaded) == repr(shift)
    again = probability_shift(model, prompts, neurons, words=words, factor=2.0, run=tmp_path / "run")
    assert torch.equal(again.before, shift.before) and len(shift.plot().data) == 5
    effect = suppression_effect(model, prompts, neurons, words=words, factor=2.0, change="dai")
    path = effect.save(tmp_path / "a.json")
    assert kn.load(path).to_frame().equals(effect.to_frame()) and len(effect.plot().data) == 2


def fake(before: torch.Tensor, after: torch.Tensor) -> ProbabilityShift:
    words = tuple(("words", f"w{i}") for i in range(before.shape[1]))
    return ProbabilityShift(before, after, ("g",) * len(before), words, (Neuron(0, 0),), 0.0, {"model": "by hand"})


def test_changes_and_tests_by_hand() -> None:
    stats = pytest.importorskip("scipy.stats")
    before, after = torch.tensor([[0.1], [0.2], [0.4]]), torch.tensor([[0.05], [0.16], [0.3]])
    [row] = effect_of(fake(before, after)).rows
    assert row["dai"] == pytest.approx(-0.19 / 0.7, rel=1e-5)
    assert row["mean_ratio"] == pytest.approx((-0.5 - 0.2 - 0.25) / 3, rel=1e-5)
    assert row["kn_thesis"] == pytest.approx(-0.19 / 0.51, rel=1e-5)
    b, a = before[:, 0].double(), after[:, 0].double()
    assert row["p"] == row["p_corrected"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    [published] = effect_of(fake(before, after), paper=True, change="eleutherai").rows
    assert published["p"] == pytest.approx(stats.ttest_ind(a, b).pvalue)
    assert published["change"] == row["mean_ratio"] and row["low"] < row["change"] < row["high"]


def test_nothing_gives_uniform_p_and_few_false_alarms() -> None:
    stats = pytest.importorskip("scipy.stats")
    p, alarms = [], 0
    for seed in range(30):
        drawn = torch.rand(2, 25, 10, generator=torch.Generator().manual_seed(seed)) + 0.1
        rows = effect_of(fake(drawn[0], drawn[1])).rows
        p += [row["p"] for row in rows]
        alarms += any(row["significant"] for row in rows)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert alarms <= 5, "corrected: one run in twenty calls anything significant"


def test_words_of_figure_5_are_there() -> None:
    assert [len(some) for some in FIGURE_5.values()] == [7, 9, 8] and list(FIGURE_5) == [
        "plural",
        "singular",
        "neutral",
    ]


def test_errors_say_what_to_do() -> None:
    model, prompts = planted.cached(), planted_prompts()
    shift: Any = {"words": NOUNS}
    with pytest.raises(ValueError, match="word list is empty"):
        probability_shift(model, prompts, [(1, 5)], words={"plural": []})
    with pytest.raises(ValueError, match=r"' Ouagadougou' is \d+ tokens"):
        probability_shift(model, prompts, [(1, 5)], words=["Ouagadougou"])
    with pytest.raises(ValueError, match="another model"):
        probability_shift(model, prompts, [(9, 1094)], **shift)
    with pytest.raises(ValueError, match="no neurons"):
        probability_shift(model, prompts, [], **shift)
    with pytest.raises(ValueError, match="every group needs 1"):
        probability_shift(model, {"a": []}, [(1, 5)], **shift)
    with pytest.raises(ValueError, match="too few prompts"):
        suppression_effect(model, {"a": prompts["plural"][:1]}, [(1, 5)], **shift)
    with pytest.raises(ValueError, match="change='ratio'"):
        inspect.unwrap(suppression_effect)(model, prompts, [(1, 5)], change="ratio", **shift)
    with pytest.raises(ValueError, match="is a relation"):
        noun_prompts(model, "P36")
    with pytest.raises(ValueError, match="did you mean"):
        noun_prompts(model, "determiner_noun_agreement_3")


# Figure 6


def test_counting_by_hand() -> None:
    nouns = {"horse": "singular", "horses": "plural", "child": "singular", "children": "plural"}
    texts = [
        "Carl cured these horses, and some old horses.", {"text": "Some child saw the horse."},
        "SOME very old horses; some, horses", "all. Horses run",
    ]  # fmt: skip
    counts = count_beside(texts, ["some", "these", "all", "the"], nouns)
    assert counts["some"] == Counter(plural=1, singular=1) and counts["these"]["plural"] == 1
    assert counts["the"] == Counter(singular=1, plural=0) and sum(counts["all"].values()) == 0
    assert count_beside(texts, ["some"], nouns, between=2)["some"]["plural"] == 2
    assert count_beside(texts, ["some"], nouns, between=0)["some"] == Counter(singular=1, plural=0)
    with pytest.raises(ValueError, match="at least one word"):
        count_beside(texts, [], nouns)
    for wrong in ({"texts": texts[0]}, {"words": "some"}, {"nouns": ["horse"]}, {"nouns": {"horse": "one"}}):
        given: dict[str, Any] = {"texts": texts, "words": ["some"], "nouns": nouns, **wrong}
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            count_beside(**given)


def test_texts_are_lines_or_a_field_of_rows(tmp_path: Path) -> None:
    rows = ["some boy", "some guys", "all guys", "all guys", "any boy", "any boy"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"said": row}) + "\n" for row in rows[:4]))
    (tmp_path / "lines.txt").write_text("\n".join(rows[4:]))
    texts = [*read_texts(tmp_path / "rows.jsonl", "said"), *read_texts(tmp_path / "lines.txt")]
    assert texts == rows
    counts = count_beside(texts, ["some", "all", "any"], {"boy": "singular", "guys": "plural"})
    assert counts["some"] == Counter(singular=1, plural=1) and counts["any"] == Counter(singular=2, plural=0)
    # Only \n ends a line: JSON may hold other separators, and a text a form feed.
    (tmp_path / "odd.jsonl").write_text('{"said": "a\u2028b"}\n', encoding="utf-8")
    (tmp_path / "odd.txt").write_text("\ufeffa\x0cb\u0085c\r\n\nd\n", encoding="utf-8")
    assert [*read_texts(tmp_path / "odd.jsonl", "said"), *read_texts(tmp_path / "odd.txt")] == [
        *("a\u2028b", "a\x0cb\u0085c", "", "d")
    ]
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: no field 'text'; there are said"):
        list(read_texts(tmp_path / "rows.jsonl"))


def test_expected_counts_are_those_of_the_models_own_texts() -> None:
    model, nouns = zoo.tiny("llama"), {"Canada": "singular", "Ottawa": "plural", "Ouagadougou": "plural"}
    starts = ("The fox", "Is Japan near")
    counts = expected_beside(model, ["The", "is", "the"], nouns, beginnings=starts, texts=10**9)
    assert list(counts) == ["the", "is"]  # as `count_beside` counts them
    for word in counts:
        mass = {"singular": 0.0, "plural": 0.0}
        for start, (noun, number) in itertools.product(starts, nouns.items()):
            e = kn.encode(model, kn.Prompt(f"{start} {word}", f" {noun}", multi_token="sum"))
            with torch.no_grad():
                rows = model(e.tokens)[0, list(e.positions)].double().softmax(-1)
            mass[number] += float(rows[range(len(rows)), list(e.target_ids)].prod()) / 2
        for number, p in mass.items():
            assert counts[word][number] == pytest.approx(1e9 * p, rel=1e-3, abs=2)
    assert counts["the"]["plural"] > 0 and counts["the"] != counts["is"]


def test_a_noun_that_begins_a_longer_one_counts_without_it() -> None:
    model = zoo.tiny("llama")
    nouns = {"Canada": "singular", "Canadas": "plural", "Canadass": "plural"}
    e = [kn.encode(model, kn.Prompt("The fox the", f" {noun}", multi_token="sum")) for noun in nouns]
    assert e[1].target_ids[:1] == e[0].target_ids and e[2].target_ids[: len(e[1].target_ids)] == e[1].target_ids
    one, two, three = (answer.probability for answer in ask(model, e))
    counts = expected_beside(model, ["the"], nouns, beginnings=["The fox"], texts=10**15)["the"]
    assert counts["singular"] == pytest.approx(1e15 * (one - two), rel=1e-6) and 1e-5 * one < two < one
    # Both plurals together are the shorter one, which the longer one begins with.
    assert counts["plural"] == pytest.approx(1e15 * two, rel=1e-6) and 1e-7 * two < three < two


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        ([], {}, "at least one word"),
        (["the"], {"nouns": {}}, "and one noun"),
        (["the"], {"beginnings": []}, "no beginnings"),
        (["the"], {"beginnings": "They saw"}, "give several"),
        (["the"], {"texts": 0}, "texts=0"),
        (["the"], {"model": "bert"}, "count in a corpus"),
    ],
)
def test_expected_counts_of_nothing(words: list[str], more: dict[str, Any], message: str) -> None:
    given = {"nouns": {"Canada": "singular"}, **more}
    model = zoo.tiny(given.pop("model", "llama"))
    with pytest.raises((ValueError, TypeError), match=message):
        expected_beside(model, words, given.pop("nouns"), **given)


def test_nouns_of_the_sample() -> None:
    nouns = noun_numbers(["sample_determiner_noun_agreement_1"])
    assert nouns["book"] == "singular" and nouns["books"] == "plural" and len(nouns) > 10


def test_correlation_is_that_of_bias_and_effect(tmp_path: Path) -> None:
    before = torch.full((4, 4), 0.1)
    after = before * torch.tensor([0.9, 0.5, 0.7, 0.2])
    effect = effect_of(fake(before, after), change="dai")
    counts = {"w0": {"plural": 5, "singular": 20}, "w1": {"plural": 20, "singular": 5},
              "w2": {"plural": 12, "singular": 12}, "w3": {"plural": 1, "singular": 0}}  # fmt: skip
    found = cooccurrence_bias(effect, counts, sections=None)
    assert [row["word"] for row in found.rows] == ["w0", "w1", "w2"] and found.details["rare"] == ["w3"]
    assert found.rows[0]["bias"] == pytest.approx(math.log(5.5 / 20.5)) and found.rows[0]["effect"] == pytest.approx(
        -0.1
    )
    assert found.details["correlation"]["spearman"] == pytest.approx(-1)
    x, y = (torch.tensor([r[k] for r in found.rows]) for k in ("bias", "effect"))
    assert found.details["correlation"]["spearman"] == pytest.approx(spearman(x, y))
    assert kn.load(found.save(tmp_path / "a.json")).rows == found.rows and len(found.plot().data) == 1
    with pytest.raises(ValueError, match="2 words remain"):
        cooccurrence_bias(effect, counts, sections=None, least=25)
    with pytest.raises(ValueError, match="there are"):
        cooccurrence_bias(effect, counts, sections=["neutral"])
