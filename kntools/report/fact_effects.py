"""A fact at a time: its knowledge neurons over several phrasings, and what becomes of it without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.neuron_search import local_seed, open_run
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.attribution.knowledge_neurons import KnowledgeNeurons, knowledge_neurons
from kntools.engine.answers import Edit, answer_probabilities, random_like, untouched
from kntools.engine.sweep import sweep
from kntools.hooks.neurons import ablate_neurons, enhance_neurons
from kntools.prompts import Prompt, encode
from kntools.report.choices import NotPossible
from kntools.report.facts import FACTS
from kntools.report.study import Study
from kntools.sites import Neuron

#: Leading neurons that are compared with as many random ones.
TOP = 20


@dataclass(frozen=True)
class AskedFact:
    """A fact as this model is asked for it."""

    name: str
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class FactEffects:
    """Means over the phrasings of each fact, as probabilities of its answer."""

    facts: tuple[AskedFact, ...]
    parts: tuple[Attribution, ...]  # one per fact
    neurons: tuple[KnowledgeNeurons, ...]  # one per fact
    clean: Float[Tensor, " fact"]
    suppressed: Float[Tensor, "fact fact"]  # knowledge neurons of the first, answer to the second
    enhanced: Float[Tensor, "fact fact"]
    leading: Float[Tensor, " fact"]  # its own leading neurons suppressed
    random: Float[Tensor, "fact draw"]  # as many random ones of the same layers
    top: int
    says: tuple[tuple[str, str, str], ...]  # after the first phrasing: untouched, suppressed, enhanced
    missing: tuple[str, ...]  # facts that this model cannot be asked for


def fact_effects(study: Study) -> FactEffects:
    """The whole experiment.

    Raises:
        NotPossible: no answer is one token of this model.
    """
    facts, missing = _asked(study)
    top = min(TOP, study.neurons_per_layer // 2)
    folder = open_run(
        study.run("facts"), "facts", study.model, search=study.search.written(), phrasings=study.size.phrasings,
        facts=[fact.name for fact in facts], top=top, draws=study.size.draws, seed=study.seed,
    )  # fmt: skip
    parts: list[Attribution] = folder.each(
        facts, key=lambda fact: f"attribution/{fact.name}", make=lambda fact: _attribution(study, fact), unit="fact",
        progress=study.progress,
    )  # fmt: skip
    neurons = [knowledge_neurons(part) for part in parts]
    found = folder.each(
        list(zip(facts, parts, neurons, strict=True)),
        key=lambda one: f"effects/{one[0].name}",
        make=lambda one: _effects(study, facts, *one, top=top),
        unit="fact",
        progress=study.progress,
    )
    values = {name: torch.tensor([one[name] for one in found]) for name in _VALUES}
    return FactEffects(
        facts=tuple(facts), parts=tuple(parts), neurons=tuple(neurons), top=top,
        says=tuple(tuple(one["says"]) for one in found), missing=tuple(missing), **values,
    )  # fmt: skip


_VALUES = ("clean", "suppressed", "enhanced", "leading", "random")


def _asked(study: Study) -> tuple[list[AskedFact], list[str]]:
    """The first facts of the list that this model can be asked for, and the names of those that it cannot."""
    asked: list[AskedFact] = []
    missing = []
    for fact in FACTS:
        prompts = tuple(fact.prompts(study.masked)[: study.size.phrasings])
        try:
            for prompt in prompts:
                encode(study.model, prompt, study.prepend_bos)
        except ValueError:  # the answer is not one token
            missing.append(fact.name)
            continue
        asked.append(AskedFact(fact.name, prompts))
    if not asked:
        raise NotPossible("no answer to the facts of this part is one token of this model")
    return asked[: study.size.facts], missing


def _attribution(study: Study, fact: AskedFact) -> Attribution:
    search = study.search
    return integrated_gradients(
        study.model, fact.prompts, rule=search.rule, steps=search.steps, tol=search.tol, prepend_bos=study.prepend_bos,
        max_rows=study.max_rows, progress=False,
    )  # fmt: skip


def _effects(
    study: Study, facts: Sequence[AskedFact], fact: AskedFact, part: Attribution, kns: KnowledgeNeurons, *, top: int
) -> dict[str, Any]:
    """What becomes of all answers without (and with twice) this fact's neurons, and of its own without other ones."""
    generator = torch.Generator().manual_seed(local_seed(study.seed, fact.name))
    neurons = part.top(top)
    others = [random_like(neurons, study.neurons_per_layer, generator) for _ in range(study.size.draws)]
    every = [p for one in facts for p in one.prompts]
    found = _probabilities(study, every, [untouched, _off(kns.neurons), _twice(kns.neurons)])
    clean, suppressed, enhanced = (
        torch.stack([own.mean() for own in row.split([len(f.prompts) for f in facts])]) for row in found
    )
    leading, *random = _probabilities(study, fact.prompts, [_off(n) for n in (neurons, *others)]).mean(1).tolist()
    return {
        "clean": float(clean[facts.index(fact)]), "suppressed": suppressed.tolist(), "enhanced": enhanced.tolist(),
        "leading": leading, "random": random, "says": _first_choices(study, fact.prompts[0], kns.neurons),
    }  # fmt: skip


def _probabilities(study: Study, prompts: Sequence[Prompt], edits: Sequence[Edit]) -> Float[Tensor, "edit prompt"]:
    return answer_probabilities(
        study.model, prompts, edits, prepend_bos=study.prepend_bos, max_rows=study.max_rows
    )  # fmt: skip


def _first_choices(study: Study, prompt: Prompt, neurons: Sequence[Neuron]) -> list[str]:
    """What the model would say: untouched, suppressed, enhanced."""
    e = encode(study.model, prompt, study.prepend_bos)
    runs = [edit(pos=e.positions) for edit in (untouched, _off(neurons), _twice(neurons))]
    logits = sweep(study.model, e.tokens, runs, pos=e.position)
    return [study.model.tokenizer.decode([i]) for i in logits.argmax(-1).tolist()]


def _off(neurons: Sequence[Neuron]) -> Edit:
    return partial(ablate_neurons, neurons) if neurons else untouched


def _twice(neurons: Sequence[Neuron]) -> Edit:
    return partial(enhance_neurons, neurons) if neurons else untouched
