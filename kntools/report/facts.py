"""A fact at a time: its knowledge neurons over several phrasings, and what becomes of it without them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools import plots, randomness
from kntools.analyses.neuron_search import TOGETHER, SearchSettings, as_pairs, attribute_each, local_seed, open_run
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.knowledge_neurons import knowledge_neurons
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
from kntools.results.statistics import CHANGE_OF_SHARE
from kntools.results.table import Row
from kntools.sites import Hook, Neuron
from kntools.tokenisation import text_of

#: Leading neurons that are compared with as many random ones.
TOP = 20


#: Facts by name: `answer`, and `texts` that ask for it.
FACTS: dict[str, Row] = {fact["name"]: fact for fact in asset("facts.toml")["facts"]}


def fact_prompts(fact: Row, masked: bool = False) -> list[Prompt]:
    """A masked model is asked for the word that follows, before a full stop."""
    if masked:
        return [Prompt(f"{text} {MASK}.", fact["answer"]) for text in fact["texts"]]
    return [Prompt(text, f" {fact['answer']}") for text in fact["texts"]]


@dataclass(frozen=True)
class FactEffects:
    """Means over the phrasings of each fact, as probabilities of its answer."""

    attributions: dict[str, Attribution]  # by the name of the fact
    clean: Float[Tensor, " fact"]
    suppressed: Float[Tensor, "fact fact"]  # knowledge neurons of the first, answer to the second
    enhanced: Float[Tensor, "fact fact"]
    leading: Float[Tensor, " fact"]  # its own leading neurons suppressed
    random: Float[Tensor, "fact draw"]  # as many random ones of the same layers
    says: list[list[str]]  # after the first phrasing: untouched, suppressed, enhanced
    top: int
    missing: dict[str, str]  # facts that this model cannot be asked for, and why


def fact_effects(study: Study) -> FactEffects:
    """The whole experiment. `NotPossible` if no answer is one token of this model."""
    asked, missing = each_possible(FACTS, lambda name: _askable(study, FACTS[name]))
    prompts = dict(list(asked.items())[: study.size.facts])
    top = min(TOP, *(n // 2 for n in neuron_layers.widths(study.model) if n))
    counts = {"top": top, "draws": study.size.draws, "phrasings": study.size.phrasings, "seed": study.seed}
    folder = open_run(study.run("facts"), "facts", study.model, facts=list(prompts), **counts)
    size, make = max(1, TOGETHER // study.size.phrasings), partial(_effects, study, prompts, top)
    rows = folder.together(list(prompts), size, key=str, make=make, unit="fact")
    measured = ("clean", "suppressed", "enhanced", "leading", "random")
    return FactEffects(
        attributions={name: row["attribution"] for name, row in zip(prompts, rows, strict=True)},
        says=[row["says"] for row in rows],
        top=top,
        missing=missing,
        **{what: torch.tensor([row[what] for row in rows], dtype=torch.float32) for what in measured},
    )


def _askable(study: Study, fact: Row) -> list[Prompt]:
    prompts = fact_prompts(fact, study.masked)[: study.size.phrasings]
    try:
        encode_many(study.model, prompts)
    except PromptError as error:
        raise NotPossible("the answer is not one token of this model") from error
    return prompts


def _effects(study: Study, prompts: dict[str, list[Prompt]], top: int, names: Sequence[str]) -> list[Row]:
    """Of each fact: probabilities of all answers without, or with doubled, neurons of it; of its own without others."""
    model = study.model
    attributions = attribute_each(model, [SearchSettings()] * len(names), [prompts[name] for name in names])
    edits: list[list[Hook]] = []  # two of each
    for att in attributions:
        own = knowledge_neurons(att).neurons
        edits += [ablate_neurons(own), enhance_neurons(own)] if own else [[], []]
    values = answer_values(model, [prompt for listed in prompts.values() for prompt in listed], [[], *edits])
    parts = values.split([len(listed) for listed in prompts.values()], dim=1)
    untouched, *edited = torch.stack([part.mean(1) for part in parts], dim=1).tolist()  # [fact] each
    clean = dict(zip(prompts, untouched, strict=True))
    rows = []
    for n, (name, att) in enumerate(zip(names, attributions, strict=True)):
        two = slice(2 * n, 2 * n + 2)
        suppressed, enhanced = edited[two]
        said = sweep(model, encode(model, prompts[name][0]), [[], *edits[two]]).argmax(-1).tolist()
        effects = {"clean": clean[name], "suppressed": suppressed, "enhanced": enhanced}
        control = _control(study, prompts[name], name, att.top(top))
        rows.append({"attribution": att, **effects, **control, "says": [text_of(model.tokenizer, [i]) for i in said]})
    return rows


def _control(study: Study, asked: Sequence[Prompt], name: str, top: Sequence[Neuron]) -> Row:
    """The probability of a fact's answer without these neurons, and without as many random ones."""
    widths, generator = neuron_layers.widths(study.model), randomness.generator(local_seed(study.seed, name))
    others = [random_like(top, widths, generator) for _ in range(study.size.draws)]
    leading, *random = answer_values(study.model, asked, [*map(ablate_neurons, (top, *others))]).mean(1).tolist()
    return {"leading": leading, "random": random}


