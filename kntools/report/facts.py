"""A fact at a time: its knowledge neurons over several phrasings, and what becomes of it without them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools import plots, randomness
from kntools.analyses.neuron_search import TOGETHER, SearchSettings, as_pairs, attribute_each, local_seed, open_run
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.knowledge_neurons import KnowledgeNeurons, knowledge_neurons
from kntools.attribution.random_neurons import random_like
from kntools.engine.answers import answer_values
from kntools.engine.sweep import sweep
from kntools.hooks.neurons import ablate_neurons, enhance_neurons
from kntools.models import neuron_layers
from kntools.prompts import MASK, Prompt, PromptError, encode, encode_many
from kntools.report.choices import NotPossible, each_possible
from kntools.report.figure import ALPHA, Shown, asset, chart, paired_test, table, tested
from kntools.report.page import Block
from kntools.report.study import Study
from kntools.results.display import within
from kntools.results.table import Row
from kntools.sites import Hook, Neuron
from kntools.tokenisation import text_of

#: Leading neurons that are compared with as many random ones.
TOP = 20


@dataclass(frozen=True)
class Fact:
    name: str
    answer: str
    texts: tuple[str, ...]

    def prompts(self, masked: bool = False) -> tuple[Prompt, ...]:
        """A masked model is asked for the word that follows, before a full stop."""
        if masked:
            return tuple(Prompt(f"{text} {MASK}.", self.answer) for text in self.texts)
        return tuple(Prompt(text, f" {self.answer}") for text in self.texts)


FACTS = tuple(Fact(row["name"], row["answer"], tuple(row["texts"])) for row in asset("facts.toml")["facts"])


@dataclass(frozen=True)
class FactEffects:
    """Means over the phrasings of each fact, as probabilities of its answer."""

    names: tuple[str, ...]
    attributions: tuple[Attribution, ...]  # one per fact
    neurons: tuple[KnowledgeNeurons, ...]  # one per fact
    clean: Float[Tensor, " fact"]
    suppressed: Float[Tensor, "fact fact"]  # knowledge neurons of the first, answer to the second
    enhanced: Float[Tensor, "fact fact"]
    leading: Float[Tensor, " fact"]  # its own leading neurons suppressed
    random: Float[Tensor, "fact draw"]  # as many random ones of the same layers
    says: tuple[tuple[str, ...], ...]  # after the first phrasing: untouched, suppressed, enhanced
    top: int
    missing: dict[str, str]  # facts that this model cannot be asked for, and why


def fact_effects(study: Study) -> FactEffects:
    """The whole experiment. `NotPossible` if no answer is one token of this model."""
    by_name = {fact.name: fact for fact in FACTS}
    asked, missing = each_possible(by_name, lambda name: _askable(study, by_name[name]))
    prompts = dict(list(asked.items())[: study.size.facts])
    top = min(TOP, *(n // 2 for n in neuron_layers.widths(study.model) if n))
    counts = {"top": top, "draws": study.size.draws, "phrasings": study.size.phrasings, "seed": study.seed}
    folder = open_run(study.run("facts"), "facts", study.model, facts=list(prompts), **counts)

    def make(names: Sequence[str]) -> list[Row]:
        scored = attribute_each(study.model, [SearchSettings()] * len(names), [prompts[name] for name in names])
        return _effects(study, prompts, dict(zip(names, scored, strict=True)), top)

    rows = folder.together(list(prompts), max(1, TOGETHER // study.size.phrasings), key=str, make=make, unit="fact")
    attributions = tuple(row["attribution"] for row in rows)
    measured = ("clean", "suppressed", "enhanced", "leading", "random")
    return FactEffects(
        names=tuple(prompts),
        attributions=attributions,
        neurons=tuple(map(knowledge_neurons, attributions)),
        says=tuple(tuple(row["says"]) for row in rows),
        top=top,
        missing=missing,
        **{what: torch.tensor([row[what] for row in rows], dtype=torch.float32) for what in measured},
    )


def _askable(study: Study, fact: Fact) -> tuple[Prompt, ...]:
    prompts = fact.prompts(study.masked)[: study.size.phrasings]
    try:
        encode_many(study.model, prompts)
    except PromptError as error:
        raise NotPossible("the answer is not one token of this model") from error
    return prompts


def _effects(
    study: Study, prompts: dict[str, tuple[Prompt, ...]], attributions: dict[str, Attribution], count: int
) -> list[Row]:
    """Of each fact: probabilities of all answers without, or with doubled, neurons of it; of its own without others."""
    neurons = {name: knowledge_neurons(att).neurons for name, att in attributions.items()}
    edits: dict[str, list[list[Hook]]] = {
        name: [ablate_neurons(own), enhance_neurons(own)] if own else [[], []] for name, own in neurons.items()
    }
    every = [prompt for listed in prompts.values() for prompt in listed]
    values = answer_values(study.model, every, [[], *chain.from_iterable(edits.values())])
    parts = values.split([len(listed) for listed in prompts.values()], dim=1)
    means = torch.stack([part.mean(1) for part in parts], dim=1)  # [edit fact], the untouched model first
    clean, edited = means[0], means[1:].unflatten(0, (len(edits), 2))
    return [
        {
            "attribution": att,
            "clean": float(clean[list(prompts).index(name)]),
            "suppressed": suppressed.tolist(),
            "enhanced": enhanced.tolist(),
            **_control(study, prompts[name], name, att.top(count)),
            "says": _says(study.model, prompts[name][0], [[], *edits[name]]),
        }
        for (name, att), (suppressed, enhanced) in zip(attributions.items(), edited, strict=True)
    ]


def _control(study: Study, asked: Sequence[Prompt], name: str, top: Sequence[Neuron]) -> Row:
    """The probability of a fact's answer without these neurons, and without as many random ones."""
    widths, generator = neuron_layers.widths(study.model), randomness.generator(local_seed(study.seed, name))
    others = [random_like(top, widths, generator) for _ in range(study.size.draws)]
    values = answer_values(study.model, asked, [ablate_neurons(neurons) for neurons in (top, *others)])
    leading, *random = values.mean(1).tolist()
    return {"leading": leading, "random": random}


