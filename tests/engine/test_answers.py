"""What a model answers, against one plain run per prompt and piece."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.editing.changes import Change
from kntools.engine import answers
from kntools.engine.answers import answer_logits, answer_values, ask
from kntools.engine.forward import by_row
from kntools.engine.from_layer import Group
from kntools.engine.generation import generate_edited
from kntools.engine.sweep import sweep
from kntools.hooks.neurons import ablate_neurons
from kntools.models import adapter
from kntools.prompts import encode_many
from tests import zoo
from tests.loop import ALL
from tests.unusual import unusual

LONG = " Ouagadougou"  # of several tokens
NEURONS = [(1, n) for n in range(0, 48, 2)]


def prompts_for(name: str) -> list[kn.Prompt]:
    """Several lengths, foils, and (of a causal model) answers of several tokens; two share a text."""
    if zoo.RECIPES[name].masked:
        return [
            kn.Prompt("The capital of Canada is [MASK].", "Ottawa", foil="Paris"),
            kn.Prompt("[MASK] is the capital of Cuba.", "Rome"),
            kn.Prompt("Is [MASK] near?", "Japan", foil="Cuba"),
            kn.Prompt("The capital of Canada is [MASK].", "Rome"),
        ]
    return [
        kn.Prompt("The capital of Canada is", " Ottawa", foil=" Paris"),
        kn.Prompt("The capital of Canada is", " Ouagadougou", multi_token="sum"),
        kn.Prompt("Is Japan near", " Cuba", foil=" Spain"),
        kn.Prompt("The quick brown fox jumps over the lazy", " dog"),
        kn.Prompt("The capital of Canada is", " Ouagadougou", multi_token="first"),
    ]


def rows_of(model: Any, e: kn.Encoded, hooks: Any = ()) -> Tensor:
    """Logits `[piece d_vocab]` by a run of its own."""
    with torch.no_grad():
        return model.run_with_hooks(e.tokens, fwd_hooks=list(hooks))[0, list(e.positions)].float()


@pytest.mark.parametrize("max_rows", [None, 2])
@pytest.mark.parametrize("name", ALL)
def test_answers_are_those_of_plain_runs(name: str, max_rows: int | None) -> None:
    model, prompts = zoo.tiny(name), prompts_for(name)
    with kn.set_options(max_rows=max_rows):
        found = ask(model, prompts)
    for prompt, answer in zip(prompts, found, strict=True):
        e = kn.encode(model, prompt)
        rows = rows_of(model, e)
        own = rows.softmax(-1)[range(len(rows)), list(e.target_ids)]
        assert answer.probability == pytest.approx(float(own.prod()), rel=1e-3)
        assert answer.says == tuple(rows.argmax(-1).tolist())
        assert answer.first == (answer.says[0] == e.target_ids[0])
        assert answer.exact == (answer.says == e.target_ids)
        if e.foil_ids is None:
            assert answer.preferred is None
        else:
            assert answer.preferred == bool(rows[0, e.target_ids[0]] > rows[0, e.foil_ids[0]])


def test_what_the_model_says_is_known_and_a_tie_is_not() -> None:
    model = zoo.fresh("llama")
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", foil=" Paris")
    e = kn.encode(model, prompt)
    [ottawa], [paris] = e.target_ids, e.foil_ids or ()
    with torch.no_grad():
        head = zoo.weight(model, "lm_head")
        row = head[int(rows_of(model, e)[0].argmax())].clone()
        head[ottawa] = row * 2
        [clear] = ask(model, prompt)
        head[paris] = row * 2
        [tie] = ask(model, prompt)
    assert clear.first and clear.exact and clear.preferred and clear.says == (ottawa,)
    assert tie.probability > 0 and not tie.first and not tie.exact and not tie.preferred


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_values_under_interventions_are_those_of_plain_runs(name: str) -> None:
    """Hooks without a position act at each prompt's own answer, whatever its length."""
    model, prompts = zoo.tiny(name), prompts_for(name)
    found = answer_values(model, prompts, [[], ablate_neurons(NEURONS), kn.scale_site("z", 0, 0.0, pos=None)])
    assert found.shape == (3, len(prompts))
    for n, prompt in enumerate(prompts):
        e = kn.encode(model, prompt)
        edits = ([], kn.ablate_neurons(NEURONS, pos=e.positions), kn.scale_site("z", 0, 0.0, pos=None))
        for value, hooks in zip(found[:, n].tolist(), edits, strict=True):
            p = rows_of(model, e, hooks).softmax(-1)[range(len(e.positions)), list(e.target_ids)].prod()
            assert value == pytest.approx(float(p), rel=1e-3, abs=1e-9)
    assert torch.equal(found[0].argsort(), torch.tensor([a.probability for a in ask(model, prompts)]).argsort())


