"""The pages that `--out` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from kntools.attribution.attribution_result import Attribution
from kntools.attribution.knowledge_neurons import KnowledgeNeurons
from kntools.cli.common import Check
from kntools.plots import layer_histogram, neuron_bars, neuron_heatmap
from kntools.report.page import Chart, Page, Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kntools.sites import Neuron

HEATMAP = "Red neurons make the answer more probable, blue ones less; the colours are scaled by the square root."


def attribute_page(att: Attribution, check: Check | None, command: str, top: int) -> Page:
    """One prompt: scores, leading neurons, and what suppressing them does."""
    prompt = att.prompts[0]
    leading = att.top(top)
    return Page(
        title=f"{prompt.text} → {prompt.target.strip()}",
        lead=f"Which of the {att.scores[0].numel():,} MLP neurons make this answer probable?",
        source=_source(att, command),
        facts=_facts(att, command),
        sections=[
            Section(
                "Leading neurons",
                [
                    Chart(neuron_bars(att, k=top), "Neurons with the highest scores.", n="1 prompt"),
                    Table(_named(att, top), "Leading neurons.", csv="neurons.csv", digits=5),
                ],
            ),
            _heatmaps(att, leading, "1 prompt"),
            *_check_section(check, "the leading neurons"),
        ],
    )


def search_page(att: Attribution, kns: KnowledgeNeurons, check: Check | None, command: str) -> Page:
    """Several prompts of one fact: knowledge neurons, where they lie, and what suppressing them does."""
    n = f"{len(att.prompts)} prompts"
    targets = sorted({p.target.strip() for p in att.prompts})
    settled = "" if kns.converged else " The search did not converge: no share gives the number that was asked for."
    frame = kns.to_frame()
    frame.insert(0, "name", [repr(x) for x in kns.neurons])
    prompts = pd.DataFrame(
        {
            "text": [p.text for p in att.prompts],
            "answer": [p.target for p in att.prompts],
            "probability": att.probability.tolist(),
        }
    )
    sections = [
        Section(
            "Knowledge neurons",
            [
                Text(
                    f"Neurons in the coarse sets (at least {kns.settings['threshold']} of the highest score) of at "
                    f"least {kns.share:.0%} of the prompts.{settled}"
                ),
                *([Chart(neuron_bars(kns), "Mean score over the prompts.", n=n)] if kns.neurons else []),
                Table(frame, "Knowledge neurons.", csv="knowledge_neurons.csv", digits=5),
                Table(prompts, "Prompts, and the answer's probability.", csv="prompts.csv", digits=4),
            ],
        ),
        _heatmaps(att, kns.neurons, n),
        Section(
            "Layers",
            [
                Chart(
                    layer_histogram(
                        {
                            "knowledge neurons": kns.neurons,
                            "20 leading neurons": att.top(min(20, att.scores[0].numel())),
                        },
                        n_layers=att.scores.shape[1],
                    ),
                    "Where the neurons lie.",
                    n=n,
                )
            ],
        ),
        *_check_section(check, "the knowledge neurons"),
    ]
    return Page(
        title=f"Knowledge neurons: {', '.join(targets)}",
        lead=f"Which of the {att.scores[0].numel():,} MLP neurons carry this answer, whatever the phrasing?",
        source=_source(att, command),
        facts=_facts(att, command),
        sections=sections,
    )


def _heatmaps(att: Attribution, marked: Sequence[Neuron], n: str) -> Section:
    columns = min(96, att.scores.shape[-1])
    charts = [
        Chart(
            neuron_heatmap(att, mark=marked),
            f"Columns are the neuron indices that lead in any layer. {HEATMAP}",
            n=n,
            title="The leading columns",
        ),
        Chart(
            neuron_heatmap(att, mode="bins", columns=columns, mark=marked),
            f"Every neuron is in one cell; a cell shows the strongest of its neurons. {HEATMAP}",
            n=n,
            title="The whole model",
        ),
    ]
    return Section("Scores by layer", charts)


def _check_section(check: Check | None, which: str) -> list[Section]:
    if check is None:
        return []
    frame = pd.DataFrame(
        {
            "intervention": [
                "none",
                f"{which} set to 0",
                f"{which} doubled",
                "random neurons set to 0, mean",
                "lowest",
                "highest",
            ],
            "probability of the answer": [
                check.untouched,
                check.suppressed,
                check.enhanced,
                check.random_mean,
                min(check.random_suppressed),
                max(check.random_suppressed),
            ],
        }
    )
    caption = (
        f"{check.neurons} neurons at the answer position; mean over {check.prompts} prompt(s). Random neurons: as "
        f"many, of the same layers, {check.draws} draws with seed {check.seed}."
    )
    return [Section("Checked by intervening", [Table(frame, caption, digits=4)])]


def _named(att: Attribution, top: int) -> pd.DataFrame:
    frame = att.to_frame(top=top)[["layer", "neuron", "score", "rank"]]
    frame.insert(0, "name", [f"L{a}.N{b}" for a, b in zip(frame["layer"], frame["neuron"], strict=True)])
    return frame


def _bos(att: Attribution) -> str:
    return "with BOS" if att.provenance["settings"]["prepend_bos"] else "no BOS"


def _source(att: Attribution, command: str) -> str:
    return f"Model: {att.provenance['model']} ({_bos(att)}), rule {att.rule}. Made by `{command}`."


def _facts(att: Attribution, command: str) -> list[tuple[str, str]]:
    probability = ", ".join(f"{p:.3f}" for p in att.probability[:8].tolist())
    return [
        ("Model", f"{att.provenance['model']}, weights {att.provenance['fingerprint']}"),
        ("Rule", f"{att.rule}, largest residual {float(att.residual.abs().max()):.1e}"),
        ("Probability of the answer", probability),
        ("Versions", ", ".join(f"{k} {v}" for k, v in att.provenance["versions"].items())),
        ("Command", f"`{command}`"),
    ]
