"""The first part of the report: a fact at a time, from scores to what suppressing neurons does."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import torch
from torch import Tensor

from kntools import plots
from kntools.report.fact_effects import FactEffects, fact_effects
from kntools.report.shown import Numbers, Picture, Shown, one_line, within
from kntools.report.study import Study
from kntools.results.statistics import bootstrap_interval


def facts(study: Study) -> Shown:
    """The part `facts`."""
    found = fact_effects(study)
    names = [fact.name for fact in found.facts]
    return Shown(
        _checked_by_intervening(found),
        n=f"{len(names)} facts in {len(found.facts[0].prompts)} phrasings each, {found.random.shape[1]} random draws",
        parts=[*_known(found), *_scores(found), *_neurons(found), *_interventions(found), *_control(found)],
        notes=[f"Left out, for the answer is not one token of this model: {', '.join(found.missing)}."]
        if found.missing else [],
    )  # fmt: skip


def _checked_by_intervening(found: FactEffects) -> str:
    below = int((found.leading < found.random.min(1).values).sum())
    gain = found.random.mean(1) - found.leading
    low, high = bootstrap_interval(gain)
    return (
        f"Suppressing the {found.top} leading neurons of a fact lowers its answer's probability by "
        f"{within(float(gain.mean()), float(low), float(high))} more than {found.top} random neurons of the same "
        f"layers do; in {below} of {len(gain)} facts by more than every random draw."
    )


def _known(found: FactEffects) -> list[Numbers]:
    rows = [
        {"fact": fact.name, "prompt": p.text, "answer": p.target, "probability": float(x)}
        for fact, part in zip(found.facts, found.parts, strict=True)
        for p, x in zip(part.prompts, part.probability, strict=True)
    ]
    return [Numbers("facts-prompts", "What the model is asked, and the probability of the answer.", pd.DataFrame(rows))]


def _scores(found: FactEffects) -> list[Picture | Numbers | str]:
    part, kns, name = found.parts[0], found.neurons[0], found.facts[0].name
    frames = [p.to_frame(top=20).assign(fact=f.name) for f, p in zip(found.facts, found.parts, strict=True)]
    return [
        "The score of a neuron is its integrated gradient at the answer position: the scores of a layer add up to what "
        "the layer does to the answer's probability. Red neurons raise it, blue ones lower it. Shown for the first "
        "fact, as a mean over its phrasings.",
        Picture(
            "facts-leading", f"{name}: the leading columns", plots.neuron_heatmap(part, mark=kns),
            "Columns are the neuron indices that lead in any layer; framed: knowledge neurons.",
        ),
        Picture(
            "facts-model", f"{name}: the whole model",
            plots.neuron_heatmap(part, mode="bins", columns=min(96, part.scores.shape[-1]), mark=kns),
            "Every neuron is in one cell; a cell shows the strongest of its neurons.",
        ),
        Picture(
            "facts-bars", f"{name}: the leading {found.top} neurons", plots.neuron_bars(part, k=found.top),
            "Mean score over the phrasings (bars), and the single phrasings (dots).",
        ),
        Numbers("facts-scores", "The 20 leading neurons of every prompt.", pd.concat(frames, ignore_index=True), 5),
    ]  # fmt: skip


def _neurons(found: FactEffects) -> list[Picture | Numbers | str]:
    names = [fact.name for fact in found.facts]
    table = pd.DataFrame(
        {
            "fact": names,
            "knowledge neurons": [", ".join(map(repr, kns.neurons)) for kns in found.neurons],
            "τ": [kns.share for kns in found.neurons],
            "converged": [kns.converged for kns in found.neurons],
        }
    )
    groups = {
        "knowledge neurons": [x for kns in found.neurons for x in kns.neurons],
        f"leading {found.top} neurons": [x for part in found.parts for x in part.top(found.top)],
    }
    return [
        "A neuron is in the coarse set of a prompt if its score is at least 0.2 times the highest one. The knowledge "
        "neurons of a fact are in the coarse sets of at least a share τ of its phrasings, where τ is moved until two "
        f"to five are left. {_shared(found)}",
        Numbers("facts-neurons", "Knowledge neurons of each fact.", table, 2),
        Picture(
            "facts-layers", "The layers in which they lie",
            plots.layer_histogram(groups, n_layers=found.parts[0].scores.shape[1], normalize=True),
            "A neuron counts once for every fact that it belongs to.",
        ),
    ]  # fmt: skip


def _interventions(found: FactEffects) -> list[Picture | Numbers | str]:
    names = [fact.name for fact in found.facts]
    answers = [fact.prompts[0].target.strip() for fact in found.facts]
    table = _changes(found)
    said = [(f.prompts[0].text, *map(one_line, says)) for f, says in zip(found.facts, found.says, strict=True)]
    columns = ["text", "the model says", "suppressed", "enhanced"]
    return [
        "The knowledge neurons of one fact are set to 0 (suppressed) or doubled (enhanced) at the answer position, and "
        f"the answers to all facts are read again. {_in_words(table)}",
        *(
            Picture(
                f"facts-{what}", f"Change of the answers when the neurons are {what}",
                plots.change_matrix(values - found.clean, names, answers),
                "Rows: whose neurons; columns: which answer. Off the diagonal are unrelated facts.", min_width=560,
            )
            for values, what in ((found.suppressed, "suppressed"), (found.enhanced, "enhanced"))
        ),
        Numbers("facts-interventions", "Own answer and unrelated answers.", table),
        Numbers("facts-said", "What the model says after the first phrasing.", pd.DataFrame(said, columns=columns)),
    ]  # fmt: skip


def _control(found: FactEffects) -> list[Picture | Numbers]:
    names, random = [fact.name for fact in found.facts], found.random
    table = pd.DataFrame(
        {
            "fact": names,
            "before": found.clean.tolist(),
            f"top {found.top} off": found.leading.tolist(),
            "random off, mean": random.mean(1).tolist(),
            "lowest": random.min(1).values.tolist(),
            "highest": random.max(1).values.tolist(),
        }
    )
    return [
        Picture(
            "facts-control", "Attribution checked by intervening",
            plots.against_random(
                names, found.clean, found.leading, random, name=f"{found.top} leading neurons off"
            ),
            "If the scores mean anything, suppressing the leading neurons must lower the answer more than suppressing "
            f"random ones. Each grey dot is one draw of {found.top} random neurons of the same layers.",
        ),
        Numbers("facts-control", "The same in numbers.", table),
    ]  # fmt: skip


def _shared(found: FactEffects) -> str:
    """Which neurons belong to more than one fact: they carry something else than the fact."""
    count = Counter(n for kns in found.neurons for n in kns.neurons)
    shared = [f"{n} ({times} facts)" for n, times in count.most_common() if times > 1]
    return f"In more than one set: {', '.join(shared)}." if shared else "No neuron is in more than one set."


def _changes(found: FactEffects) -> pd.DataFrame:
    """The probability of a fact's own answer, and the mean over the other facts, under its own neurons."""
    frame = pd.DataFrame({"fact": [f.name for f in found.facts], "before": found.clean.tolist()})
    edited = {"suppressed": found.suppressed, "enhanced": found.enhanced}
    for what, values in edited.items():
        frame[what] = values.diagonal().tolist()
    if len(found.facts) > 1:
        for what, values in {"before": found.clean.expand_as(found.suppressed), **edited}.items():
            frame[f"others {what}"] = _others(values)
    return frame


def _others(values: Tensor) -> list[float]:
    others = ~torch.eye(len(values), dtype=torch.bool)
    return [float(row[keep].mean()) for row, keep in zip(values, others, strict=True)]


def _in_words(table: pd.DataFrame) -> str:
    mean = table.mean(numeric_only=True)
    text = (
        f"Suppressed, the fact's own answer goes from {mean['before']:.3f} to {mean['suppressed']:.3f} on average; "
        f"enhanced, to {mean['enhanced']:.3f}."
    )
    if "others before" in mean:
        text += (
            f" Unrelated answers go from {mean['others before']:.3f} to {mean['others suppressed']:.3f} and to "
            f"{mean['others enhanced']:.3f}."
        )
    return text
