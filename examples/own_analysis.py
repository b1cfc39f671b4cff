"""An analysis of your own: what does an answer lose without the MLP of each layer?

    python examples/own_analysis.py P36 tiny-bert mlps

writes `mlps.json` (everything), `mlps.csv` (the table) and `mlps.html` (the figure). If interrupted, run it again: the
file `mlps.run.jsonl` keeps each finished prompt. An analysis that ships with kntools is a file like this one in
`kntools/analyses/`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch

import kntools as kn
from kntools.analyses.neuron_search import open_run
from kntools.results.statistics import bootstrap_interval
from kntools.results.table import Row, Table


class MlpLoss(Table):
    """One row per prompt and layer: `text, target, layer, before, after, loss`; all are probabilities."""

    def summary(self) -> pd.DataFrame:
        """Per layer: `layer, n, loss, low, high`, the mean over prompts and its interval."""
        rows = []
        for layer, some in self.to_frame().groupby("layer"):
            values = torch.tensor(some["loss"].to_numpy())
            low, high = bootstrap_interval(values, bounds=(-1, 1))  # of a change of a probability
            rows.append((layer, len(values), float(values.mean()), float(low), float(high)))
        return pd.DataFrame(rows, columns=["layer", "n", "loss", "low", "high"])

    def plot(self, **look: Any) -> go.Figure:
        """A bar per layer, with its interval."""
        options = {"labels": {"loss": "loss of probability"}, "title": self.describe(), **look}
        return kn.plots.bar_chart(self.summary(), "layer", "loss", **options)


def mlp_loss(model: Any, prompts: Sequence[kn.Prompt], *, run: str | Path | None = None) -> MlpLoss:
    """The answer's probability with all MLPs, and with that of one layer left out at the answer position.

    ```python
    mlp_loss(model, kn.analyses.known_prompts(model, ["P36"], limit=20, seed=0)["P36"]).plot()
    ```

    Arguments:
        prompts: with answers of one token.
        run: a file that keeps each finished prompt; if interrupted, run it again to resume.

    Raises:
        ValueError: no prompts, or the file of another run.
    """
    if not prompts:
        raise ValueError("no prompts given; e.g. kn.data.pararel('P36', limit=20).prompts(model)")
    folder = open_run(run, "MLP loss", model)
    found = folder.each(prompts, key=repr, make=lambda prompt: _probabilities(model, prompt), unit="prompt")
    rows: list[Row] = []
    for prompt, (before, *without) in zip(prompts, found, strict=True):
        for layer, after in enumerate(without):
            about = {"text": prompt.text, "target": prompt.target, "layer": layer}
            rows.append({**about, "before": before, "after": after, "loss": before - after})
    return MlpLoss.of(rows, folder.header)


def _probabilities(model: Any, prompt: kn.Prompt) -> list[float]:
    """Of the answer: untouched, and without the MLP of each layer, in one sweep."""
    encoded = kn.encode(model, prompt)
    off = [kn.scale_site("mlp_out", layer, 0.0) for layer in range(model.cfg.n_layers)]
    return kn.sweep(model, encoded, [[], *off], metric=kn.probability(encoded.target_ids)).tolist()


if __name__ == "__main__":
    source, name, out = sys.argv[1:]
    model = kn.load_model(name)
    prompts = kn.analyses.known_prompts(model, [source], limit=20, seed=0)[source]
    found = mlp_loss(model, prompts, run=f"{out}.run.jsonl")
    found.save(f"{out}.json")
    found.save(f"{out}.csv")
    found.plot().write_html(f"{out}.html")
    print(found)
