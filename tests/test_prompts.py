"""Prompts as tokens: the same tokens as TransformerLens', answers taken as written, subjects that are found."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import kntools as kn
from kntools.engine.inputs import by_length
from kntools.prompts import PromptError, Reason, encode_each, encode_many
from tests import zoo
from tests.test_prompt_tokenizers import stub_model

CAPITAL = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
MASKED = kn.Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")


# --- tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepend_bos", [None, True, False])
@pytest.mark.parametrize("name", zoo.CAUSAL)
def test_tokens_are_those_of_the_model(name: str, prepend_bos: bool | None) -> None:
    model = zoo.tiny(name)
    for text in (CAPITAL.text, "Ottawa", "  The book, and", "Où est-ce"):
        if prepend_bos and model.tokenizer.bos_token_id is None:
            with pytest.raises(ValueError, match="no BOS token; use prepend_bos=False"):
                kn.encode(model, kn.Prompt(text, " Ottawa"), prepend_bos=True)
            continue
        encoded = kn.encode(model, kn.Prompt(text, " Ottawa"), prepend_bos=prepend_bos)
        options = {} if prepend_bos is None else {"prepend_bos": prepend_bos}
        expected = model.to_tokens(text, **options)
        assert encoded.tokens.tolist() == expected.tolist()
        bare = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert encoded.prepend_bos == (expected.shape[1] == len(bare) + 1)
        assert encoded.positions == (expected.shape[1] - 1,) and encoded.position == expected.shape[1] - 1
        assert encoded.str_tokens == tuple(model.tokenizer.decode([i]) for i in expected[0].tolist())


def test_whether_a_bos_is_prepended_is_the_models_switch() -> None:
    model = zoo.fresh("llama")
    with_bos, without = (kn.encode(model, CAPITAL, prepend_bos=bos) for bos in (True, False))
    assert with_bos.tokens[0, 1:].tolist() == without.tokens[0].tolist()
    for switch, expected in ((True, with_bos), (False, without)):
        model.cfg.default_prepend_bos = switch
        assert kn.encode(model, CAPITAL).tokens.tolist() == expected.tokens.tolist()
        assert kn.encode(model, with_bos) is with_bos and kn.encode(model, without) is without


def test_a_text_that_begins_with_the_bos_gets_no_second_one() -> None:
    model = zoo.tiny("llama")
    bos = model.tokenizer.bos_token
    encoded = kn.encode(model, replace(CAPITAL, text=bos + CAPITAL.text), prepend_bos=True)
    plain = kn.encode(model, CAPITAL, prepend_bos=True)
    assert encoded.tokens.tolist() == plain.tokens.tolist() and encoded.prepend_bos
    assert (encoded.positions, encoded.subject) == (plain.positions, plain.subject)
    assert kn.encode(model, encoded.prompt, prepend_bos=False).prepend_bos  # it is there all the same


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_a_masked_model_keeps_its_special_tokens(prepend_bos: bool | None) -> None:
    model = zoo.tiny("bert")
    encoded = kn.encode(model, MASKED, prepend_bos=prepend_bos)
    assert encoded.tokens.tolist() == [model.tokenizer(MASKED.text)["input_ids"]]
    assert encoded.str_tokens[0] == "[CLS]" and encoded.str_tokens[-1] == "[SEP]"
    assert encoded.str_tokens[encoded.position] == "[MASK]" and encoded.position == 6
    assert not encoded.prepend_bos


# --- answers, as written --------------------------------------------------------------------------------


def byte_pieces(text: str) -> list[bytes]:
    return [bytes([b]) for b in text.encode()]


#: Text and answer, and the tokens that they are, by hand.
CASES: dict[str, tuple[kn.Prompt, list[str | bytes], list[str | bytes]]] = {
    "a word after a word": (CAPITAL, ["The", " capital", " of", " Canada", " is"], [" Ottawa"]),
    "a sum": (kn.Prompt("3+3=", "6"), ["3", "+", "3", "="], ["6"]),
    "a score": (kn.Prompt("I scored 7/", "10"), ["I", " ", "s", "c", "or", "ed", " ", "7", "/"], ["1", "0"]),
    "an open quote": (
        kn.Prompt('She said: "', "Hello"),
        ["S", "he", " ", "s", "ai", "d", ":", " ", '"'],
        ["H", "el", "lo"],
    ),
    "a compound": (
        kn.Prompt("She is a well-", "known"),
        ["S", "he", " is", " a", " w", "el", "l", "-"],
        ["k", "n", "o", "wn"],
    ),
    "a file name": (kn.Prompt("matplotlib.", "py"), ["m", "at", "p", "lo", "t", "l", "i", "b", "."], ["p", "y"]),
    "a choice": (kn.Prompt("The answer is (", "A"), ["The", " an", "s", "wer", " is", " ", "("], ["A"]),
    "Chinese": (kn.Prompt("中国的首都是", "北京"), byte_pieces("中国的首都是"), byte_pieces("北京")),
    "Japanese": (kn.Prompt("日本の首都は", "東京"), byte_pieces("日本の首都は"), byte_pieces("東京")),
    "a chat template": (
        kn.Prompt("<|user|>\nIs it?\n<|assistant|>\n", "The"),
        [*"<|", "u", "se", *"r|>\n", "Is", " it", *"?\n<|", *"ass", "is", "ta", *"nt|>\n"],
        ["The"],
    ),
    "a line after lines": (
        kn.Prompt("France: Paris\nItaly: Rome\n", "Spain"),
        ["Fr", "ance", ":", " Paris", "\n", "I", "taly", ":", " Rome", "\n"],
        ["Sp", "ain"],
    ),
    "punctuation": (kn.Prompt("The capital of Canada", ","), ["The", " capital", " of", " Canada"], [","]),
    "a space of its own": (kn.Prompt("The book,", " and"), ["The", " book", ","], [" and"]),
}


def ids_of(model: Any, pieces: list[str | bytes]) -> list[int]:
    """Token ids, looked up in the vocabulary of a byte-level tokenizer."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    # GPT-2's table: printable bytes stand for themselves, the others follow from 256 on.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
    assert set(table.values()) == set(letters)
    vocabulary = model.tokenizer.get_vocab()
    found = (piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)
    return [vocabulary["".join(table[b] for b in piece)] for piece in found]


