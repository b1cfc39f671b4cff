"""A test of neurons: the answer's probability with them ablated, doubled, and with random ones ablated."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pandas as pd

from kntools import randomness
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.random_neurons import random_like
from kntools.cli.options import method
from kntools.cli.output import Sheet
from kntools.engine.answers import answer_values
from kntools.hooks.neurons import ablate_neurons, enhance_neurons
from kntools.sites import Neuron

Draws = Annotated[int, method(min=0, help="Draws of random neurons for comparison; 0: no test.")]


def check_neurons(
    model: Any, att: Attribution, neurons: Sequence[Neuron], draws: int, seed: int
) -> dict[str, Any] | None:
    """The answer's probability (mean over prompts) untouched and under interventions on some neurons; as JSON."""
    if draws == 0 or not neurons:
        return None
    generator = randomness.generator(seed)
    others = [random_like(neurons, att.widths, generator) for _ in range(draws)]
    edits = [[], ablate_neurons(neurons), enhance_neurons(neurons), *map(ablate_neurons, others)]
    untouched, suppressed, enhanced, *random = answer_values(model, att.prompts, edits).mean(1).tolist()
    return {
        "neurons": len(neurons),
        "prompts": len(att.prompts),
        "draws": draws,
        "seed": seed,
        "untouched": untouched,
        "suppressed": suppressed,
        "enhanced": enhanced,
        "random_suppressed": random,
        "random_mean": sum(random) / draws,
    }


def check_sheet(check: Mapping[str, Any]) -> Sheet:
    values = {
        "none": check["untouched"],
        "these neurons set to 0": check["suppressed"],
        "these neurons doubled": check["enhanced"],
        "random neurons set to 0, mean": check["random_mean"],
        "lowest": min(check["random_suppressed"]),
        "highest": max(check["random_suppressed"]),
    }
    note = (
        f"{check['neurons']} neurons at the answer position; mean over {check['prompts']} prompt(s). "
        f"Random neurons: as many, of the same layers, {check['draws']} draws with seed {check['seed']}."
    )
    frame = pd.DataFrame({"intervention": list(values), "probability of the answer": list(values.values())})
    return Sheet("Ablation test", frame, [note])
