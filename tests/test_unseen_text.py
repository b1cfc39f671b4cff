"""Text that cannot be seen, or that is no text: its own tokens or an error, never other tokens without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

import kntools as kn
from kntools.data.records import TokenizerOnly
from kntools.editing.rome_settings import RomeSettings
from kntools.engine.generation import generate
from kntools.prompts import PromptError, Reason
from tests import data_tokenizers, zoo

CAUSAL, MASKED = "The capital of Canada is", "The capital of Canada is [MASK]."
PROMPT = kn.Prompt(CAUSAL, " Ottawa", subject="Canada")
LONE = "a \ud800 b"
# Zero-width space and joiner, byte order mark, word joiner, soft hyphen, mark of direction, a control character.
UNSEEN = ["\u200b", "\u200d", "\ufeff", "\u2060", "\u00ad", "\u200e", "\x07", "\u200b\u200b", " \u200b"]


@pytest.mark.parametrize("answer", UNSEEN)
def test_an_answer_that_a_tokenizer_keeps(answer: str) -> None:
    """Byte-level tokenizers spell it: the tokens read back are the answer."""
    for name in ("llama", "gpt2"):
        model = zoo.tiny(name)
        encoded = kn.encode(model, kn.Prompt(CAUSAL, answer, multi_token="sum"))
        assert model.tokenizer.decode(list(encoded.target_ids)) == answer


@pytest.mark.parametrize("answer", UNSEEN)
def test_an_answer_that_a_tokenizer_drops(answer: str) -> None:
    spaced = data_tokenizers.llama_like(zoo.SENTENCES)
    spaced.backend_tokenizer.normalizer = normalizers.Replace(answer.strip(), " ")
    models = [(zoo.tiny("bert"), MASKED), (TokenizerOnly(data_tokenizers.bert_like(zoo.SENTENCES)), MASKED)]
    for model, text in [*models, (TokenizerOnly(spaced), CAUSAL)]:
        for multi in ("error", "first", "sum"):
            for prompt in (
                kn.Prompt(text, answer, multi_token=multi),
                kn.Prompt(text, "Canada" if "[" in text else " Canada", foil=answer, multi_token="first"),
            ):
                with pytest.raises(PromptError) as error:
                    kn.encode(model, prompt)
                assert error.value.reason == Reason.UNSEEN and repr(answer) in str(error.value)


def test_a_text_of_which_nothing_is_left() -> None:
    dropping = data_tokenizers.gpt2_like(zoo.SENTENCES)
    dropping.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    model = TokenizerOnly(dropping)
    with pytest.raises(PromptError) as error:
        kn.encode(model, kn.Prompt("\u200b", " Ottawa", multi_token="first"), prepend_bos=False)
    assert error.value.reason == Reason.UNSEEN


def edit(model: Any, target: str = " Rome", template: str = "{}") -> Any:
    return kn.rome(model, PROMPT, target, layer=1, settings=RomeSettings(steps=2, templates=(template, "{}")))


LONE_TEXTS: dict[str, Callable[[Any], Any]] = {
    "text": lambda m: kn.encode(m, kn.Prompt(LONE, " x")),
    "target": lambda m: kn.encode(m, kn.Prompt("a", " \udfff")),
    "subject": lambda m: kn.Prompt("a", " x", subject="\udbff"),
    "foil": lambda m: kn.Prompt("a", " x", foil="\udc00"),
    "second_moment": lambda m: kn.second_moment(m, 1, ["a b", LONE]),
    "second_moment rows": lambda m: kn.second_moment(m, 1, [{"text": LONE}]),
    "neuron_card": lambda m: kn.neuron_card(m, "L1.N5", iter(["a b", LONE])),
    "generate": lambda m: generate(m, ["a", LONE], max_new_tokens=1),
    "chat": lambda m: generate(m, [{"role": "user", "content": LONE}], max_new_tokens=1),
    "stop": lambda m: generate(m, "a", stop=[".", LONE], max_new_tokens=1),
    "rome": lambda m: edit(m, target=" \ud800"),
    "template": lambda m: edit(m, template="\ud800 {}"),
    "emmet": lambda m: kn.emmet(m, PROMPT, " \ud800", layers=1),
    "fine_tune": lambda m: kn.fine_tune(m, PROMPT, " \ud800", layer=1),
    "edit_values": lambda m: kn.edit_values(m, "L1.N5", " Ottawa", " \ud800"),
}


@pytest.mark.parametrize("name", LONE_TEXTS)
def test_half_of_a_surrogate_pair(name: str) -> None:
    with pytest.raises(ValueError, match="is half of a surrogate pair") as error:
        LONE_TEXTS[name](zoo.tiny("llama"))
    assert not isinstance(error.value, UnicodeError)


def test_a_file_of_texts_in_another_encoding(tmp_path: Path) -> None:
    for content in (b"a b\nc \xed\xa0\x80 d\n", "Zoë".encode("latin-1")):
        (tmp_path / "texts.txt").write_bytes(content)
        with pytest.raises(ValueError, match=r"texts\.txt is not in UTF-8"):
            kn.second_moment(zoo.tiny("llama"), 1, tmp_path / "texts.txt")


@pytest.mark.parametrize(("value", "shown"), [("1", False), ("true", False), ("0", True), ("", True), (None, True)])
def test_tqdm_disable(
    value: str | None, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if value is None:
        monkeypatch.delenv("TQDM_DISABLE", raising=False)
    else:
        monkeypatch.setenv("TQDM_DISABLE", value)
    with kn.set_options(progress=True):
        kn.sweep(zoo.tiny("llama"), PROMPT, [[], []])
        kn.second_moment(zoo.tiny("llama"), 1, zoo.SENTENCES)
    assert bool(capsys.readouterr().err) == shown