def _says(model: Any, prompt: Prompt, edits: Sequence[Sequence[Hook]]) -> list[str]:
    said = sweep(model, encode(model, prompt), edits).argmax(-1).tolist()
    return [text_of(model.tokenizer, [i]) for i in said]


def facts(study: Study) -> Shown:
    """The part of the report: is the answer lower without leading neurons than without random ones?"""
    found = fact_effects(study)
    result = paired_test(found.leading.double() - found.random.double().mean(1))
    change = within(result["mean"], result["low"], result["high"])
    claim = (
        f"Suppressing a fact's {found.top} leading neurons instead of {found.top} random ones changes the probability "
        f"of its answer by {change}"
    )
    passed = [claim] if result["p"] < ALPHA and result["mean"] < 0 else []
    nothing, test = "loss of an answer beyond that without random neurons", f"n = {len(found.names)} facts"
    return Shown(
        tested(passed, nothing, f"paired t-test, {test}", [result["p"]]),
        [*_against_random(found), *_scores(found), *_interventions(found)],
        found.missing,
    )


def _against_random(found: FactEffects) -> list[Block]:
    names, random, off = list(found.names), found.random, f"top {found.top} off"
    frame = pd.DataFrame({"fact": names, "before": found.clean.tolist(), off: found.leading.tolist()})
    frame["random off, mean"] = random.double().mean(1).tolist()
    frame["lowest"], frame["highest"] = random.amin(1).tolist(), random.amax(1).tolist()
    dots = plots.against_random(names, found.clean, found.leading, random, name=f"{found.top} leading neurons off")
    return [chart("facts-control", dots, top=found.top), table("facts-control", frame)]


def _scores(found: FactEffects) -> list[Block]:
    att, kns, top = found.attributions[0], found.neurons[0], found.top
    by_fact = list(zip(found.names, found.attributions, found.neurons, strict=True))
    asked = [
        {"fact": name, "prompt": prompt.text, "answer": prompt.target, "probability": float(p)}
        for name, one, _ in by_fact
        for prompt, p in zip(one.prompts, one.probability, strict=True)
    ]
    chosen = [
        {"fact": name, "neurons": as_pairs(own.neurons), "τ": own.share, "converged": own.converged}
        for name, _, own in by_fact
    ]
    groups = {
        "knowledge neurons": [neuron for own in found.neurons for neuron in own.neurons],
        f"leading {top} neurons": [neuron for one in found.attributions for neuron in one.top(top)],
    }
    layers, width = att.scores.shape[1:]
    whole = plots.neuron_heatmap(att, mode="bins", columns=min(96, width), mark=kns)
    return [
        table("facts-prompts", pd.DataFrame(asked)),
        chart("facts-leading", plots.neuron_heatmap(att, mark=kns), fact=found.names[0]),
        chart("facts-model", whole, fact=found.names[0]),
        chart("facts-bars", plots.neuron_bars(att, k=top), fact=found.names[0], top=top),
        table("facts-scores", pd.concat([one.to_frame(top=20).assign(fact=name) for name, one, _ in by_fact])),
        table("facts-neurons", pd.DataFrame(chosen)),
        chart("facts-layers", plots.layer_histogram(groups, n_layers=layers, normalize=True)),
    ]


def _interventions(found: FactEffects) -> list[Block]:
    names, edited = list(found.names), {"suppressed": found.suppressed, "enhanced": found.enhanced}
    prompts = [att.prompts[0] for att in found.attributions]
    answers = [prompt.target.strip() for prompt in prompts]
    frame = pd.DataFrame({"fact": names, "before": found.clean.tolist()})
    frame = frame.assign(**{what: values.diagonal().tolist() for what, values in edited.items()})
    if len(names) > 1:
        others = ~torch.eye(len(names), dtype=torch.bool)
        for what, values in {"before": found.clean.expand_as(found.suppressed), **edited}.items():
            frame[f"others {what}"] = values[others].view(len(names), -1).mean(1).tolist()
    labels: dict[str, Any] = {"rows": names, "columns": answers, "x": "answer to", "y": "neurons of", "say": True}
    said = [(prompt.text, *map(one_line, says)) for prompt, says in zip(prompts, found.says, strict=True)]
    return [
        *(chart(f"facts-{what}", plots.heatmap(values - found.clean, **labels)) for what, values in edited.items()),
        table("facts-interventions", frame),
        table("facts-said", pd.DataFrame(said, columns=["text", "the model says", "suppressed", "enhanced"])),
    ]


def one_line(text: str) -> str:
    """What a model writes, with `\\n` for a line break."""
    return repr(text.strip())[1:-1]
