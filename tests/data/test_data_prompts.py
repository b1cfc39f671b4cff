"""Records as prompts, on the built-in sample: the batched rules are those of `kn.encode`, and nothing is lost."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kntools as kn
from kntools import data
from kntools.data.agreement import KINDS
from kntools.data.blimp_pairs import SAMPLES, MinimalPair
from kntools.data.patterns import before_answer, fill
from kntools.data.read import json_lines
from kntools.data.records import Loaded, Skipped
from kntools.data.sources import FOLDER
from kntools.prompts import MASK
from kntools.word_borders import occurrences
from tests import data_tokenizers


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """What `kn.encode` needs of a model, around each kind of tokenizer."""
    facts = [
        candidate.prompt.text
        for name in ("P36", "P106")
        for fact in data.pararel(name, path="sample")
        for candidate in fact.candidates(masked=True)
    ]
    rows = json_lines(FOLDER / "agreement_pairs.jsonl")
    pairs = [row.text(name) for row in rows[::2] for name in ("sentence_good", "sentence_bad")]
    pairs += ["These books are old.", "This book is old.", "Greg watched these books."]
    sentences = [text.replace(MASK, "painter") for text in facts[::2]] + 3 * pairs
    found = {}
    for kind in data_tokenizers.KINDS:
        direction = "bidirectional" if kind == "bert_like" else "causal"
        found[kind] = SimpleNamespace(
            tokenizer=data_tokenizers.train(kind, sentences),
            cfg=SimpleNamespace(attention_dir=direction, n_ctx=18, default_prepend_bos=True),
            parameters=lambda: iter([torch.zeros(1)]),
        )
    return found


def every_set() -> list[Loaded[Any]]:
    return [
        *(data.blimp(paradigm) for paradigm in SAMPLES),
        *(data.pararel(relation, path="sample") for relation in ("P36", "P1376", "P101", "P106")),
        data.counterfact(path="sample"),
        data.known_facts(path="sample"),
        data.symmetric_facts("P36", path="sample"),
        data.synonym_facts(path="sample"),
        data.agreement_frames(),
    ]


@pytest.mark.parametrize("multi_token", ["error", "first", "sum"])
@pytest.mark.parametrize("kind", data_tokenizers.KINDS)
def test_a_prompt_is_used_exactly_if_encode_takes_it(kind: str, multi_token: Any, models: dict[str, Any]) -> None:
    model, masked = models[kind], kind == "bert_like"
    used = refused = 0
    for loaded in every_set():
        some = Loaded(loaded[::11], Skipped(), loaded.source)
        prompts = some.prompts(model, multi_token=multi_token)
        if isinstance(some[0], MinimalPair):
            asked = [c.prompt for c in MinimalPair.aligned(model.tokenizer, masked, some.records) if c.prompt]
        else:
            asked = [c.prompt for record in some for c in record.candidates(masked) if c.prompt]
        for prompt in (replace(p, multi_token=multi_token) for p in asked):
            try:
                kn.encode(model, prompt)
                used += 1
                assert prompt in prompts.prompts
            except ValueError:
                refused += 1
                assert prompt not in prompts.prompts
        assert len(prompts) + prompts.skipped.total == prompts.total
    assert used > 50 and refused > 5


@pytest.mark.parametrize("kind", data_tokenizers.KINDS)
def test_a_pair_prompt_encodes_to_the_tokens_of_its_sentences(kind: str, models: dict[str, Any]) -> None:
    model, masked = models[kind], kind == "bert_like"
    pairs = [pair for paradigm in SAMPLES for pair in data.blimp(paradigm)]
    prompts = Loaded(tuple(pairs), Skipped(), "").prompts(model)
    assert len(prompts) > 50
    for pair, prompt in zip(prompts.records, prompts, strict=True):
        encoded = kn.encode(model, prompt, prepend_bos=False)
        tokens = encoded.tokens[0].tolist()
        good, bad = (list(model.tokenizer(s, add_special_tokens=masked)["input_ids"]) for s in (pair.good, pair.bad))
        at = encoded.position if masked else encoded.position + 1
        assert good[:at] + good[at + 1 :] == bad[:at] + bad[at + 1 :]
        assert (good[at],) == encoded.target_ids and (bad[at],) == encoded.foil_ids
        if masked:
            assert tokens == [*good[:at], model.tokenizer.mask_token_id, *good[at + 1 :]]
        else:
            assert tokens == good[:at]


def pair(good: str, bad: str) -> MinimalPair:
    return MinimalPair(good, bad, "made_up", 0, "morphology", "determiner_noun_agreement")


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        ("Greg watched this book.", "Greg watched this book.", "identical pair"),
        ("Greg watched this book.", "Greg watched these books.", "multi-token difference"),
        ("Greg watched this book.", "Greg watched this old book.", "multi-token difference"),
        ("These books are old.", "This books are old.", "empty context"),
    ],
)
def test_why_a_pair_is_skipped(good: str, bad: str, reason: str, models: dict[str, Any]) -> None:
    prompts = Loaded((pair(good, bad),), Skipped(), "").prompts(models["gpt2_like"])
    assert prompts.skipped.counts == ((reason, 1),)
    if reason == "empty context":  # what follows is context enough for a masked model
        assert len(Loaded((pair(good, bad),), Skipped(), "").prompts(models["bert_like"])) == 1


def test_a_difference_inside_a_word_is_a_fragment(models: dict[str, Any]) -> None:
    """`q` and `z` are pieces of their own at the end of a made-up word."""
    prompts = Loaded((pair("Greg saw bxvq.", "Greg saw bxvz."),), Skipped(), "").prompts(models["bert_like"])
    assert prompts.skipped.counts == (("fragment of a word differs", 1),)


@given(
    words=st.lists(
        st.sampled_from(["this", "these", "book", "books", "old", "the", "saw", "Greg", ",", "isn't"]), max_size=6
    )
)
@settings(deadline=None, max_examples=60)
def test_any_two_sentences_are_used_or_counted(words: list[str], models: dict[str, Any]) -> None:
    good, bad = " ".join(["Nora", *words, "ran."]), " ".join(["Nora", *reversed(words), "ran."])
    for model in models.values():
        prompts = Loaded((pair(good, bad),), Skipped(), "").prompts(model)
        assert prompts.total == 1
        for prompt in prompts:
            kn.encode(model, prompt)


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("The capital of [X] is [Y].", "The capital of [X] is "),
        ("The capital of [X] is [Y] .", "The capital of [X] is "),
        ("[X], which has the capital [Y]", "[X], which has the capital "),
        ("[X]的首都是[Y]。", "[X]的首都是"),
        ("[X] की राजधानी [Y]।", "[X] की राजधानी "),
        ("[X] is a [Y] by profession.", None),
        ("[Y] is the capital of [X].", None),
        ("Ottawa was the [MASK] .", "Ottawa was the "),
        ("Is Ottawa the capital of [MASK]?", None),
    ],
)
def test_what_comes_before_the_answer(text: str, before: str | None) -> None:
    assert before_answer(text) == before


def test_a_pattern_as_a_question() -> None:
    causal = fill("r", "The capital of [X] is [Y].", "Canada", "Ottawa", False, foil="Rome")
    assert causal.prompt == kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada", foil=" Rome")
    masked = fill("r", "[Y] is the capital of [X].", "Canada", "Ottawa", True)
    assert masked.prompt == kn.Prompt("[MASK] is the capital of Canada.", "Ottawa", subject="Canada")
    assert fill("r", "[Y] is the capital of [X].", "Canada", "Ottawa", False).reason == "mask not last"
    assert fill("r", "The capital is [Y].", "Canada", "Ottawa", False).reason == "subject not in the prompt"
    assert fill("r", "The capital of [X] is [Y].", " Canada ", "Ottawa ", False, foil="Rome ") == causal
    for pattern, text in (("[X]的首都是[Y]。", "中国的首都是"), ("[X]-[Y]", "中国-"), ("[X]?\n[Y]", "中国?\n")):
        prompt = fill("r", pattern, "中国", "北京", False, foil="东京").prompt
        assert prompt == kn.Prompt(text, "北京", subject="中国", foil="东京")
    same = fill("r", "The capital of [X] is [Y].", "Canada", "Ottawa", False, foil="Ottawa")
    assert same.reason == "target equal to the new target"


@pytest.mark.parametrize("masked", [False, True])
def test_a_subject_that_stands_earlier_is_not_traced_at_the_wrong_place(masked: bool) -> None:
    found = fill("r", "The capital of [X] is [Y].", "of", "Ottawa", masked)
    assert (found.prompt, found.reason) == (None, "subject also occurs earlier in the prompt")
    # As a part of another word it is no trouble: encode looks for the word.
    found = fill("r", "The capital of [X] is [Y].", "cap", "Ottawa", masked)
    assert found.prompt is not None and found.prompt.subject == "cap"


@given(text=st.text("ab _.é1", min_size=1, max_size=12), subject=st.text("ab.é", min_size=1, max_size=3))
def test_a_subject_is_looked_for_as_a_word(text: str, subject: str) -> None:
    def within_a_word(at: int) -> bool:
        return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()

    starts = [i for i in range(len(text)) if text.startswith(subject, i)]
    words = [(i, i + len(subject)) for i in starts if not within_a_word(i) and not within_a_word(i + len(subject))]
    assert occurrences(text, subject) == words


def test_roles_choose_among_the_questions_of_a_record(models: dict[str, Any]) -> None:
    facts = data.symmetric_facts("P36", path="sample")
    everything = facts.prompts(models["llama_like"], multi_token="first")
    parts = [
        facts.prompts(models["llama_like"], role=role, multi_token="first")
        for role in ("forward", "reverse_new", "reverse_old")
    ]
    assert sum(map(len, parts)) == len(everything)
    assert sum(part.total for part in parts) == everything.total == 3 * len(facts)
    assert {role for part in parts[:1] for role in part.roles} == {"forward"}
    with pytest.raises(ValueError, match=r"no role 'backward'; they have forward, reverse_new, reverse_old"):
        facts.prompts(models["llama_like"], role="backward")


def test_prompts_of_one_fact_stay_together(models: dict[str, Any]) -> None:
    facts = data.pararel("P36", path="sample")
    prompts = facts.prompts(models["bert_like"], multi_token="first")
    grouped = prompts.by_record()
    assert [fact for fact, _ in grouped] == [fact for fact in facts if fact in prompts.records]
    assert tuple(p for _, part in grouped for p in part) == prompts.prompts
    assert all(p.subject == fact.subject for fact, part in grouped for p in part)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_ask_for_the_number_of_their_subject(kind: Any, models: dict[str, Any]) -> None:
    frames = data.agreement_frames(kind)
    assert len(frames) == len(set(frames)) == 160
    assert {n: len(g) for n, g in data.group(frames, data.number).items()} == {"plural": 80, "singular": 80}
    for model in models.values():
        for frame, prompt in zip((prompts := frames.prompts(model, multi_token="first")).records, prompts, strict=True):
            encoded = kn.encode(model, prompt)
            assert encoded.subject is not None and prompt.subject == frame.subject
            assert encoded.subject.stop <= encoded.position or encoded.position < encoded.subject.start + 3


def test_a_model_without_a_tokenizer_is_refused() -> None:
    model = SimpleNamespace(tokenizer=None, cfg=None)
    with pytest.raises(ValueError, match=r"set model\.tokenizer"):
        data.known_facts(path="sample").prompts(model)
