"""One search for knowledge neurons, with its null: the item of `localisation`, `pair_search` and others."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.prompt_groups import PromptGroup
from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.attribution.knowledge_neurons import knowledge_neurons, r1_squared
from kntools.prompts import Prompt
from kntools.results.run_folder import RunFolder

NULLS = ("neurons", "answers")


@dataclass(frozen=True)
class SearchSettings:
    """How scores are computed (`kn.integrated_gradients`) and neurons are chosen (`kn.knowledge_neurons`)."""

    rule: str = "adaptive"
    steps: int = 20
    tol: float = 0.01
    threshold: float = 0.2
    share: float = 0.7
    target_count: tuple[int, int] = (2, 5)
    step: float = 0.05
    prepend_bos: bool | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        # A mistake in these is told before the work, not after it.
        knowledge_neurons(torch.zeros(1, 1, 1), **self.choice)

    @property
    def choice(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("threshold", "share", "target_count", "step")}

    def written(self) -> dict[str, Any]:
        """What results depend on: not the rows of a pass."""
        return {k: v for k, v in asdict(self).items() if k != "max_rows"}

    def scores(self, model: Any, prompts: Sequence[Prompt]) -> Float[Tensor, "prompt layer neuron"]:
        return integrated_gradients(
            model, prompts, rule=self.rule, steps=self.steps, tol=self.tol, prepend_bos=self.prepend_bos,
            max_rows=self.max_rows, progress=False,
        ).scores  # fmt: skip


#: The rule of the code of Niu et al. 2024; their choice of neurons is the default one.
PAPER = SearchSettings(rule="kn_thesis", steps=20)


def open_run(run: str | Path | None, kind: str, model: Any, **settings: Any) -> RunFolder:
    return RunFolder(run, kind=kind, model=model, settings=settings)


def local_seed(*parts: object) -> int:
    """A seed for one item: the same in every process and every order."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest())


def search(
    model: Any, group: PromptGroup, settings: SearchSettings, *, null: str | None, pool: Sequence[str], seed: int
) -> dict[str, Any]:
    """Knowledge neurons, tau and R1^2 of one group, and the same of its null, as JSON."""
    scores = settings.scores(model, group.prompts)
    found = {"prompts": len(group.prompts), **_measured(scores, settings)}
    if null == "neurons":
        found["null"] = _measured(shuffled_neurons(scores, local_seed(seed, group.item)), settings)
    elif null == "answers":
        asked = shuffled_answers(group, pool, local_seed(seed, group.item))
        found["null"] = _measured(settings.scores(model, asked), settings)
    return found


def shuffled_neurons(scores: Float[Tensor, "prompt layer neuron"], seed: int) -> Float[Tensor, "prompt layer neuron"]:
    """Every prompt keeps the scores of each of its layers, but on random neurons: the same marginal, no agreement."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(scores.shape, generator=generator).argsort(-1)
    return scores.gather(-1, order)


def shuffled_answers(group: PromptGroup, pool: Sequence[str], seed: int) -> list[Prompt]:
    """The same texts, each with an answer drawn from all answers of the paradigm or relation."""
    rng = random.Random(seed)
    return [replace(p, target=rng.choice(pool), foil=None) for p in group.prompts]


def answer_pool(groups: Sequence[PromptGroup]) -> dict[str, list[str]]:
    """All answers of each source, as often as they are asked for."""
    pools: dict[str, list[str]] = {}
    for group in groups:
        pools.setdefault(group.source, []).extend(p.target for p in group.prompts)
    return pools


def _measured(scores: Float[Tensor, "prompt layer neuron"], settings: SearchSettings) -> dict[str, Any]:
    kns = knowledge_neurons(scores, **settings.choice)
    directed = int((scores.flatten(1).norm(dim=1) > 0).sum())
    return {
        "neurons": [[n.layer, n.index] for n in kns.neurons],
        "share": kns.share,
        "converged": kns.converged,
        "r1": r1_squared(scores, drop_zero=True) if directed > 1 else None,
    }
