"""Rank-one edits: what is refused, and what the error says."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.models import adapter
from tests import zoo
from tests.plain_rome import PROMPT, TARGET, rome, text_keys

pytestmark = pytest.mark.filterwarnings("ignore:.*in L[0-9]+. the")  # a random model knows nothing, and edits say so


# --- what goes wrong ----------------------------------------------------------------------------------


def call(model: Any, prompt: kn.Prompt = PROMPT, target: str = TARGET, layer: int = 1, **options: Any) -> Any:
    return rome(model, prompt, target, layer=layer, **{"steps": 3, **options})


BAD: dict[str, tuple[Any, Any, str]] = {
    "no subject": (lambda m: call(m, kn.Prompt("The capital is", " Ottawa")), ValueError, "has no subject"),
    "missing subject": (
        lambda m: call(m, kn.Prompt("The city is", " x", subject="Japan")),
        ValueError,
        "not in the text",
    ),
    "own answer": (lambda m: call(m, target=" Ottawa"), ValueError, "nothing to edit"),
    "empty target": (lambda m: call(m, target=" "), ValueError, "is empty"),
    "glued target": (lambda m: call(m, target="Rome"), ValueError, "write ' Rome'"),
    "target is a number": (lambda m: call(m, target=5), (TypeError, ValueError), "target"),
    "two targets of one prompt": (lambda m: call(m, target=[" Rome", " Paris"]), ValueError, "one prompt takes one"),
    "one target of two prompts": (lambda m: call(m, [PROMPT, PROMPT]), ValueError, "a list of targets"),
    "too few targets": (lambda m: call(m, [PROMPT, PROMPT], [" Rome"]), ValueError, "give as many"),
    "no prompts": (lambda m: call(m, [], []), ValueError, "at least one"),
    "conflicting targets": (lambda m: call(m, [PROMPT, PROMPT], [" Rome", " Paris"]), ValueError, "two targets"),
    "a text": (lambda m: call(m, ["The capital of Canada is"], [" Rome"]), TypeError, "Prompt"),
    "layer": (lambda m: call(m, layer=4), IndexError, "layers 0 to 3"),
    "negative layer": (lambda m: call(m, layer=-1), IndexError, "layers 0 to 3"),
    "key": (lambda m: call(m, key="mean"), (TypeError, ValueError), "published"),
    "steps": (lambda m: call(m, steps=1), ValueError, "at least 2"),
    "clamp": (lambda m: call(m, clamp=0.0), ValueError, "clamp"),
    "no templates": (lambda m: call(m, templates=[]), ValueError, "one {} each"),
    "two places": (lambda m: call(m, templates=["{} {}"]), ValueError, "exactly one"),
    "after the answer": (lambda m: call(m, templates=["{} now"]), ValueError, "follow the prompt"),
    "subject in template": (lambda m: call(m, templates=["In Canada. {}"]), ValueError, "holds the subject"),
    "C of another layer": (lambda m: call(m, second_moment=text_keys(m, 2)), ValueError, "layer 2"),
    "C of another model": (
        lambda m: call(m, second_moment=text_keys(zoo.tiny("mistral"), 1)),
        ValueError,
        "other weights",
    ),
    "singular C": (lambda m: call(m, second_moment=kn.second_moment(m, 1, ["The cat."])), ValueError, "singular"),
    "overflow": (lambda m: call(m, kl_weight=1e300), FloatingPointError, "untouched"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    model = zoo.tiny("llama")
    before = zoo.bits(model)
    run, kind, said = BAD[what]
    with pytest.raises(kind, match=said):
        run(model)
    assert zoo.bits(model) == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_what_the_model_says_already_is_no_target() -> None:
    model = zoo.tiny("llama")
    e = kn.encode(model, PROMPT)
    said = model.tokenizer.decode([int(model(e.tokens)[0, -1].argmax())])
    with pytest.raises(ValueError, match="answers already"):
        call(model, kn.Prompt(PROMPT.text, " Paris", subject="Canada"), said)


def test_a_singular_second_moment_of_many_tokens() -> None:
    model = zoo.tiny("llama")
    c = text_keys(model, 1)
    flat = copy.copy(c)
    object.__setattr__(flat, "matrix", torch.outer(c.matrix[0], c.matrix[0]))
    with pytest.raises(ValueError, match="singular"):
        call(model, second_moment=flat)


def test_masked_models_are_told_what_they_can_do() -> None:
    with pytest.raises(ValueError, match="edit_values"):
        call(zoo.tiny("bert"))


def test_nan_weights_are_an_error() -> None:
    model = zoo.fresh("llama")
    with torch.no_grad():
        adapter.w_out(model, 3)[0, 0] = torch.nan
    with warnings.catch_warnings(), pytest.raises(FloatingPointError):
        warnings.simplefilter("ignore")
        call(model)
