"""Prompts as tokens: the same tokens as TransformerLens', answers that continue the text, subjects that are found."""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import kntools as kn
from kntools import prompts
from kntools.prompts import answer_ids, by_length
from tests import zoo

CAPITAL = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
MASKED = kn.Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")


# --- tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepend_bos", [None, True, False])
@pytest.mark.parametrize("name", zoo.CAUSAL)
def test_tokens_are_those_of_the_model(name: str, prepend_bos: bool | None) -> None:
    model = zoo.tiny(name)
    for text in (CAPITAL.text, "Ottawa", "  The book, and", "Où est-ce"):
        encoded = kn.encode(model, kn.Prompt(text, " Ottawa"), prepend_bos)
        options = {} if prepend_bos is None else {"prepend_bos": prepend_bos}
        expected = model.to_tokens(text, **options)
        assert encoded.tokens.tolist() == expected.tolist()
        bare = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert encoded.prepend_bos == (expected.shape[1] == len(bare) + 1)
        assert encoded.positions == (expected.shape[1] - 1,) and encoded.position == expected.shape[1] - 1
        assert encoded.str_tokens == tuple(model.tokenizer.decode([i]) for i in expected[0].tolist())


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_a_masked_model_keeps_its_special_tokens(prepend_bos: bool | None) -> None:
    model = zoo.tiny("bert")
    encoded = kn.encode(model, MASKED, prepend_bos)
    assert encoded.tokens.tolist() == [model.tokenizer(MASKED.text)["input_ids"]]
    assert encoded.str_tokens[0] == "[CLS]" and encoded.str_tokens[-1] == "[SEP]"
    assert encoded.str_tokens[encoded.position] == "[MASK]" and encoded.position == 6
    assert not encoded.prepend_bos


@pytest.mark.parametrize("name", zoo.CAUSAL)
@pytest.mark.parametrize("target", [" Ottawa", "Ottawa"])
def test_a_word_gets_its_leading_space(name: str, target: str) -> None:
    model = zoo.tiny(name)
    encoded = kn.encode(model, kn.Prompt(CAPITAL.text, target, foil="Rome"))
    assert encoded.target_ids == tuple(model.tokenizer(" Ottawa", add_special_tokens=False)["input_ids"])
    assert encoded.foil_ids is not None and model.tokenizer.decode(encoded.foil_ids) == " Rome"
    assert answer_ids(model, CAPITAL.text, target) == encoded.target_ids


def test_punctuation_and_masked_answers_get_no_space() -> None:
    [comma] = kn.encode(zoo.tiny("gpt2"), kn.Prompt("The capital", ",")).target_ids
    assert zoo.tiny("gpt2").tokenizer.decode([comma]) == ","
    bert = zoo.tiny("bert")
    for target in ("Ottawa", " Ottawa"):
        [ottawa] = kn.encode(bert, kn.Prompt(MASKED.text, target)).target_ids
        assert bert.tokenizer.convert_ids_to_tokens(ottawa) == "Ottawa"


# --- answers of several tokens --------------------------------------------------------------------------


def test_a_multi_token_answer_is_an_error_with_its_pieces_and_the_way_out() -> None:
    model = zoo.tiny("llama")
    prompt = kn.Prompt(CAPITAL.text, "Ouagadougou")
    ids = model.tokenizer(" Ouagadougou", add_special_tokens=False)["input_ids"]
    pieces = [model.tokenizer.decode([i]) for i in ids]
    with pytest.raises(ValueError) as error:
        kn.encode(model, prompt)
    assert str(error.value).startswith(f"target ' Ouagadougou' is {len(pieces)} tokens {pieces}")
    assert "multi_token='first' or 'sum'" in str(error.value)
    assert kn.encode(model, prompt, multi_token="first").target_ids == tuple(ids[:1])


