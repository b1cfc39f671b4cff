"""How all analyses search for neurons: settings, runs, and the search of one group with its null."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import randomness
from kntools.analyses.prompt_group import PromptGroup
from kntools.arguments import whole
from kntools.attribution.attribution_result import Attribution, exists
from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.attribution.knowledge_neurons import KnowledgeNeurons, Scores, knowledge_neurons, r1_squared
from kntools.attribution.quadrature import FixedRule
from kntools.attribution.random_neurons import random_like
from kntools.models import adapter, neuron_layers
from kntools.prompts import Prompt
from kntools.randomness import python_random
from kntools.results.encoding import without_numpy
from kntools.results.run_store import RunStore
from kntools.results.table import Row
from kntools.sites import Neuron, NeuronLike, as_neurons

#: What chance gives; see `localisation`.
Null = Literal["neurons", "answers"]


@dataclass(frozen=True)
class SearchSettings:
    """How scores are computed (`kn.integrated_gradients`) and neurons are chosen (`kn.knowledge_neurons`).

    ```python
    localisation(model, groups, settings=SearchSettings(target_count=(1, 5)))
    ```
    """

    rule: Literal["adaptive"] | FixedRule = "adaptive"
    steps: int = 20
    tol: float = 0.01
    threshold: float = 0.2
    share: float = 0.7
    target_count: tuple[int, int] = (2, 5)
    step: float = 0.05

    def __post_init__(self) -> None:
        self.choose(torch.zeros(1, 1, 1))  # a mistake is an error before the work, not after it

    def attribute(self, model: Any, prompts: Sequence[Prompt]) -> Attribution:
        path: dict[str, Any] = {"rule": self.rule, "steps": self.steps, "tol": self.tol}
        return integrated_gradients(model, prompts, metric="probability", **path)

    def choose(self, scores: Scores) -> KnowledgeNeurons:
        return knowledge_neurons(
            scores, threshold=self.threshold, share=self.share, target_count=self.target_count, step=self.step
        )

    def measure(self, scores: Float[Tensor, "prompt layer neuron"]) -> Row:
        """Knowledge neurons, tau and R1^2 of one group, as JSON."""
        found = self.choose(scores)
        directed = int((scores.flatten(1).norm(dim=1) > 0).sum())
        return {
            "neurons": as_pairs(found.neurons),
            "share": found.share,
            "converged": found.converged,
            "r1": r1_squared(scores, drop_zero=True) if directed > 1 else None,
        }


ADAPTIVE = SearchSettings()
#: The rule of the code of Niu et al. 2024; their choice of neurons is the default one.
PAPER = SearchSettings(rule="kn_thesis", steps=20)


def open_run(run: str | Path | None, kind: str, model: Any, **settings: Any) -> RunStore:
    """A run that knows whether prompts begin with BOS."""
    if "seed" in settings:
        settings["seed"] = whole("seed", settings["seed"])
    bos = bool(getattr(model.cfg, "default_prepend_bos", True))
    return RunStore(run, kind=kind, model=model, settings={**settings, "prepend_bos": bos})


def local_seed(*parts: object) -> int:
    """A seed for one item: the same in every process and every order."""
    return int.from_bytes(hashlib.blake2b(repr(without_numpy(parts)).encode(), digest_size=7).digest())


def search_each(
    model: Any,
    groups: Sequence[PromptGroup],
    settings: SearchSettings,
    *,
    kind: str,
    run: str | Path | None,
    null: Null | None = None,
    seed: int = 0,
) -> tuple[list[Row], Row]:
    """What is found in every group, and in its null, as rows of JSON; and the header of the run."""
    pools: dict[str, list[str]] = {}  # all answers of each source, as often as they are asked for
    for group in groups:
        pools.setdefault(group.source, []).extend(p.target for p in group.prompts)
    written: dict[str, Any] = {"search": asdict(settings), "null": null, "seed": seed}
    if null == "answers":
        written["answers"] = {source: local_seed(*pool) for source, pool in pools.items()}
    folder = open_run(run, kind, model, **written)

    def search(group: PromptGroup) -> Row:
        att = settings.attribute(model, group.prompts)
        found = {"prompts": len(group.prompts), **settings.measure(att.scores)}
        own_seed = local_seed(seed, group.item)
        if null == "neurons":
            found["null"] = settings.measure(shuffled_neurons(att.scores, own_seed, att.widths))
        elif null == "answers":
            asked = shuffled_answers(group, pools[group.source], own_seed)
            found["null"] = settings.measure(settings.attribute(model, asked).scores)
        return found

    return folder.each(groups, key=lambda group: group.item, make=search, unit="group"), folder.header


def shuffled_neurons(
    scores: Float[Tensor, "prompt layer neuron"], seed: int, widths: Sequence[int] | None = None
) -> Float[Tensor, "prompt layer neuron"]:
    """Every prompt keeps the scores of each of its layers, but on random neurons: the same marginal, no agreement."""
    generator = randomness.generator(seed)
    order = torch.rand(scores.shape, generator=generator, dtype=torch.float32)
    if widths is not None:  # what is no neuron stays where it is, behind all that are
        order = order.masked_fill(~exists(widths), torch.inf)
    return scores.gather(-1, order.argsort(-1))


def shuffled_answers(group: PromptGroup, pool: Sequence[str], seed: int) -> list[Prompt]:
    """The same texts, each with an answer drawn from all answers of the paradigm or relation."""
    rng = python_random(seed)
    return [replace(p, target=rng.choice(pool), foil=None) for p in group.prompts]


def check_neurons(model: Any, neurons: Iterable[NeuronLike]) -> tuple[Neuron, ...]:
    """The neurons, if there are any and this model has them."""
    wanted = as_neurons(neurons)
    if not wanted:
        raise ValueError("no neurons given; pass at least one, e.g. result.leading('plural')")
    widths = neuron_layers.widths(model)
    foreign = [n for n in wanted if n.layer >= len(widths) or n.index >= widths[n.layer]]
    if foreign:
        raise ValueError(
            f"{foreign} are neurons of another model: the layers of {adapter.model_name(model)} have {widths} neurons"
        )
    return wanted


def check_count(model: Any, count: int) -> None:
    """Can so many neurons be taken, and as many random ones of the same layers?"""
    whole("count", count, 1, min(filter(None, neuron_layers.widths(model))) // 2)


def control(model: Any, neurons: Sequence[Neuron], *seed: object) -> tuple[Neuron, ...]:
    """As many random neurons of the same layers."""
    return random_like(neurons, neuron_layers.widths(model), randomness.generator(local_seed(*seed)))


def as_pairs(neurons: Iterable[Neuron]) -> list[list[int]]:
    """Neurons as JSON: `[[layer, index], ...]`."""
    return [[n.layer, n.index] for n in neurons]