def test_a_text_is_run_once_for_all_of_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = zoo.tiny("llama"), prompts_for("llama")[::-1]
    runs: list[int] = []

    def counted(model: Any, asked: Any, interventions: Any, **options: Any) -> Tensor:
        runs.append(len(interventions))
        return sweep(model, asked, interventions, **options)

    monkeypatch.setattr(answers, "sweep", counted)
    cities = [kn.Prompt("The capital of Canada is", f" {city}") for city in ("Rome", "Paris", "Tokyo")]
    found = answer_values(model, [*cities, *prompts], [[], ablate_neurons(NEURONS)])
    # " Ottawa", the first piece of " Ouagadougou" and three cities after one text; three texts with an answer each.
    assert runs == [2 * (1 + 3)]
    for n, prompt in enumerate([*cities, *prompts]):
        torch.testing.assert_close(found[0, n].item(), ask(model, prompt)[0].probability, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("value", [1.0, torch.tensor(1.0)])
def test_metrics_of_one_text_fail_as_one_alone(value: Any) -> None:
    model = zoo.tiny("llama")
    for answers_of_it in ([" Ottawa"], [" Ottawa", " Rome"]):
        prompts = [kn.Prompt("The capital of Canada is", answer) for answer in answers_of_it]
        with pytest.raises(ValueError, match="one value per row"):
            answer_values(model, prompts, metric_of=lambda encoded: lambda logits: value)


def test_each_metric_of_one_text_is_read_as_it_is_written() -> None:
    """As TransformerLens' metrics, which read `logits[:, -1]`, or as ours."""
    model = zoo.tiny("llama")
    prompts = [kn.Prompt("The capital of Canada is", answer) for answer in (" Ottawa", " Rome")]
    first, second = encode_many(model, prompts)
    [a], [b] = first.target_ids, second.target_ids
    metrics = {a: lambda logits: logits[:, -1][:, a], b: lambda logits: logits[:, b]}
    found = answer_values(model, [first, second], metric_of=lambda e: metrics[e.target_ids[0]])
    torch.testing.assert_close(found[0], rows_of(model, first)[0, [a, b]], rtol=1e-4, atol=1e-4)


def test_several_contrasts_of_a_text_read_few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = zoo.tiny("llama"), list[Any]()
    pairs = ((" Ottawa", " Paris"), (" Rome", " Paris"))
    prompts = [kn.Prompt("The capital of Canada is", good, foil=bad) for good, bad in pairs]
    prompts.append(kn.Prompt("Is Japan near", " Cuba", foil=" Spain"))
    run = adapter.run
    monkeypatch.setattr(adapter, "run", lambda *given: (seen.append(given[4:]), run(*given))[1])
    found = answer_values(model, prompts, metric_of=lambda e: kn.logit_difference(e.target_ids[0], e.foil_ids[0]))
    encoded = encode_many(model, prompts)
    read = [sorted({*e.target_ids, *(e.foil_ids or ())}) for e in encoded]
    assert seen[-2:] == [(sorted({*read[0], *read[1]}),), (read[2],)], "of the prompts of each length"
    for value, e in zip(found[0].tolist(), encoded, strict=True):
        row = rows_of(model, e)[0]
        assert value == pytest.approx(float(row[e.target_ids[0]] - row[e.foil_ids[0]]), abs=1e-4)


def test_other_metrics_and_bad_input() -> None:
    model, prompts = zoo.tiny("llama"), prompts_for("llama")
    found = answer_values(model, prompts[:1], metric_of=lambda e: kn.logit_difference(e.target_ids[0], e.foil_ids[0]))
    e = kn.encode(model, prompts[0])
    row = rows_of(model, e)[0]
    assert float(found) == pytest.approx(float(row[e.target_ids[0]] - row[e.foil_ids[0]]), abs=1e-4)
    with pytest.raises(ValueError, match="no interventions given"):
        answer_values(model, prompts, [])
    with pytest.raises(ValueError, match="no prompts given"):
        ask(model, [])
    broken = zoo.fresh("llama")
    with torch.no_grad():
        broken.blocks[1].mlp.W_out.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="is nan; load the model in float32"):
        ask(broken, prompts)


