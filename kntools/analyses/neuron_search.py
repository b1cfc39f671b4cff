"""How all analyses search for neurons: settings, runs, and the search of one group with its null."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import randomness
from kntools.analyses.prompt_group import PromptGroup
from kntools.arguments import check_distinct, whole
from kntools.attribution.attribution_result import Attribution, exists
from kntools.attribution.integrated_gradients import integrated_gradients, nodes_of
from kntools.attribution.knowledge_neurons import KnowledgeNeurons, Scores, knowledge_neurons, r1_squared
from kntools.attribution.quadrature import FixedRule
from kntools.attribution.random_neurons import random_like
from kntools.engine.metric_choice import MetricName, has_contrast
from kntools.models import adapter, neuron_layers
from kntools.models.causality import is_masked
from kntools.prompts import Prompt, encode_many
from kntools.randomness import python_random
from kntools.results.encoding import without_numpy
from kntools.results.run_store import RunStore
from kntools.results.table import Row
from kntools.sites import Neuron, NeuronLike, as_neurons

#: What chance gives; see `localisation`.
Null = Literal["neurons", "answers", "foils"]

#: About so many prompts are attributed at a time: those of one length share passes.
TOGETHER = 32

#: Neurons are chosen on one half; what is claimed of them stands on the other.
HALVES = ("selection", "test")


@dataclass(frozen=True)
class SearchSettings:
    """How scores are computed (`kn.integrated_gradients`) and neurons are chosen (`kn.knowledge_neurons`).

    ```python
    localisation(model, groups, settings=SearchSettings(target_count=(1, 5)))
    ```

    `metric=None` is the question that is about a pair's number: for a causal model the contrast where every prompt has
    a foil of one token; else the probability, which for a masked model is about number already.
    """

    rule: Literal["adaptive"] | FixedRule = "adaptive"
    steps: int | None = None
    tol: float | None = None
    threshold: float = 0.2
    share: float = 0.7
    target_count: tuple[int, int] = (2, 5)
    step: float = 0.05
    metric: MetricName | None = None

    def __post_init__(self) -> None:
        nodes_of(self.rule, self.steps, self.tol)
        self.choose(torch.zeros(1, 1, 1))  # a mistake is an error before the work, not after it

    def asking(self, model: Any, prompts: Sequence[Prompt]) -> "SearchSettings":
        """The same, with the metric that these prompts are asked in."""
        if self.metric is not None:
            return self
        contrast = not is_masked(model) and all(map(has_contrast, encode_many(model, prompts)))
        return replace(self, metric="contrast" if contrast else "probability")

    def attribute(self, model: Any, prompts: Sequence[Prompt]) -> Attribution:
        metric = self.asking(model, prompts).metric
        return integrated_gradients(model, prompts, metric=metric, rule=self.rule, steps=self.steps, tol=self.tol)

    def choose(self, scores: Scores) -> KnowledgeNeurons:
        return knowledge_neurons(
            scores, threshold=self.threshold, share=self.share, target_count=self.target_count, step=self.step
        )

    def measure(self, scores: Float[Tensor, "prompt layer neuron"]) -> Row:
        """Knowledge neurons, those of the foil, tau and R1^2 of one group, as JSON."""
        found = self.choose(scores)
        directed = int((scores.flatten(1).norm(dim=1) > 0).sum())
        return {
            "neurons": as_pairs(found.neurons),
            "against": as_pairs(self.choose(-scores).neurons),  # what would be found if the foil were the answer
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


def beside(run: str | Path | None, name: str) -> Path | None:
    """The file of a run for what an analysis does besides: `RUN-NAME.jsonl`."""
    return None if run is None else Path(run).with_name(f"{Path(run).name.removesuffix('.jsonl')}-{name}.jsonl")


def local_seed(*parts: object) -> int:
    """A number of what it is given, the same in every process and order: one item's seed, or a sign of its content."""
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
    sources: dict[str, list[Prompt]] = {}
    check_distinct("group", [group.item for group in groups])
    for group in groups:
        sources.setdefault(group.source, []).extend(group.prompts)
    asked = {source: settings.asking(model, prompts) for source, prompts in sources.items()}
    written: dict[str, Any] = {"search": asdict(settings), "null": null, "seed": seed}
    if null == "answers":
        written["answers"] = {
            source: local_seed(*((p.target, p.foil) for p in prompts)) for source, prompts in sources.items()
        }
    folder = open_run(run, kind, model, **written)

    def other_prompts(group: PromptGroup) -> Sequence[Prompt]:
        own_seed = local_seed(seed, group.item)
        others = shuffled_answers(group, sources[group.source], own_seed) if null == "answers" else None
        return others or swapped_foils(group.prompts, own_seed)

    def search(part: Sequence[PromptGroup]) -> list[Row]:
        chosen = [asked[group.source] for group in part]
        found = []
        for group, own, att in zip(part, chosen, attribute_each(model, chosen, [g.prompts for g in part]), strict=True):
            found.append({"prompts": len(group.prompts), "metric": att.metric, **own.measure(att.scores)})
            if null == "neurons":
                shuffled = shuffled_neurons(att.scores, local_seed(seed, group.item), att.widths)
                found[-1]["null"] = own.measure(shuffled)
        if null and null != "neurons":
            others = attribute_each(model, chosen, [other_prompts(group) for group in part])
            for row, own, att in zip(found, chosen, others, strict=True):
                row["null"] = own.measure(att.scores)
        return found

    def key(group: PromptGroup) -> str:
        return f"{group.item}/{asked[group.source].metric}"

    size = max(1, TOGETHER // max((len(group.prompts) for group in groups), default=1))
    return folder.together(groups, size, key=key, make=search, unit="group"), folder.header


def attribute_each(
    model: Any, settings: Sequence[SearchSettings], prompts: Sequence[Sequence[Prompt]]
) -> list[Attribution]:
    """The attribution of each list of prompts, by its own settings. Lists of equal settings share their passes."""
    found: dict[int, Attribution] = {}
    for how in dict.fromkeys(settings):
        alike = [n for n, own in enumerate(settings) if own == how]
        att = how.attribute(model, [prompt for n in alike for prompt in prompts[n]])
        start = 0
        for n in alike:
            found[n] = att[start : start + len(prompts[n])]
            start += len(prompts[n])
    return [found[n] for n in range(len(prompts))]


def shuffled_neurons(
    scores: Float[Tensor, "prompt layer neuron"], seed: int, widths: Sequence[int] | None = None
) -> Float[Tensor, "prompt layer neuron"]:
    """Every prompt keeps the scores of each of its layers, but on random neurons: the same marginal, no agreement."""
    generator = randomness.generator(seed)
    order = torch.rand(scores.shape, generator=generator, dtype=torch.float32)
    if widths is not None:  # what is no neuron stays where it is, behind all that are
        order = order.masked_fill(~exists(widths), torch.inf)
    return scores.gather(-1, order.argsort(-1))


def shuffled_answers(group: PromptGroup, pool: Sequence[Prompt], seed: int) -> list[Prompt]:
    """The same texts, each with the answer and foil of a prompt drawn from the whole paradigm or relation."""
    rng = python_random(seed)
    drawn = [rng.choice(pool) for _ in group.prompts]
    return [replace(p, target=other.target, foil=other.foil) for p, other in zip(group.prompts, drawn, strict=True)]


def swapped_foils(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """The same texts; in each, target and foil change places where a coin says so."""
    lacking = [p.target for p in prompts if p.foil is None]
    if lacking:
        raise ValueError(f"null='foils' needs prompts with foils: {lacking[:3]} have none; use null='neurons'")
    rng = python_random(seed)
    return [replace(p, target=str(p.foil), foil=p.target) if rng.random() < 0.5 else p for p in prompts]


def halves(kinds: Sequence[str], units: Sequence[str], *seed: object) -> list[str]:
    """`selection` or `test` for each item: units stay together, and kinds are shared out as evenly as can be."""
    drawn = sorted(set(units))
    python_random(local_seed(*seed)).shuffle(drawn)
    counts = {half: Counter[str]() for half in HALVES}
    half_of = {}
    for unit in drawn:
        own = Counter(kind for kind, its in zip(kinds, units, strict=True) if its == unit)
        # A tie goes to the half that has fewer in all, then to the selection.
        load = {half: (sum(n * counts[half][k] for k, n in own.items()), counts[half].total()) for half in HALVES}
        half_of[unit] = min(HALVES, key=lambda half: load[half])
        counts[half_of[unit]] += own
    return [half_of[unit] for unit in units]


def check_neurons(model: Any, neurons: Iterable[NeuronLike]) -> tuple[Neuron, ...]:
    """The neurons, if there are any and this model has them."""
    wanted = as_neurons(neurons)
    if not wanted:
        raise ValueError("no neurons given; pass at least one, e.g. result.leading('plural')")
    widths = neuron_layers.widths(model)
    foreign = [str(n) for n in wanted if n.layer >= len(widths) or n.index >= widths[n.layer]]
    if foreign:
        raise ValueError(
            f"{', '.join(foreign)} are neurons of another model: {adapter.model_name(model)} has layers 0 to "
            f"{len(widths) - 1}, of up to {max(widths)} neurons"
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