def test_the_error_shows_the_answer_that_was_tokenised() -> None:
    with pytest.raises(ValueError, match=re.escape('target "\'s." is')):  # punctuation got no space
        kn.encode(zoo.tiny("llama"), kn.Prompt(CAPITAL.text, "'s."))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_sum_is_teacher_forcing(name: str) -> None:
    model = zoo.tiny(name)
    encoded = kn.encode(model, kn.Prompt(CAPITAL.text, " Ouagadougou"), multi_token="sum")
    pieces = model.tokenizer(" Ouagadougou", add_special_tokens=False)["input_ids"]
    assert encoded.target_ids == tuple(pieces) and len(pieces) == len(encoded.positions) > 2
    start = model.to_tokens(CAPITAL.text)[0].tolist()
    with torch.no_grad():
        logits = model(encoded.tokens)[:, list(encoded.positions)]
        one_run_per_piece = sum(
            model(torch.tensor([start + pieces[:k]]))[0, -1].log_softmax(-1)[piece] for k, piece in enumerate(pieces)
        )
    ours = kn.log_probability(encoded.target_ids)(logits)
    torch.testing.assert_close(ours, one_run_per_piece[None], atol=1e-4, rtol=1e-5)


def test_an_unknown_multi_token_is_an_error_also_for_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the type checker of the tests, as a user runs it.
    monkeypatch.setattr(prompts, "_answer_ids", inspect.unwrap(prompts._answer_ids))
    for target in (" Ottawa", " Ouagadougou"):
        with pytest.raises(ValueError, match="frist"):
            inspect.unwrap(prompts.encode)(zoo.tiny("gpt2"), kn.Prompt(CAPITAL.text, target), multi_token="frist")


# --- subjects -------------------------------------------------------------------------------------------

WORDS = ["The", "capital", "of", "is", "book", "that", "people", "thinks", "about", "city", "xyzzy"]
AROUND = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
ENDS = st.sampled_from(["", ",", ".", "'s", "!?"])


def names(letters: str) -> st.SearchStrategy[str]:
    return st.lists(st.text(letters, min_size=1, max_size=8), min_size=1, max_size=3).map(" ".join)


def check_subject(name: str, before: str, subject: str, punctuation: str, after: str) -> None:
    text = " ".join(part for part in (before, subject + punctuation, after or "is") if part)
    assume(text.count(subject) == 1)
    mask = " [MASK]." if name == "bert" else ""
    model = zoo.tiny(name)
    encoded = kn.encode(model, kn.Prompt(text + mask, "Ottawa", subject=subject))
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


