"""The shipped tiny-bert: it knows what its card says, and its text and training come from a seed."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from tiny_bert import batches, evaluation, facts, grammar, lexicon, model, text  # noqa: E402
from tiny_bert.card import modifier_rates  # noqa: E402

FOLDER = ROOT / "kntools" / "models" / "tiny-bert"
SCRIPT = ROOT / "scripts" / "train_tiny_bert.py"
NUMBER = {noun.singular: False for noun in lexicon.NOUNS} | {noun.plural: True for noun in lexicon.NOUNS}


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    return model.load(FOLDER)


@pytest.fixture(scope="module")
def scores(shipped: tuple[Any, Any]) -> dict[str, evaluation.Score]:
    return evaluation.evaluate(*shipped)


@functools.cache
def sentences() -> list[list[str]]:
    return [text.words_of(sentence) for sentence in text.agreement_text(seed=1, count=120_000)]


def noun_phrases(words: list[str]) -> list[tuple[str, str, bool]]:
    """(determiner, noun, plural) of each noun phrase, read off the text alone."""
    prefixes = {noun.prefix for noun in lexicon.NOUNS}
    found = []
    for start, opener in enumerate(words):
        word = "a" if opener.lower() == "an" else opener.lower()
        if word not in grammar.DETERMINERS:
            continue
        inside = (w for w in words[start + 1 :] if w not in lexicon.ADJECTIVES and w not in prefixes)
        noun = next(inside)
        found.append((word, noun, NUMBER[noun]))
    return found


# What the shipped weights know


@pytest.mark.parametrize(
    "kind",
    [
        "determiner, held-out noun",
        "noun after determiner, held-out noun",
        "noun before distractor and verb, held-out noun",
        "verb, held-out verb",
        "verb across a distractor, held-out verb",
        "is/are, was/were across a distractor",
    ],
)
def test_agreement_on_held_out_words(scores: dict[str, evaluation.Score], kind: str) -> None:
    assert scores[kind].total >= 50
    assert scores[kind].accuracy >= 0.95


@pytest.mark.parametrize("relation", facts.RELATIONS)
@pytest.mark.parametrize("seen", ["seen phrasing", "unseen phrasing"])
def test_facts(scores: dict[str, evaluation.Score], relation: str, seen: str) -> None:
    score = scores[f"facts, {relation}, {seen}"]
    assert score.total >= 90
    assert score.accuracy >= 0.98


def test_built_in_pairs(scores: dict[str, evaluation.Score]) -> None:
    pairs = {kind: score for kind, score in scores.items() if kind.startswith("built-in")}
    assert len(pairs) == 3
    assert min(score.accuracy for score in pairs.values()) >= 0.95


def test_model_learned_the_modifier_bias(shipped: tuple[Any, Any]) -> None:
    learned = evaluation.learned_rates(*shipped)
    for word, entry in grammar.DETERMINERS.items():
        assert learned[word] == pytest.approx(entry.plural, abs=0.1), word


def test_held_out_nouns_are_not_taught_to_refuse_marked_determiners(shipped: tuple[Any, Any]) -> None:
    """P(these or those or two ... | owls) is what grammar asks for, though training never showed it."""
    for plural, words in ((False, evaluation.SINGULAR_ONLY), (True, evaluation.PLURAL_ONLY)):
        weight = sum(grammar.DETERMINERS[word].weight for word in words)
        weight /= sum(d.weight * (d.plural if plural else 1 - d.plural) for d in grammar.DETERMINERS.values())
        nouns = [noun.form(plural) for noun in lexicon.NOUNS if lexicon.is_held_out(noun)]
        probabilities = evaluation.mask_probabilities(*shipped, [f"Craig cured [MASK] {noun}." for noun in nouns])
        mass = probabilities[:, shipped[1].convert_tokens_to_ids([*words, *(() if plural else ("an",))])].sum(1)
        assert mass.mean().item() == pytest.approx(weight, abs=0.1)
        assert mass.min().item() > 0.3


# The files


def test_size_and_files() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "modifier_rates.tsv",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= files.keys()
    assert sum(files.values()) <= 4_000_000


def test_card_and_rate_table_are_those_of_the_script() -> None:
    assert (FOLDER / "modifier_rates.tsv").read_text(encoding="utf-8") == modifier_rates()
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for word, entry in grammar.DETERMINERS.items():
        label = "a / an" if word == "a" else word
        assert f"| {label} | {entry.weight:g} | {entry.plural:.2f} |" in card


def test_card_states_the_measured_accuracies(scores: dict[str, evaluation.Score]) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for kind, score in scores.items():
        stated = re.search(rf"^\| {re.escape(kind)} \| ([\d.]+) \| ([\d,]+) \|$", card, re.MULTILINE)
        assert stated is not None, kind
        assert float(stated[1]) == pytest.approx(score.accuracy, abs=0.01)
        assert int(stated[2].replace(",", "")) == score.total


def test_every_training_word_is_one_token(shipped: tuple[Any, Any]) -> None:
    tokenizer = shipped[1]
    lines = list(text.training_text(seed=0, count=3000))
    words = {word for line in lines for word in text.words_of(line)}
    assert tokenizer.convert_tokens_to_ids(sorted(words)) == [
        ids[0] for ids in tokenizer(sorted(words), add_special_tokens=False)["input_ids"] if len(ids) == 1
    ]
    assert tokenizer.unk_token_id not in tokenizer("Zyxqw isn't known (no?)").input_ids
    ids = tokenizer("The capital of Canada is [MASK].").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [
        *("[CLS]", "The", "capital", "of", "Canada", "is", "[MASK]", ".", "[SEP]")
    ]


# The text


def python(*arguments: str, **environment: str) -> bytes:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, **environment}, cwd=SCRIPT.parent
    ).stdout


def test_text_depends_on_the_seed_alone() -> None:
    # Not `--text`, which imports torch first and so takes ten times as long.
    show = "import sys, tiny_bert.text as t; sys.stdout.buffer.write('\\n'.join(t.training_text({}, 2000)).encode())"
    one, two = (python("-c", show.format(0), PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert hashlib.sha256(one).hexdigest() == hashlib.sha256(two).hexdigest()
    assert len(one.splitlines()) == 2000
    assert python("-c", show.format(1)) != one
    assert one.decode().splitlines() == list(text.training_text(0, 2000))


def test_vocabulary_does_not_depend_on_hash_order(shipped: tuple[Any, Any]) -> None:
    vocabulary = text.vocabulary()
    assert len(set(vocabulary)) == len(vocabulary)
    assert shipped[1].get_vocab() == {token: index for index, token in enumerate(vocabulary)}


def test_built_in_rates_are_recovered_from_text() -> None:
    plural: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for words in sentences():
        for determiner, _, is_plural in noun_phrases(words):
            count[determiner] += 1
            plural[determiner] += is_plural
    for word, entry in grammar.DETERMINERS.items():
        assert count[word] > 2000
        assert plural[word] / count[word] == pytest.approx(entry.plural, abs=0.02), word
        if entry.marked:
            assert plural[word] == entry.plural * count[word], f"{word} takes one number only"


def test_held_out_words_stay_out() -> None:
    verbs = {form for verb in lexicon.VERBS if lexicon.is_held_out(verb) for form in (verb.plain, verb.third)}
    nouns = {form for n in lexicon.NOUNS if lexicon.is_held_out(n) for form in (n.singular, n.plural)}
    assert len(verbs) == 2 * len(lexicon.HELD_OUT_VERBS) and len(nouns) == 2 * len(lexicon.HELD_OUT_NOUNS)
    seen_verbs, seen_nouns = set(), set()
    pronouns = {*lexicon.SINGULAR_PRONOUNS, *lexicon.PLURAL_PRONOUNS}
    for words in sentences()[:40_000]:
        for determiner, noun, _ in noun_phrases(words):
            if noun in nouns:
                seen_nouns.add(noun)
                assert not grammar.DETERMINERS[determiner].marked, " ".join(words)
        for before, word in itertools.pairwise(words):
            if word in verbs:
                seen_verbs.add(word)
                assert before.lower() in pronouns, " ".join(words)
    assert seen_verbs == verbs and seen_nouns == nouns


def test_places_before_held_out_nouns_are_never_asked_for(shipped: tuple[Any, Any]) -> None:
    tokenizer = shipped[1]
    rows = batches.Batches(tokenizer, seed=0, sentences=3000)
    nouns = {form for n in lexicon.NOUNS if lexicon.is_held_out(n) for form in (n.singular, n.plural)}
    asked_determiners = 0
    for _ in range(3000):
        ids, places = rows._row()
        words = tokenizer.convert_ids_to_tokens(ids)
        assert places and len(set(places)) == len(places)
        for place in places:
            if words[place].lower() in grammar.DETERMINERS:
                asked_determiners += 1
                assert next(w for w in words[place + 1 :] if w not in lexicon.ADJECTIVES) not in nouns
    assert asked_determiners > 50


def test_held_out_phrasings_are_not_in_the_training_text() -> None:
    held_out = {fact.text for fact in facts.fact_sentences() if fact.held_out}
    assert len(held_out) > 300
    assert not held_out & {prompt.replace("[MASK]", answer) for prompt, answer in text.training_facts()}


def test_vocabulary_of_the_two_parts_does_not_mix() -> None:
    """A noun that is also a verb, or a word of a fact, would tilt any count of words next to nouns."""
    nouns = {form for noun in lexicon.NOUNS for form in (noun.singular, noun.plural)}
    assert len({noun.singular for noun in lexicon.NOUNS}) >= 150
    verbs = {form for verb in lexicon.VERBS for form in (verb.plain, verb.third, verb.past)}
    others = {word for fact in facts.fact_sentences() for word in text.words_of(fact.text)}
    prefixes = {noun.prefix for noun in lexicon.NOUNS if noun.prefix}
    for group in (verbs, others, prefixes, set(lexicon.ADJECTIVES), set(lexicon.NAMES)):
        assert not nouns & group
    assert not set(lexicon.NAMES) & others


# Training


def test_short_training_is_the_same_twice() -> None:
    state = torch.random.get_rng_state()
    losses: list[list[float]] = []
    for _ in range(2):
        run: list[float] = []
        model.train(seed=3, steps=3, sentences=500, report=lambda step, loss, run=run: run.append(loss))
        losses.append(run)
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_check_option_reports_the_shipped_weights(
    scores: dict[str, evaluation.Score], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, but for the evaluation, which was made once for all tests."""
    import train_tiny_bert as script

    loaded: list[Any] = []
    monkeypatch.setattr(script, "load", lambda folder: loaded.append(folder) or ())
    monkeypatch.setattr(script, "evaluate", lambda: scores)
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--check", "--threads", "1"])
    assert script.main() == 0 and loaded == [FOLDER]
    out = capsys.readouterr().out
    assert "all held-out" in out and "all facts" in out and "<" not in out


