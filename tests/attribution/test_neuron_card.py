"""Cards against plain computations: values through the norms, activations and contexts by brute force."""

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.attribution import neuron_activity
from kntools.results import display
from tests.models.test_neuron_layers import native
from tests.zoo import SENTENCES, tiny

NEURONS = [kn.Neuron(0, 5), kn.Neuron(2, 7), kn.Neuron(1, 30)]
PROMPT = kn.Prompt("The capital of Canada is", " Ottawa")


def gain_of(model: Any, name: str, norm: str) -> torch.Tensor:
    """The gain by the name of its parameter."""
    module = model.get_submodule(norm)
    weight = module._original_component.weight if hasattr(module, "_original_component") else module.w
    return weight + 1 if name == "gemma2" else weight


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_promoted_tokens_are_those_of_the_row_through_norms_and_unembedding(name: str) -> None:
    model = tiny(name)
    for card, n in zip(kn.neuron_card(model, NEURONS, k=5), NEURONS, strict=True):
        row = model.blocks[n.layer].mlp.W_out[n.index] * gain_of(model, name, "ln_final")
        if name == "gemma2":
            row = row * gain_of(model, name, f"blocks.{n.layer}.ln2_post")
        weights = row @ model.unembed.W_U
        for pairs, cosines, largest in (
            (card.promoted, card.promoted_cosine, True),
            (card.suppressed, card.suppressed_cosine, False),
        ):
            expected = weights.topk(5, largest=largest)
            assert [token for token, _ in pairs] == [model.tokenizer.decode([i]) for i in expected.indices.tolist()]
            torch.testing.assert_close(torch.tensor([w for _, w in pairs]), expected.values, atol=1e-4, rtol=1e-4)
            columns = model.unembed.W_U[:, expected.indices]
            angle = torch.cosine_similarity(row[:, None], columns, dim=0)
            torch.testing.assert_close(torch.tensor(cosines), angle, atol=1e-4, rtol=1e-4)


def test_a_native_bridge_without_a_tokenizer() -> None:
    model = native(act_fn="gelu")
    card = kn.neuron_card(model, "L1.N3", k=4)
    weights = (model.blocks[1].mlp.W_out[3] * model.ln_final._original_component.weight) @ model.unembed.W_U
    expected = weights.topk(4)
    assert [token for token, _ in card.promoted] == [f"<{i}>" for i in expected.indices.tolist()]
    torch.testing.assert_close(torch.tensor([w for _, w in card.promoted]), expected.values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("gpt2", 200), ("gemma2", 40), ("bert", 40)])
def test_activations_and_contexts_are_those_of_plain_runs(name: str, count: int) -> None:
    model, texts = tiny(name), ["", *(f"{a} {b}" for a, b in product(SENTENCES, ["", *SENTENCES]))][: count + 1]
    with kn.set_options(max_rows=3):
        cards = kn.neuron_card(model, NEURONS, texts, k=4)
    tokenizer, runs = model.tokenizer, []
    for text in filter(None, texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows = (
            [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id] if name == "bert" else [tokenizer.bos_token_id, *ids]
        )
        names = [f"blocks.{n.layer}.mlp.hook_post" for n in NEURONS]
        _, cache = model.run_with_cache(torch.tensor([rows]), names_filter=names)
        runs.append((ids, cache))
    for card, n in zip(cards, NEURONS, strict=True):
        own = [cache[f"blocks.{n.layer}.mlp.hook_post"][0, 1 : 1 + len(ids), n.index] for ids, cache in runs]
        every = torch.cat(own)
        order = sorted(range(len(own)), key=lambda t: -float(own[t].max()))[:4]
        torch.testing.assert_close(
            torch.tensor([c.highest for c in card.contexts]),
            torch.stack([own[t].max() for t in order]),
            atol=1e-5,
            rtol=1e-4,
        )
        for context in card.contexts:
            assert texts[0] == "" and context.text > 0, "the number is that among the texts as given"
            own_text, run = own[context.text - 1], runs[context.text - 1]
            span = slice(context.start, context.start + len(context.tokens))
            torch.testing.assert_close(context.activations, own_text[span], atol=1e-5, rtol=1e-4)
            assert context.tokens == tuple(tokenizer.decode([i]) for i in run[0][span])
        assert card.activation is not None
        assert card.activation.tokens == len(every)
        assert card.activation.mean == pytest.approx(float(every.mean()), abs=1e-5)
        assert card.activation.active == pytest.approx(float((every > 0).float().mean()))
        for at, value in card.activation.quantiles.items():
            assert value == pytest.approx(float(every.quantile(float(at))), abs=1e-4)


def test_a_file_and_rows_give_the_cards_of_the_list(tmp_path: Path) -> None:
    model = tiny("gpt2")
    expected = kn.neuron_card(model, NEURONS, SENTENCES, k=2)
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(SENTENCES))
    assert kn.neuron_card(model, NEURONS, path, k=2) == expected
    assert kn.neuron_card(model, NEURONS, ({"text": s} for s in SENTENCES), k=2) == expected


