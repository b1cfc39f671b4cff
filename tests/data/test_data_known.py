"""What a model knows, and how accurate it is: against answers worked out one by one."""

from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools import data
from kntools.data.blimp_pairs import MinimalPair
from kntools.data.filters import NO_PROMPT, NOT_KNOWN
from kntools.data.records import Loaded, Skipped
from scripts import pair_accuracy as accuracy
from scripts import tables
from scripts import usable_pairs as usable
from scripts.pair_accuracy import Accuracy, pair_accuracy, sentence_log_probability
from tests.zoo import tiny

PAIRS = [
    ("Is Canada near France? Yes, it is.", "Is Canada near Italy? Yes, it is."),
    ("These books are on the table.", "This books are on the table."),
    ("The capital of Cuba is Havana.", "The capital of Cuba is Nairobi."),
    ("The capital of Norway is Oslo.", "The capital of Norway is Rome."),
    ("Ottawa is the capital of Canada.", "Ottawa is the capital of Japan."),
    ("The quick brown fox jumps over the dog.", "The quick brown fox jumps over the lazy dog."),
]


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)


def minimal(pairs: list[tuple[str, str]]) -> Loaded[MinimalPair]:
    made = [MinimalPair(good, bad, "made_up", i, "f", "t") for i, (good, bad) in enumerate(pairs)]
    return Loaded(tuple(made), Skipped(), "made up")


def logits_at_answer(model: Any, prompt: kn.Prompt) -> tuple[torch.Tensor, kn.Encoded]:
    encoded = kn.encode(model, prompt)
    return model(encoded.tokens)[0, encoded.position], encoded


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "bert"])
def test_facts_are_known_if_the_answer_is_the_most_probable_token(name: str) -> None:
    model = tiny(name)
    prompts = data.pararel("P36", path="sample").prompts(model, multi_token="first")[:60]
    said = {prompt.text: int(logits_at_answer(model, prompt)[0].argmax()) for prompt in prompts}
    # The tiny models know nothing, so every question is also asked for the answer that the model gives.
    given = [model.tokenizer.decode([said[prompt.text]]) for prompt in prompts]
    asked = list(prompts) + [
        kn.Prompt(prompt.text, answer) for prompt, answer in zip(prompts, given, strict=True) if answer.strip()
    ]
    usable_prompts = [prompt for prompt in asked if can_be_asked(model, prompt)]
    expected = [said[prompt.text] == kn.encode(model, prompt).target_ids[0] for prompt in usable_prompts]
    assert data.known(model, usable_prompts) == expected
    assert 0 < sum(expected) < len(expected)


def can_be_asked(model: Any, prompt: kn.Prompt) -> bool:
    try:
        kn.encode(model, prompt)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_pair_is_known_if_the_good_token_is_more_probable(name: str) -> None:
    model = tiny(name)
    pairs = minimal(PAIRS + [(bad, good) for good, bad in PAIRS])
    prompts = pairs.prompts(model)
    expected = []
    for prompt in prompts:
        logits, encoded = logits_at_answer(model, prompt)
        assert encoded.foil_ids is not None
        expected.append(bool(logits[encoded.target_ids[0]] > logits[encoded.foil_ids[0]]))
    right = data.known(model, prompts)
    assert right == expected
    assert sum(right) == len(right) // 2  # of a pair and its mirror image exactly one is right
    kept = prompts.only([i for i, r in enumerate(right) if r], "not known")
    assert len(kept) + kept.skipped["not known"] == len(prompts)
    assert kept.total == prompts.total


def test_two_way_needs_a_foil() -> None:
    with pytest.raises(ValueError, match=r"has no foil to compare its target with; pass two_way=False"):
        data.known(tiny("gpt2"), [kn.Prompt("The capital of Cuba is", " Havana")], two_way=True)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_known_only_keeps_what_the_model_knows_and_counts_the_rest(name: str) -> None:
    model = tiny(name)
    everything = data.agreement_frames("subject_verb")
    known = data.agreement_frames("subject_verb", known_only=model)
    prompts = everything.prompts(model)
    right = data.known(model, prompts)
    assert known.records == tuple(r for r, ok in zip(prompts.records, right, strict=True) if ok)
    assert known.skipped[NOT_KNOWN] == len(right) - sum(right)
    assert known.skipped[NO_PROMPT] == len(everything) - len(prompts)
    assert known.total == len(everything)


def test_known_only_with_a_limit_takes_the_same_sample() -> None:
    model = tiny("llama")
    known = set(data.agreement_frames(known_only=model))
    some = data.agreement_frames(known_only=model, limit=5, seed=1)
    more = data.agreement_frames(known_only=model, limit=9, seed=1)
    assert (len(some), len(more)) == (5, 9)
    assert set(some) < set(more) < known
    assert some.total == more.total == 320


def test_known_only_asks_a_record_of_several_roles_its_main_question() -> None:
    model = tiny("bert")
    facts = data.synonym_facts(path="sample", known_only=model)
    assert facts.total == 102 and len(facts) < 10