@pytest.mark.parametrize("prepend_bos", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_taken_as_written(case: str, prepend_bos: bool) -> None:
    """Its probability is what the plain model gives to token ids made by hand."""
    model = zoo.tiny("llama")
    prompt, text, answer = CASES[case]
    start = [model.tokenizer.bos_token_id] * prepend_bos + ids_of(model, text)
    pieces = ids_of(model, answer)
    encoded = kn.encode(model, replace(prompt, multi_token="sum"), prepend_bos=prepend_bos)
    assert encoded.tokens[0].tolist() == start + pieces[:-1] and list(encoded.target_ids) == pieces
    expected = 1.0
    with torch.no_grad():
        for k, piece in enumerate(pieces):
            expected *= float(model(torch.tensor([start + pieces[:k]]))[0, -1].softmax(-1)[piece])
    found = kn.sweep(model, encoded, [[]], metric=kn.probability(encoded.target_ids))
    assert float(found) == pytest.approx(expected, rel=1e-3)
    [first] = kn.encode(model, replace(prompt, multi_token="first"), prepend_bos=prepend_bos).target_ids
    assert first == pieces[0]
    if len(pieces) > 1:
        with pytest.raises(PromptError, match=f"is {len(pieces)} tokens") as error:
            kn.encode(model, prompt)
        assert error.value.reason == Reason.ANSWER_PIECES


@pytest.mark.parametrize(
    ("prompt", "reason", "message"),
    [
        (kn.Prompt("The capital is", "Ottawa"), Reason.GLUED, "continue the word 'is'.*write ' Ottawa'"),
        (kn.Prompt("The capital is", " Ottawa", foil="Rome"), Reason.GLUED, "foil 'Rome'.*write ' Rome'"),
        (kn.Prompt("Où est l'été", "là"), Reason.GLUED, "write ' là'"),
        (kn.Prompt("In 2", "nd"), None, ""),  # a digit is no word: ordinals, units, versions
        (kn.Prompt("The capital is ", "Ottawa"), Reason.SPACE, "write 'The capital is', ' Ottawa'"),
        (kn.Prompt("The capital is  ", " Ottawa"), Reason.SPACE, "write 'The capital is', ' Ottawa'"),
        (kn.Prompt("The capital is\t", "Ottawa"), Reason.SPACE, "write 'The capital is', ' Ottawa'"),
        (kn.Prompt("The capital is", " Ottawa", foil=" Ottawa"), Reason.SAME, "are the same token"),
        (kn.Prompt("The capital is", " Ottawa", foil=" Ouagadougou"), Reason.FOIL_PIECES, "foil ' Ouagadougou' is"),
    ],
)
def test_answers_that_are_written_wrong(prompt: kn.Prompt, reason: Reason | None, message: str) -> None:
    [found] = encode_each(zoo.tiny("llama"), [replace(prompt, multi_token="error")])
    if reason is None:
        assert not isinstance(found, PromptError) or found.reason == Reason.ANSWER_PIECES
        return
    assert isinstance(found, PromptError) and found.reason == reason
    assert re.search(message, str(found)), str(found)


def test_an_answer_that_melts_into_the_text_says_so() -> None:
    """`1` and `0` are one token, `10`, to this tokenizer: the text's own last token would not be read any more."""
    vocabulary = {"<s>": 0, "n": 1, "=": 2, "1": 3, "0": 4, "10": 5}
    words = Tokenizer(models.BPE(vocabulary, [("1", "0")]))
    words.decoder = decoders.Fuse()
    model = stub_model(transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>"))
    assert kn.encode(model, kn.Prompt("n=", "10")).target_ids == (5,)
    assert kn.encode(model, kn.Prompt("n=", "1")).target_ids == (3,)
    with pytest.raises(PromptError, match="the target '0' merges with the last token of 'n=1'") as error:
        kn.encode(model, kn.Prompt("n=1", "0"))
    assert error.value.reason == Reason.MELTS


def test_a_masked_answer_is_written_as_it_stands() -> None:
    bert = zoo.tiny("bert")
    for target in ("Ottawa", " Ottawa"):
        [ottawa] = kn.encode(bert, kn.Prompt(MASKED.text, target)).target_ids
        assert bert.tokenizer.convert_ids_to_tokens(ottawa) == "Ottawa"
    with pytest.raises(PromptError) as error:
        kn.encode(bert, kn.Prompt("The capital of Canada is [MASK]s.", "Ottawa"))
    assert error.value.reason == Reason.MELTS


def test_a_masked_answer_does_not_continue_the_word_before_it() -> None:
    bert = zoo.tiny("bert")
    for answer in ("Ottawa", "s"):
        with pytest.raises(
            PromptError, match=r"continue the word 'is' .* write 'The capital of Canada is \[MASK\]'"
        ) as error:
            kn.encode(bert, kn.Prompt("The capital of Canada is[MASK].", answer))
        assert error.value.reason == Reason.GLUED


def test_a_line_break_is_an_answer() -> None:
    model = zoo.tiny("gpt2")
    encoded = kn.encode(model, kn.Prompt("The capital of Canada is:", "\n"))
    assert encoded.target_ids == tuple(model.tokenizer("\n", add_special_tokens=False)["input_ids"])


# --- answers of several tokens --------------------------------------------------------------------------


def test_a_multi_token_answer_is_an_error_with_its_pieces_and_the_way_out() -> None:
    model = zoo.tiny("llama")
    prompt = kn.Prompt(CAPITAL.text, " Ouagadougou")
    ids = model.tokenizer(" Ouagadougou", add_special_tokens=False)["input_ids"]
    pieces = [model.tokenizer.decode([i]) for i in ids]
    with pytest.raises(ValueError) as error:
        kn.encode(model, prompt)
    assert str(error.value).startswith(f"target ' Ouagadougou' is {len(pieces)} tokens {pieces}")
    assert "Prompt(..., multi_token='first') or 'sum'" in str(error.value)
    assert kn.encode(model, replace(prompt, multi_token="first")).target_ids == tuple(ids[:1])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_sum_is_teacher_forcing(name: str) -> None:
    model = zoo.tiny(name)
    encoded = kn.encode(model, kn.Prompt(CAPITAL.text, " Ouagadougou", multi_token="sum"))
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


def test_an_unknown_multi_token_is_an_error() -> None:
    # Without the type checker of the tests, as a user runs it.
    made = SimpleNamespace(text="The", target=" Ottawa", subject=None, foil=None, multi_token="frist", occurrence=None)
    with pytest.raises(ValueError, match="multi_token='frist' is unknown; use 'error', 'first' or 'sum'"):
        inspect.unwrap(kn.Prompt.__post_init__)(made)


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "target"), [("", "x"), ("  ", "x"), ("The", ""), ("The", " ")])
def test_empty_text_and_target(text: str, target: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        kn.Prompt(text, target)


@pytest.mark.parametrize("foil", ["", "  "])
def test_empty_foil(foil: str) -> None:
    with pytest.raises(ValueError, match="foil"):
        kn.Prompt(CAPITAL.text, " Ottawa", foil=foil)


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
        ("llama", kn.Prompt("The capital is", " Ottawa", subject="Peru"), "'Peru' is not in the text"),
        ("llama", kn.Prompt("capital " * 70 + "is", " Ottawa"), "context holds 64"),
    ],
)
def test_errors_say_what_is_wrong(name: str, prompt: kn.Prompt, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kn.encode(zoo.tiny(name), prompt)


@pytest.mark.parametrize("subject", ["", " "])
def test_empty_subject(subject: str) -> None:
    with pytest.raises(ValueError, match="the subject of Prompt"):
        kn.Prompt(CAPITAL.text, " Ottawa", subject=subject)


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(ValueError, match="character 4 of text is half of a surrogate pair"):
        kn.Prompt("The \ud83d", " Ottawa")


def test_a_masked_model_predicts_one_piece() -> None:
    bert = zoo.tiny("bert")
    with pytest.raises(PromptError, match="a masked model predicts one token"):
        kn.encode(bert, kn.Prompt(MASKED.text, "Ouagadougou", multi_token="sum"))
    with pytest.raises(PromptError, match="foil 'Ouagadougou' is"):
        kn.encode(bert, kn.Prompt(MASKED.text, "Ottawa", foil="Ouagadougou", multi_token="sum"))
    assert len(kn.encode(bert, kn.Prompt(MASKED.text, "Ouagadougou", multi_token="first")).target_ids) == 1


# --- many -----------------------------------------------------------------------------------------------


def test_many_prompts_are_each_alone() -> None:
    model = zoo.tiny("gpt2")
    prompts = [
        CAPITAL,
        kn.Prompt("Is Japan near", " Cuba", foil=" Spain"),
        *(prompt for prompt, _, _ in CASES.values()),
    ]
    prompts = [replace(p, multi_token="first") for p in prompts]
    already = kn.encode(model, CAPITAL, prepend_bos=False)
    together = encode_many(model, [*prompts, already])
    assert together[-1] is already
    for prompt, encoded in zip(prompts, together, strict=False):
        alone = kn.encode(model, prompt)
        assert encoded.prompt == prompt and encoded.tokens.tolist() == alone.tokens.tolist()
        assert (encoded.target_ids, encoded.foil_ids) == (alone.target_ids, alone.foil_ids)
        assert (encoded.positions, encoded.subject) == (alone.positions, alone.subject)
    assert encode_many(model, CAPITAL)[0].tokens.tolist() == kn.encode(model, CAPITAL).tokens.tolist()


def test_a_data_set_learns_which_prompts_cannot_be_asked() -> None:
    wrong = kn.Prompt("The capital is", "Ottawa")
    found = encode_each(zoo.tiny("gpt2"), [CAPITAL, wrong, MASKED])
    assert isinstance(found[0], kn.Encoded)
    assert [getattr(x, "reason", None) for x in found[1:]] == [Reason.GLUED, Reason.MASK]
    with pytest.raises(PromptError, match="continue the word"):
        encode_many(zoo.tiny("gpt2"), [CAPITAL, wrong])
    with pytest.raises(ValueError, match="no prompts given"):
        encode_many(zoo.tiny("gpt2"), [])


def test_by_length_groups_in_order() -> None:
    texts = ["The book", "The capital of Canada", "The city", "The", "The capital of Cuba"]
    encoded = [kn.encode(zoo.tiny("gpt2"), kn.Prompt(t, " Ottawa")) for t in texts]
    assert by_length(encoded) == [[0, 2], [1, 4], [3]]


def test_what_is_no_prompt_is_told_so() -> None:
    model = zoo.tiny("gpt2")
    for wrong in (("The capital of Canada is", " Ottawa"), "The capital of Canada is", 7, [CAPITAL, "is"]):
        with pytest.raises(TypeError, match=r"is not a Prompt; write kn\.Prompt\(text, answer\)"):
            inspect.unwrap(encode_many)(model, wrong)
    made = SimpleNamespace(text="The", target=3, subject=None, foil=None, multi_token="error", occurrence=None)
    with pytest.raises(TypeError, match="target=3 is not a text"):
        inspect.unwrap(kn.Prompt.__post_init__)(made)