def test_an_interrupted_run_is_resumed_with_the_same_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_activity, "_AHEAD", 4)
    monkeypatch.setattr(neuron_activity, "_EVERY", 1)
    monkeypatch.setattr(neuron_activity, "_SAMPLE", 50)
    model, run, read = tiny("gpt2"), tmp_path / "run.safetensors", []

    def passed_on(texts: list[str], stop: int = 10**6) -> Iterator[str]:
        for number, text in enumerate(texts):
            if number == stop:
                raise KeyboardInterrupt
            yield text

    add = neuron_activity.Activity._add
    monkeypatch.setattr(neuron_activity.Activity, "_add", lambda self, batch: read.extend(batch) or add(self, batch))
    with kn.set_options(max_rows=2):
        expected = kn.neuron_card(model, NEURONS, SENTENCES, k=3)
        for stop in (9, 14):
            read.clear()
            with pytest.raises(KeyboardInterrupt):
                kn.neuron_card(model, NEURONS, passed_on(SENTENCES, stop), k=3, run=run)
            assert {piece.text for piece in read} == ({*range(8)} if stop == 9 else {*range(8, 12)})
        assert kn.neuron_card(model, NEURONS, passed_on(SENTENCES), k=3, run=run) == expected
        read.clear()
        assert kn.neuron_card(model, NEURONS, SENTENCES, k=3, run=run) == expected and not read
        for neurons, texts in ((NEURONS[:2], SENTENCES), (NEURONS, SENTENCES[::-1]), (NEURONS, SENTENCES[:5])):
            with pytest.raises(ValueError, match=r"another measurement|other texts|only 5 were given"):
                kn.neuron_card(model, neurons, texts, k=3, run=run)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_direct_contribution_is_what_the_logit_loses_at_frozen_norms(name: str) -> None:
    model = tiny(name)
    encoded = kn.encode(model, PROMPT)
    cards = kn.neuron_card(model, NEURONS, prompt=PROMPT)
    _, cache = model.run_with_cache(encoded.tokens)
    last = model.cfg.n_layers - 1
    for card, n in zip(cards, NEURONS, strict=True):
        moved = cache[f"blocks.{n.layer}.mlp.hook_post"][0, -1, n.index] * model.blocks[n.layer].mlp.W_out[n.index]
        state = cache[f"blocks.{last}.hook_resid_post"][0, -1]
        if name == "gemma2":
            inside = cache[f"blocks.{n.layer}.mlp.hook_out"][0, -1]
            moved = moved * gain_of(model, name, f"blocks.{n.layer}.ln2_post")
            moved = moved / (inside.square().mean() + 1e-6).sqrt()
        if name == "gpt2":
            state, moved = state - state.mean(), moved - moved.mean()
        moved = moved * gain_of(model, name, "ln_final") / (state.square().mean() + 1e-6).sqrt()
        assert card.in_prompt is not None
        expected = float(moved @ model.unembed.W_U[:, encoded.target_ids[0]])
        assert card.in_prompt.direct == pytest.approx(expected, abs=1e-4, rel=1e-3)
        without = torch.softmax(model.run_with_hooks(encoded.tokens, fwd_hooks=kn.ablate_neurons([n], pos=-1)), -1)
        change = float(without[0, -1, encoded.target_ids[0]]) - card.in_prompt.probability
        assert card.in_prompt.effect == pytest.approx(change, abs=1e-6)


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def test_a_masked_model_has_no_promoted_tokens_and_says_so() -> None:
    card = kn.neuron_card(tiny("bert"), (1, 3), prompt=kn.Prompt("The capital of Canada is [MASK].", "Ottawa"))
    assert card.promoted == () == card.suppressed and "not linear" in card.note
    assert card.in_prompt is not None and card.in_prompt.direct is None
    assert "not linear" in card._repr_html_()


