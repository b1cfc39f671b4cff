"""Subjects of prompts: found as words of their own, in every script."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import kntools as kn
from kntools.models import adapter
from kntools.prompts import PromptError, Reason
from tests import zoo

# --- subjects -------------------------------------------------------------------------------------------

WORDS = ["The", "capital", "of", "is", "book", "that", "people", "thinks", "about", "city", "xyzzy"]
AROUND = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
ENDS = st.sampled_from(["", ",", ".", "'s", "!?"])


def names(letters: str) -> st.SearchStrategy[str]:
    return st.lists(st.text(letters, min_size=1, max_size=8), min_size=1, max_size=3).map(" ".join)


def check_subject(name: str, before: str, subject: str, punctuation: str, after: str) -> None:
    text = " ".join(part for part in (before, subject + punctuation, after or "is") if part)
    assume(text.count(subject) == 1)
    model, target = zoo.tiny(name), "Ottawa" if name == "bert" else " Ottawa"
    assume(len(model.tokenizer(text)["input_ids"]) < adapter.context_length(model) - 4)
    encoded = kn.encode(model, kn.Prompt(text + (" [MASK]." if name == "bert" else ""), target, subject=subject))
    assert encoded.subject is not None
    ids = encoded.tokens[0, list(encoded.subject)].tolist()
    assert model.tokenizer.decode(ids).strip() == subject


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(AROUND, names("abcdefgXYZéüßжΩ漢"), ENDS, AROUND)
def test_the_subject_span_spells_the_subject(before: str, subject: str, punctuation: str, after: str) -> None:
    check_subject("llama", before, subject, punctuation, after)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(AROUND, names("abcdeXYZ"), ENDS, AROUND)
def test_the_subject_span_of_a_masked_model(before: str, subject: str, punctuation: str, after: str) -> None:
    check_subject("bert", before, subject, punctuation, after)


def spelled(encoded: kn.Encoded, model: Any) -> str:
    assert encoded.subject is not None
    return model.tokenizer.decode(encoded.tokens[0, list(encoded.subject)].tolist())


def test_a_subject_is_a_whole_word() -> None:
    model = zoo.tiny("llama")
    encoded = kn.encode(model, kn.Prompt("The start of art is", " Ottawa", subject="art"))
    assert spelled(encoded, model) == " art"
    for text, subject in (("The capital of Canadaland is", "Canada"), ("The Canadians of Japan", "Canadian")):
        with pytest.raises(PromptError, match=f"'{subject}' occurs only within other words of the text") as error:
            kn.encode(model, kn.Prompt(text, " Ottawa", subject=subject))
        assert error.value.reason == Reason.SUBJECT


def test_a_script_without_spaces_has_no_word_ends() -> None:
    model = zoo.tiny("llama")
    prompt = kn.Prompt("中国的首都是", "北京", subject="中国", multi_token="first")
    assert spelled(kn.encode(model, prompt), model) == "中国"


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
@pytest.mark.parametrize("subject", ["São Tomé", "Émile", "Côte d'Ivoire", "Việt Nam"])
def test_a_combining_character_is_its_composed_one(subject: str, written: Any, asked: Any) -> None:
    """The text's own characters are what is tokenised; the subject is found in whichever form it has."""
    model = zoo.tiny("llama")
    text = unicodedata.normalize(written, f"The capital of {subject} is")
    encoded = kn.encode(model, kn.Prompt(text, " Ottawa", subject=unicodedata.normalize(asked, subject)))
    assert (
        encoded.tokens[0, int(encoded.prepend_bos) :].tolist()
        == model.tokenizer(text)["input_ids"][-len(encoded.str_tokens) + int(encoded.prepend_bos) :]
    )
    assert spelled(encoded, model).strip() == unicodedata.normalize(written, subject)


def test_a_mark_belongs_to_its_letter() -> None:
    """`Cafe` is no word of `Café` written with two code points."""
    model = zoo.tiny("llama")
    text = unicodedata.normalize("NFD", "The Café is in")
    with pytest.raises(PromptError, match="only within other words"):
        kn.encode(model, kn.Prompt(text, " Ottawa", subject="Cafe"))


def test_a_subject_that_stands_twice() -> None:
    model = zoo.tiny("llama")
    prompt = kn.Prompt("Japan is near; the capital of Japan is", " Tokyo", subject="Japan")
    with pytest.raises(PromptError) as error:
        kn.encode(model, prompt)
    assert error.value.reason == Reason.TWO_SUBJECTS
    for part in ("occurs 2 times", ">>Japan<< is near", "capital of >>Japan<< is", "occurrence=0", "occurrence=-1"):
        assert part in str(error.value)
    first, last = (kn.encode(model, replace(prompt, occurrence=n)).subject for n in (0, -1))
    assert first is not None and last is not None and first.stop <= last.start
    assert kn.encode(model, replace(prompt, occurrence=1)).subject == last
    with pytest.raises(PromptError, match="occurrence=2, but the subject 'Japan' occurs 2 times"):
        kn.encode(model, replace(prompt, occurrence=2))
    one = replace(prompt, text="Japanese or not, the capital of Japan is")
    assert spelled(kn.encode(model, one), model) == " Japan"
