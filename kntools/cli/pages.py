"""The pages that `--out` writes, and what `attribute` and `search` share: heatmaps, a test of neurons, cards."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from kntools import randomness
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.random_neurons import random_like
from kntools.cli.options import ModelOptions, Options, method
from kntools.cli.output import Output, Sheet
from kntools.engine.answers import answer_values
from kntools.hooks.neurons import ablate_neurons, enhance_neurons
from kntools.plots import neuron_heatmap
from kntools.prompts import Prompt
from kntools.report.cards import page_cards
from kntools.report.page import Chart, Page, PageTable, Section
from kntools.report.page import write as write_page
from kntools.sites import Neuron

Draws = Annotated[int, method(min=0, help="Draws of random neurons for comparison; 0: no test.")]

_COLOURS = "Red neurons make the answer more probable, blue ones less; the colours are scaled by the square root."

# Above this share of what a layer does, the error of a fixed rule is worth a note.
_INCOMPLETE = 0.05


def page_output(
    options: Options,
    made: Mapping[str, Any],
    sheets: Sequence[Sheet],
    data: Mapping[str, Any],
    page: Callable[[], Page],
    /,
    **results: Any,
) -> Output:
    """A command whose `--out` is a folder with a page, the tables that it names, and `NAME.safetensors` of each result.

    `made` is the provenance of the results. `page` is not called without `--out`.
    """
    bos = {True: " (with BOS)", False: " (no BOS)"}.get(made["settings"].get("prepend_bos"), "")
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    source = f"Model: {made['model']}{bos}. Made by `{options.line}`."
    weights = f"{made['model']}, weights {made['fingerprint']}"
    facts = [("Model", weights), ("Versions", versions), ("Command", f"`{options.line}`")]

    def write(out: Path) -> list[Path]:
        content = replace(page(), source=source, facts=facts)
        written = [write_page(out / "index.html", content), *(out / name for name in content.files)]
        return [*written, *(result.save(out / f"{name}.safetensors") for name, result in results.items())]

    return Output({**made, **data}, sheets, write)


def card_command(options: ModelOptions, prompt: Prompt | None = None) -> str:
    """What to type for the card of another {neuron}."""
    words = ["--model", options.model, *{True: ["--bos"], False: ["--no-bos"], None: []}[options.bos]]
    words += ["--prompt", prompt.text, "--target", prompt.target] if prompt else []
    return f"kntools card {{neuron}} {shlex.join(words)}"


def attribution_output(
    options: ModelOptions,
    model: Any,
    att: Attribution,
    neurons: Sequence[Neuron],
    draws: int,
    sheets: Sequence[Sheet],
    data: Mapping[str, Any],
    page: Callable[[], Page],
    **results: Any,
) -> Output:
    """The same for scores: how they were made, all of them as heatmaps, what suppressing the `neurons` does, and cards
    of the leading neurons in the first prompt.
    """
    check, checked = _ablation_test(model, att, neurons, draws, options.seed)
    prompt, n = att.prompts[0], f"{len(att.prompts)} prompt(s)"

    def with_heatmaps() -> Page:
        content = page()
        leading = Chart(
            neuron_heatmap(att, mark=neurons),
            f"Columns are the neuron indices with the highest scores in any layer. {_COLOURS}",
            n=n,
            title="The leading columns",
        )
        whole = Chart(
            neuron_heatmap(att, mode="bins", columns=min(96, att.scores.shape[-1]), mark=neurons),
            f"A cell stands for several neighbouring neurons and shows the strongest of them. {_COLOURS}",
            n=n,
            title="The whole model",
        )
        tests = [Section(sheet.title, [PageTable(sheet.frame, sheet.notes[0])]) for sheet in checked]
        sections = [*content.sections, Section("Scores by layer", [leading, whole]), *tests]
        cards = page_cards(model, sections, prompt)
        return replace(content, sections=sections, cards=cards, card_command=card_command(options, prompt))

    data = {**data, "rule": att.rule, "largest_residual": float(att.residual.abs().max()), "check": check}
    return page_output(options, att.provenance, [*sheets, *checked], data, with_heatmaps, attribution=att, **results)


def _ablation_test(
    model: Any, att: Attribution, neurons: Sequence[Neuron], draws: int, seed: int
) -> tuple[dict[str, Any] | None, list[Sheet]]:
    """The answer's probability (mean over prompts) untouched and under interventions on some neurons: JSON, a table."""
    if draws == 0 or not neurons:
        return None, []
    generator = randomness.generator(seed)
    others = [random_like(neurons, att.widths, generator) for _ in range(draws)]
    edits = [[], ablate_neurons(neurons), enhance_neurons(neurons), *map(ablate_neurons, others)]
    untouched, suppressed, enhanced, *random = answer_values(model, att.prompts, edits).mean(1).tolist()
    check: dict[str, Any] = {"neurons": len(neurons), "prompts": len(att.prompts), "draws": draws, "seed": seed}
    check |= {"untouched": untouched, "suppressed": suppressed, "enhanced": enhanced}
    check |= {"random_suppressed": random, "random_mean": sum(random) / draws}
    values = {
        "none": untouched,
        "these neurons set to 0": suppressed,
        "these neurons doubled": enhanced,
        "random neurons set to 0, mean": check["random_mean"],
        "lowest": min(random),
        "highest": max(random),
    }
    note = (
        f"{len(neurons)} neurons at the answer position; mean over {len(att.prompts)} prompt(s). "
        f"Random neurons: as many, of the same layers, {draws} draws with seed {seed}."
    )
    frame = pd.DataFrame({"intervention": list(values), "probability of the answer": list(values.values())})
    return check, [Sheet("Ablation test", frame, [note])]


def notes(att: Attribution) -> list[str]:
    """How the scores were made, and a warning where a fixed rule is not complete."""
    share = att.residual.abs() / att.gap.abs().clamp(min=_INCOMPLETE)
    incomplete = (
        f"note: in layer {int(share.amax(0).argmax())} the scores miss {float(share.max()):.0%} of the layer's "
        "effect; --rule adaptive integrates until they sum to it"
    )
    missed = att.rule != "adaptive" and float(share.max()) > _INCOMPLETE
    return [f"{att.describe()}.", *[incomplete] * missed]
