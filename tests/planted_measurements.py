"""Random numbers in the place of what a model measured, in the items of runs: with a clear signal, or with none."""

from __future__ import annotations

import random
import re
from typing import Any

import torch
from torch import Tensor

from kntools.tracing.token_roles import ROLES

SEED = 4


def plant(kind: str, name: str, key: str, payload: Any, *, signal: bool) -> Any:
    """The payload of a run's item with random numbers in the place of what was measured."""
    rng = random.Random(f"{SEED}/{name}/{key}")
    if kind == "facts":
        level = 0.2 if signal else 0.6
        draws = [rng.gauss(0.6, 0.03) for _ in payload["random"]]
        return {**payload, "leading": rng.gauss(level, 0.03), "random": draws}
    if kind == "localisation":
        return plant_neurons(key, payload, rng, signal)
    if kind == "probability shift":
        [measured] = payload  # a masked model is asked for one form
        before = [[rng.uniform(0.05, 0.2) for _ in row] for row in measured[0]]
        factors = [0.4 + 0.7 * i / len(before[0]) if signal else 1.0 for i in range(len(before[0]))]
        after = [[x * f * rng.uniform(0.8, 1.25) for x, f in zip(row, factors, strict=True)] for row in before]
        return [[before, after]]
    if kind == "transfer":
        clean = [rng.gauss(2, 0.5) for _ in payload]
        return [[x, *(x + rng.gauss(-2 if signal and i in (0, 2) else 0, 0.3) for i in range(4))] for x in clean]
    if kind == "reliability":
        rates = {"erase": (1.0, 0.0)} if signal else {}
        outcomes = []
        for row in payload["outcomes"]:
            own, other = rates.get(row["edit"], (0.4, 0.4))
            outcomes.append({**row, "overturned": rng.random() < own, "random": rng.random() < other})
        return {**payload, "outcomes": outcomes}
    if kind == "tracing profile":
        return {**payload, "effects": plant_effects(payload["effects"], rng, signal)}
    if kind == "edit consistency":
        return plant_answers(payload, rng, edited=not key.startswith("before/"))
    if kind == "edit examples":
        return {**payload, "rows": [plant_text(row) for row in payload["rows"]]}
    return payload


def plant_neurons(key: str, payload: dict[str, Any], rng: random.Random, signal: bool) -> dict[str, Any]:
    """Neurons of either number, and facts that are less alike and lie lower; or neurons at random."""
    determiner, fact = re.search(r"/(this|that|these|those) ", key), re.match(r"P\d+/", key)
    if not signal:
        drawn = [[rng.randrange(4), rng.randrange(12)] for _ in range(3)]
        return {**payload, "neurons": drawn, "against": [], "r1": rng.uniform(0.3, 0.7), "share": rng.uniform(0.3, 0.7)}
    number = [[2, 9]] if determiner is None else [[3, 7]] if determiner[1] in ("these", "those") else [[3, 5]]
    drawn = [[0, rng.randrange(12)]] if fact else [*number, [3, rng.randrange(12, 20)]]
    return {
        **payload,
        "neurons": drawn,
        "against": [],
        "r1": rng.uniform(0.3, 0.34) if fact else rng.uniform(0.7, 0.76),
    }


def plant_effects(effects: Tensor, rng: random.Random, signal: bool) -> Tensor:
    """`[variant role layer]`: the last subject token stands out, or no role does. A role that a prompt lacks is nan."""
    levels = torch.tensor([0.8 if signal and role == "last subject token" else 0.1 for role in ROLES])
    noise = torch.tensor([rng.gauss(0, 0.03) for _ in range(effects.numel())]).view(effects.shape)
    return (levels[:, None] + noise).where(~effects.isnan(), torch.nan)


def plant_answers(payload: Any, rng: random.Random, *, edited: bool) -> Any:
    """A case whose new answer is said before the edit would be left out."""
    if isinstance(payload, list):
        return [plant_answers(value, rng, edited=edited) for value in payload]
    answers = {}
    for role, rows in payload["answers"].items():
        exact = edited or role not in ("forward new", "rewrite new")
        answers[role] = [
            {**row, "p": rng.random(), "first": rng.random() < 0.5, "exact": exact and rng.random() < 0.5}
            for row in rows
        ]
    return {**payload, "answers": answers}


def plant_text(row: dict[str, Any]) -> dict[str, Any]:
    """By the length of a text: some follow the edit, some unrelated ones stay as they were."""
    length, unrelated = len(row["text"]), row["group"] == "unrelated"
    before = f"before {length}"
    begins = before if unrelated else row["begins"]
    follows = length % 3 == 0 if unrelated else length % 2 == 1
    after = begins if follows else f"after {length}"
    return {**row, "before": before, "begins": begins, "after": after, "follows": follows}