# --- accuracy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "gemma2"])
@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_sentence_log_probability_is_the_sum_over_tokens(name: str, prepend_bos: bool | None) -> None:
    model = tiny(name)
    sentences = [sentence for pair in PAIRS for sentence in pair]
    found = sentence_log_probability(model, sentences, prepend_bos=prepend_bos)
    for sentence, value in zip(sentences, found.tolist(), strict=True):
        ids = model.tokenizer(sentence, add_special_tokens=False)["input_ids"]
        if prepend_bos or (prepend_bos is None and model.cfg.default_prepend_bos):
            ids = [model.tokenizer.bos_token_id, *ids]
        log_p = model(torch.tensor([ids]))[0].log_softmax(-1).tolist()
        expected = sum(log_p[i][token] for i, token in enumerate(ids[1:]))
        assert value == pytest.approx(expected, abs=1e-3)


def test_sentences_may_begin_with_another_token() -> None:
    model = tiny("gpt2")
    (found,) = sentence_log_probability(model, ["The dog."], bos_token="ĠParis")
    paris = model.tokenizer.convert_tokens_to_ids("ĠParis")
    ids = [paris, *model.tokenizer("The dog.", add_special_tokens=False)["input_ids"]]
    log_p = model(torch.tensor([ids]))[0].log_softmax(-1).tolist()
    assert float(found) == pytest.approx(sum(log_p[i][t] for i, t in enumerate(ids[1:])), abs=1e-3)
    with pytest.raises(ValueError, match=r"bos_token='<nothing>' is not a token of this model"):
        sentence_log_probability(model, ["The dog."], bos_token="<nothing>")


def test_accuracy_counts_and_ties_are_wrong() -> None:
    model = tiny("gpt2")
    pairs = minimal(PAIRS)
    mirrored = minimal([(bad, good) for good, bad in PAIRS])
    one = pair_accuracy(model, pairs.records)
    other = pair_accuracy(model, mirrored.records)
    assert one.correct + other.correct == one.n == 6
    assert pair_accuracy(model, minimal([(PAIRS[0][0], PAIRS[0][0])]).records).correct == 0


def test_wilson_interval() -> None:
    """Against values from Wilson's formula in the literature: 8 of 10 is 0.490 to 0.943."""
    low, high = Accuracy(8, 10).interval
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert Accuracy(10, 10).interval[1] == pytest.approx(1.0)
    assert Accuracy(0, 10).interval[0] == pytest.approx(0.0)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="no pairs to score"):
        pair_accuracy(tiny("gpt2"), [])
    with pytest.raises(ValueError, match=r"use kn\.data\.known"):
        sentence_log_probability(tiny("bert"), ["The dog."])
    with pytest.raises(ValueError, match="is a single token"):
        sentence_log_probability(tiny("gpt2"), ["The"], prepend_bos=False)
    with pytest.raises(ValueError, match="longer than the model's context"):
        sentence_log_probability(tiny("gpt2"), ["dog " * 100])


# --- the two commands -------------------------------------------------------------------------------


def test_the_accuracy_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kntools.models.load.load_model", lambda name: tiny(name))
    out = tmp_path / "table.csv"
    paradigms = ["sample_determiner_noun_agreement_1", "sample_subject_verb_agreement"]
    accuracy.main([*paradigms, "--model", "gpt2", "--limit", "7", "--seed", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    lines = out.read_text().splitlines()
    assert lines[0] == "paradigm,accuracy,95% interval,n" and len(lines) == 3
    assert all(paradigm in printed for paradigm in paradigms)
    for paradigm, line in zip(paradigms, lines[1:], strict=True):
        pairs = data.blimp(paradigm, limit=7, seed=1)
        share = pair_accuracy(tiny("gpt2"), pairs.records).share
        assert line.startswith(f"`{paradigm}`,{share},") and line.endswith(",7")


def test_the_usable_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(usable, "PARADIGMS", ("sample_determiner_noun_agreement_1",))
    for name in ("gpt2", "bert"):
        tiny(name).tokenizer.save_pretrained(tmp_path / name)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- usable -->\nold\n<!-- /usable -->\nafter\n")
    usable.main([f"GPT={tmp_path / 'gpt2'}", f"BERT={tmp_path / 'bert'}", "--out", str(page)])
    text = page.read_text()
    assert text.startswith("before\n<!-- usable -->\n\n| paradigm | GPT | BERT |\n")
    assert text.endswith("<!-- /usable -->\nafter\n") and "old" not in text
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "|" in line]
    for column in (1, 2):  # the used and the skipped make up the hundred pairs
        assert sum(int(row[column]) for row in rows[3:]) == 100
    with pytest.raises(SystemExit):
        usable.main(["no equals sign"])


def test_tables(tmp_path: Path) -> None:
    assert (
        tables.markdown(("a", "b"), [["x", 0.5], ["y", 1]]) == "| a | b |\n| --- | ---: |\n| x | 0.500 |\n| y | 1 |\n"
    )
    with pytest.raises(ValueError, match=r"unknown kind of table '\.txt'"):
        tables.write(tmp_path / "a.txt", ("a",), [["x"]], marker="m")
    (tmp_path / "a.md").write_text("no place")
    with pytest.raises(ValueError, match=r"between one <!-- m --> and one <!-- /m -->"):
        tables.write(tmp_path / "a.md", ("a",), [["x"]], marker="m")