def test_a_subject_is_a_whole_word_where_there_is_one() -> None:
    model = zoo.tiny("llama")
    encoded = kn.encode(model, kn.Prompt("The start of art is", "Ottawa", subject="art"))
    assert encoded.subject is not None
    assert "".join(encoded.str_tokens[i] for i in encoded.subject) == " art"


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "target"), [("", "x"), ("  ", "x"), ("The", ""), ("The", " ")])
def test_empty_text_and_target(text: str, target: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        kn.Prompt(text, target)


@pytest.mark.parametrize("foil", ["", "  "])
def test_empty_foil(foil: str) -> None:
    with pytest.raises(ValueError, match="foil"):
        kn.encode(zoo.tiny("gpt2"), kn.Prompt(CAPITAL.text, " Ottawa", foil=foil))


@pytest.mark.parametrize(
    ("name", "prompt", "message"),
    [
        ("bert", kn.Prompt("The capital is", "Ottawa"), r"0 masks.*exactly one \[MASK\]"),
        ("bert", kn.Prompt("[MASK] is [MASK].", "Ottawa"), "2 masks"),
        ("bert", kn.Prompt(MASKED.text, "漢字"), "target '漢字' is not in the model's vocabulary"),
        ("bert", kn.Prompt(MASKED.text, "Ottawa", foil="漢字"), "foil '漢字' is not in the model's vocabulary"),
        ("bert", kn.Prompt("The capital of [MASK].", "Ottawa", subject="Canada"), "'Canada' is not in the text"),
        ("bert", kn.Prompt("a " * 70 + "[MASK]", "Ottawa"), "73 tokens long.*64"),
        ("llama", MASKED, "mask.*causal"),
        ("llama", kn.Prompt("The capital ", "Ottawa"), "ends in a space"),
        ("llama", kn.Prompt("The capital is", "Ottawa", subject="Peru"), "'Peru' is not in the text"),
        ("llama", kn.Prompt("The capital is", "Ottawa", subject=" "), "not in the text"),
        ("llama", kn.Prompt("capital " * 70 + "is", "Ottawa"), "context holds 64"),
    ],
)
def test_errors_say_what_is_wrong(name: str, prompt: kn.Prompt, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kn.encode(zoo.tiny(name), prompt)


def test_a_masked_model_predicts_one_piece() -> None:
    bert = zoo.tiny("bert")
    with pytest.raises(ValueError, match="causal"):
        kn.encode(bert, kn.Prompt(MASKED.text, "Ouagadougou"), multi_token="sum")
    with pytest.raises(ValueError, match=r"tokens|causal|first"):
        kn.encode(bert, kn.Prompt(MASKED.text, "Ottawa", foil="Ouagadougou"), multi_token="sum")
    assert len(kn.encode(bert, kn.Prompt(MASKED.text, "Ouagadougou"), multi_token="first").target_ids) == 1


# --- a slow tokenizer, and none -------------------------------------------------------------------------


class SlowTokenizer:
    """Words with their leading space; ids are handed out on sight."""

    is_fast, mask_token, bos_token_id = False, None, 0

    def __init__(self) -> None:
        self.words = ["<s>"]

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        found = re.findall(r" ?\w+|\s|[^\w\s]", text)
        self.words += [w for w in dict.fromkeys(found) if w not in self.words]
        return {"input_ids": [self.words.index(w) for w in found]}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)


def slow_model(tokenizer: Any, direction: str = "causal") -> Any:
    cfg = SimpleNamespace(attention_dir=direction, n_ctx=64, default_prepend_bos=True)
    return SimpleNamespace(cfg=cfg, tokenizer=tokenizer, parameters=lambda: iter([torch.zeros(1)]))


def test_slow_tokenizers_find_the_subject_too() -> None:
    tokenizer = SlowTokenizer()
    encoded = kn.encode(slow_model(tokenizer), kn.Prompt("In New York City, one is", "glad", subject="New York City"))
    assert encoded.str_tokens == ("<s>", "In", " New", " York", " City", ",", " one", " is")
    assert encoded.subject == range(2, 5) and tokenizer.decode(list(encoded.target_ids)) == " glad"


def test_tokenizers_that_cannot_do_it_say_so() -> None:
    forgetful = SlowTokenizer()
    forgetful.decode = lambda ids: "?"  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="use_fast=True"):
        kn.encode(slow_model(forgetful), CAPITAL)
    with pytest.raises(ValueError, match="no tokenizer"):
        kn.encode(slow_model(None), CAPITAL)
    no_bos = SlowTokenizer()
    no_bos.bos_token_id = None  # type: ignore
    with pytest.raises(ValueError, match="prepend_bos=False"):
        kn.encode(slow_model(no_bos), CAPITAL, True)
    assert not kn.encode(slow_model(no_bos), CAPITAL).prepend_bos


def test_by_length_groups_in_order() -> None:
    texts = ["The book", "The capital of Canada", "The city", "The", "The capital of Cuba"]
    encoded = [kn.encode(zoo.tiny("gpt2"), kn.Prompt(t, "Ottawa")) for t in texts]
    assert by_length(encoded) == [[0, 2], [1, 4], [3]]


def test_what_is_no_prompt_is_told_so() -> None:
    with pytest.raises(TypeError, match="Prompt"):
        kn.encode(zoo.tiny("gpt2"), ("The capital of Canada is", " Ottawa"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="target"):
        kn.Prompt("The capital of Canada is", 3)  # type: ignore[arg-type]
