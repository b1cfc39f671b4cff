"""Random numbers in the place of what a model measured, in the items of runs."""

from __future__ import annotations

import random
import re
from typing import Any

#: With this seed every count lies between none and all, which `figure_numbers` asserts. Where other prompts are asked,
#: it may need another one.
SEED = 31


def plant(kind: str, name: str, key: str, payload: Any) -> Any:
    """The payload of a run's item with random numbers in the place of what was measured."""
    rng = random.Random(f"{SEED}/{name}/{key}")
    if kind == "facts" and key.startswith("effects/"):
        return plant_effects(payload, rng)
    if kind == "attribution profile":
        return plant_scores(key.split("/")[0], payload)
    if kind == "localisation":
        return plant_neurons(key, payload, rng)
    if kind == "probability shift":
        return plant_shift(payload, rng, random.Random(f"{SEED}/{name}/{key[:4]}"))
    if kind == "reliability":
        rate = {"suppress": 0.2, "enhance": 0.4, "erase": 0.9, "values": 0.3}
        outcomes = [
            {**row, "overturned": rng.random() < rate[row["edit"]], "random": rng.random() < 0.4}
            for row in payload["outcomes"]
        ]
        return {**payload, "outcomes": outcomes}
    if kind == "tracing profile":
        clean, corrupted = rng.uniform(0.6, 0.9), rng.uniform(0.0, 0.2)
        return {"effects": redrawn(payload["effects"], rng), "clean": clean, "corrupted": corrupted}
    if kind == "edit consistency":
        return plant_answers(payload, rng, edited=not key.startswith("before/"))
    if kind == "edit examples":
        return {**payload, "rows": [plant_text(row) for row in payload["rows"]]}
    return payload


#: Figure 1: neuron -> its summed scores by determiner. (2, 4) is the plural one, for (2, 3) scores higher for `this`.
#: (2, 6) is the singular one: it alone has a score for both determiners, and is not among the leading three of either.
SCORES = {
    (2, 3): {"these": 0.3, "those": 0.3, "this": 0.5, "that": 0.0},
    (2, 4): {"these": 0.2, "those": 0.2, "this": 0.0, "that": 0.0},
    (2, 5): {"these": 0.0, "those": 0.0, "this": 0.6, "that": -0.1},
    (2, 6): {"these": 0.0, "those": 0.0, "this": 0.2, "that": 0.2},
    (2, 7): {"these": 0.0, "those": 0.0, "this": 0.4, "that": -0.2},
    **{(2, index): {"these": 0.0, "those": 0.0, "this": -0.1, "that": 0.4} for index in (8, 9, 10)},
}


def plant_scores(determiner: str, payload: dict[str, Any]) -> dict[str, Any]:
    """The spread over prompts is that of the highest score."""
    total, squares = (payload[what].clone() for what in ("sum", "squares"))
    place = divmod(int(total.abs().argmax()), total.shape[1])
    highest, of = total[place], squares[place]
    for neuron, scores in SCORES.items():
        total[neuron] = scores[determiner]
        squares[neuron] = of * (scores[determiner] / highest) ** 2
    return {"sum": total, "squares": squares}


def plant_effects(payload: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    facts, draws = len(payload["suppressed"]), len(payload["random"])
    return {
        **payload, "clean": rng.uniform(0.6, 0.9), "suppressed": [rng.uniform(0.0, 0.5) for _ in range(facts)],
        "enhanced": [rng.uniform(0.5, 1.0) for _ in range(facts)], "leading": rng.uniform(0.2, 0.7),
        "random": [rng.uniform(0.2, 0.9) for _ in range(draws)],
    }  # fmt: skip


def plant_neurons(key: str, payload: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Neurons of a small pool, one more often for the plural, one for the singular; facts are the less alike."""
    determiner = re.search(r"/(this|that|these|those) ", key)
    chances = dict.fromkeys([(2, 9), (0, 3), (3, 11), (1, 2)], 0.4) | {(3, 7): 0.5, (1, 5): 0.5}
    if determiner:
        chances[(3, 7) if determiner[1] in ("these", "those") else (1, 5)] = 0.9
    neurons = [list(neuron) for neuron, chance in chances.items() if rng.random() < chance] or [[2, 9]]
    r1 = rng.uniform(0.3, 0.34) if re.match(r"P\d+/", key) else rng.uniform(0.7, 0.76)
    return {**payload, "neurons": neurons, "r1": r1, "null": {**payload["null"], "r1": rng.uniform(0.02, 0.2)}}


def plant_shift(payload: Any, rng: random.Random, words: random.Random) -> Any:
    """`[before or after][prompt][word]`: each word changes by a factor of its own, more or less."""
    before = [[rng.uniform(0.05, 0.2) for _ in row] for row in payload[0]]
    factors = [0.6 + 0.9 * i / len(before[0]) for i in range(len(before[0]))]
    words.shuffle(factors)
    after = [[x * f * rng.uniform(0.7, 1.3) for x, f in zip(row, factors, strict=True)] for row in before]
    return [before, after]


def redrawn(values: Any, rng: random.Random) -> Any:
    if isinstance(values, list):
        return [redrawn(value, rng) for value in values]
    return None if values is None else rng.uniform(-0.3, 0.8)


def plant_answers(payload: Any, rng: random.Random, *, edited: bool) -> Any:
    """A case whose new answer is said before the edit would be left out."""
    if isinstance(payload, list):
        return [plant_answers(value, rng, edited=edited) for value in payload]
    answers = {
        role: [
            {
                "p": rng.random(),
                "first": rng.random() < 0.5,
                "exact": rng.random() < 0.5 and (edited or role != "forward new"),
            }
            for _ in rows
        ]
        for role, rows in payload["answers"].items()
    }
    return {**payload, "answers": answers}


def plant_text(row: dict[str, Any]) -> dict[str, Any]:
    """By the length of a text: some follow the edit, some unrelated ones stay as they were."""
    length = len(row["text"])
    follows = row["group"] != "unrelated" and length % 2 == 1
    after = f"{row['begins']} after" if follows else f"after {length}"
    before = after if row["group"] == "unrelated" and length % 3 == 0 else f"before {length}"
    return {**row, "before": before, "after": after, "follows": follows}
