"""`kntools search`: which neurons carry this fact in all its phrasings?"""

from pathlib import Path
from typing import Annotated

import pandas as pd
from typer import Argument, Option

from kntools.arguments import check_distinct
from kntools.attribution.knowledge_neurons import KnowledgeNeurons
from kntools.cli import pages
from kntools.cli.command import command
from kntools.cli.options import Choice, ModelOptions, MultiToken
from kntools.cli.output import Output, Sheet
from kntools.data.read import json_lines
from kntools.plots import layer_histogram, neuron_bars
from kntools.prompts import Prompt
from kntools.report.page import Block, Chart, Page, PageTable, Section, Text


@command
def search(
    options: ModelOptions,
    choice: Choice,
    target: Annotated[str | None, Argument(help="The answer to all of the texts, e.g. ' Ottawa'.")] = None,
    texts: Annotated[list[str] | None, Argument(help="Phrasings of one fact; three or more are best.")] = None,
    file: Annotated[Path | None, Option("--file", "-f", help='JSON lines: {"text": .., "target": ..}.')] = None,
    multi_token: MultiToken = "error",
    draws: pages.Draws = 10,
) -> Output:
    """Find the knowledge neurons of a fact from several phrasings of it.

    Example: kntools search " Ottawa" "The capital of Canada is" "The government of Canada sits in its capital,"
    """
    prompts = [Prompt(text, answer, multi_token=multi_token) for text, answer in _asked(target, texts or [], file)]
    settings = choice.settings  # a mistake is an error before the work, not after it
    model = options.load()
    att = settings.attribute(model, prompts)
    kns = settings.choose(att)
    listed = kns.neurons[: choice.most]
    asked = pd.DataFrame([{"text": p.text, "target": p.target} for p in prompts])
    asked["probability"] = att.probability.tolist()
    rows = zip(listed, kns.scores, kns.counts, strict=False)  # the leading ones
    columns = ["neuron", "layer", "index", "score", "prompts"]
    found = pd.DataFrame([(repr(n), n.layer, n.index, score, count) for n, score, count in rows], columns=columns)
    title = f"In the coarse sets of at least {kns.share:.0%} of the {len(prompts)} prompts"

    def page() -> Page:
        n, leading = f"{len(prompts)} prompts", att.top(min(20, sum(att.widths)))
        blocks: list[Block] = [
            Text(" ".join([f"{title}.", *_notes(kns, choice.most)])),
            *([Chart(neuron_bars(kns, k=len(listed)), "Mean score over the prompts.", n=n)] if listed else []),
            PageTable(found, "Knowledge neurons.", csv="knowledge_neurons.csv"),
            PageTable(asked, "Prompts, and the answer's probability.", csv="prompts.csv"),
        ]
        compared = {"knowledge neurons": listed, f"{len(leading)} leading neurons": leading}
        layers = Chart(layer_histogram(compared, n_layers=att.scores.shape[1]), "Layers of the neurons.", n=n)
        answers = ", ".join(sorted({p.target.strip() for p in prompts}))
        lead = f"Which of the {sum(att.widths):,} MLP neurons carry this answer in all phrasings?"
        sections = [Section("Knowledge neurons", blocks), Section("Layers", [layers])]
        return Page(f"Knowledge neurons: {answers}", sections, lead)

    sheet = Sheet(f"Knowledge neurons: {title.lower()}", found, [*_notes(kns, choice.most), *pages.notes(att)])
    chosen = {"search": kns.settings, "share": kns.share, "converged": kns.converged}
    chosen |= {"found": len(kns), "neurons": found}
    data, sheets = {"prompts": asked, **chosen}, [Sheet("Prompts", asked), sheet]
    return pages.attribution_output(options, model, att, listed, draws, sheets, data, page, knowledge_neurons=kns)


def _asked(target: str | None, texts: list[str], file: Path | None) -> list[tuple[str, str]]:
    """Texts and answers, of the file and of the command line."""
    asked = []
    rows = [] if file is None else json_lines(file)
    for row in rows:
        if target is None and "target" not in row.values:
            raise ValueError(f"{row.where} has no 'target'; write one there, or give the answer as first argument")
        asked.append((row.text("text"), row.text("target") if "target" in row.values else str(target)))
    if target is not None and asked and not texts and all("target" in row.values for row in rows):
        raise ValueError(f"the answer {target!r} belongs to no text: each line of {file} has its own; omit it")
    asked += [(text, target) for text in texts if target is not None]
    if not asked:
        raise ValueError(
            "no prompts given; type the answer and then the phrasings, e.g. "
            "kntools search ' Ottawa' 'The capital of Canada is' 'The capital of Canada is called', or --file FILE"
        )
    check_distinct("the prompt", asked)
    return asked


def _notes(kns: KnowledgeNeurons, most: int) -> list[str]:
    few = f"Note: {kns.prompts} prompt(s); with three or more, neurons of a single phrasing are excluded."
    low, high = kns.settings["target_count"]
    missed = (
        f"Note: no share of the prompts gives {low} to {high} neurons; these are the nearest "
        "(--least, --most and --threshold set the limits)."
    )
    if len(kns) > most:
        missed = f"Note: {len(kns)} neurons are in as many coarse sets; these are the {most} with the highest scores."
    return [few] * (kns.prompts < 3) + [missed] * (not kns.converged)