def test_text_is_escaped_and_a_card_is_saved(tmp_path: Path) -> None:
    prompt = kn.Prompt("<script>alert(1)</script> The capital of Canada is", " Ottawa")
    card = kn.neuron_card(tiny("gpt2"), "L2.N7", ["<script>alert(1)</script> & more"], prompt=prompt, k=3)
    assert "<script" not in card._repr_html_()
    assert "&lt;" in card._repr_html_()
    marked = replace(card.contexts[0], tokens=("<script>", *card.contexts[0].tokens[1:]))
    evil = replace(card, contexts=(marked,), promoted=(("<script>", 1.0), *card.promoted[1:]))
    assert (
        "<script" not in evil._repr_html_() and evil._repr_html_().count("&lt;script&gt;") == 4
    )  # title, promoted, prompt, context
    assert kn.load(card.save(tmp_path / "card.safetensors")) == card
    assert list(card.to_frame()["kind"]) == ["promoted"] * 3 + ["suppressed"] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(card.plot().data) == 2
    assert len(card.tables()["contexts"]) == len(card.contexts[0].tokens)


def test_every_token_has_a_bar() -> None:
    """Also where tokens of different bytes are decoded to one text, and where a token stands on both sides."""
    card = kn.neuron_card(tiny("gpt2"), "L2.N7", k=3)
    promoted, suppressed = ((" a", 3.0), ("\ufffd", 2.0), ("\ufffd", 1.5)), ((" b", -3.0), (" a", -2.0), ("x", -1.0))
    figure = replace(card, promoted=promoted, suppressed=suppressed).plot()
    named = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    bars = [(named[y], x) for trace in figure.data for y, x in zip(trace.y, trace.x, strict=True)]
    assert bars == [(repr(token), weight) for token, weight in (*promoted, *suppressed)]


def test_what_cannot_be() -> None:
    model = tiny("gpt2")
    with pytest.raises(IndexError):
        kn.neuron_card(model, "L0.N999")
    for neurons, texts in (([], None), ("L0.N1", []), ("L0.N1", "one text")):
        with pytest.raises(ValueError):
            kn.neuron_card(model, neurons, texts)


def test_a_wrong_prompt_is_an_error_before_texts_are_read() -> None:
    def texts() -> Iterator[str]:
        raise AssertionError("read")
        yield ""

    with pytest.raises(TypeError, match=r"give one kn\.Prompt"):
        inspect.unwrap(kn.neuron_card)(tiny("llama"), (1, 3), texts(), prompt=7)


def test_a_printed_card_says_what_the_neuron_does_in_the_prompt() -> None:
    model, reverse = tiny("llama"), "there it suppresses the tokens that it promotes"
    prompt = kn.Prompt("The capital of Canada is", " Ottawa")
    cards = kn.neuron_card(model, [(2, n) for n in range(20)], prompt=prompt)
    signs = set()
    for card in cards:
        assert card.in_prompt is not None
        negative = card.in_prompt.activation < 0
        signs.add(negative)
        assert f"effect of switching off {display.number(card.in_prompt.effect)}" in repr(card)
        assert (reverse in repr(card)) == (reverse in card._repr_html_()) == negative
    assert signs == {True, False}
    assert reverse not in repr(kn.neuron_card(model, (2, 0)))
    read = kn.neuron_card(model, (2, 0), SENTENCES)
    assert read.activation is not None and f"tokens {read.activation.tokens}, mean" in repr(read)
