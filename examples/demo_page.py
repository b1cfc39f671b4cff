"""The page of `demo.py`: what was found, in figures with captions, and its tables as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from demo_numbers import change_table, gain_over_random, in_words, shared_neurons

from kntools import page, plots

if TYPE_CHECKING:
    from demo import Results


def write_page(out: Path, results: Results, command: str) -> Path:
    """Write `index.html` and the CSV files into `out`."""
    first = results.parts[0]
    made_with = first.provenance
    bos = "with BOS" if made_with["settings"]["prepend_bos"] else "without BOS"
    prompts = sum(len(f.texts) for f in results.facts)
    return page.write(
        out / "index.html",
        page.Page(
            title="Where a language model keeps a fact",
            lead=(
                f"Every one of the {first.scores[0].numel():,} MLP neurons of `{made_with['model']}` gets a score for "
                f"{len(results.facts)} facts. The neurons that stand out in most phrasings of a fact are its knowledge "
                "neurons. Then the scores are put to the test: by switching neurons off."
            ),
            source=f"Model: {made_with['model']} ({bos}). Made by `{command}`.",
            facts=[
                ("Model", f"{made_with['model']}, weights {made_with['fingerprint']}"),
                ("Data", f"{len(results.facts)} facts, {prompts} prompts, one answer token each"),
                ("Attribution", f"rule {first.rule}, largest residual {_worst_residual(results):.1e}"),
                ("Time", f"{results.seconds:.0f} s"),
                ("Versions", ", ".join(f"{k} {v}" for k, v in made_with["versions"].items())),
                ("Command", f"`{command}`"),
            ],
            sections=[part(results) for part in (_known, _scores, _neurons, _interventions, _control)],
        ),
    )


def _known(results: Results) -> page.Section:
    frame = pd.DataFrame(
        [
            {"fact": fact.name, "prompt": p.text, "answer": p.target, "probability": float(x)}
            for fact, part in zip(results.facts, results.parts, strict=True)
            for p, x in zip(part.prompts, part.probability, strict=True)
        ]
    )
    summary = pd.DataFrame(
        {
            "fact": [f.name for f in results.facts],
            "phrasings": [len(f.texts) for f in results.facts],
            "probability, mean": results.clean.tolist(),
            "lowest": [float(part.probability.min()) for part in results.parts],
            "highest": [float(part.probability.max()) for part in results.parts],
        }
    )
    return page.Section(
        "What the model knows",
        [
            page.Text(
                "Each fact is asked for in several ways; the answer is one token, and nothing is shown but the text."
            ),
            page.Table(summary, "Facts and the probability of their answers."),
            page.Table(frame, "Every prompt and the probability of its answer.", csv="prompts.csv", folded=True),
        ],
    )


def _scores(results: Results) -> page.Section:
    part, kns, fact = results.parts[0], results.neurons[0], results.facts[0]
    n = f"{len(fact.texts)} prompts"
    frames = [p.to_frame(top=20).assign(fact=f.name) for f, p in zip(results.facts, results.parts, strict=True)]
    return page.Section(
        "Scores of all neurons",
        [
            page.Text(
                "The score of a neuron is its integrated gradient at the answer position: the scores of a layer add up "
                "to what the layer does to the answer's probability. Red neurons raise it, blue ones lower it."
            ),
            page.Chart(
                plots.neuron_heatmap(part, mark=kns),
                "Columns are the neuron indices that lead in any layer; framed: knowledge neurons.",
                n=n,
                title=f"{fact.name}: the leading columns",
            ),
            page.Chart(
                plots.neuron_heatmap(part, mode="bins", columns=min(96, part.scores.shape[-1]), mark=kns),
                "Every neuron is in one cell; a cell shows the strongest of its neurons.",
                n=n,
                title=f"{fact.name}: the whole model",
            ),
            page.Chart(
                plots.neuron_bars(part, k=results.top),
                "Mean score over the phrasings (bars), and the single phrasings (dots).",
                n=n,
                title=f"{fact.name}: the leading {results.top} neurons",
            ),
            page.Table(
                pd.concat(frames, ignore_index=True),
                "The 20 leading neurons of every prompt.",
                csv="leading_neurons.csv",
                digits=5,
                folded=True,
            ),
        ],
    )


def _neurons(results: Results) -> page.Section:
    pairs = list(zip(results.facts, results.neurons, strict=True))
    table = pd.DataFrame(
        {
            "fact": [f.name for f, _ in pairs],
            "knowledge neurons": [", ".join(map(repr, kns.neurons)) for _, kns in pairs],
            "τ": [kns.share for _, kns in pairs],
            "converged": [kns.converged for _, kns in pairs],
        }
    )
    groups = {
        "knowledge neurons": [x for kns in results.neurons for x in kns.neurons],
        f"leading {results.top} neurons": [x for part in results.parts for x in part.top(results.top)],
    }
    return page.Section(
        "Knowledge neurons",
        [
            page.Text(
                "A neuron is in the coarse set of a prompt if its score is at least 0.2 times the highest one. The "
                "knowledge neurons of a fact are in the coarse sets of at least a share τ of its phrasings, where τ "
                f"is moved until two to five are left. {shared_neurons(results)}"
            ),
            page.Table(table, "Knowledge neurons of each fact.", csv="knowledge_neurons.csv", digits=2),
            page.Chart(
                plots.layer_histogram(groups, n_layers=results.parts[0].scores.shape[1], normalize=True),
                "A neuron counts once for every fact that it belongs to.",
                n=f"{len(pairs)} facts",
                title="The layers in which they lie",
            ),
        ],
    )


def _interventions(results: Results) -> page.Section:
    names, answers = [f.name for f in results.facts], [f.target.strip() for f in results.facts]
    n = f"{len(names)} facts, mean over the phrasings of each"
    told = pd.DataFrame(
        [(f.texts[0], *map(str.strip, said)) for f, said in zip(results.facts, results.says, strict=True)],
        columns=["text", "the model says", "suppressed", "enhanced"],
    )
    return page.Section(
        "Suppressing and enhancing them",
        [
            page.Text(
                "The knowledge neurons of one fact are set to 0 (suppressed) or doubled (enhanced) at the answer "
                f"position, and the answers to all facts are read again. {in_words(results)}"
            ),
            *(
                page.Chart(
                    plots.change_matrix(values - results.clean, names, answers),
                    "Rows: whose neurons; columns: which answer. Off the diagonal are unrelated facts.",
                    n=n,
                    title=f"Change of the answers when the neurons are {what}",
                )
                for values, what in ((results.suppressed, "suppressed"), (results.enhanced, "enhanced"))
            ),
            page.Table(change_table(results), "Own answer and unrelated answers.", csv="interventions.csv"),
            page.Table(told, "The most probable next token after the first phrasing.", csv="first_choices.csv"),
        ],
    )


def _control(results: Results) -> page.Section:
    count, draws = results.random.shape
    mean, low, high = gain_over_random(results)
    below = int((results.leading < results.random.min(1).values).sum())
    frame = pd.DataFrame(
        {
            "fact": [f.name for f in results.facts],
            "before": results.clean.tolist(),
            f"top {results.top} off": results.leading.tolist(),
            "random off, mean": results.random.mean(1).tolist(),
            "lowest": results.random.min(1).values.tolist(),
            "highest": results.random.max(1).values.tolist(),
        }
    )
    interval = f" (95 % interval over facts {low:.3f} to {high:.3f})" if count > 1 else ""
    return page.Section(
        "Attribution checked by intervening",
        [
            page.Text(
                f"If the scores mean anything, suppressing the {results.top} leading neurons of a fact must lower "
                f"its answer's probability more than suppressing {results.top} random neurons of the same layers. "
                f"In {below} of {count} facts it lowers it more than each of {draws} random draws. On average over "
                f"facts the answer loses {mean:.3f} more probability{interval}."
            ),
            page.Chart(
                plots.against_random(
                    [f.name for f in results.facts],
                    results.clean,
                    results.leading,
                    results.random,
                    name=f"{results.top} leading neurons off",
                ),
                f"Mean over the phrasings. Each grey dot is one draw of {results.top} random neurons.",
                n=f"{count} facts, {draws} draws each",
                title="Leading neurons against random ones",
            ),
            page.Table(frame, "The same in numbers.", csv="control.csv"),
        ],
    )


def _worst_residual(results: Results) -> float:
    return max(float(part.residual.abs().max()) for part in results.parts)
