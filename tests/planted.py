"""A causal model with two neurons that know number, by weights set by hand, and minimal pairs for it.

Nothing attends, and of all MLPs only layer 1 has live neurons: 7 fires after `those`, 5 after `this` and `that`, each
adds one direction, which the nouns of its number are read from. So layer 1 attributes P - P(0) to one neuron, and all
others get exactly 0.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch

from kntools.sites import Neuron
from tests import zoo

LAYER, SINGULAR, PLURAL = 1, Neuron(1, 5), Neuron(1, 7)
DETERMINERS = {"this": SINGULAR, "that": SINGULAR, "those": PLURAL}
NOUNS = {"book": SINGULAR, "cat": SINGULAR, "books": PLURAL, "people": PLURAL}
FRAMES = ("Carla Moore thinks about", "The quick brown fox jumps over", "Is Italy near", "The dog and")
PAIRS = (
    ("this", "book", "books"), ("this", "cat", "people"), ("that", "book", "books"), ("that", "cat", "people"),
    ("those", "books", "book"), ("those", "people", "cat"),
)  # fmt: skip


def build(name: str = "llama", push: float = 1.2, identity: float = 0.0) -> Any:
    """A new model. `push` scales the logits that a neuron adds to both nouns of its number, `identity` those that two
    more neurons add to both forms of a noun, whatever the determiner."""
    assert name == "llama"
    model = zoo.fresh(name)
    token = {w: model.tokenizer.encode(f" {w}", add_special_tokens=False) for w in (*DETERMINERS, *NOUNS)}
    assert all(len(ids) == 1 for ids in token.values()), "each word must be one token"
    weight = functools.partial(zoo.weight, model)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if any(part in n for part in ("o_proj", "down_proj")):
                p.zero_()
            elif "norm" in n:
                p.fill_(1.0)
        embed, read = weight("embed_tokens"), weight("lm_head")
        embed.zero_()
        read.zero_()
        embed[:, 0] = 1.0  # all other words
        at = f"layers.{LAYER}."
        gate, up, down = (weight(at, part) for part in ("gate_proj", "up_proj", "down_proj"))
        gate.zero_()
        up.zero_()
        for word, neuron in DETERMINERS.items():
            embed[token[word][0]].zero_()
            embed[token[word][0], 1 if neuron == SINGULAR else 2] = 1.0
        for axis, neuron in ((1, SINGULAR), (2, PLURAL)):
            gate[neuron.index, axis] = up[neuron.index, axis] = 1.0
            down[10 + axis, neuron.index] = 1.0
        for word, neuron in NOUNS.items():
            read[token[word][0], 11 if neuron == SINGULAR else 12] = push
        if identity:
            for word in DETERMINERS:
                embed[token[word][0], 3] = 1.0
            for neuron, axis, forms in ((10, 20, ("book", "books")), (11, 21, ("cat", "people"))):
                gate[neuron, 3] = up[neuron, 3] = 1.0
                down[axis, neuron] = 1.0
                for word in forms:
                    read[token[word][0], axis] = identity
    return model


cached = functools.cache(build)


def write_pairs(folder: Path, paradigm: str = "determiner_noun_agreement_1") -> Path:
    """The pairs in all frames, in BLiMP's format."""
    path = folder / f"{paradigm}.jsonl"
    rows = [
        {
            "sentence_good": f"{frame} {determiner} {good}.", "sentence_bad": f"{frame} {determiner} {bad}.",
            "UID": paradigm, "pair_id": number, "field": "morphology", "linguistics_term": "determiner_noun_agreement",
        }
        for number, (frame, (determiner, good, bad)) in enumerate((f, p) for f in FRAMES for p in PAIRS)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path
