"""A test of neurons: the answer's probability with them ablated, doubled, and with random ones ablated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd

from kntools import randomness
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.random_neurons import random_like
from kntools.cli.options import method
from kntools.engine.answers import answer_values
from kntools.hooks.neurons import ablate_neurons, enhance_neurons
from kntools.sites import Neuron

Draws = Annotated[int, method(min=0, help="Draws of random neurons for comparison; 0: no test.")]


@dataclass(frozen=True)
class Check:
    """The answer's probability (mean over prompts) untouched and under interventions on some neurons."""

    neurons: int
    prompts: int
    draws: int
    seed: int
    untouched: float
    suppressed: float  # the neurons set to 0
    enhanced: float  # the neurons doubled
    random_suppressed: list[float]  # as many random neurons of the same layers set to 0, one value per draw
    random_mean: float

    def to_frame(self) -> pd.DataFrame:
        values = {
            "none": self.untouched,
            "these neurons set to 0": self.suppressed,
            "these neurons doubled": self.enhanced,
            "random neurons set to 0, mean": self.random_mean,
            "lowest": min(self.random_suppressed),
            "highest": max(self.random_suppressed),
        }
        return pd.DataFrame({"intervention": list(values), "probability of the answer": list(values.values())})

    def describe(self) -> str:
        return (
            f"{self.neurons} neurons at the answer position; mean over {self.prompts} prompt(s). Random neurons: as "
            f"many, of the same layers, {self.draws} draws with seed {self.seed}."
        )


def check_neurons(model: Any, att: Attribution, neurons: Sequence[Neuron], draws: int, seed: int) -> Check | None:
    """Suppress and enhance the neurons, and suppress random ones of the same layers."""
    if draws == 0 or not neurons:
        return None
    generator = randomness.generator(seed)
    others = [random_like(neurons, att.widths, generator) for _ in range(draws)]
    edits = [[], ablate_neurons(neurons), enhance_neurons(neurons), *map(ablate_neurons, others)]
    untouched, suppressed, enhanced, *random = answer_values(model, att.prompts, edits).mean(1).tolist()
    measured = (untouched, suppressed, enhanced, random, sum(random) / draws)
    return Check(len(neurons), len(att.prompts), draws, seed, *measured)