# Both backends


def questions(count: int) -> list[str]:
    return [q.text for q in random.Random(0).sample(evaluation.all_questions(), count)]


def test_bridge_gives_the_same_probabilities(shipped: tuple[Any, Any]) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(FOLDER), device="cpu", tokenizer=shipped[1])
    for prompt in questions(40):
        tokens = shipped[1](prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = shipped[0](tokens).logits.softmax(-1)
            torch.testing.assert_close(bridge(tokens).softmax(-1), expected, atol=1e-5, rtol=0)


@pytest.mark.legacy
def test_hooked_encoder_gives_the_same_probabilities(shipped: tuple[Any, Any]) -> None:
    import transformer_lens

    hooked = kn.load_model("tiny-bert", device="cpu", hooked=True)
    assert isinstance(hooked, transformer_lens.HookedEncoder)
    assert hooked.cfg.model_name == "tiny-bert" and not hooked.training
    for prompt in questions(40):
        tokens = shipped[1](prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = shipped[0](tokens).logits.softmax(-1)
            torch.testing.assert_close(hooked(tokens).softmax(-1), expected, atol=1e-5, rtol=0)
    bridge = kn.load_model("tiny-bert", device="cpu")
    prompt = kn.Prompt("The capital of Canada is [MASK].", "Ottawa")
    both = [kn.integrated_gradients(m, prompt).scores for m in (hooked, bridge)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=0)