def asked_alike(model: Any) -> list[kn.Encoded]:
    """Answers of one and several tokens after texts that begin alike, in no order; a text that goes on another one."""
    texts = ["The capital of Canada is", "The capital of Cuba is", "The capital of Canada is near the city of"]
    answers = [" Ottawa", " Paris", " Ouagadougou", " Montevideo", " Reykjavik"]
    prompts = [kn.Prompt(text, answer, multi_token="sum") for answer in answers for text in texts]
    return encode_many(model, prompts * 8)  # more than a pass costs


@pytest.mark.parametrize("max_rows", [None, 3])
@pytest.mark.parametrize("name", ALL)
def test_texts_that_begin_alike(name: str, max_rows: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is shared, every logit is that of a run of its own; with the hooks of edits, nothing is kept."""
    if zoo.RECIPES[name].masked:
        pytest.skip("a masked model reads what follows")
    monkeypatch.setattr(answers, "pass_overhead", lambda model: 1)
    model = zoo.tiny(name)
    encoded = asked_alike(model)
    edits = [random_edits(model, 3)[n % 3] if n % 2 else [] for n in range(len(encoded))]
    edits[1::2] = [edits[1]] * len(edits[1::2])
    with kn.set_options(max_rows=max_rows):
        plain, edited = list(answer_logits(model, encoded)), list(answer_logits(model, encoded, edits))
    # Each of the 15 prompts once with the edit and once without, as both are asked for again and again.
    runs = {bool(hooks): [rows_of(model, e, hooks) for e in encoded[:15]] for hooks in edits[:2]}
    for n, (hooks, found, under) in enumerate(zip(edits[:30], plain, edited, strict=False)):
        torch.testing.assert_close(found.float(), runs[False][n % 15], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(under.float(), runs[bool(hooks)][n % 15], atol=1e-3, rtol=1e-3)


def test_where_what_follows_is_read_no_beginning_is_shared() -> None:
    """The first piece of an answer is asked for in a text that holds it, and in one that does not."""
    model = unusual("bidirectional_gemma3")
    encoded = encode_many(
        model, [kn.Prompt("The capital of Canada is", a, multi_token="sum") for a in (" Ottawa", LONG)]
    )
    short, long = (rows_of(model, e) for e in encoded)
    assert len(long) > len(short) == 1 and not torch.allclose(short[0], long[0], atol=1e-2)
    for found, expected in zip(answer_logits(model, encoded), (short, long), strict=True):
        torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=1e-3)


def test_the_same_tokens_asked_at_other_places() -> None:
    """A text that ends where the first piece of another text's answer ends."""
    model = zoo.tiny("llama")
    prompts = [
        kn.Prompt("The capital of Canada is", " Ottawa"),
        kn.Prompt("The capital of Canada", " is Ottawa", multi_token="sum"),
    ]
    one, two = encode_many(model, prompts)
    assert torch.equal(one.tokens, two.tokens) and one.positions == two.positions[1:]
    expected = [
        float(rows_of(model, e).softmax(-1)[range(len(e.positions)), list(e.target_ids)].prod()) for e in (one, two)
    ]
    assert answer_values(model, prompts)[0].tolist() == pytest.approx(expected, rel=1e-3)
    assert [answer.probability for answer in ask(model, prompts)] == pytest.approx(expected, rel=1e-3)


def test_each_beginning_is_run_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 nouns after one text: one row of the text, and one token of each row."""
    model = zoo.tiny("llama")
    [first], n = encode_many(model, [kn.Prompt("The capital of Canada is", " Ottawa")]), 60
    seen: list[tuple[int, int, int]] = []
    run = Group.run

    def counted(self: Group, hooks: Any, asked: Tensor) -> Tensor:
        seen.append((len(asked), self.tokens.shape[1] - self.start, asked.shape[1]))
        return run(self, hooks, asked)

    monkeypatch.setattr(Group, "run", counted)
    length = first.tokens.shape[1]
    pieces = torch.arange(n)[:, None]
    asked = [
        replace(
            first,
            tokens=torch.cat([first.tokens, piece[None]], 1),
            positions=(length - 1, length),
            target_ids=(int(piece), 0),
        )
        for piece in pieces
    ]
    list(answer_logits(model, [first, *asked[:5]]))
    assert seen == [(1 + 5, length + 1, 1)], "not worth a pass of its own"
    seen.clear()
    found = list(answer_logits(model, [first, *asked]))
    assert seen == [(1 + n, 2, 1)], "from the text's last token on, which its own row is asked for; one position each"
    for e, logits in zip([first, *asked], found, strict=True):
        torch.testing.assert_close(logits, rows_of(model, e), atol=1e-4, rtol=1e-4)


def random_edits(model: Any, count: int) -> list[list[Any]]:
    """Hooks of edits of one layer each, of which two share a layer."""
    edits = []
    for n in range(count):
        layer = n % model.cfg.n_layers
        width = model.blocks[layer].mlp.W_out.shape
        draw = torch.Generator().manual_seed(n)
        edits.append(Change(layer, torch.randn(width, generator=draw) * 0.2).hooks(model))
    return edits


@pytest.mark.parametrize(("max_rows", "chunk"), [(None, 256), (2, 256), (None, 2)])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bert"])
def test_each_prompt_has_the_hooks_of_its_own_edit(
    name: str, max_rows: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_CHUNK", chunk)
    model, prompts = zoo.tiny(name), prompts_for(name)
    encoded = encode_many(model, prompts)
    each = [*random_edits(model, len(prompts) - 1), []]
    with kn.set_options(max_rows=max_rows):
        found = list(answer_logits(model, encoded, each))
    plain = list(answer_logits(model, encoded))
    for e, hooks, logits, unedited in zip(encoded, each, found, plain, strict=True):
        torch.testing.assert_close(logits.float(), rows_of(model, e, hooks), atol=1e-4, rtol=1e-4)
        assert bool((logits - unedited).abs().max() > 1e-3) == bool(hooks)


def test_a_part_has_so_many_rows_however_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, groups = zoo.tiny("llama"), list[int]()
    monkeypatch.setattr(answers, "_CHUNK", 2)
    held = answers.row_groups

    def counted(model: Any, tokens: Any, *rest: Any) -> Any:
        groups.append(len(tokens))
        return held(model, tokens, *rest)

    monkeypatch.setattr(answers, "row_groups", counted)
    texts = ("The capital of Canada is", "The capital of Japan is", "The capital of Cuba is")
    asked = [kn.Prompt(text, f" {word}") for text in texts for word in ("Ottawa", "Tokyo", "Havana")]
    found = ask(model, asked)
    assert groups == [2, 1]
    assert [a.probability for a in found] == pytest.approx([ask(model, prompt)[0].probability for prompt in asked])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_each_text_is_continued_under_its_own_edit(name: str) -> None:
    model = zoo.tiny(name)
    prompts = [
        kn.Prompt(text, " a") for text in ("The capital of Canada is", "Is Japan near", "The capital of Cuba is")
    ]
    each = random_edits(model, 3)
    texts = generate_edited(model, prompts, each, 6)
    assert texts == [
        kn.generate(model, p, hooks=hooks, max_new_tokens=6) for p, hooks in zip(prompts, each, strict=True)
    ]
    for prompt, hooks, text in zip(prompts, each, texts, strict=True):
        tokens = kn.encode(model, prompt).tokens
        start = tokens.shape[1]
        for _ in range(6):
            with torch.no_grad():
                logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
        assert model.tokenizer.decode(tokens[0, start:]) == text


def test_hooks_that_may_look_at_other_rows_are_refused() -> None:
    with pytest.raises(TypeError, match="may look at other rows"):
        by_row([ablate_neurons([(0, 1)])])