def facts(study: Study) -> Shown:
    """The part of the report: is the answer lower without leading neurons than without random ones?"""
    found = fact_effects(study)
    result = paired_test(found.leading.double() - found.random.double().mean(1), CHANGE_OF_SHARE)
    change = within(result["mean"], result["low"], result["high"])
    claim = (
        f"Suppressing a fact's {found.top} leading neurons instead of {found.top} random ones changes the probability "
        f"of its answer by {change}"
    )
    passed = [claim] if result["p"] < ALPHA and result["mean"] < 0 else []
    nothing, test = "loss of an answer beyond that without random neurons", f"n = {len(found.attributions)} facts"
    return Shown(
        tested(passed, nothing, f"paired t-test, {test}", [result["p"]]),
        [*_against_random(found), *_scores(found), *_interventions(found)],
        found.missing,
    )


def _against_random(found: FactEffects) -> list[Block]:
    names, random, off = list(found.attributions), found.random, f"top {found.top} off"
    frame = pd.DataFrame({"fact": names, "before": found.clean.tolist(), off: found.leading.tolist()})
    frame["random off, mean"] = random.double().mean(1).tolist()
    frame["lowest"], frame["highest"] = random.amin(1).tolist(), random.amax(1).tolist()
    dots = plots.against_random(names, found.clean, found.leading, random, name=f"{found.top} leading neurons off")
    return [chart("facts-control", dots, top=found.top), table("facts-control", frame)]


def _scores(found: FactEffects) -> list[Block]:
    top, (first, att) = found.top, next(iter(found.attributions.items()))
    kns = {name: knowledge_neurons(one) for name, one in found.attributions.items()}
    asked = [
        {"fact": name, "prompt": prompt.text, "answer": prompt.target, "probability": p}
        for name, one in found.attributions.items()
        for prompt, p in zip(one.prompts, one.probability.tolist(), strict=True)
    ]
    scores = [one.to_frame(top=20).assign(fact=name) for name, one in found.attributions.items()]
    chosen = [
        {"fact": name, "neurons": as_pairs(own.neurons), "τ": own.share, "converged": own.converged}
        for name, own in kns.items()
    ]
    groups = {
        "knowledge neurons": [neuron for own in kns.values() for neuron in own.neurons],
        f"leading {top} neurons": [neuron for one in found.attributions.values() for neuron in one.top(top)],
    }
    return [
        table("facts-prompts", pd.DataFrame(asked)),
        chart("facts-leading", plots.neuron_heatmap(att, mark=kns[first]), fact=first),
        chart("facts-model", plots.neuron_heatmap(att, mode="bins", columns=96, mark=kns[first]), fact=first),
        chart("facts-bars", plots.neuron_bars(att, k=top), fact=first, top=top),
        table("facts-scores", pd.concat(scores)),
        table("facts-neurons", pd.DataFrame(chosen)),
        chart("facts-layers", plots.layer_histogram(groups, n_layers=att.scores.shape[1], normalize=True)),
    ]


def _interventions(found: FactEffects) -> list[Block]:
    names, edited = list(found.attributions), {"suppressed": found.suppressed, "enhanced": found.enhanced}
    prompts = [att.prompts[0] for att in found.attributions.values()]
    frame = pd.DataFrame({"fact": names, "before": found.clean.tolist()})
    frame = frame.assign(**{what: values.diagonal().tolist() for what, values in edited.items()})
    if len(names) > 1:
        others = ~torch.eye(len(names), dtype=torch.bool)
        for what, values in {"before": found.clean.expand_as(found.suppressed), **edited}.items():
            frame[f"others {what}"] = values[others].view(len(names), -1).mean(1).tolist()
    answers = [prompt.target.strip() for prompt in prompts]
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
