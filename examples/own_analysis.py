"""An analysis of your own: what does an answer lose without the MLP of each layer?

    python examples/own_analysis.py P36 --model tiny-bert --limit 20 --run runs/mlps --out mlps

`--out` names the files to write (`.csv`, `.json`, `.html`); `--run` a folder from which a killed run goes on.
An analysis that ships with kntools is a file like this one in `kntools/analyses/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch

import kntools as kn
from kntools.analyses import command
from kntools.analyses.prompt_groups import known_prompts
from kntools.hooks.positioned import PositionedHook
from kntools.results.run_folder import RunFolder
from kntools.results.statistics import bootstrap_interval
from kntools.results.table import Row, TableResult
from kntools.sites import hook_name


@dataclass(frozen=True, repr=False)
class MlpLoss(TableResult):
    """One row per prompt and layer: `text, target, layer, before, after, loss`; all are probabilities."""

    kind = "MLP loss"

    def summary(self) -> pd.DataFrame:
        """Per layer: `layer, n, loss, low, high`, the mean over prompts and its bootstrap interval."""
        rows = []
        for layer, some in self.to_frame().groupby("layer"):
            values = torch.tensor(some["loss"].to_numpy())
            low, high = bootstrap_interval(values)
            mean = float(values.mean())
            rows.append({"layer": layer, "n": len(values), "loss": mean, "low": float(low), "high": float(high)})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """A bar per layer, with its interval."""
        s = self.summary()
        errors = {"array": s["high"] - s["loss"], "arrayminus": s["loss"] - s["low"]}
        figure = go.Figure(go.Bar(x=s["layer"], y=s["loss"], error_y=errors))
        return figure.update_layout(
            template="kntools", title=self.describe(), xaxis_title="layer", yaxis_title="loss of probability"
        )


def mlp_loss(
    model: Any,
    prompts: Sequence[kn.Prompt],
    *,
    prepend_bos: bool | None = None,
    run: str | Path | None = None,
    progress: bool = True,
) -> MlpLoss:
    """The answer's probability with all MLPs, and with that of one layer left out at the answer position.

    ```python
    mlp_loss(model, kn.data.pararel("P36", limit=20, known_only=model).prompts(model)).plot()
    ```

    Arguments:
        prompts: with answers of one token.
        prepend_bos: as in `kn.encode`.
        run: a folder that keeps each finished prompt, from which a killed run goes on.
        progress: show a bar.

    Raises:
        ValueError: no prompts, or a run folder of another run.
    """
    if not prompts:
        raise ValueError("no prompts given; e.g. kn.data.pararel('P36', limit=20).prompts(model)")
    folder = RunFolder(run, kind=MlpLoss.kind, model=model, settings={"prepend_bos": prepend_bos})
    found = folder.each(
        prompts,
        key=repr,
        make=lambda prompt: _probabilities(model, prompt, prepend_bos),
        unit="prompt",
        progress=progress,
    )
    rows: list[Row] = [
        {
            "text": prompt.text, "target": prompt.target, "layer": layer,
            "before": before, "after": after, "loss": before - after,
        }
        for prompt, (before, *without) in zip(prompts, found, strict=True)
        for layer, after in enumerate(without)
    ]  # fmt: skip
    return MlpLoss(tuple(rows), folder.header)


def _probabilities(model: Any, prompt: kn.Prompt, prepend_bos: bool | None) -> list[float]:
    """Of the answer: untouched, and without the MLP of each layer, in one sweep."""
    encoded = kn.encode(model, prompt, prepend_bos)
    names = [hook_name("mlp_out", layer) for layer in range(model.cfg.n_layers)]
    off = [[(name, PositionedHook(encoded.position, torch.zeros_like, f"ablate {name}"))] for name in names]
    answer = kn.probability(encoded.target_ids)
    return kn.sweep(model, encoded.tokens, [[], *off], pos=encoded.position, metric=answer).tolist()


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the file."""
    parser = command.parser("own_analysis", "What does an answer lose without the MLP of each layer?")
    parser.prog = "python examples/own_analysis.py"
    parser.add_argument("source", help="a BLiMP paradigm or a ParaRel relation")
    parser.add_argument("--limit", type=int, default=20, help="prompts that the model gets right")
    o = parser.parse_args(argv)
    model = command.load(o)
    prompts = known_prompts(model, [o.source], limit=o.limit, seed=o.seed, prepend_bos=o.bos)[o.source]
    found = mlp_loss(model, prompts, prepend_bos=o.bos, run=o.run)
    command.write(found, o.out)
    print(found)


if __name__ == "__main__":
    main()
