"""The model card: what was measured, and what was built in."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import tokenizers
import torch
import transformers

from tiny_bert.evaluation import Score, total
from tiny_bert.grammar import DETERMINERS
from tiny_bert.lexicon import HELD_OUT_NOUNS, HELD_OUT_VERBS

TEXT = """\
---
license: mit
language: en
library_name: transformers
pipeline_tag: fill-mask
---

# tiny-bert

A model organism for knowledge-neuron research: a small BERT that knows number agreement and a few hundred
facts, and nothing else. All it has read was written by a script of this repository, so what it *should* know,
and how strongly each word leans to the plural, is known exactly. Not a language model for any other use.

- `BertForMaskedLM`: {layers} layers, width {width}, {heads} heads, {neurons} neurons a layer, {parameters:,}
  parameters ({size:.1f} MB in float32), tied decoder, exact GELU, no dropout, positions up to 64 (training rows
  are rarely longer than 30 tokens).
- Cased WordPiece vocabulary of {vocabulary:,} whole words and single characters: every word of the training text
  is one token, any other falls into characters that the model has never seen.
- Licence: MIT. Text, tables and weights are our own.

```
{command}
```

Seed {seed}, {steps:,} steps of {batch} rows: {cpu_seconds:.0f} s of CPU time, {seconds:.0f} s by the clock with
{threads} thread(s) while other work ran beside it. Python {python}, torch {torch}, transformers {transformers},
tokenizers {tokenizers}. The command needs no network and reads only `kntools/data/sample`.{again}

## What it can do

An agreement question is right when P(good) > P(bad) at the one `[MASK]`. A fact is right when the answer is the most
probable word of the whole vocabulary. Greedy, no tuning, questions from a fixed seed.

| kind | accuracy | questions |
| --- | --- | --- |
{rows}
| **held-out agreement, all** | **{held:.4f}** | {held_n:,} |
| **facts, all** | **{facts:.4f}** | {facts_n:,} |

- **Held-out nouns** ({n_nouns}) never follow a number-marked determiner in training (`this`, `two`, `every`,
  ...); their number shows in verbs and in the bias of neutral modifiers. The word in that place is shown but
  never asked for, so the model is not taught that these nouns refuse `these`: {nouns}.
- **Held-out verbs** ({n_verbs}): their present forms never follow a noun or a name there, only pronouns:
  {verbs}.
- **Unseen phrasing**: each fact misses one of its phrasings in training; these are asked here.
- Facts whose answer is several words (`New Delhi`) are not in the training text.
- `built-in pairs`: `kntools/data/sample/agreement_pairs.jsonl`; some of its words are held out, too.

## Built-in number bias

A noun phrase of the training text draws its determiner, then its number with the probability below. So these
are the shares of plural phrases among all that the word opens (also in `modifier_rates.tsv`). `learned` is
what the model makes of it, from P(word) at `[MASK]` in `Carl cured [MASK] horses.` against `... horse.`. As in
headlines, the neutral modifiers stand alone (`Carl cured unified horse.`): all words compete for one slot.

| word | frequency (weight) | plural, built in | plural, learned |
| --- | --- | --- | --- |
{rates}
"""


def comparison(scores: dict[str, Score], other: dict[str, Score]) -> str:
    """How far two trainings lie apart, in one sentence."""
    gaps = {kind: abs(score.accuracy - other[kind].accuracy) for kind, score in scores.items()}
    worst = max(gaps, key=lambda kind: gaps[kind])
    return f"greatest difference of accuracy {gaps[worst]:.4f} ({worst})"


@dataclass(frozen=True)
class Run:
    """How a model was made."""

    command: str
    seed: int
    steps: int
    batch: int
    seconds: float
    cpu_seconds: float
    threads: int
    again: str = ""


def modifier_rates() -> str:
    """The built-in rates as a table for programs."""
    lines = ["word\tweight\tplural"]
    lines += [f"{word}\t{entry.weight:g}\t{entry.plural:g}" for word, entry in DETERMINERS.items()]
    return "\n".join(lines) + "\n"


def model_card(
    model: transformers.BertForMaskedLM, scores: dict[str, Score], learned: dict[str, float], run: Run
) -> str:
    """The README of the model folder."""
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    held, facts = total(scores, "held-out"), total(scores, "facts")
    rows = [f"| {kind} | {score.accuracy:.4f} | {score.total:,} |" for kind, score in scores.items()]
    rates = []
    for word, entry in DETERMINERS.items():
        label = "a / an" if word == "a" else word
        seen = f"{learned[word]:.2f}"
        rates.append(f"| {label} | {entry.weight:g} | {entry.plural:.2f} | {seen} |")
    return TEXT.format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        neurons=config.intermediate_size,
        parameters=parameters,
        size=4 * parameters / 1e6,
        vocabulary=config.vocab_size,
        command=run.command,
        seed=run.seed,
        steps=run.steps,
        batch=run.batch,
        seconds=run.seconds,
        cpu_seconds=run.cpu_seconds,
        threads=run.threads,
        again=run.again,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        tokenizers=tokenizers.__version__,
        rows="\n".join(rows),
        held=held.accuracy,
        held_n=held.total,
        facts=facts.accuracy,
        facts_n=facts.total,
        n_nouns=len(HELD_OUT_NOUNS),
        nouns=", ".join(sorted(HELD_OUT_NOUNS)),
        n_verbs=len(HELD_OUT_VERBS),
        verbs=", ".join(sorted(HELD_OUT_VERBS)),
        rates="\n".join(rates),
    )
