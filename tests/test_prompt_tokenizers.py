"""Prompts of tokenizers that are built otherwise: byte-level masked ones, slow ones, none."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformer_lens.model_bridge import TransformerBridge

import kntools as kn
from kntools.prompts import PromptError
from tests import zoo
from tests.test_subjects import spelled

CAPITAL = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")

# --- a byte-level masked model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roberta() -> TransformerBridge:
    """BERT's layers under RoBERTa's tokenizer: byte-level BPE, and a mask that takes the space before it along."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=640, initial_alphabet=alphabet, special_tokens=specials, show_progress=False
    )
    words.train_from_iterator(zoo.SENTENCES, trainer)
    words.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        add_bos_token=True,  # or a bridge looks on the hub for another one that adds it
        add_eos_token=True,
        name_or_path="tiny-roberta",
    )
    config = transformers.BertConfig(vocab_size=len(tokenizer), **zoo.RECIPES["bert"].options)
    config.architectures, config._attn_implementation = ["BertForMaskedLM"], "eager"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.BertForMaskedLM(config).eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
        return TransformerBridge.boot_transformers(
            "tiny-roberta", hf_model=model, tokenizer=tokenizer, dtype=torch.float32, device="cpu"
        )


#: Text, answer, and the tokens of both by hand.
MASKS: dict[str, tuple[kn.Prompt, list[str], str]] = {
    "mid-sentence": (
        kn.Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada"),
        ["<s>", "The", "Ġcapital", "Ġof", "ĠCanada", "Ġis", "<mask>", ".", "</s>"],
        "ĠOttawa",
    ),
    "at the start": (
        kn.Prompt("[MASK] is the capital of Canada.", "The", subject="Canada"),
        ["<s>", "<mask>", "Ġis", "Ġthe", "Ġcapital", "Ġof", "ĠCanada", ".", "</s>"],
        "The",
    ),
    "behind a bracket": (
        kn.Prompt("The capital ([MASK]) is in Canada.", "Is", subject="Canada"),
        ["<s>", "The", "Ġcapital", "Ġ", "(", "<mask>", ")", "Ġis", "Ġin", "ĠCanada", ".", "</s>"],
        "Is",
    ),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_masked_answer_has_the_space_of_its_place(case: str, roberta: Any) -> None:
    prompt, text, answer = MASKS[case]
    vocabulary = roberta.tokenizer.get_vocab()
    ids, place = [vocabulary[piece] for piece in text], text.index("<mask>")
    encoded = kn.encode(roberta, prompt)
    assert encoded.tokens[0].tolist() == ids and encoded.positions == (place,)
    assert encoded.target_ids == (vocabulary[answer],) and not encoded.prepend_bos
    assert spelled(encoded, roberta) == " Canada"
    with torch.no_grad():
        expected = float(roberta(torch.tensor([ids]))[0, place].softmax(-1)[vocabulary[answer]])
    found = kn.sweep(roberta, prompt, [[]], metric=kn.probability(encoded.target_ids))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_a_second_space_before_a_masked_answer_is_an_error(roberta: Any) -> None:
    with pytest.raises(PromptError, match=r"write the answer as in the sentence|is 2 tokens"):
        kn.encode(roberta, kn.Prompt("The capital of Canada is [MASK].", " Ottawa"))


# --- a slow tokenizer, and none -------------------------------------------------------------------------


class SlowTokenizer:
    """Words with their leading space; ids are handed out on sight."""

    is_fast, mask_token, bos_token, bos_token_id, eos_token, unk_token = False, None, "<s>", 0, None, None

    def __init__(self) -> None:
        self.words = ["<s>"]

    def __call__(self, texts: list[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        found = [re.findall(r" ?\w+|\s|[^\w\s]", text) for text in texts]
        self.words += [w for w in dict.fromkeys(w for row in found for w in row) if w not in self.words]
        return {"input_ids": [[self.words.index(w) for w in row] for row in found]}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.words[token]


def stub_model(tokenizer: Any, direction: str = "causal") -> Any:
    cfg = SimpleNamespace(attention_dir=direction, n_ctx=64, default_prepend_bos=True)
    return SimpleNamespace(cfg=cfg, tokenizer=tokenizer, parameters=lambda: iter([torch.zeros(1)]))


def test_slow_tokenizers_find_the_subject_too() -> None:
    tokenizer = SlowTokenizer()
    encoded = kn.encode(stub_model(tokenizer), kn.Prompt("In New York City, one is", " glad", subject="New York City"))
    assert encoded.str_tokens == ("<s>", "In", " New", " York", " City", ",", " one", " is")
    assert encoded.subject == range(2, 5) and tokenizer.decode(list(encoded.target_ids)) == " glad"


def test_tokenizers_that_cannot_do_it_say_so() -> None:
    forgetful = SlowTokenizer()
    forgetful.decode = lambda ids: "?"  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="use_fast=True"):
        kn.encode(stub_model(forgetful), CAPITAL)
    with pytest.raises(ValueError, match="no tokenizer"):
        kn.encode(stub_model(None), CAPITAL)
    no_bos = SlowTokenizer()
    no_bos.bos_token_id = None  # type: ignore
    with pytest.raises(ValueError, match="prepend_bos=False"):
        kn.encode(stub_model(no_bos), CAPITAL, prepend_bos=True)
    assert not kn.encode(stub_model(no_bos), CAPITAL).prepend_bos


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_special_tokens_and_masks_that_the_text_holds_do_not_count_twice(name: str, request: Any) -> None:
    model = zoo.tiny("bert") if name == "bert" else request.getfixturevalue("roberta")
    t, prompt = model.tokenizer, kn.Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")
    plain = kn.encode(model, prompt)
    first, last = t.convert_ids_to_tokens(t("")["input_ids"])
    written = kn.encode(model, replace(prompt, text=f"{first}{prompt.text}{last}"))
    assert torch.equal(written.tokens, plain.tokens)
    assert (written.positions, written.target_ids, written.subject) == (
        plain.positions,
        plain.target_ids,
        plain.subject,
    )
    for text in (f"{t.mask_token} and [MASK].", *["The capital is <mask>."] * (name == "roberta")):
        with pytest.raises(PromptError, match=r"masks; a masked model needs exactly one \[MASK\]"):
            kn.encode(model, kn.Prompt(text, " Ottawa"))
